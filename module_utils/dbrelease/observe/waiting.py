"""Which sessions of others wait for a migration of a live database, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg2.extensions import cursor as Cursor

from ..postgres.lock_retry import session_in_words
from ..postgres.session import Row, select
from .budget import as_time

# A wait that is shorter is that of any statement on a busy server.
SHORTEST_MS = 5.0
# An autovacuum has no user. What waits for Alembic's own table is another migration. A server before 14 does not report
# since when a session waits: there a wait begins with the first sample of it. A session of the migration that itself
# waits has limits of its own (lock_timeout): only what it holds is `held` against it. Of a crowd the longest waits
# suffice: to find out who blocks a session locks the lock table.
WAITING = """
SELECT w.pid, w."user", w.application, w.state, NULL AS since, NULL AS query, w.began,
       extract(epoch FROM clock_timestamp() - w.waitstart)::float8 * 1000 AS ms,
       extract(epoch FROM clock_timestamp())::float8 * 1000 AS now, w.by && %(holding)s::int[] AS held,
       (SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = w.relation) AS table_name
FROM (
  SELECT longest.*, pg_blocking_pids(longest.pid) AS by
  FROM (
    SELECT a.pid, a.usename AS "user", a.application_name AS application, a.state, began.waitstart,
           coalesce(began.waitstart, a.query_start)::text AS began,
           coalesce(l.relation, (
             SELECT t.relation FROM pg_locks t WHERE t.pid = l.pid AND t.locktype = 'tuple' LIMIT 1)) AS relation
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    CROSS JOIN LATERAL (SELECT (to_jsonb(l) ->> 'waitstart')::timestamptz AS waitstart) AS began
    WHERE NOT l.granted AND l.locktype IN ('relation', 'tuple', 'transactionid')
      AND a.datname = current_database() AND a.usesysid IS NOT NULL AND NOT a.pid = ANY (%(ours)s::int[])
    ORDER BY began.waitstart LIMIT 100
  ) AS longest
  OFFSET 0
) AS w
WHERE w.by && %(ours)s::int[] AND w.relation IS DISTINCT FROM %(bookkeeping)s::oid
"""
OURS = """
SELECT pid, EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND NOT l.granted) AS waits
FROM pg_stat_activity a
WHERE application_name = left(%s, 63) AND usesysid = ANY (%s::oid[]) AND datname = current_database()
"""


@dataclass(frozen=True)
class Waited:
    """The wait of one session of others so far; held_ms: since it was first observed to wait for a granted lock."""

    session: Row
    table: str
    ms: float
    held_ms: float

    def in_words(self) -> str:
        """For a message: who waited, for what, and how long."""
        table = f" for {self.table}" if self.table else ""
        return f"{session_in_words(self.session)} waited{table} for at least {as_time(self.ms)}"

    def as_dict(self) -> dict[str, Any]:
        """For the evidence."""
        named = {key: self.session[key] for key in ("pid", "user", "application")}
        return {**named, "table": self.table, "ms": round(self.ms)}


@dataclass
class Waiters:
    """Observes them; `longest` is the longest wait so far.

    name: of the migration's sessions. bookkeeping: the oid of Alembic's table, if it exists.
    """

    name: str
    trusted: Sequence[int]
    bookkeeping: int | None
    longest: Waited | None = field(default=None, init=False)
    _first: dict[tuple[int, str, bool], float] = field(default_factory=dict, init=False)

    def look(self, cursor: Cursor) -> tuple[list[int], list[Waited]]:
        """The migration's sessions, and the waits for them now; the cursor returns dicts."""
        sessions = select(cursor, OURS, (self.name, list(self.trusted)))
        ours = [row["pid"] for row in sessions]
        if not ours:
            return [], []
        holding = [row["pid"] for row in sessions if not row["waits"]]
        rows = select(cursor, WAITING, {"ours": ours, "holding": holding, "bookkeeping": self.bookkeeping})
        waits = [self._waited(row) for row in rows if row["began"] is not None]
        for one in waits:
            if one.ms >= SHORTEST_MS and (self.longest is None or one.ms > self.longest.ms):
                self.longest = one
        return ours, waits

    def _waited(self, row: Row) -> Waited:
        waited = row["now"] - self._first.setdefault((row["pid"], row["began"], False), row["now"])
        held_ms = 0.0
        if row["held"]:
            held_ms = row["now"] - self._first.setdefault((row["pid"], row["began"], True), row["now"])
        return Waited(row, row["table_name"] or "", row["ms"] if row["ms"] is not None else waited, held_ms)
