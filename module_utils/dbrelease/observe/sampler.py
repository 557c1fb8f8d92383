"""A sampler of a migration: its statements, the locks of sessions, and who waits, each with its moments."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from psycopg2.extensions import cursor as Cursor

from ..postgres.session import Row, select

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


@dataclass
class Ran:
    """A statement as it was sampled or logged."""

    pid: int
    begin_ms: float
    end_ms: float
    text: str
    tag: str = ""
    lock_wait_ms: float = 0.0
    last_ms: float = 0.0


@dataclass
class Held:
    """A lock of a session: when it was observed, and the last sample without it."""

    pid: int
    oid: int
    mode: str
    before_ms: float
    first_ms: float
    last_ms: float
    granted_ms: float | None = None


@dataclass
class Blocked:
    """A probe that waited for a lock: from which sample to which, and how many of them met which session before it."""

    first_ms: float
    last_ms: float
    pids: Counter[int] = field(default_factory=Counter)


@dataclass
class Samples:
    """What the sampler collected, by the server's clock in ms."""

    count: int = 0
    last_ms: float = 0.0
    largest_gap_ms: float = 0.0
    ran: list[Ran] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    blocked: dict[int, list[Blocked]] = field(default_factory=dict)
    applications: dict[int, str] = field(default_factory=dict)
    transactions: set[tuple[int, str]] = field(default_factory=set)
    hidden: bool = False
    current: dict[int, Ran] = field(default_factory=dict)
    open: dict[tuple[int, int, str], Held] = field(default_factory=dict)


@dataclass
class Sampler:
    """Takes samples of one database by a cursor that returns dicts.

    application: of the migration's sessions; empty where every other session is the migration's. figures: a row of
    FIGURES, read before the first sample. probes: pids of sessions whose waits count. own_names: of sessions of ours.
    """

    application: str
    figures: Row
    probes: Collection[int] = ()
    own_names: Collection[str] = ()
    samples: Samples = field(default_factory=Samples)
    _prepared: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """The first gap begins with the figures."""
        self.samples.last_ms = self.figures["now"]

    def take(self, cursor: Cursor) -> None:
        """Take one more sample."""
        given = {"database": self.figures["database"], "probes": list(self.probes)}
        if not self._prepared:
            cursor.execute(SAMPLE)
            self._prepared = True
        rows = select(cursor, TAKE_SAMPLE, given)
        self._note(rows, rows[0]["now"] if rows else select(cursor, NOW)[0]["now"])

    def _note(self, rows: list[Row], now: float) -> None:
        samples = self.samples
        before, gap = samples.last_ms, now - samples.last_ms
        present: set[tuple[int, int, str]] = set()
        for row in rows:
            if row["blockers"]:
                self._note_blocked(row["pid"], row["blockers"], before, now)
            if row["application"] in self.own_names:
                continue
            samples.applications[row["pid"]] = row["application"]
            named = not self.application or row["application"] == self.application
            if named:
                self._note_statement(row, gap, now)
            if named or self.probes:  # only a probe's wait may be for another session
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


def _words(mode: str) -> str:
    """`ShareRowExclusiveLock` as SQL writes it: `SHARE ROW EXCLUSIVE`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", mode.removesuffix("Lock")).upper()


def may_not_see(user: str) -> str:
    """Where sessions of other roles are hidden."""
    return (
        f"The role {user} may not see what other roles execute, so that texts and durations are missing: make it a "
        "member of pg_monitor."
    )
