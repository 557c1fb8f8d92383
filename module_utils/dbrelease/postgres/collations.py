"""Collations of another version than the one that indexes were built with: such an index may be in the wrong order."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg2.extensions import cursor as Cursor

from .session import Row, select

# A server knows since this version with which version of its collation a database was created.
OF_DATABASES = 150000
COLLATIONS = """
SELECT format('collation %s', c.oid::regcollation) AS what, c.collversion AS had,
       pg_collation_actual_version(c.oid) AS has, count(DISTINCT i.indexrelid)::int AS indexes,
       format('ALTER COLLATION %s REFRESH VERSION', c.oid::regcollation) AS refresh
FROM pg_collation c JOIN pg_index i ON c.oid = ANY (i.indcollation)
WHERE c.collversion <> pg_collation_actual_version(c.oid)
GROUP BY c.oid, c.collversion ORDER BY 1
"""
DATABASE = """
SELECT 'default collation of the database' AS what, d.datcollversion AS had,
       pg_database_collation_actual_version(d.oid) AS has,
       (SELECT count(*)::int FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE 'pg_catalog."default"'::regcollation = ANY (i.indcollation) AND n.nspname !~ '^pg_') AS indexes,
       format('ALTER DATABASE %I REFRESH COLLATION VERSION', d.datname) AS refresh
FROM pg_database d
WHERE d.datname = current_database() AND d.datcollversion <> pg_database_collation_actual_version(d.oid)
"""


def other_versions(cursor: Cursor) -> Iterator[str]:
    """In sentences, with what to do: those that an index uses."""
    for row in _read(cursor):
        if row["indexes"]:
            yield (
                f"The {row['what']} has version {row['has']} on this server, and its indexes ({row['indexes']}) were "
                f"built with version {row['had']}: they may be in the wrong order, so that queries miss rows "
                "and unique indexes have duplicates, which a restore refuses. Run REINDEX on them, remove duplicates, "
                f"and then {row['refresh']}."
            )


def _read(cursor: Cursor) -> list[Row]:
    found = select(cursor, COLLATIONS)
    if cursor.connection.server_version >= OF_DATABASES:
        found = [*select(cursor, DATABASE), *found]
    return found
