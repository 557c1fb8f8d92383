"""Observe a migration from beside it: a sampler of its sessions and locks, and probes that wait as others would.

Usage:

    with observing(login, ["orders", "shop.customers"]) as seen:
        ...  # the migration, in other sessions of login's database
    seen.observation
"""

from __future__ import annotations

import re
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

import psycopg2
from psycopg2.extras import RealDictCursor

from ..core.plain_text import printable
from ..core.redaction import masked_sql
from ..postgres.catalog import find_table
from ..postgres.session import Login, Row, connect, select, server_reason
from .catalog_changes import CatalogState, changes, read_catalog, rewritten
from .observation import (
    CONFLICTS,
    READER_MODE,
    ROW_LOCK,
    STRENGTH,
    WRITER_MODE,
    Fault,
    Lock,
    Observation,
    Statement,
    TableWait,
)
from .probe import APPLICATION_NAME as PROBE_NAME
from .probe import Probe, Wait
from .statement_log import Logged, StatementLog, TemporaryFile, UnreadableError

APPLICATION_NAME = "dbrelease observe"
# Between samples; the longer one while nothing begins, ends or is locked, so that the migration keeps the processor.
PAUSE_S, LONGEST_PAUSE_S = 0.003, 0.012
STOP_S = 2.0
PROBED_AT_MOST = 16
KEPT_STATEMENTS = 200
KEPT_CHARACTERS = 500
# The log has its moments in whole ms.
CLOCK_MS = 3.0
FAULTLESS_MS = 20.0
# From this version on a session's statistics are the server's when it has ended, and not half a second later.
COUNTS_AT_ONCE = 150000
CONTROL = frozenset({"BEGIN", "COMMIT", "ROLLBACK", "START TRANSACTION", "SAVEPOINT", "RELEASE", "SET", "SHOW"})
HIDDEN = "<insufficient privilege>"

# Prepared: planning it each time takes longer than executing it.
SAMPLE = """
PREPARE dbrelease_sample (oid, int[]) AS
WITH locks AS MATERIALIZED (
  SELECT pid, json_agg(json_build_array(relation::int8, mode, granted)) AS held FROM pg_locks
  WHERE locktype = 'relation' AND database = $1 AND relation >= 16384 GROUP BY pid)
SELECT extract(epoch FROM clock_timestamp())::float8 * 1000 AS now, a.pid, a.application_name AS application,
       a.state, a.query, extract(epoch FROM a.query_start)::float8 * 1000 AS query_start,
       extract(epoch FROM a.state_change)::float8 * 1000 AS state_change,
       a.backend_xid::text AS xid, a.wait_event_type = 'Lock' AS waiting, locks.held,
       CASE WHEN a.pid = ANY ($2) AND a.wait_event_type = 'Lock' THEN pg_blocking_pids(a.pid) END AS blockers
FROM pg_stat_activity a LEFT JOIN locks USING (pid)
WHERE a.datid = $1 AND a.pid <> pg_backend_pid()
  AND coalesce(a.backend_type, 'client backend') = 'client backend'
"""
TAKE_SAMPLE = "EXECUTE dbrelease_sample (%(database)s, %(probes)s)"
NOW = "SELECT extract(epoch FROM clock_timestamp())::float8 * 1000 AS now"
# Only the database's own figures: an aggregate of the cluster would have those of others.
FIGURES = """
SELECT extract(epoch FROM clock_timestamp())::float8 * 1000 AS now, d.oid::int8 AS database,
       pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8 AS wal_bytes, s.temp_files::int8 AS temp_files,
       s.temp_bytes::int8 AS temp_bytes, pg_database_size(d.oid)::int8 AS size_bytes
FROM pg_database d JOIN pg_stat_database s ON s.datid = d.oid WHERE d.datname = current_database()
"""
LEAVES = """
WITH RECURSIVE family (oid) AS (
  SELECT %s::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN family f ON i.inhparent = f.oid)
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name
FROM family JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') ORDER BY 2, 3
"""
_COMMENT = re.compile(r"\s+|--[^\n]*\n?|/\*.*?\*/", re.DOTALL)
_NOISE = frozenset({"UNIQUE", "OR", "REPLACE", "TEMP", "TEMPORARY", "UNLOGGED", "CONSTRAINT"})
_OBJECTS = frozenset({"CREATE", "ALTER", "DROP", "REFRESH", "LOCK", "TRUNCATE"})


@dataclass
class _Ran:
    """A statement as it was sampled or logged."""

    pid: int
    begin_ms: float
    end_ms: float
    text: str
    tag: str = ""
    lock_wait_ms: float = 0.0
    last_ms: float = 0.0


@dataclass
class _Held:
    """A lock of a session: when it was observed, and the last sample without it."""

    pid: int
    oid: int
    mode: str
    before_ms: float
    first_ms: float
    last_ms: float
    granted_ms: float | None = None


@dataclass
class _Blocked:
    """A probe that waited for a lock: from which sample to which, and how many of them met which session before it."""

    first_ms: float
    last_ms: float
    pids: Counter[int] = field(default_factory=Counter)


@dataclass
class _Samples:
    """What the sampler collected, by the server's clock in ms."""

    count: int = 0
    last_ms: float = 0.0
    largest_gap_ms: float = 0.0
    ran: list[_Ran] = field(default_factory=list)
    held: list[_Held] = field(default_factory=list)
    blocked: dict[int, list[_Blocked]] = field(default_factory=dict)
    applications: dict[int, str] = field(default_factory=dict)
    transactions: set[tuple[int, str]] = field(default_factory=set)
    hidden: bool = False
    current: dict[int, _Ran] = field(default_factory=dict)
    open: dict[tuple[int, int, str], _Held] = field(default_factory=dict)


class Seen:
    """The observation, once the block has ended."""

    def __init__(self) -> None:
        self._observation: Observation | None = None

    @property
    def complete(self) -> bool:
        """Whether there is an observation."""
        return self._observation is not None

    @property
    def observation(self) -> Observation:
        """What was observed; only after the block."""
        if self._observation is None:
            raise RuntimeError("The migration is still being observed.")
        return self._observation


@contextmanager
def observing(
    login: Login, tables: Sequence[str], *, application_name: str = "", own_server: bool = False
) -> Iterator[Seen]:
    """Observe what other sessions of login's database do while the block runs; the result is complete after it.

    tables: declared names of existing tables; each gets a probe writer and a probe reader, and so do its partitions.
    login: a role that may see what others execute (a superuser, a member of pg_monitor, or the role of the migration).
    application_name: of the migration's sessions; empty where every other session of the database is the migration's.
    own_server: the server is a throwaway one, whose log may be switched on: then no statement is too short. It must
    have been started with `statement_log.START_SETTINGS`.
    Raises ReleaseError where no session can be opened. What fails later is said in `not_observed`.
    """
    seen = Seen()
    with closing(_Observer(login, tables, application_name[:63], own_server)) as observer:
        observer.begin()
        try:
            yield seen
        finally:
            seen._observation = observer.end()


class _Observer:
    """The sampler's and the probes' sessions, from begin() to end()."""

    def __init__(self, login: Login, tables: Sequence[str], application: str, own_server: bool) -> None:
        self.login, self.application, self.own_server = login, application, own_server
        self.problems: list[str] = []
        self.probes: list[tuple[Probe, Probe]] = []
        self.log: StatementLog | None = None
        self.logged = False
        self.temporary: list[int] = []
        self.samples = _Samples()
        self._declared = tables
        self._session = connect(login, APPLICATION_NAME)
        self._cursor = self._session.cursor(cursor_factory=RealDictCursor)
        self._stopping = threading.Event()
        self._sampler = threading.Thread(target=self._sample_on, daemon=True, name=APPLICATION_NAME)

    def begin(self) -> None:
        """Read what is there before, and start."""
        found = self._tables()
        self.before = read_catalog(self._cursor, list(found))
        self._open_log()
        for oid, name in found.items():
            self.probes.append((Probe(self.login, oid, name, WRITER_MODE), Probe(self.login, oid, name, READER_MODE)))
        self.pids = {probe.pid for pair in self.probes for probe in pair}
        (self.figures,) = select(self._cursor, FIGURES)
        self.samples.last_ms = self.figures["now"]
        self.began_s = self.ended_s = time.monotonic()
        for probe in self._all_probes():
            probe.start()
        self._sampler.start()

    def end(self) -> Observation:
        """Stop, read what is there after, and compare."""
        self.ended_s = time.monotonic()
        self._stopping.set()
        self._sampler.join()
        for probe in self._all_probes():
            probe.stop(0)
        for probe in self._all_probes():
            probe.stop(STOP_S)
        try:
            (figures,) = select(self._cursor, FIGURES)
            after = read_catalog(self._cursor, list(self._oids()))
        except psycopg2.Error as error:
            self.problems.append(f"Reading the catalog afterwards failed: {server_reason(error)}.")
            figures, after = self.figures, self.before
        ran = self._statements()
        return _Account(self, ran, after, figures).observation()

    def close(self) -> None:
        """Close the sessions, and let the server log as before."""
        self._stopping.set()
        if self._sampler.is_alive():
            self._sampler.join()
        for probe in self._all_probes():
            probe.stop(STOP_S) if probe.is_alive() else probe.session.close()
        if self.log:
            self.log.close()
        self._session.close()

    def may_lag(self) -> bool:
        """Whether the statistics of the migration's sessions may not have reached the server's."""
        connected = {pid for pid, current in self.samples.current.items() if current.last_ms == self.samples.last_ms}
        return bool(connected) or self._session.server_version < COUNTS_AT_ONCE

    def _all_probes(self) -> Iterator[Probe]:
        return (probe for pair in self.probes for probe in pair)

    def _oids(self) -> Iterator[int]:
        return (writer.oid for writer, _ in self.probes)

    def _tables(self) -> dict[int, tuple[str, str]]:
        found: dict[int, tuple[str, str]] = {}
        for name in self._declared:
            table = find_table(self._cursor, name)
            if table is None:
                self.problems.append(f"There is no table {name}, so that nobody waited for it.")
                continue
            for leaf in select(self._cursor, LEAVES, (table["oid"],)):
                found[leaf["oid"]] = (leaf["schema"], leaf["name"])
        if len(found) > PROBED_AT_MOST:
            self.problems.append(
                f"Waits were observed on {PROBED_AT_MOST} of {len(found)} tables and partitions: more probes would "
                "disturb the migration."
            )
        return dict(list(found.items())[:PROBED_AT_MOST])

    def _open_log(self) -> None:
        if not self.own_server:
            return
        try:
            self.log = StatementLog(self._session.cursor())
        except UnreadableError as error:
            self.problems.append(
                f"The statements were sampled, and not read from the server's log, because {error}: "
                "those that are shorter than the largest gap may be missing."
            )

    def _sample_on(self) -> None:
        given = {"database": self.figures["database"], "probes": list(self.pids)}
        pause, known = PAUSE_S, (0, 0)
        try:
            self._cursor.execute(SAMPLE)
            while True:
                last = self._stopping.is_set()
                self._note(select(self._cursor, TAKE_SAMPLE, given))
                if last:
                    return
                before, known = known, (len(self.samples.ran), len(self.samples.held))
                pause = PAUSE_S if known != before else min(pause * 1.1, LONGEST_PAUSE_S)
                self._stopping.wait(pause)
        except psycopg2.Error as error:
            self.problems.append(f"The sampler ended early: {server_reason(error)}.")

    def _note(self, rows: list[Row]) -> None:
        samples = self.samples
        # The probes are always among the rows, unless there are none.
        now = rows[0]["now"] if rows else select(self._cursor, NOW)[0]["now"]
        before, gap = samples.last_ms, now - samples.last_ms
        present: set[tuple[int, int, str]] = set()
        for row in rows:
            if row["blockers"]:
                self._note_blocked(row["pid"], row["blockers"], before, now)
            if row["application"] in (PROBE_NAME, APPLICATION_NAME):
                continue
            samples.applications[row["pid"]] = row["application"]
            if self.application and row["application"] != self.application:
                self._note_locks(row, before, now, present)
                continue
            self._note_statement(row, gap, now)
            self._note_locks(row, before, now, present)
        for key in set(samples.open) - present:
            del samples.open[key]
        samples.count += 1
        samples.largest_gap_ms = max(samples.largest_gap_ms, gap)
        samples.last_ms = now

    def _note_blocked(self, pid: int, blockers: list[int], before: float, now: float) -> None:
        known = self.samples.blocked.setdefault(pid, [])
        if not known or known[-1].last_ms != before:
            known.append(_Blocked(now, now))
        known[-1].last_ms = now
        known[-1].pids.update(blockers)

    def _note_statement(self, row: Row, gap: float, now: float) -> None:
        samples, pid = self.samples, row["pid"]
        if row["query"] == HIDDEN:
            samples.hidden = True
        if row["query_start"] is None:
            return
        current = samples.current.get(pid)
        if current is None or current.begin_ms != row["query_start"]:
            # What ended before the block is the session's last statement still.
            if row["state"] != "active" and row["state_change"] < self.figures["now"]:
                return
            current = samples.current[pid] = _Ran(pid, row["query_start"], row["query_start"], row["query"])
            samples.ran.append(current)
        current.last_ms = now
        current.end_ms = now if row["state"] == "active" else max(current.begin_ms, row["state_change"])
        if row["waiting"] and row["state"] == "active":
            current.lock_wait_ms += gap
        if row["xid"]:
            samples.transactions.add((pid, row["xid"]))

    def _note_locks(self, row: Row, before: float, now: float, present: set[tuple[int, int, str]]) -> None:
        for oid, mode, granted in row["held"] or ():
            key = (row["pid"], oid, _words(mode))
            present.add(key)
            held = self.samples.open.get(key)
            if held is None:
                held = self.samples.open[key] = _Held(*key, before, now, now)
                self.samples.held.append(held)
            held.last_ms = now
            if granted and held.granted_ms is None:
                held.granted_ms = now

    def _statements(self) -> list[_Ran]:
        """The sampled statements, and those of the log, each once."""
        ran = self.samples.ran
        if self.samples.hidden:
            self.problems.append(
                f"The role {self.login.user} may not see what other roles execute, so that texts and durations are "
                "missing: make it a member of pg_monitor."
            )
        if self.log is None:
            return sorted((replace(one, tag=tag_of(one.text)) for one in ran), key=lambda one: one.begin_ms)
        own = {self._session.info.backend_pid, *self.pids}
        try:
            entries = self.log.read(self.login.database, self.application, own)
            self.logged = True
        except UnreadableError as error:
            self.problems.append(
                f"The server's log could not be read, because {error}: statements that are shorter than the largest "
                "gap may be missing."
            )
            entries = []
        logged = [one for one in entries if isinstance(one, Logged)]
        self.temporary = [one.bytes for one in entries if isinstance(one, TemporaryFile)]
        self.samples.transactions |= {(one.pid, one.xid) for one in logged if one.xid}
        return merged(ran, logged)


class _Account:
    """One observation out of samples, log, probes and catalog."""

    def __init__(self, observer: _Observer, ran: list[_Ran], after: CatalogState, figures: Row) -> None:
        self.observer, self.samples = observer, observer.samples
        self.ran, self.after, self.figures = ran, after, figures
        self.began_ms: float = observer.figures["now"]
        self.migration = {one.pid for one in ran}
        self.numbers = {id(one): number for number, one in enumerate(ran, start=1)}
        self.problems = observer.problems
        self.by_pid: dict[int, list[_Ran]] = {}
        for one in ran:
            self.by_pid.setdefault(one.pid, []).append(one)
        if not ran:
            named = f" named {observer.application}" if observer.application else ""
            self.problems.append(
                f"No statement of a session{named} was observed, so that no wait can be ascribed to the migration."
            )

    def observation(self) -> Observation:
        """The result, for the journal."""
        before, was = self.observer.before, self.observer.figures
        waits = tuple(self._wait(writer, reader) for writer, reader in self.observer.probes)
        statements = self._kept(self._statements(), waits)
        temporary = self._temporary()
        return Observation(
            duration_ms=_round((self.observer.ended_s - self.observer.began_s) * 1000),
            largest_gap_ms=_round(self.samples.largest_gap_ms),
            samples=self.samples.count,
            statements=statements,
            statements_total=len(self.ran),
            transactions=len(self.samples.transactions),
            waits=waits,
            rewritten=tuple(rewritten(before, self.after)),
            changes=tuple(changes(before, self.after)),
            wal_bytes=self.figures["wal_bytes"] - was["wal_bytes"],
            temp_files=temporary[0],
            temp_bytes=temporary[1],
            size_bytes=self.figures["size_bytes"] - was["size_bytes"],
            not_observed=tuple(self.problems),
        )

    def _statements(self) -> list[Statement]:
        locks: dict[int, list[Lock]] = {}
        for held in self.samples.held:
            # For a table that the migration creates nobody waits.
            name = self.observer.before.name(held.oid)
            ran, certain = self._taken_by(held)
            if name and ran is not None:
                locks.setdefault(id(ran), []).append(_lock(held, name, certain))
        sessions = {pid: number for number, pid in enumerate(dict.fromkeys(one.pid for one in self.ran), start=1)}
        return [
            Statement(
                number=self.numbers[id(one)],
                session=sessions[one.pid],
                text=_bounded(one.text),
                tag=one.tag,
                start_ms=_round(one.begin_ms - self.began_ms),
                duration_ms=_round(one.end_ms - one.begin_ms),
                lock_wait_ms=_round(min(one.lock_wait_ms, one.end_ms - one.begin_ms)),
                locks=tuple(sorted(locks.get(id(one), ()), key=lambda lock: (lock.table, lock.mode))),
            )
            for one in self.ran
        ]

    def _temporary(self) -> tuple[int, int]:
        """How many temporary files were written, and their bytes."""
        observer = self.observer
        if observer.logged:
            return len(observer.temporary), sum(observer.temporary)
        if observer.may_lag():
            self.problems.append(
                "The server may not have counted all temporary files: it counts those of a session when that ends."
            )
        return (
            self.figures["temp_files"] - observer.figures["temp_files"],
            self.figures["temp_bytes"] - observer.figures["temp_bytes"],
        )

    def _kept(self, statements: list[Statement], waits: Iterable[TableWait]) -> tuple[Statement, ...]:
        """Those at fault, then those with locks, then the longest, in their order."""
        at_fault = {
            number
            for wait in waits
            for fault in (wait.writer, wait.reader)
            if fault
            for number in (fault.statement, fault.through)
        }
        ranked = sorted(
            statements,
            key=lambda one: (one.number in at_fault, bool(one.locks), one.duration_ms),
            reverse=True,
        )
        if len(ranked) > KEPT_STATEMENTS:
            self.problems.append(f"Of {len(ranked)} statements {KEPT_STATEMENTS} are listed.")
        return tuple(sorted(ranked[:KEPT_STATEMENTS], key=lambda one: one.number))

    def _taken_by(self, held: _Held) -> tuple[_Ran | None, bool]:
        """The statement that took a lock, and whether no other one can have."""
        running = [
            one
            for one in self._running(held.pid, held.before_ms - CLOCK_MS, held.first_ms + CLOCK_MS)
            if one.tag not in CONTROL
        ]
        if len(running) < 2:
            # Without the log a short statement in front of this one may have been missed.
            certain = bool(running) and (self.observer.logged or running[0].begin_ms <= held.before_ms)
            return (running[0] if running else None), certain
        # Only to choose among those of one gap, and it is said that it is a choice.
        relation = self.observer.before.relations.get(held.oid)
        named = [one for one in running if relation and relation["name"] in one.text]
        return (named or running)[0], False

    def _running(self, pid: int, begin_ms: float, end_ms: float) -> list[_Ran]:
        """The session's statements that ran between the two moments, in their order."""
        ran = self.by_pid.get(pid, [])
        last = bisect_right(ran, end_ms, key=lambda one: one.begin_ms)
        first = last
        while first and ran[first - 1].end_ms >= begin_ms:
            first -= 1
        return ran[first:last]

    def _wait(self, writer: Probe, reader: Probe) -> TableWait:
        table = self.observer.before.name(writer.oid)
        for probe, what in ((writer, "Writing to"), (reader, "Reading")):
            if probe.problem:
                self.problems.append(f"{what} {table} was not observed to the end: {probe.problem}.")
        if writer.longest and not writer.rows and not writer.problem:
            self.problems.append(f"No row of {table} was tried, so that only locks on the table were observed.")
        return TableWait(
            table,
            writer_ms=_round(writer.longest.duration_ms) if writer.longest else None,
            reader_ms=_round(reader.longest.duration_ms) if reader.longest else None,
            writer=self._fault(writer),
            reader=self._fault(reader),
            rows=writer.rows,
            gap_ms=_round(max(writer.largest_gap_ms, 0.0)),
            finished=all(probe.longest is None or probe.longest.finished for probe in (writer, reader)),
        )

    def _fault(self, probe: Probe) -> Fault | None:
        """For what the longest wait was; None where it is too short to be found in the samples."""
        wait = probe.longest
        if wait is None or wait.duration_ms < FAULTLESS_MS:
            return None
        pids = Counter(wait.holders) if wait.row else self._blockers(probe, wait)
        if wait.row and not pids:
            # Whoever had changed the row had ended when that was asked.
            pids.update(held.pid for held in self.samples.held if self._meets(held, probe.oid, wait))
        ours = [pid for pid, _ in pids.most_common() if pid in self.migration]
        if not ours:
            if pids:
                names = sorted({self.samples.applications.get(pid) or "a session without a name" for pid in pids})
                return Fault(by_migration=False, other=", ".join(names))
            return self._fault_by_time(probe, wait) if not wait.row else Fault(by_migration=False, other="unknown")
        if wait.row:
            return self._row_fault(ours[0], wait)
        return self._lock_fault(ours, probe, wait)

    def _meets(self, held: _Held, oid: int, wait: Wait) -> bool:
        """Whether the session had the table locked for changes when the wait began."""
        margin = self.samples.largest_gap_ms
        changing = held.mode == WRITER_MODE or held.mode in CONFLICTS[WRITER_MODE]
        began = held.first_ms - margin <= wait.begin_ms <= held.last_ms + margin
        return held.oid == oid and changing and began

    def _blockers(self, probe: Probe, wait: Wait) -> Counter[int]:
        found: Counter[int] = Counter()
        for one in self.samples.blocked.get(probe.pid, ()):
            if one.first_ms <= wait.end_ms + CLOCK_MS and one.last_ms >= wait.begin_ms:
                found += one.pids
        return found

    def _fault_by_time(self, probe: Probe, wait: Wait) -> Fault | None:
        """No sample met the wait: a conflicting lock of the migration that was held meanwhile explains it."""
        fault = self._lock_fault(list(self.migration), probe, wait)
        return replace(fault, certain=False) if fault.statement is not None else None

    def _lock_fault(self, pids: list[int], probe: Probe, wait: Wait) -> Fault:
        conflicting = [
            held
            for held in self.samples.held
            if held.pid in pids
            and held.oid == probe.oid
            and held.mode in CONFLICTS[probe.mode]
            and held.first_ms <= wait.end_ms
            and held.last_ms >= wait.begin_ms - self.samples.largest_gap_ms
        ]
        if not conflicting:
            return Fault(through=self._through(pids[0], wait), certain=False)
        # The one that spans most of the wait; of two that do, the first; of two that came with it, the stronger.
        longest = max(conflicting, key=lambda one: min(one.last_ms, wait.end_ms) - max(one.first_ms, wait.begin_ms))
        together = [
            one
            for one in conflicting
            if one.pid == longest.pid and abs(one.first_ms - longest.first_ms) <= self.samples.largest_gap_ms
        ]
        held = max(together, key=lambda one: STRENGTH.index(one.mode))
        ran, certain = self._taken_by(held)
        return Fault(
            held.mode,
            awaited=held.granted_ms is None,
            statement=self.numbers[id(ran)] if ran else None,
            through=self._through(held.pid, wait),
            certain=certain and ran is not None,
        )

    def _row_fault(self, pid: int, wait: Wait) -> Fault:
        ran = self.by_pid.get(pid, [])
        begun = [
            one
            for one in ran[: bisect_right(ran, wait.begin_ms + CLOCK_MS, key=lambda one: one.begin_ms)]
            if one.tag not in CONTROL
        ]
        statement = self.numbers[id(begun[-1])] if begun else None
        running = bool(begun and wait.holders) and begun[-1].end_ms >= wait.begin_ms - CLOCK_MS
        return Fault(ROW_LOCK, statement=statement, through=self._through(pid, wait), certain=running)

    def _through(self, pid: int, wait: Wait) -> int | None:
        """The statement of the session that ran longest during the wait."""
        overlaps = [
            (min(one.end_ms, wait.end_ms) - max(one.begin_ms, wait.begin_ms), one)
            for one in self._running(pid, wait.begin_ms, wait.end_ms)
        ]
        longest = max(overlaps, key=lambda pair: pair[0], default=None)
        return self.numbers[id(longest[1])] if longest and longest[0] > 0 else None


def merged(ran: Sequence[_Ran], logged: Iterable[Logged]) -> list[_Ran]:
    """Those of the log, with what only samples have, and those that were sampled only: they failed, or still run."""
    found: list[_Ran] = []
    by_pid: dict[int, list[_Ran]] = {}
    for entry in logged:
        session = by_pid.setdefault(entry.pid, [])
        # The log's moments are cut to whole ms: a statement does not begin before the one in front of it has ended.
        begin = max(entry.begin_ms, session[-1].end_ms) if session else entry.begin_ms
        session.append(_Ran(entry.pid, begin, max(begin, entry.end_ms), entry.text, entry.tag))
        found.append(session[-1])
    for sampled in ran:
        session = by_pid.get(sampled.pid, [])
        place = bisect_right(session, sampled.begin_ms + CLOCK_MS, key=lambda one: one.begin_ms)
        text = sampled.text.strip()[:KEPT_CHARACTERS]
        for one in reversed(session[:place]):
            if one.end_ms < sampled.begin_ms - CLOCK_MS:
                found.append(replace(sampled, tag=tag_of(sampled.text)))
                break
            if one.text.lstrip().startswith(text):
                one.lock_wait_ms += sampled.lock_wait_ms
                break
        else:
            found.append(replace(sampled, tag=tag_of(sampled.text)))
    return sorted(found, key=lambda one: one.begin_ms)


def tag_of(text: str) -> str:
    """The command of a text, where the server does not name it; for words only, never for a decision."""
    words: list[str] = []
    rest = text
    while len(words) < 2:
        while blank := _COMMENT.match(rest):
            rest = rest[blank.end() :]
        word = re.match(r"[A-Za-z]+", rest)
        if not word:
            break
        rest = rest[word.end() :]
        if not words or word[0].upper() not in _NOISE:
            words.append(word[0].upper())
    return " ".join(words) if words and words[0] in _OBJECTS else "".join(words[:1])


def _lock(held: _Held, name: str, certain: bool) -> Lock:
    granted = held.granted_ms
    return Lock(
        name,
        held.mode,
        held_ms=_round(held.last_ms - granted) if granted is not None else 0.0,
        awaited_ms=_round((granted if granted is not None else held.last_ms) - held.first_ms),
        certain=certain,
    )


def _words(mode: str) -> str:
    """`ShareRowExclusiveLock` as SQL writes it: `SHARE ROW EXCLUSIVE`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", mode.removesuffix("Lock")).upper()


def _bounded(text: str) -> str:
    # Masked before it is cut: half a secret would not be recognized.
    plain = printable(masked_sql(text[: 4 * KEPT_CHARACTERS]))
    return plain if len(plain) <= KEPT_CHARACTERS else plain[: KEPT_CHARACTERS - 1] + "…"


def _round(ms: float) -> float:
    return round(max(ms, 0.0), 1)
