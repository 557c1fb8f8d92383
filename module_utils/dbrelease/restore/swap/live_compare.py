"""Compare the live database with the incoming one: prepared while the application runs, exact after its stop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing, suppress
from functools import partial

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import RealDictCursor

from ...core.errors import ReleaseError
from ...postgres.could_not_run import advised
from ...postgres.declared_sql import limit_statements
from ...postgres.fingerprints import State, read_tables, state_of
from ...postgres.large_objects import compare_large_objects, read_large_objects
from ...postgres.lock_retry import RETRYABLE
from ...postgres.own_path import read_table
from ...postgres.session import (
    Connection,
    Login,
    connect,
    server_reason,
    session,
)
from ...postgres.strangers import tables_of_strangers
from ...postgres.table_shape import Pair, Table, pair, parents_first, read_shapes
from ...postgres.trusted_roles import trusted_roles
from .added_columns import only_live
from .archive import RowArchive, Saved
from .live_scan import LiveScan, take_look
from .rename import end_sessions_in
from .row_diff import Sums, differences, differing, state_expression, sums
from .sequences import Position, read_sequences

LOCK_TIMEOUT_MS = 500
LOCK_DEADLINE_S = 30.0
APPLICATION = "dbrelease rows"
CHANGING = (
    f"Saving the rows written since the backup failed (another session kept changing tables for "
    f"{LOCK_DEADLINE_S:.0f} s): nothing was swapped; terminate that session, and rerun the playbook."
)
DEADLOCK_TIMEOUT = "SELECT setting::int AS ms FROM pg_settings WHERE name = 'deadlock_timeout'"
CANCEL_WRAPAROUND = """
SELECT pg_cancel_backend(pid) FROM pg_stat_activity
WHERE datname = %s AND backend_type = 'autovacuum worker' AND query LIKE '%%(to prevent wraparound)'
"""


class Comparison:
    """Two sessions, and the content of both databases; `save` locks the live one and reads what was written.

    there: the state of each table of the incoming database.
    """

    def __init__(
        self, live: Connection, other: Connection, bookkeeping: str, looking: LiveScan, there: Mapping[str, State]
    ) -> None:
        self._live, self._other, self._bookkeeping = live, other, bookkeeping
        self._keeper, self._there = looking.keeper, there
        self._sums: dict[str, tuple[Pair, Sums]] = {}
        self._of_strangers: frozenset[str] = frozenset()
        self.pid: int = live.get_backend_pid()
        # Of the live database; read by save().
        self.sequences: dict[str, Position] = {}
        with _cursor(other) as cursor:
            self._known = read_shapes(cursor)
            self._large_objects = read_large_objects(cursor)
        self._look = looking.look or take_look(live, there, self._keeper)
        with _cursor(live) as cursor:
            tables = read_shapes(cursor)
        for key, table in tables.items():
            if key in self._known and self._look.states.get(key) != there.get(key):
                self._sums_of(table)

    def close(self) -> None:
        """Close both sessions, and release the locks."""
        self._live.close()
        self._other.close()

    def save(self, maintenance: Login, header: str) -> Saved:
        """Save every row that the incoming database lacks; the live one is locked against writers until close()."""
        try:
            tables = self._hold_still(maintenance)
            with closing(self._keeper) as keeper, _cursor(self._live) as cursor:
                self._of_strangers = self._tables_of_strangers(cursor)
                for key in parents_first(tables, [key for key in tables if key in self._known]):
                    read_table(cursor, partial(self._save_known, keeper, cursor, tables[key]))
                for key in sorted(tables.keys() - self._known.keys()):
                    read_table(cursor, partial(self._save_unknown, keeper, cursor, tables[key]))
                keeper.saved.large_objects = compare_large_objects(self._large_objects, read_large_objects(cursor))
                self.sequences = read_sequences(cursor)
                return keeper.finish(header)
        except (psycopg2.errors.CharacterNotInRepertoire, UnicodeDecodeError) as error:
            raise ReleaseError(
                "Saving the rows written since the backup failed (text of the database is no valid UTF8, as SQL_ASCII "
                "allows): nothing was swapped; restore this database manually with pg_restore."
            ) from error
        except psycopg2.Error as error:
            raise ReleaseError(
                f"Saving the rows written since the backup failed ({server_reason(error)}): nothing was swapped; "
                f"{advised(error, 'remove the cause, and rerun the playbook.')}"
            ) from error

    def _hold_still(self, maintenance: Login) -> dict[str, Table]:
        """Lock every table against writers; sessions that block this are terminated, as the swap does later anyway."""
        deadline, timeout_ms = time.monotonic() + LOCK_DEADLINE_S, LOCK_TIMEOUT_MS
        while True:
            with _cursor(self._live) as cursor:
                try:
                    # Regardless of the database's default: commits while the lock is awaited must be visible.
                    cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                    limit_statements(cursor, 0, lock_timeout=timeout_ms)
                    tables = read_shapes(cursor)
                    if tables:
                        names = sql.SQL(", ").join(table.source for table in tables.values())
                        cursor.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(names))
                    cursor.execute("SET LOCAL row_security = off")
                    # A session that was awaited may have created a table, which is not locked, or a column.
                    if read_shapes(cursor) == tables:
                        return tables
                    cursor.execute("ROLLBACK")
                    if time.monotonic() > deadline:
                        raise ReleaseError(CHANGING)
                    continue
                except psycopg2.Error as error:
                    if self._live.closed or error.pgcode not in RETRYABLE or time.monotonic() > deadline:
                        raise
                    cursor.execute("ROLLBACK")
                    # The server cancels an autovacuum only for a session that has waited for this time.
                    cursor.execute(DEADLOCK_TIMEOUT)
                    (server,) = map(dict, cursor.fetchall())
                    timeout_ms = LOCK_TIMEOUT_MS + server["ms"]
            self._end_others(maintenance)

    def _end_others(self, maintenance: Login) -> None:
        database = self._live.info.dbname
        with session(maintenance, APPLICATION) as cursor:
            end_sessions_in(cursor, [database], spared=self.pid)
            # The server never cancels this autovacuum for a waiting session, and not every role may.
            with suppress(psycopg2.Error):
                cursor.execute(CANCEL_WRAPAROUND, (database,))

    def _sums_of(self, table: Table) -> tuple[Pair, Sums]:
        """Return the sums of the incoming database, which does not change: they are read once."""
        both = pair(table, self._known[table.key])
        found = self._sums.get(table.key)
        if found is None or found[0] != both:
            with _cursor(self._other) as cursor:
                found = (both, read_table(cursor, partial(sums, cursor, both)))
            self._sums[table.key] = found
        return found

    def _save_known(self, keeper: RowArchive, cursor: Cursor, table: Table) -> None:
        if columns := only_live(cursor, table, self._known[table.key]):
            keeper.saved.columns[table.key] = columns
        if self._look.states.get(table.key) == self._there.get(table.key) and self._look.is_unchanged(cursor, table):
            return
        both, there = self._sums_of(table)
        buckets = differing(sums(cursor, both), there)
        if buckets:
            # The revision belongs to the schema, which is not replayed.
            replay = self._bookkeeping not in (table.name, table.key)
            said = "" if replay else ": of the schema, not replayed"
            if replay and table.partitioned:
                replay, said = False, ": its rows lie in other partitions after a restore, not replayed"
                keeper.saved.moved.append(table.key)
            if replay and table.key in self._of_strangers:
                # The role that runs the script would execute the owner's code, for example in a constraint.
                replay, said = False, ": of a role that is not trusted, not replayed"
                keeper.saved.not_replayed.append(table.key)
            keeper.note(f"{table.key}{said}")
            with _cursor(self._other) as other:
                state = state_expression(other, both).as_string(other)
                found = partial(differences, self._live, cursor, other, both, buckets)
                read_table(other, lambda: keeper.keep(both, found(), state, replay=replay))

    def _tables_of_strangers(self, cursor: Cursor) -> frozenset[str]:
        """The live database's; both are asked which roles may write the revision, as one of them may be broken."""
        with _cursor(self._other) as other:
            trusted = [*trusted_roles(cursor, self._live.info.dbname), *trusted_roles(other, self._other.info.dbname)]
        return frozenset(tables_of_strangers(cursor, trusted))

    def _save_unknown(self, keeper: RowArchive, cursor: Cursor, table: Table) -> None:
        unchanged = self._look.is_unchanged(cursor, table)
        keeper.note_copied(table, self._look.copied[table.key].rows if unchanged else keeper.copy(cursor, table))


def prepare(
    live: Login, incoming: Login, bookkeeping: str, looking: LiveScan, there: Mapping[str, State] | None
) -> Comparison:
    """Read both before the application is stopped: the longer part of the comparison. `there`: None if unknown."""
    opened: list[Connection] = []
    try:
        opened += [connect(live, APPLICATION), connect(incoming, APPLICATION)]
        with _cursor(opened[1]) as cursor:
            # One transaction for all queries: postgres/fingerprints.py needs savepoints.
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            limit_statements(cursor, 0, lock_timeout=round(LOCK_DEADLINE_S * 1000))
            cursor.execute("SET LOCAL row_security = off")
            if there is None:
                there = {key: state_of(row) for key, row in read_tables(cursor).items()}
        return Comparison(opened[0], opened[1], bookkeeping, looking, there)
    except BaseException as error:
        for connection in opened:
            connection.close()
        if not isinstance(error, psycopg2.Error):
            raise
        advice = advised(error, "see the server's log.")
        raise ReleaseError(
            f"Comparing {live.database} with {incoming.database} failed ({server_reason(error)}): {advice}"
        ) from error


def _cursor(connection: Connection) -> RealDictCursor:
    return connection.cursor(cursor_factory=RealDictCursor)
