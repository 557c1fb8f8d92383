"""The content of every table of the database, as numbers: rows, an order-independent fingerprint, write counters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from .could_not_run import advised
from .hash_partitions import scattered
from .own_path import read_table
from .session import Row, giving_back_locks, select, server_reason
from .table_key import table_key

# What was read otherwise, hashes of rows or lines of the catalog, is of another number, and cannot be compared.
READING = 4
INSUFFICIENT_PRIVILEGE = "42501"
LOCK_NOT_AVAILABLE = "55P03"
NEXT_LOCK_WAIT_MS = 100
# The server's answers that mean "it does not exist any more", not "it cannot be read".
VANISHED = ("42P01", "42703", "3F000")

# An SQL expression: another value shows that write counters were lost in between. A server that crashed begins again
# with none, and a standby that took its place has its own; both show another time for the whole server.
COUNTED_SINCE = """
(SELECT concat_ws(' ', 'database', extract(epoch FROM s.stats_reset)::text,
                  'server', extract(epoch FROM w.stats_reset)::text)
 FROM pg_stat_database s, pg_stat_bgwriter w WHERE s.datname = current_database())
"""

TABLES = """
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name,
       coalesce(pg_stat_get_tuples_inserted(c.oid), 0) AS inserted,
       coalesce(pg_stat_get_tuples_updated(c.oid), 0) AS updated,
       coalesce(pg_stat_get_tuples_deleted(c.oid), 0) AS deleted
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (c.relkind = 'r' OR c.oid = ANY (%(whole)s::oid[]))
  AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY n.nspname, c.relname
"""

ONE = """
SELECT c.oid::bigint AS oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')
"""

# A type's own hash follows its own equality: citext and a nondeterministic collation ignore case, so a change of case
# would not be detected, nor 1.5 that becomes 1.50, a month that becomes 30 days, or 0 that becomes -0, also within
# jsonb or a range; an array's leaves out its dimensions and bounds. That of an enum and of regclass hashes an oid,
# which differs in a restored copy. The text form is hashed for those, as for types without a hash (json, point);
# connect() fixes the settings that it depends on. The owner of a type may define a function that makes its text. One of
# another role is not called: the result of the type's output function, which is a superuser's, is hashed instead.
COLUMNS = """
SELECT a.attrelid::bigint AS oid, a.attname AS name, format_type(t.oid, NULL) AS type, t.oid::bigint AS type_oid,
       t.typnamespace <> 'pg_catalog'::regnamespace
         OR t.typcategory = 'A'
         OR t.typname ~ '^(reg|numeric$|num(multi)?range$|float[48]$|interval$|jsonb$)'
         OR NOT coalesce(l.collisdeterministic, true) AS by_text,
       EXISTS (SELECT FROM pg_cast x JOIN pg_proc f ON f.oid = x.castfunc JOIN pg_roles o ON o.oid = f.proowner
               WHERE x.castsource IN (
                 -- Below a domain there may be another one.
                 WITH RECURSIVE base AS (
                   SELECT t.oid UNION SELECT d.typbasetype FROM base JOIN pg_type d USING (oid) WHERE d.typtype = 'd'
                 ) SELECT oid FROM base)
                 AND x.casttarget = 'text'::regtype AND NOT o.rolsuper AND o.rolname <> current_user) AS by_output
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped AND a.attrelid = ANY(%s)
ORDER BY a.attrelid, a.attnum
"""


_COUNT = sql.SQL("NULL::numeric")


@dataclass(frozen=True)
class State:
    """The content of a table: equal states are equal rows."""

    rows: int
    fingerprint: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class _Table:
    oid: int
    schema: str
    name: str
    counters: dict[str, int]
    # For a table that is compared as a whole: the tables that hold its rows.
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        return table_key(self.schema, self.name)


@dataclass(frozen=True)
class _Column:
    name: str
    by_text: bool
    by_output: bool = False


def state_of(row: Mapping[str, Any]) -> State:
    """From an answer of read_tables(), or from a manifest, which contains them."""
    return State(row["rows"], row["fingerprint"], tuple(row["columns"]))


def read_tables(
    cursor: Cursor,
    only: Mapping[str, Sequence[str]] | None = None,
    left_out: Collection[str] = (),
    of_strangers: Collection[str] = (),
) -> dict[str, Row]:
    """Every user table's rows, fingerprint, columns and write counters, by `schema.table`.

    With `only` exactly those tables and columns are read, and each answer reports also whether the table is `absent`
    and which columns are `missing` (the rest is then fingerprinted); a table that cannot be read for one of the reasons
    (SQLSTATE) in `left_out`, or for any reason if it is one `of_strangers`, has no answer.
    Call it inside one transaction of `transaction()`; REPEATABLE READ makes all answers describe one instant. At most
    one table is locked at a time. Raises ReleaseError for a table that cannot be read.
    """
    tables = _tables(cursor)
    if only is None:
        columns = _columns(cursor, [table.oid for table in tables])
        return {table.key: _read(cursor, table, columns[table.oid]) for table in tables}
    present = {table.key: table for table in tables}
    columns = _columns(cursor, [present[key].oid for key in only if key in present])
    answers: dict[str, Row] = {}
    for key, wanted in only.items():
        table = present.get(key)
        try:
            answers[key] = _read_columns(cursor, table, columns[table.oid], wanted) if table else absent(wanted)
        except ReleaseError as error:
            if cursor.connection.closed or (key not in of_strangers and error.facts.get("sqlstate") not in left_out):
                raise
            if error.facts.get("sqlstate") == LOCK_NOT_AVAILABLE:
                # A session that locks one may lock very many, and each would be waited for in turn.
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{NEXT_LOCK_WAIT_MS}ms",))
    return answers


def count_tables(cursor: Cursor) -> dict[str, int]:
    """The rows of every user table, by `schema.table`; an eighth of what read_tables() costs.

    As read_tables(), call it inside one transaction, and expect ReleaseError.
    """
    return {table.key: _sums(cursor, table, _COUNT)[0] for table in _tables(cursor)}


def absent(wanted: Sequence[str]) -> Row:
    """The answer for a table that is not there."""
    return {
        "rows": 0,
        "fingerprint": "0",
        "columns": [],
        "oid": None,
        "inserted": 0,
        "updated": 0,
        "deleted": 0,
        "absent": True,
        "missing": list(wanted),
    }


def write_counters(cursor: Cursor) -> Row:
    """How much was ever written to each table, and the moment as `position` reports it.

    The counters also count what was rolled back; those of another session arrive up to a second late, and up to ten
    when that session then idles.
    """
    cursor.execute("SELECT pg_stat_clear_snapshot()")
    return {**position(cursor), "tables": {table.key: table.counters for table in _tables(cursor)}}


def position(cursor: Cursor) -> Row:
    """The next transaction id as `xid`; `running` counts the transactions below it that have not ended."""
    (now,) = select(
        cursor,
        "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xid, "
        "(SELECT count(*) FROM pg_snapshot_xip(pg_current_snapshot())) AS running",
    )
    return now


def _tables(cursor: Cursor) -> list[_Table]:
    """All of them; partitions among which a restore moves rows are one with their table."""
    groups = scattered(cursor)
    tables = [
        _Table(
            row["oid"],
            row["schema"],
            row["name"],
            {counter: int(row[counter]) for counter in ("inserted", "updated", "deleted")},
        )
        for row in select(cursor, TABLES, {"whole": list(groups)})
    ]
    if not groups:
        return tables
    by_oid = {table.oid: table for table in tables}
    members = {oid for parts in groups.values() for oid in parts}
    return [
        _whole(table, [by_oid[oid] for oid in groups[table.oid] if oid in by_oid]) if table.oid in groups else table
        for table in tables
        if table.oid not in members
    ]


def _whole(table: _Table, parts: Sequence[_Table]) -> _Table:
    counters = {counter: sum(part.counters[counter] for part in parts) for counter in table.counters}
    return replace(table, counters=counters, parts=tuple((part.schema, part.name) for part in parts))


def _columns(cursor: Cursor, oids: list[int]) -> defaultdict[int, list[_Column]]:
    found: defaultdict[int, list[_Column]] = defaultdict(list)
    hashable: dict[int, bool] = {}
    for row in select(cursor, COLUMNS, (oids,)):
        kind = row["type_oid"]
        by_text = row["by_text"]
        if not by_text:
            if kind not in hashable:
                hashable[kind] = _has_hash(cursor, row["type"])
            by_text = not hashable[kind]
        found[row["oid"]].append(_Column(row["name"], by_text, row["by_output"]))
    return found


def _has_hash(cursor: Cursor, type_name: str) -> bool:
    """Whether the server can hash values of a type: it refuses a type without a hash even where the value is NULL."""
    try:
        with giving_back_locks(cursor):
            # format_type() quotes what needs quotes.
            cursor.execute(f"SELECT hash_record_extended(ROW(NULL::{type_name}), 0)")
    except psycopg2.Error:
        return False
    return True


def _read_columns(cursor: Cursor, table: _Table, columns: Sequence[_Column], wanted: Sequence[str]) -> Row:
    by_name = {column.name: column for column in columns}
    chosen = [by_name[name] for name in wanted if name in by_name]
    try:
        row = _read(cursor, table, chosen)
    except ReleaseError as error:
        if error.facts.get("sqlstate") in VANISHED:
            return absent(wanted)
        raise
    return {**row, "absent": False, "missing": [name for name in wanted if name not in by_name]}


def _read(cursor: Cursor, table: _Table, columns: Sequence[_Column]) -> Row:
    rows, fingerprint = _sums(cursor, table, _row_hash(columns))
    return {
        "rows": rows,
        "fingerprint": str(fingerprint),
        "columns": [column.name for column in columns],
        "oid": table.oid,
        **table.counters,
    }


def _sums(cursor: Cursor, table: _Table, summed: sql.Composable) -> tuple[int, int]:
    """The number of rows, and the sum of an expression over them; raises ReleaseError where they cannot be read."""
    rows, total = 0, 0
    try:
        for schema, name in table.parts or ((table.schema, table.name),):
            row = read_table(cursor, partial(_row, cursor, _statement(schema, name, summed)))
            rows, total = rows + int(row["rows"]), total + int(row["fingerprint"])
    except psycopg2.Error as error:
        forbidden = error.pgcode == INSUFFICIENT_PRIVILEGE
        advice = "let the deploying database user read every row of every table" if forbidden else "remove the cause"
        advice = advised(error, f"{advice}, and rerun the playbook.")
        raise ReleaseError(
            f"Reading table {table.key} for its fingerprint failed ({server_reason(error)}): {advice}",
            table=table.key,
            sqlstate=error.pgcode,
        ) from error
    return rows, total


def _row(cursor: Cursor, statement: sql.Composed) -> Row:
    cursor.execute(statement)
    (row,) = (dict(answer) for answer in cursor.fetchall())
    return row


def _statement(schema: str, name: str, summed: sql.Composable) -> sql.Composed:
    # ONLY: the rows of a table that inherits are that table's own.
    return sql.SQL("SELECT count(*) AS rows, coalesce(sum({}), 0)::text AS fingerprint FROM ONLY {}").format(
        summed, sql.Identifier(schema, name)
    )


def text_of(column: sql.Composable) -> sql.Composed:
    """A value as the server writes it, by the output function of its type; a cast may call anybody's function."""
    return sql.SQL("CASE WHEN {column} IS DISTINCT FROM NULL THEN concat({column}) END").format(column=column)


def _row_hash(columns: Sequence[_Column]) -> sql.Composed:
    parts = [
        sql.SQL('hashtextextended({} COLLATE "C", 0)').format(
            text_of(sql.Identifier(column.name))
            if column.by_output
            else sql.SQL("{}::text").format(sql.Identifier(column.name))
        )
        if column.by_text
        else sql.Identifier(column.name)
        for column in columns
    ]
    # That of a record is a sum of its columns' hashes: added up over rows it is the same whichever row has which value.
    # Hashed once more it is not.
    return sql.SQL('hashtextextended(hash_record_extended(ROW({}), 0)::text COLLATE "C", 0)').format(
        sql.SQL(", ").join(parts)
    )


def row_hash(
    cursor: Cursor, schema: str, name: str, wanted: Sequence[str], by_text: Collection[str] = ()
) -> sql.Composed:
    """The expression that hashes those columns of one row of a table, some of them as text."""
    (oid,) = (found["oid"] for found in select(cursor, ONE, (schema, name)))
    columns = {column.name: column for column in _columns(cursor, [oid])[oid]}
    chosen = (columns[name] for name in wanted)
    return _row_hash([_Column(one.name, one.by_text or one.name in by_text, one.by_output) for one in chosen])
