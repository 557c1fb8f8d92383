"""Drop a table that is left over, so that nobody who uses what it refers to waits for the look at its rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from .catalog import identifier, quoted
from .database import select
from .leftover import Leftover, is_unchanged
from .locks import ContendedError
from .patient import PatientSession

WAITED_FOR = """
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'relation' AND NOT granted AND relation = to_regclass(%s)
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS waited_for
"""


@dataclass
class Dropping:
    """One table. `demand` is asked when nobody can write to it any more, and raises where it may not go.

    Dropping it locks what it refers to, for readers as well. Where the look at its rows is quick, all is locked first,
    and what it refers to before it, as deletes that cascade do. Where it is not, or proves not to be, the table is
    locked `alone` for it: then only those wait who write to it, or delete what it refers to.
    """

    session: PatientSession
    one: Leftover
    demand: Callable[[Cursor], None]
    alone: bool = False

    @property
    def statement(self) -> sql.Composed:
        """What drops it."""
        return sql.SQL("DROP TABLE {}").format(identifier(self.one.table))

    def drop(self) -> None:
        """Look how long a look takes, and drop it."""
        begun = time.monotonic()
        self.session.read(f"Looking at {self.one.table}", lambda cursor: is_unchanged(cursor, self.one))
        self.alone = (time.monotonic() - begun) * 1000 > self.session.limits.timeout_ms / 2
        self.session.write(f"Dropping {self.one.table}", self._attempt, locks=1 + len(self.one.references))

    def _attempt(self, cursor: Cursor) -> None:
        everything = _locking("ACCESS EXCLUSIVE", *self.one.references, self.one.table)
        if self.alone:
            cursor.execute(_locking("SHARE ROW EXCLUSIVE", self.one.table))
            limit_statement(cursor, round(self.session.limits.deadline_seconds * 1000))
            self.demand(cursor)
            # Whoever waits for it may hold what it refers to: waiting for that one could make the server end it.
            if select(cursor, WAITED_FOR, (quoted(self.one.table),))[0]["waited_for"]:
                raise ContendedError(f"another session waited to write to {self.one.table}")
            limit_statement(cursor, 0)
            cursor.execute(everything)
        else:
            cursor.execute(everything)
            self._demand_quickly(cursor)
            limit_statement(cursor, 0)
        cursor.execute(self.statement)

    def _demand_quickly(self, cursor: Cursor) -> None:
        """Everyone waits for the answer."""
        limit_statement(cursor, self.session.limits.timeout_ms)
        try:
            self.demand(cursor)
        except psycopg2.errors.QueryCanceled as error:
            self.alone = True
            raise ContendedError("looking at its rows took too long") from error


def limit_statement(cursor: Cursor, timeout_ms: int) -> None:
    """For the transaction: no statement takes longer; 0 takes the limit away."""
    cursor.execute("SELECT set_config('statement_timeout', %s, true)", (f"{timeout_ms}ms",))


def _locking(mode: str, *tables: str) -> sql.Composed:
    return sql.SQL("LOCK TABLE {} IN {} MODE").format(sql.SQL(", ").join(map(identifier, tables)), sql.SQL(mode))
