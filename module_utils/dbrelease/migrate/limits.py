"""Whether the lock limits reached Alembic's sessions: a driver or a URL may drop them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import psycopg2.errors
from psycopg2.extensions import cursor as Cursor

from ..core.proof import Proof
from ..postgres.catalog import quoted, resolved
from ..postgres.lock_retry import LockLimits, describe
from ..postgres.session import Row, select
from ..postgres.trusted_roles import quoted_text, trusted_roles

PROOF = "migrate.lock_limits"
# The query lists all locks; a session that ends sooner than this has kept no other waiting for long.
STRANGERS_EVERY_S = 0.5
ADVICE = (
    "make sure that PGOPTIONS and PGAPPNAME reach the server (options or an application_name in the backend's database "
    "URL override them, and some drivers read neither)"
)

NAMED = """
SELECT EXISTS (SELECT FROM pg_stat_activity
               WHERE application_name = %s AND pid <> pg_backend_pid() AND usesysid = ANY (%s::oid[])) AS found
"""
# Only a session without the lock_timeout waits so long. CREATE INDEX CONCURRENTLY waits for transactions to end
# (virtualxid), and no session waits behind it. Before PostgreSQL 14 waitstart does not exist, and no row is found.
OVERDUE = """
SELECT waiting.pid, extract(epoch FROM clock_timestamp() - (to_jsonb(l) ->> 'waitstart')::timestamptz)::float AS seconds
FROM pg_stat_activity waiting
JOIN pg_locks l ON l.pid = waiting.pid AND NOT l.granted
WHERE waiting.application_name = %s AND waiting.usesysid = ANY (%s::oid[])
  AND waiting.datname = current_database()
  AND l.locktype <> 'virtualxid'
  AND (to_jsonb(l) ->> 'waitstart')::timestamptz < clock_timestamp() - %s * interval '1 second'
"""
# Alembic reads its table first, and keeps that lock while it migrates. A dump may do the same, so no session is
# terminated for it.
STRANGERS = """
SELECT DISTINCT a.pid, a.usename AS "user", a.application_name AS application
FROM pg_locks l
JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.relation = %s
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND a.xact_start >= %s
  AND a.application_name NOT LIKE 'dbrelease%%'
"""


@dataclass
class Reach:
    """How the sessions of a migration wait, observed while it runs.

    overdue: its sessions that waited for too long, and whether each could be terminated (`ended`).
    strangers: sessions without its name that use Alembic's table as it does.
    """

    name: str
    table: str
    limits: LockLimits
    named: bool = field(default=False, init=False)
    overdue: list[Row] = field(default_factory=list, init=False)
    strangers: list[Row] = field(default_factory=list, init=False)
    _since: Any = field(default=None, init=False)
    _trusted: list[int] = field(default_factory=list, init=False)
    _next: float = field(default=0.0, init=False)

    def look(self, cursor: Cursor, blocked_by: list[Row]) -> None:
        """Observe the sessions once; terminate one of its name that waits for too long. The cursor returns dicts."""
        if self._since is None:
            self._since = select(cursor, "SELECT clock_timestamp() AS now")[0]["now"]
            self._trusted = trusted_roles(cursor, cursor.connection.info.dbname, self.table)
        if not self.named:
            self._look_for_it(cursor)
        if blocked_by:
            self._end_overdue(cursor)

    def _look_for_it(self, cursor: Cursor) -> None:
        self.named = select(cursor, NAMED, (self.name, self._trusted))[0]["found"]
        if not self.named and not self.strangers and time.monotonic() >= self._next:
            (relation,) = resolved(cursor, [quoted(self.table)])
            self.strangers = select(cursor, STRANGERS, (relation, self._since))
            self._next = time.monotonic() + STRANGERS_EVERY_S

    def _end_overdue(self, cursor: Cursor) -> None:
        # Even on a busy server lock_timeout would have fired by then.
        longest_s = 3 * self.limits.timeout_ms / 1000 + 2
        known = {row["pid"] for row in self.overdue}
        for row in select(cursor, OVERDUE, (self.name, self._trusted, longest_s)):
            if row["pid"] in known:
                continue
            try:
                cursor.execute("SELECT pg_terminate_backend(%s)", (row["pid"],))
                ended = True
            except psycopg2.errors.InsufficientPrivilege:
                ended = False
            self.overdue.append({**row, "ended": ended})

    def given_up(self, blockers: list[Row]) -> str:
        """Why a session was terminated, in words; empty where none was."""
        ended = [row for row in self.overdue if row["ended"]]
        return f"its {self._waited(ended[0])} and was terminated; {describe(blockers)}; {ADVICE}" if ended else ""

    def proofs(self) -> list[Proof]:
        """Return the remaining doubt, if any: a session too short to be observed made no other wait for long."""
        if self.overdue:
            row = min(self.overdue, key=lambda row: bool(row["ended"]))
            result = "was terminated" if row["ended"] else "writers waited behind it, and db_user may not terminate it"
            detail = f"Its {self._waited(row)} and {result}: {ADVICE}."
        elif self.strangers and not self.named:
            row = self.strangers[0]
            detail = (
                f"No session with Alembic's application_name {self.name} was observed, but pid {row['pid']} "
                f"(user {quoted_text(row['user'])}, application {quoted_text(row['application'])}), whose transaction "
                f"started later, used its table {self.table}. So it is not proved that lock_timeout reached Alembic: "
                f"it may have waited for a lock without limit, with writers behind it. Before the next run, {ADVICE}."
            )
        else:
            return []
        title, seen = "The lock limits reached Alembic's sessions", self.overdue or self.strangers
        return [Proof(PROOF, title, "inconclusive", expected=self.name, observed=seen, detail=detail)]

    def _waited(self, row: Row) -> str:
        return (
            f"session {row['pid']} waited for a lock for {row['seconds']:.1f} s, so lock_timeout "
            f"({self.limits.timeout_ms} ms) did not reach it or the migration set another,"
        )
