"""Indexes that no query can use: a CREATE INDEX CONCURRENTLY that was stopped leaves one, and its name is taken."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg2
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from .revision import asking
from .session import Login, Row, select

# One that is being built now is not valid yet; one of a partitioned table is not until each partition has its own.
INVALID = """
SELECT format('%%I.%%I', n.nspname, c.relname) AS name, c.relname::text AS bare,
       format('%%I.%%I', tn.nspname, t.relname) AS "table", i.indrelid::bigint AS relation
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i'
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_namespace tn ON tn.oid = t.relnamespace
WHERE NOT (i.indisvalid AND i.indisready AND i.indislive) AND t.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'pg_toast')
  AND (%(tables)s::oid[] IS NULL OR i.indrelid = ANY (%(tables)s::oid[]))
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)
ORDER BY 1
"""


def read_invalid(cursor: Cursor, tables: Sequence[int] | None = None) -> list[Row]:
    """Those of these tables, or of all: `name` with its schema, `bare`, `table`, `relation`."""
    return select(cursor, INVALID, {"tables": None if tables is None else list(tables)})


def left_invalid(login: Login) -> list[Row]:
    """Those of a database that can be asked, in a session of its own."""
    try:
        with asking(login, "dbrelease indexes") as cursor:
            return read_invalid(cursor)
    except (ReleaseError, psycopg2.Error):
        return []


def invalid_words(rows: Sequence[Row]) -> str:
    """Which they are; empty where there is none."""
    return " ".join(
        f"The index {row['name']} on {row['table']} is invalid, as a CREATE INDEX CONCURRENTLY that was stopped leaves "
        "it: each try to make it again says that it exists."
        for row in rows
    )


def removal(rows: Sequence[Row]) -> str:
    """The statements that remove them."""
    return "Remove it first: " + " ".join(f"DROP INDEX CONCURRENTLY {row['name']};" for row in rows)
