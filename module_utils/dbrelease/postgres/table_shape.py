"""The shape of every table of a database, as far as comparing and replaying rows must know it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from .hash_partitions import scattered
from .session import select
from .table_key import table_key

# Every part of the catalog is read once: a query for each table grows with the square of their number.
SHAPES = """
WITH RECURSIVE trees AS (
  -- Not by pg_partition_tree(), which locks every partition.
  SELECT oid AS root, oid FROM pg_class WHERE relkind IN ('r', 'p')
  UNION ALL
  SELECT t.root, i.inhrelid FROM trees t JOIN pg_inherits i ON i.inhparent = t.oid
  JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relispartition
), referenced AS (
  SELECT x.conrelid, json_agg(DISTINCT jsonb_build_array(pn.nspname, p.relname)) AS parents
  FROM pg_constraint x JOIN trees t ON t.root = x.confrelid
  JOIN pg_class p ON p.oid = t.oid JOIN pg_namespace pn ON pn.oid = p.relnamespace
  WHERE x.contype = 'f' GROUP BY x.conrelid
)
SELECT n.nspname AS schema, c.relname AS name,
       coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '{}') AS columns,
       coalesce((SELECT array_agg(format_type(a.atttypid, NULL) ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '{}') AS types,
       coalesce((SELECT array_agg(a.attname::text) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attgenerated <> ''), '{}') AS generated,
       -- What a key INCLUDEs comes after its own columns. Without a primary key another one that is whole does.
       coalesce((SELECT array_agg(a.attname::text ORDER BY array_position(k.indkey::int2[], a.attnum))
        FROM pg_index k JOIN pg_attribute a ON a.attrelid = k.indrelid
         AND a.attnum = ANY((k.indkey::int2[])[0:k.indnkeyatts - 1])
        WHERE k.indexrelid = (SELECT i.indexrelid FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
         WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisunique AND i.indisvalid AND i.indpred IS NULL
          AND i.indexprs IS NULL AND NOT EXISTS (SELECT FROM pg_attribute n WHERE n.attrelid = i.indrelid
           AND n.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1]) AND NOT n.attnotnull))
         ORDER BY i.indisprimary DESC, x.relname LIMIT 1)), '{}') AS unique_key,
       coalesce(f.parents, '[]') AS parents, c.relkind = 'p' AS partitioned
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN referenced f ON f.conrelid = c.oid
WHERE (c.relkind = 'r' AND c.oid <> ALL (%(parts)s::oid[]) OR c.oid = ANY (%(whole)s::oid[]))
  AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY n.nspname, c.relname
"""


@dataclass(frozen=True)
class Table:
    """One table; `parents` are those that its foreign keys reference.

    partitioned: it is compared as a whole, since a restore moves its rows among its partitions.
    unique_key: what identifies its rows, empty where nothing does; generated: columns that take no value.
    """

    schema: str
    name: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    generated: frozenset[str]
    unique_key: tuple[str, ...]
    parents: frozenset[str]
    partitioned: bool = False

    @property
    def key(self) -> str:
        """As everywhere: `schema.table`."""
        return table_key(self.schema, self.name)

    @property
    def identifier(self) -> sql.Identifier:
        """For statements."""
        return sql.Identifier(self.schema, self.name)

    @property
    def source(self) -> sql.Composable:
        """What to read its rows from: those of a table that inherits from it are not its own."""
        return self.identifier if self.partitioned else sql.SQL("ONLY {}").format(self.identifier)


@dataclass(frozen=True)
class Pair:
    """A table that both databases have: what is compared of it, and what identifies a row.

    retyped: columns that have another type in one of them; their texts are compared.
    """

    live: Table
    columns: tuple[str, ...]
    key: tuple[str, ...]
    keyed: bool
    retyped: frozenset[str]


def read_shapes(cursor: Cursor) -> dict[str, Table]:
    """Every table of the database by `schema.table`."""
    groups = scattered(cursor)
    parts = [oid for members in groups.values() for oid in members]
    tables = [
        Table(
            row["schema"],
            row["name"],
            tuple(row["columns"]),
            tuple(row["types"]),
            frozenset(row["generated"]),
            tuple(row["unique_key"]),
            frozenset(table_key(schema, name) for schema, name in row["parents"]),
            row["partitioned"],
        )
        for row in select(cursor, SHAPES, {"whole": list(groups), "parts": parts})
    ]
    return {table.key: table for table in tables}


def pair(live: Table, other: Table) -> Pair:
    """What both have; without a common key all columns identify a row."""
    columns = tuple(column for column in live.columns if column in other.columns)
    keyed = bool(live.unique_key) and live.unique_key == other.unique_key
    types = dict(zip(other.columns, other.types, strict=True))
    typed = dict(zip(live.columns, live.types, strict=True))
    retyped = frozenset(column for column in columns if typed[column] != types[column])
    return Pair(live, columns, live.unique_key if keyed else columns, keyed, retyped)


def parents_first(tables: Mapping[str, Table], chosen: Iterable[str]) -> list[str]:
    """An order in which rows can be inserted; within a circle of foreign keys there is none, and any will do."""
    ordered: list[str] = []
    waiting = dict.fromkeys(sorted(chosen))
    open_parents = {key: len((tables[key].parents & waiting.keys()) - {key}) for key in waiting}
    children: defaultdict[str, list[str]] = defaultdict(list)
    for key in waiting:
        for parent in tables[key].parents & waiting.keys():
            children[parent].append(key)
    free = [key for key, count in open_parents.items() if not count]
    while waiting:
        free = free or [next(iter(waiting))]
        ordered += free
        for key in free:
            del waiting[key]
        freed: list[str] = []
        for key in free:
            for child in children[key]:
                open_parents[child] -= 1
                if not open_parents[child] and child in waiting:
                    freed.append(child)
        free = sorted(freed)
    return ordered
