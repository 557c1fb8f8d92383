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
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace

import psycopg2
from psycopg2.extras import RealDictCursor

from ..postgres.catalog import find_table
from ..postgres.session import Login, Row, connect, select, server_reason
from .attribution import Account, Record, merged, tag_of
from .catalog_changes import read_catalog
from .observation import READER_MODE, WRITER_MODE, Observation
from .probe import APPLICATION_NAME as PROBE_NAME
from .probe import Probe
from .samples import Blocked, Held, Ran, Samples
from .statement_log import KEPT_CHARACTERS as LOGGED_CHARACTERS
from .statement_log import Logged, StatementLog, TemporaryFile, UnreadableError

APPLICATION_NAME = "dbrelease observe"
# Between samples; the longer one while nothing begins, ends or is locked, so that the migration keeps the processor.
PAUSE_S, LONGEST_PAUSE_S = 0.003, 0.012
STOP_S = 2.0
PROBED_AT_MOST = 16
# From this version on a session's statistics are the server's when it has ended, and not half a second later.
COUNTS_AT_ONCE = 150000
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


class Seen:
    """The observation, once the block has ended."""

    def __init__(self) -> None:
        self._observation: Observation | None = None
        self.sql = ""  # the statements of the migration, unmasked: never to be journaled

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
            seen.sql = observer.sql


class _Observer:
    """The sampler's and the probes' sessions, from begin() to end()."""

    def __init__(self, login: Login, tables: Sequence[str], application: str, own_server: bool) -> None:
        self.login, self.application, self.own_server = login, application, own_server
        self.problems: list[str] = []
        self.probes: list[tuple[Probe, Probe]] = []
        self.log: StatementLog | None = None
        self.temporary: list[int] | None = None
        self.samples = Samples()
        self.sql = ""
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
        # One that is as long as the log keeps is cut.
        whole = (one.text.strip().rstrip(";") for one in ran if len(one.text) < LOGGED_CHARACTERS)
        self.sql = "".join(f"{text};\n" for text in dict.fromkeys(whole))
        record = Record(
            self.application,
            self.samples,
            self.probes,
            self.before,
            after,
            self.figures,
            figures,
            self.ended_s - self.began_s,
            self.temporary,
            self.may_lag(),
            self.problems,
        )
        return Account(record, ran).observation()

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
            known.append(Blocked(now, now))
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
            current = samples.current[pid] = Ran(pid, row["query_start"], row["query_start"], row["query"])
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
                held = self.samples.open[key] = Held(*key, before, now, now)
                self.samples.held.append(held)
            held.last_ms = now
            if granted and held.granted_ms is None:
                held.granted_ms = now

    def _statements(self) -> list[Ran]:
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
        except UnreadableError as error:
            self.problems.append(
                f"The server's log could not be read, because {error}: statements that are shorter than the largest "
                "gap may be missing."
            )
            return merged(ran, [])
        logged = [one for one in entries if isinstance(one, Logged)]
        self.temporary = [one.bytes for one in entries if isinstance(one, TemporaryFile)]
        self.samples.transactions |= {(one.pid, one.xid) for one in logged if one.xid}
        return merged(ran, logged)


def _words(mode: str) -> str:
    """`ShareRowExclusiveLock` as SQL writes it: `SHARE ROW EXCLUSIVE`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", mode.removesuffix("Lock")).upper()
