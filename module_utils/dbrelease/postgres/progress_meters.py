"""What the server reports of work in progress: copied rows, built indexes, growth; read in a short read-only session.

No statement here waits for a lock or runs longer than a second, and none locks a table that it could read without.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psycopg2
from psycopg2.extras import RealDictCursor

from ..core.progress import Reading
from .session import Login, Row, Session, connect, select

NAME = "dbrelease progress"
STATEMENT_MS, LOCK_MS = 1000, 100
COPY_SINCE = 140000  # pg_stat_progress_copy
MEASURED_TABLES = 200  # the size of each takes a lock for a moment; that of the others is as of their last ANALYZE

# As pg_dump takes them: not those that belong to an extension.
TABLES = """
WITH found AS (
  SELECT c.oid, n.nspname, c.relname, c.reltoastrelid, c.reltuples, c.relpages,
         current_setting('block_size')::bigint AS block,
         row_number() OVER (ORDER BY c.reltuples < 0 DESC, c.relpages DESC) <= %(measured)s AS measured
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'r' AND c.relpersistence <> 't'
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    AND NOT EXISTS (
      SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    )
), sized AS (
  SELECT oid, nspname, relname, reltuples, relpages, block,
         CASE WHEN measured THEN coalesce(pg_relation_size(oid), 0) ELSE relpages * block END AS heap,
         CASE WHEN measured AND reltoastrelid <> 0 THEN coalesce(pg_relation_size(reltoastrelid), 0) ELSE 0 END AS toast
  FROM found
)
SELECT oid::bigint AS oid, nspname AS schema, relname AS name, heap + toast AS bytes,
       CASE WHEN reltuples >= 0 AND relpages > 0 THEN reltuples / relpages * (heap / block) END AS rows
FROM sized
"""
COPIES = """
SELECT p.relid::bigint AS oid, p.tuples_processed AS rows
FROM pg_stat_progress_copy p JOIN pg_stat_activity a ON a.pid = p.pid
WHERE a.application_name = %s AND a.datname = current_database() AND p.command = 'COPY TO'
"""
INDEXES = """
SELECT p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total
FROM pg_stat_progress_create_index p JOIN pg_stat_activity a ON a.pid = p.pid
WHERE a.application_name = %s AND a.datname = current_database() LIMIT 1
"""
REWRITES = """
SELECT p.heap_blks_scanned AS done, p.heap_blks_total AS total
FROM pg_stat_progress_cluster p JOIN pg_stat_activity a ON a.pid = p.pid
WHERE a.application_name = %s AND a.datname = current_database() LIMIT 1
"""
SIZE = "SELECT pg_database_size(%s)::bigint AS bytes"


class _ServerMeter:
    """A meter with a session, which is opened by the first reading."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._session: Session | None = None

    def close(self) -> None:
        """See Meter.close."""
        if self._session is not None:
            self._session.close()

    def _select(self, sql: str, parameters: tuple[object, ...] | dict[str, object] = ()) -> list[Row]:
        with self._connected().cursor(cursor_factory=RealDictCursor) as cursor:
            return select(cursor, sql, parameters)

    def _connected(self) -> Session:
        if self._session is None or self._session.closed:
            self._session = connect(self._login, NAME, read_only=True)
            with self._session.cursor() as cursor:
                cursor.execute(
                    "SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false)",
                    (str(STATEMENT_MS), str(LOCK_MS)),
                )
        return self._session


@dataclass
class _Table:
    name: tuple[bytes, bytes]
    bytes: int
    rows: float | None


class DumpMeter(_ServerMeter):
    """How much of the tables pg_dump has read, in bytes on disk.

    The size of the database is no measure of a compressed dump. So each table counts by its size: whole once pg_dump
    is past it, which takes the tables in the order of their names, and meanwhile in the proportion of the rows that the
    server reports as copied to the rows that it estimates. An older server reports no rows: then only the bytes that
    were written are known.
    """

    def __init__(self, login: Login, application_name: str, written: Callable[[], int]) -> None:
        """`written`: the bytes of the dump so far."""
        super().__init__(login)
        self._name, self._written = application_name, written
        self._tables: dict[int, _Table] | None = None
        self._past: set[int] = set()  # those whose end was observed
        self._last: int | None = None
        self._done = 0

    def read(self) -> Reading | None:
        """See Meter.read."""
        if self._connected().server_version < COPY_SINCE:
            return Reading(self._written())
        if self._tables is None:
            self._tables = self._all_tables()
        current = {row["oid"]: row["rows"] for row in self._select(COPIES, (self._name,)) if row["oid"] in self._tables}
        if self._last is not None and self._last not in current:
            self._past.add(self._last)  # the server has ended its COPY, and is ahead of pg_dump
        for oid in current:
            self._last = oid
        if self._last is None:
            return None
        last, rows = self._tables[self._last], current.get(self._last)
        part = 0.0 if rows is None or not last.rows else min(rows / last.rows, 1.0)
        past = sum(table.bytes for oid, table in self._tables.items() if oid in self._past or table.name < last.name)
        self._done = max(self._done, round(past + part * last.bytes))
        return Reading(self._done, self._total, goes_on=0 < part < 1)

    @property
    def _total(self) -> int:
        return sum(table.bytes for table in (self._tables or {}).values())

    def _all_tables(self) -> dict[int, _Table]:
        try:
            found = self._select(TABLES, {"measured": MEASURED_TABLES})
        except psycopg2.Error:  # one of them is locked
            found = self._select(TABLES, {"measured": 0})
        return {
            row["oid"]: _Table(
                (row["schema"].encode(), row["name"].encode()), int(row["bytes"]), row["rows"] and float(row["rows"])
            )
            for row in found
        }


class SizeMeter(_ServerMeter):
    """The size of a database that is being filled, read in another one; its total is an upper bound."""

    def __init__(self, login: Login, database: str, at_most: int | None) -> None:
        """`login`: not to that database, which must not be in use when it is dropped."""
        super().__init__(login)
        self._database, self._at_most = database, at_most

    def read(self) -> Reading | None:
        """See Meter.read."""
        ((row),) = self._select(SIZE, (self._database,))
        return Reading(row["bytes"], self._at_most, at_most=True)


class ChangeMeter(_ServerMeter):
    """The work of the sessions of one name: an index that is built, a table that is rewritten, else the growth.

    The growth is that of the whole database, whoever writes.
    """

    def __init__(self, login: Login, application_name: str) -> None:
        super().__init__(login)
        self._name = application_name
        self._before: int | None = None

    def read(self) -> Reading | None:
        """See Meter.read."""
        size = self._size()
        if self._before is None:
            self._before = size
        with suppress(psycopg2.Error):
            for row in self._select(INDEXES, (self._name,)):
                if row["blocks_done"] < row["blocks_total"]:
                    return Reading(row["blocks_done"], row["blocks_total"], "blocks", "index")
                if row["tuples_total"]:
                    return Reading(row["tuples_done"], row["tuples_total"], "rows", "index")
            for row in self._select(REWRITES, (self._name,)):
                if row["total"]:
                    return Reading(row["done"], row["total"], "blocks", "cluster")
        return Reading(max(0, size - self._before), what="growth")

    def _size(self) -> int:
        ((row),) = self._select(SIZE, (self._login.database,))
        return int(row["bytes"])
