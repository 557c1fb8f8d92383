"""Columns that only the live database has: their values are in no row that can be replayed, and are counted."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from .database import select
from .swap_tables import Table

# A default that is computed is another one for each row, so that only a constant one tells that nobody wrote a value.
DEFAULTS = """
SELECT a.attname::text AS name,
       CASE WHEN pg_get_expr(d.adbin, d.adrelid) ~ '^(''([^'']|'''')*''|[0-9.]+|true|false)(::[^'']*)?$'
            THEN format('(%%s)::%%s', pg_get_expr(d.adbin, d.adrelid), format_type(a.atttypid, a.atttypmod))
            ELSE 'NULL' END AS value
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE n.nspname = %s AND c.relname = %s AND a.attname = ANY(%s) AND NOT a.attisdropped
ORDER BY a.attnum
"""


@dataclass(frozen=True)
class Columns:
    """Those of one table that hold a value that was given to them, and in how many rows."""

    names: tuple[str, ...]
    rows: int


def only_live(cursor: Cursor, live: Table, other: Table) -> Columns | None:
    """What the live table holds beyond the columns of the other one; None where that is nothing."""
    names = [name for name in live.columns if name not in other.columns and name not in live.generated]
    if not names:
        return None
    given = {
        row["name"]: sql.SQL(
            '({column} IS DISTINCT FROM NULL AND {column}::text COLLATE "C" IS DISTINCT FROM {value}::text)'
        ).format(column=sql.Identifier(row["name"]), value=sql.SQL(row["value"]))
        for row in select(cursor, DEFAULTS, (live.schema, live.name, names))
    }
    counts = [sql.SQL("count(*) FILTER (WHERE {})").format(condition) for condition in given.values()]
    any_given = sql.SQL("count(*) FILTER (WHERE {})").format(sql.SQL(" OR ").join(given.values()))
    cursor.execute(
        sql.SQL("SELECT ARRAY[{}] AS counts FROM ONLY {}").format(
            sql.SQL(", ").join([any_given, *counts]), live.identifier
        )
    )
    (answer,) = map(dict, cursor.fetchall())
    rows, *of_each = answer["counts"]
    return Columns(tuple(name for name, count in zip(given, of_each, strict=True) if count), rows) if rows else None
