"""Drop leftover tables without blocking users of the tables they reference while their rows are checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..postgres.catalog import identifier, quoted, resolved
from ..postgres.lock_retry import ContendedError, PatientSession
from ..postgres.orphan_table import Leftover, is_unchanged
from ..postgres.session import as_declared, select

WAITED_FOR = """
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'relation' AND NOT granted AND relation = ANY (%s::oid[])
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS waited_for
"""


@dataclass
class Dropping:
    """Drop all of the tables or none. `demand` runs when no session can write to them, and raises where they must stay.

    Waiting for locks may take long: `look` runs before each attempt, when no session waits yet, and raises, too.
    The drop locks the referenced tables as well, even for readers. Where checking the rows is quick, everything is
    locked first, a referenced table before the one that references it, as cascading deletes do. Where it is slow, only
    the tables `alone` are locked for the check: then only sessions wait that write to them or delete referenced rows.
    """

    session: PatientSession
    leftovers: Sequence[Leftover]
    look: Callable[[Cursor], None]
    demand: Callable[[Cursor], None]
    alone: bool = False

    @property
    def statement(self) -> sql.Composed:
        """The statement that drops them: a single one, as they may reference each other."""
        return sql.SQL("DROP TABLE {}").format(sql.SQL(", ").join(map(identifier, self.tables)))

    @property
    def tables(self) -> list[str]:
        """Their names."""
        return [one.table for one in self.leftovers]

    def drop(self) -> None:
        """Measure how long the check takes, and drop them."""
        begun, named = time.monotonic(), " and ".join(self.tables)
        self.session.read(f"Checking {named}", lambda cursor: [is_unchanged(cursor, one) for one in self.leftovers])
        self.alone = (time.monotonic() - begun) * 1000 > self.session.limits.timeout_ms / 2
        self.session.write(f"Dropping {named}", self._attempt, locks=len(_with_references(self.leftovers)))

    def _attempt(self, cursor: Cursor) -> None:
        self.look(cursor)
        everything = _locking("ACCESS EXCLUSIVE", _with_references(self.leftovers))
        if self.alone:
            _execute(cursor, _locking("SHARE ROW EXCLUSIVE", self.tables))
            limit_statement(cursor, round(self.session.limits.deadline_seconds * 1000))
            self.demand(cursor)
            # A session that waits may hold a referenced table: waiting for that could end in a deadlock.
            if select(cursor, WAITED_FOR, (resolved(cursor, [*map(quoted, self.tables)]),))[0]["waited_for"]:
                raise ContendedError(f"another session waited to write to {' or '.join(self.tables)}")
            limit_statement(cursor, 0)
            _execute(cursor, everything)
        else:
            _execute(cursor, everything)
            self._demand_quickly(cursor)
            limit_statement(cursor, 0)
        _execute(cursor, self.statement)

    def _demand_quickly(self, cursor: Cursor) -> None:
        """Check the rows within the lock timeout, as other sessions wait meanwhile."""
        limit_statement(cursor, self.session.limits.timeout_ms)
        try:
            self.demand(cursor)
        except psycopg2.errors.QueryCanceled as error:
            self.alone = True
            raise ContendedError("checking the rows took too long") from error


def limit_statement(cursor: Cursor, timeout_ms: int) -> None:
    """Limit each statement of the transaction; 0 removes the limit."""
    cursor.execute("SELECT set_config('statement_timeout', %s, true)", (f"{timeout_ms}ms",))


def _execute(cursor: Cursor, statement: sql.Composed) -> None:
    """Execute it with the search path of the release."""
    with as_declared(cursor):
        cursor.execute(statement)


def _with_references(leftovers: Sequence[Leftover]) -> list[str]:
    """The tables and everything that they reference, each after what it references."""
    references, ordered = {one.table: one.references for one in leftovers}, dict[str, None]()

    def add(table: str, on_the_way: frozenset[str]) -> None:
        for referenced in references.get(table, ()):
            if referenced not in on_the_way:
                add(referenced, on_the_way | {table, referenced})
        ordered.setdefault(table)

    for table in references:
        add(table, frozenset({table}))
    return [*ordered]


def _locking(mode: str, tables: Iterable[str]) -> sql.Composed:
    return sql.SQL("LOCK TABLE {} IN {} MODE").format(sql.SQL(", ").join(map(identifier, tables)), sql.SQL(mode))
