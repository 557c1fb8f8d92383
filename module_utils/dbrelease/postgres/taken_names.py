"""Names that a release's new tables need for their indexes and keys, and that are already taken.

A table that is renamed keeps the names of its indexes, and no others can be created under them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg2.extensions import cursor as Cursor

from .catalog import quoted, resolved, written
from .orphan_table import KINDS
from .session import Row, select, select_as_declared

WITH_AN_INDEX = ("primary_key", "unique", "exclusion")
# A table that is left over under its own name goes with its indexes.
TAKEN = """
SELECT needed.needs, needed.name, c.relkind::text AS kind, i.indrelid::bigint AS of
FROM unnest(%s::text[], %s::oid[], %s::text[], %s::text[]) AS needed (needs, relation, schema, name)
JOIN pg_namespace n ON n.nspname = needed.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = needed.name
LEFT JOIN pg_index i ON i.indexrelid = c.oid
WHERE NOT coalesce(i.indrelid = needed.relation, false)
ORDER BY needed.needs, needed.name
"""
SCHEMA = "SELECT pg_catalog.current_schema()::pg_catalog.text AS name"
FREE_THEM = (
    "Rename each that has such a name (ALTER INDEX ... RENAME TO ...), or drop its table if nobody needs it: "
    "the migration fails on a name that is taken."
)


def names_needed(created: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """By table the names of its indexes; the one behind a key has the name of the key."""
    return {
        table: tuple(
            dict.fromkeys(
                [
                    *(declared.get("indexes") or {}),
                    *(n for n, key in (declared.get("constraints") or {}).items() if key["type"] in WITH_AN_INDEX),
                ]
            )
        )
        for table, declared in created.items()
    }


def read_taken(cursor: Cursor, needed: Mapping[str, Iterable[str]]) -> list[Row]:
    """Which names are taken: `needs` (the table), `name`, `kind` (the letter of pg_class), `of` (an index's table)."""
    pairs = [(table, name) for table, names in needed.items() for name in names]
    if not pairs:
        return []
    (made_in,) = select_as_declared(cursor, SCHEMA)
    schemas = [table.split(".", 1)[0] if "." in table else made_in["name"] for table, _ in pairs]
    tables, names = [table for table, _ in pairs], [name for _, name in pairs]
    found = select(cursor, TAKEN, (tables, resolved(cursor, [quoted(table) for table in tables]), schemas, names))
    known = written(cursor, {row["of"] for row in found if row["of"]})
    return [{**row, "of": known.get(row["of"])} for row in found]


def in_words(taken: Sequence[Row]) -> str:
    """Who has which name; empty where none is taken."""
    return " ".join(
        f"The name {row['name']}, which {row['needs']} needs, is that of "
        + (f"an index of the table {row['of']}." if row["of"] else f"a {KINDS.get(row['kind'], 'relation')}.")
        for row in taken
    )
