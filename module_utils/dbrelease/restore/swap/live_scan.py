"""Read the live database while the application still runs, and save the rows of tables that the other one lacks.

It is the longer part of saving rows. When writers are locked out, only tables written since are read again.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.errorcodes import LOCK_NOT_AVAILABLE
from psycopg2.extensions import cursor as Cursor

from ...core.errors import ReleaseError
from ...postgres.could_not_run import advised
from ...postgres.declared_sql import limit_statements
from ...postgres.fingerprints import State, read_tables, state_of
from ...postgres.own_path import read_table
from ...postgres.session import Connection, Login, connect, server_reason, transaction
from ...postgres.table_shape import Table, read_shapes
from .archive import RowArchive

APPLICATION = "dbrelease look"
LOCK_TIMEOUT_MS = 500
HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::xid::text AS horizon"
# A row written after the scan is of a transaction that had not ended by then. A deleted row changes the count.
SINCE = "SELECT count(*) AS rows, count(*) FILTER (WHERE age(xmin) <= age({}::xid)) AS written FROM {}"


@dataclass(frozen=True)
class Copied:
    """A table that the other database lacks, whose rows were copied: a hash of them would add nothing."""

    rows: int
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Observation:
    """The content of each table at one instant; `horizon` is the oldest transaction that had not ended by then.

    states: of the tables that the other database has too; copied: of those that it lacks. A table that another session
    had locked is in neither: it is read when the sessions have been terminated.
    """

    horizon: str
    states: Mapping[str, State]
    copied: Mapping[str, Copied]

    def is_unchanged(self, cursor: Cursor, table: Table) -> bool:
        """Whether a table is unchanged; call it only while writers are locked out. The cursor returns mappings."""
        before = self.states.get(table.key) or self.copied.get(table.key)
        if before is None or before.columns != table.columns:
            return False
        # No parameter, because a percent sign in a name would be read as a placeholder.
        cursor.execute(sql.SQL(SINCE).format(sql.Literal(self.horizon), table.source))
        (now,) = map(dict, cursor.fetchall())
        return (now["rows"], now["written"]) == (before.rows, 0)


def take_look(connection: Connection, known: Collection[str], keeper: RowArchive) -> Observation:
    """Read every table that is known (`schema.table`), and save the rows of the others."""
    with transaction(connection, read_only=True, isolation="REPEATABLE READ") as cursor:
        limit_statements(cursor, 0, lock_timeout=LOCK_TIMEOUT_MS)
        cursor.execute(HORIZON)
        (first,) = map(dict, cursor.fetchall())
        tables = read_shapes(cursor)
        wanted = {key: table.columns for key, table in tables.items() if key in known}
        read = read_tables(cursor, wanted, left_out=[LOCK_NOT_AVAILABLE])
        others = {key: table for key, table in tables.items() if key not in known}
        copied = {key: found for key, table in others.items() if (found := _copy(cursor, table, keeper))}
        return Observation(first["horizon"], {key: state_of(row) for key, row in read.items()}, copied)


def _copy(cursor: Cursor, table: Table, keeper: RowArchive) -> Copied | None:
    """Copy a table; None if another session has locked it, or has dropped it since."""

    def read() -> Copied:
        # This also locks the table and its indexes for the copy.
        cursor.execute(sql.SQL("SELECT EXISTS (SELECT FROM {}) AS filled").format(table.source))
        (found,) = map(dict, cursor.fetchall())
        return Copied(keeper.copy(cursor, table) if found["filled"] else 0, table.columns)

    try:
        return read_table(cursor, read)
    except (psycopg2.errors.LockNotAvailable, psycopg2.errors.UndefinedTable):
        return None


class LiveScan:
    """A scan in parallel to other work, in its own session and thread."""

    def __init__(self, keeper: RowArchive) -> None:
        self.keeper = keeper
        self.look: Observation | None = None
        self._connection: Connection | None = None
        self._error: psycopg2.Error | ReleaseError | None = None
        self._thread: threading.Thread | None = None

    def begin(self, live: Login, known: Collection[str]) -> None:
        """Start it; end it with finish() or cancel()."""
        self._connection = connect(live, APPLICATION)
        self._thread = threading.Thread(target=self._run, args=(self._connection, known), daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for it; raises ReleaseError if it failed."""
        if self._thread is None:
            return
        self._thread.join()
        if isinstance(self._error, psycopg2.Error):
            raise ReleaseError(
                f"Scanning the live database failed ({server_reason(self._error)}): nothing was swapped; "
                f"{advised(self._error, 'remove the cause, and rerun the playbook.')}"
            ) from self._error
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Stop it, and leave no file of it."""
        if self._connection is not None and self._thread is not None and self._thread.is_alive():
            # If the server has stopped, the scan has too; and that failure would hide the first one.
            with suppress(psycopg2.Error):
                self._connection.cancel()
            self._thread.join()
        self.keeper.discard()

    def _run(self, connection: Connection, known: Collection[str]) -> None:
        try:
            with closing(connection):
                with connection.cursor() as cursor:
                    # The run waits for the other work, so one processor is left to that.
                    cursor.execute("SET max_parallel_workers_per_gather = 0")
                self.look = take_look(connection, known, self.keeper)
        except (psycopg2.Error, ReleaseError) as error:
            self._error = error
