"""Stop an upgrade for which others wait longer than its budget allows, where nothing of it can be committed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg2.errors
from psycopg2.extensions import cursor as Cursor

from ..observe.budget import as_time
from ..observe.waiting import Waited, Waiters
from ..postgres.catalog import quoted, resolved
from ..postgres.revision import revisions_or_none
from ..postgres.session import Login, select, server_reason
from ..postgres.trusted_roles import trusted_roles

ADVICE = (
    "rehearse the release on a copy of this size, let the statement that takes the lock be the last one of its "
    "transaction, or raise migration.budget.write_wait_ms"
)
# Rows of the catalog that are committed, and younger than a transaction position. A temporary table is one session's.
COMMITTED = """
WITH since AS (SELECT age((%s::bigint %% 4294967296)::text::xid) AS age),
lasting AS (SELECT oid, xmin FROM pg_class WHERE relpersistence <> 't'),
young (age) AS (
  SELECT age(xmin) FROM lasting
  UNION ALL SELECT age(a.xmin) FROM pg_attribute a JOIN lasting l ON l.oid = a.attrelid
  UNION ALL SELECT age(k.xmin) FROM pg_constraint k JOIN lasting l ON l.oid = k.conrelid
  UNION ALL SELECT age(t.xmin) FROM pg_trigger t JOIN lasting l ON l.oid = t.tgrelid
  UNION ALL SELECT age(xmin) FROM pg_proc
  UNION ALL SELECT age(xmin) FROM pg_enum)
SELECT EXISTS (SELECT FROM young, since WHERE young.age <= since.age) AS found
"""
TERMINATE = "SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS ours (pid)"


@dataclass
class OverBudget:
    """Observes who waits for the sessions of a move, and terminates these over the limit.

    limit_ms: None where nothing is stopped. since: the transaction position before the move. written: the transactions
    of its sessions that were observed to write.
    """

    login: Login
    name: str
    table: str
    from_revision: str
    since: int
    limit_ms: float | None
    written: Callable[[], int]
    waiters: Waiters | None = field(default=None, init=False)
    stopped: Waited | None = field(default=None, init=False)
    why_not: str = field(default="", init=False)
    _written: int = field(default=0, init=False)

    def begin(self) -> None:
        """An attempt begins; what earlier ones wrote was rolled back."""
        self._written = self.written()

    def look(self, cursor: Cursor) -> None:
        """Observe once; the cursor returns dicts and is in no transaction. What fails here stops nothing."""
        try:
            self._look(cursor)
        except psycopg2.errors.QueryCanceled:
            pass  # a busy server; the next one may not be
        except psycopg2.Error as error:
            self.why_not = server_reason(error)

    def _look(self, cursor: Cursor) -> None:
        if self.waiters is None:
            trusted = trusted_roles(cursor, self.login.database, self.table)
            self.waiters = Waiters(self.name, trusted, resolved(cursor, [quoted(self.table)])[0])
        ours, waits = self.waiters.look(cursor)
        longest = max(waits, key=lambda one: one.held_ms, default=None)
        if longest is None or self.limit_ms is None or longest.held_ms <= self.limit_ms or self.why_not:
            return
        self.why_not = self._unsafe(cursor)
        if self.why_not:
            return
        try:
            cursor.execute(TERMINATE, (ours,))
            self.stopped = longest
        except psycopg2.errors.InsufficientPrivilege:
            self.why_not = "db_user may not terminate its sessions"

    def _unsafe(self, cursor: Cursor) -> str:
        """Why stopping would leave a part of the migration committed; empty where it takes all of it back."""
        if self.written() - self._written > 1 or select(cursor, COMMITTED, (self.since,))[0]["found"]:
            return "a part of it may already be committed"
        if revisions_or_none(self.login, self.table) != [self.from_revision]:
            return "the revision had changed"
        return ""

    def longest(self) -> dict[str, Any] | None:
        """The longest wait that was observed, for the journal."""
        longest = self.waiters.longest if self.waiters else None
        return {**longest.as_dict(), "not_stopped": self.why_not} if longest else None

    def cause(self) -> str:
        """Why the move was stopped, in words; empty where it was not."""
        if self.stopped is None or self.limit_ms is None:
            return ""
        return f"{self.stopped.in_words()} behind it, and the budget is {as_time(self.limit_ms)}; {ADVICE}"
