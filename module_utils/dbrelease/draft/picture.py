"""Every table of a database at one moment, as a release would declare it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg2.extensions import cursor as Cursor

from ..postgres.catalog import read_catalog, written
from ..postgres.session import select
from ..postgres.structure import Catalog
from ..postgres.table_key import table_key

# Not those that belong to an extension: its objects come with it.
TABLES = """
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY n.nspname, c.relname
"""


PLACES = """
SELECT attrelid::bigint AS oid, attname::text AS name, attnum::int AS place FROM pg_attribute
WHERE attrelid = ANY (%s::oid[]) AND attnum > 0 AND NOT attisdropped
"""


@dataclass(frozen=True)
class TableName:
    """A table as a release names it, as `schema.table`, and as SQL.

    declared: without its schema where the role finds it so.
    """

    declared: str
    key: str
    sql: str


@dataclass(frozen=True)
class Picture:
    """The tables of a database by their declared names, and what each consists of."""

    names: Mapping[str, TableName]
    catalogs: Mapping[str, Catalog]
    places: Mapping[str, Mapping[str, int]]  # of each column in its table, which a rename does not change


def read_picture(cursor: Cursor, without: str) -> Picture:
    """Read every table but that of the revision; call it inside one REPEATABLE READ transaction."""
    rows = select(cursor, TABLES)
    as_sql = written(cursor, [row["oid"] for row in rows])
    names: dict[str, TableName] = {}
    for row in rows:
        if (sql := as_sql.get(row["oid"])) is None:
            continue
        key = table_key(row["schema"], row["name"])
        declared = key if _qualified(sql, row) else row["name"]
        if without not in (declared, key):
            names[declared] = TableName(declared, key, sql)
    places: dict[str, dict[str, int]] = {name: {} for name in names}
    declared = {one.key: name for name, one in names.items()}
    keys = {row["oid"]: table_key(row["schema"], row["name"]) for row in rows}
    by_oid = {oid: declared[key] for oid, key in keys.items() if key in declared}
    for row in select(cursor, PLACES, (list(by_oid),)):
        places[by_oid[row["oid"]]][row["name"]] = row["place"]
    return Picture(names, {name: read_catalog(cursor, name) for name in names}, places)


def _qualified(sql: str, row: Mapping[str, str]) -> bool:
    """Whether the role writes the schema before the name."""
    return sql not in (row["name"], '"' + row["name"].replace('"', '""') + '"')
