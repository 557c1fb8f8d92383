"""The live database against the one that takes its place: prepared beforehand, exact once the application stopped."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TextIO, cast

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import RealDictCursor

from .database import Connection, Login, connect, server_reason, without_timeouts
from .errors import ReleaseError
from .large_objects import read_large_objects
from .locks import RETRYABLE
from .swap_rename import end_sessions_in
from .swap_replay import Counts, Keeper, Saved
from .swap_rows import Sums, differences, differing, sums
from .swap_tables import Pair, Table, pair, parents_first, read_sequences, read_shapes

LOCK_TIMEOUT_MS = 500
LOCK_DEADLINE_S = 30.0
APPLICATION = "dbrelease rows"
# Raw lines: neither character is ever in JSON text.
RAW = "(FORMAT csv, DELIMITER E'\\x02', QUOTE E'\\x01')"


class Comparison:
    """Two sessions, and what the incoming database holds; `save` makes the live one hold still and looks at it."""

    def __init__(self, live: Connection, other: Connection, bookkeeping: str) -> None:
        self._live, self._other, self._bookkeeping = live, other, bookkeeping
        self._sums: dict[str, tuple[Pair, Sums]] = {}
        self.pid: int = live.get_backend_pid()
        with _cursor(other) as cursor:
            # One transaction for all that is asked of it: fingerprints.py needs savepoints.
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            without_timeouts(cursor)
            cursor.execute("SET LOCAL row_security = off")
            self._known = read_shapes(cursor)
            self._sequences = read_sequences(cursor)
            self._large_objects = read_large_objects(cursor)
        with _cursor(live) as cursor:
            tables = read_shapes(cursor)
        for key, table in tables.items():
            if key in self._known:
                self._sums_of(table)

    def close(self) -> None:
        """End both sessions, and with the live one its locks."""
        self._live.close()
        self._other.close()

    def save(self, directory: Path, maintenance: Login, header: str) -> Saved:
        """Save every row that the incoming database does not hold; the live one is held still until close()."""
        try:
            tables = self._hold_still(maintenance)
            with Keeper(directory, header) as keeper, _cursor(self._live) as cursor:
                for key in parents_first(tables, [key for key in tables if key in self._known]):
                    self._save_known(keeper, cursor, tables[key])
                for key in sorted(tables.keys() - self._known.keys()):
                    self._save_unknown(keeper, cursor, tables[key])
                keeper.saved.large_objects = len(
                    {oid for oid, _ in self._large_objects.items() ^ read_large_objects(cursor).items()}
                )
                now = read_sequences(cursor)
                moved = {
                    name: value
                    for name, value in now.items()
                    if value != self._sequences.get(name) and self._has_sequence(name)
                }
                return keeper.finish(moved)
        except psycopg2.Error as error:
            raise ReleaseError(
                f"Saving the rows written since the backup failed ({server_reason(error)}): nothing was swapped; "
                "remove the cause, and run again."
            ) from error

    def _has_sequence(self, name: tuple[str, str]) -> bool:
        with _cursor(self._other) as cursor:
            cursor.execute("SELECT 1 FROM pg_sequences WHERE schemaname = %s AND sequencename = %s", name)
            return cursor.fetchone() is not None

    def _hold_still(self, maintenance: Login) -> dict[str, Table]:
        """Lock every table against writers; whoever stands in the way is ended, as the swap would do anyway."""
        deadline = time.monotonic() + LOCK_DEADLINE_S
        while True:
            with _cursor(self._live) as cursor:
                try:
                    cursor.execute("BEGIN")
                    without_timeouts(cursor)
                    cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
                    tables = read_shapes(cursor)
                    if tables:
                        names = sql.SQL(", ").join(
                            sql.SQL("ONLY {}").format(table.identifier) for table in tables.values()
                        )
                        cursor.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(names))
                    cursor.execute("SET LOCAL row_security = off")
                    return tables
                except psycopg2.Error as error:
                    if self._live.closed or error.pgcode not in RETRYABLE or time.monotonic() > deadline:
                        raise
                    cursor.execute("ROLLBACK")
            self._end_others(maintenance)

    def _end_others(self, maintenance: Login) -> None:
        database = self._live.info.dbname
        with closing(connect(maintenance, APPLICATION)) as connection, _cursor(connection) as cursor:
            end_sessions_in(cursor, [database], spared=self.pid)

    def _sums_of(self, table: Table) -> tuple[Pair, Sums]:
        """Of the incoming database, which does not change: read once."""
        both = pair(table, self._known[table.key])
        found = self._sums.get(table.key)
        if found is None or found[0] != both:
            with _cursor(self._other) as cursor:
                found = (both, sums(cursor, both))
            self._sums[table.key] = found
        return found

    def _save_known(self, keeper: Keeper, cursor: Cursor, table: Table) -> None:
        both, there = self._sums_of(table)
        buckets = differing(sums(cursor, both), there)
        if buckets:
            # The revision is the schema's, which is not replayed.
            replay = self._bookkeeping not in (table.name, table.key)
            keeper.note(table.key if replay else f"{table.key}: of the schema, not replayed")
            with _cursor(self._other) as other:
                keeper.keep(both, differences(self._live, cursor, other, both, buckets), replay=replay)

    def _save_unknown(self, keeper: Keeper, cursor: Cursor, table: Table) -> None:
        cursor.execute(sql.SQL("SELECT count(*) AS rows FROM ONLY {}").format(table.identifier))
        rows = int(dict(cursor.fetchone() or {})["rows"])
        keeper.saved.tables[table.key] = Counts(new=rows, known=False)
        if not rows:
            return
        with keeper.open(table.key) as file:
            cursor.copy_expert(
                sql.SQL(
                    "COPY (SELECT json_build_object('change', 'new', 'row', row_to_json(rows)) FROM ONLY {} rows) "
                    f"TO STDOUT WITH {RAW}"
                )
                .format(table.identifier)
                .as_string(self._live),
                cast(TextIO, file),
            )
        keeper.note(
            f"{table.key}: the database that takes its place has no such table; its {rows} rows are beside this"
        )


def prepare(live: Login, incoming: Login, bookkeeping: str) -> Comparison:
    """Look at the incoming database before the application is stopped: the longer half of the comparison."""
    opened: list[Connection] = []
    try:
        opened += [connect(live, APPLICATION), connect(incoming, APPLICATION)]
        return Comparison(opened[0], opened[1], bookkeeping)
    except psycopg2.Error as error:
        for connection in opened:
            connection.close()
        raise ReleaseError(
            f"Comparing {live.database} with {incoming.database} failed ({server_reason(error)}): see the server's log."
        ) from error


def _cursor(connection: Connection) -> RealDictCursor:
    return connection.cursor(cursor_factory=RealDictCursor)
