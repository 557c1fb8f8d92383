"""Of the tables that a release changes: a fingerprint of the columns that it leaves alone, whose values must stay.

A column that the release drops, gives another type, or fills by declaration, has no value to compare; one that it
renames keeps its values under another name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from .catalog import find_table
from .fingerprints import read_tables
from .session import Row, select
from .table_key import table_key

TYPES = """
SELECT attname::text AS name, format_type(atttypid, atttypmod) AS type FROM pg_attribute
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
"""


def read_kept(cursor: Cursor, changed: Mapping[str, Any], tables: Mapping[str, Row]) -> dict[str, Row]:
    """What must stay of each changed table, by `schema.table`; call it in the transaction that has read `tables`.

    changed: `tables.changed` of the release. Each answer has the `row` as read_tables() returns it for the columns that
    stay, `after`: their names after the release, and `not_compared`: the others, with the number of their values.
    """
    chosen: dict[str, list[str]] = {}
    found: dict[str, Row] = {}
    for name, declared in changed.items():
        table = find_table(cursor, name)
        key = table_key(table["schema"], table["name"]) if table else ""
        if table is None or key not in tables:
            continue
        types = {row["name"]: row["type"] for row in select(cursor, TYPES, (table["oid"],))}
        columns = list(tables[key]["columns"])
        left, renamed = _not_compared(declared, types), _renamed(declared)
        chosen[key] = [column for column in columns if column not in left]
        found[key] = {
            "after": [renamed.get(column, column) for column in chosen[key]],
            "not_compared": _values_in(cursor, table, [column for column in columns if column in left]),
        }
    rows = read_tables(cursor, only=chosen) if chosen else {}
    return {key: {**found[key], "row": rows[key]} for key in chosen}


def _values_in(cursor: Cursor, table: Row, columns: Sequence[str]) -> dict[str, int]:
    """How many rows have a value in each of the columns."""
    if not columns:
        return {}
    counts = sql.SQL(", ").join(sql.SQL("count({})").format(sql.Identifier(column)) for column in columns)
    statement = sql.SQL("SELECT ARRAY[{}]::bigint[] AS counts FROM ONLY {}").format(
        counts, sql.Identifier(table["schema"], table["name"])
    )
    cursor.execute(statement)
    (row,) = (dict(answer) for answer in cursor.fetchall())
    return dict(zip(columns, row["counts"], strict=True))


def columns_declared(tables: Mapping[str, Any]) -> dict[str, list[str]]:
    """The columns that a release adds to existing tables, or gives another name, by table."""
    found: dict[str, list[str]] = {}
    for kind in ("altered", "changed"):
        for name, declared in (tables.get(kind) or {}).items():
            found.setdefault(name, []).extend((declared or {}).get("columns") or {})
    return found


def rows_declared(tables: Mapping[str, Any]) -> dict[str, Any]:
    """How many rows the migration may write of each changed table, where the release declares that."""
    changed = tables.get("changed") or {}
    return {name: declared["rows"] for name, declared in changed.items() if (declared or {}).get("rows")}


def _not_compared(declared: Mapping[str, Any], types: Mapping[str, str]) -> set[str]:
    gone = set()
    for column, after in (declared.get("columns") or {}).items():
        before = (after or {}).get("renamed_from") or column
        if after is None or (before in types and types[before] != after["type"]):
            gone.add(before)
    return gone | set(((declared.get("rows") or {}).get("updated") or {}).get("columns") or ())


def _renamed(declared: Mapping[str, Any]) -> dict[str, str]:
    """The new name of each column by its former one."""
    return {
        after["renamed_from"]: column
        for column, after in (declared.get("columns") or {}).items()
        if after and after.get("renamed_from")
    }
