"""What a migration changed in the catalog of existing tables: read before and after, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import cursor as Cursor

from ..postgres.session import Row, select
from ..postgres.table_key import table_key
from .observation import Change

# What sessions of users lock by its name; what is in a temporary schema is of one session.
RELATIONS = """
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
       c.relfilenode::int8 AS file, c.relispartition AS partition
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm', 'v', 'S', 'f') AND c.relpersistence <> 't' AND c.oid >= 16384
"""
COLUMNS = """
SELECT a.attrelid::int8 AS oid, a.attnum AS number, a.attname::text AS name, a.attnotnull AS not_null,
       format('%%s %%s %%s', a.atttypid, a.atttypmod, a.attcollation) AS type
FROM pg_attribute a WHERE a.attrelid = ANY (%(tables)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
"""
CONSTRAINTS = """
SELECT k.oid::int8 AS key, k.conrelid::int8 AS oid, k.confrelid::int8 AS referenced, k.conname::text AS name,
       k.contype::text AS type, k.convalidated AS valid
FROM pg_constraint k
WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') AND k.conparentid = 0
  AND (k.conrelid = ANY (%(tables)s::oid[]) OR k.confrelid = ANY (%(tables)s::oid[]))
"""
INDEXES = """
SELECT i.indexrelid::int8 AS key, i.indrelid::int8 AS oid, c.relname::text AS name, i.indisvalid AS valid
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = ANY (%(tables)s::oid[])
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
"""
TRIGGERS = """
SELECT t.oid::int8 AS key, t.tgrelid::int8 AS oid, t.tgname::text AS name
FROM pg_trigger t WHERE t.tgrelid = ANY (%(tables)s::oid[]) AND NOT t.tgisinternal
"""
INDEXED = "SELECT indexrelid::int8 AS key, indrelid::int8 AS oid FROM pg_index WHERE indrelid = ANY (%(tables)s::oid[])"
REWRITABLE = ("r", "m")
# By relkind, what is no table.
OTHERS = {"m": "materialized view", "v": "view", "S": "sequence", "f": "foreign table"}
KINDS = {"c": "check", "f": "foreign_key", "p": "primary_key", "u": "unique", "x": "exclusion"}


@dataclass(frozen=True)
class CatalogState:
    """All tables and what else is locked by name, and the parts of some tables; indexed: each index and its table."""

    relations: dict[int, Row]
    columns: list[Row]
    constraints: list[Row]
    indexes: list[Row]
    triggers: list[Row]
    indexed: list[Row]

    def name(self, oid: int) -> str:
        """Qualified; empty for what is none of these."""
        found = self.relations.get(oid)
        return table_key(found["schema"], found["name"]) if found else ""

    def kind(self, oid: int) -> str:
        """What it is, if it is no table."""
        found = self.relations.get(oid)
        return OTHERS.get(found["kind"], "") if found else ""

    def indexes_of(self, oid: int) -> set[int]:
        """All indexes of one of the tables, those of its constraints included."""
        return {row["key"] for row in self.indexed if row["oid"] == oid}


def read_catalog(cursor: Cursor, tables: Sequence[int]) -> CatalogState:
    """The present state; the cursor returns dicts."""
    given: dict[str, Any] = {"tables": list(tables)}
    relations = {row["oid"]: row for row in select(cursor, RELATIONS)}
    parts = (COLUMNS, CONSTRAINTS, INDEXES, TRIGGERS, INDEXED)
    return CatalogState(relations, *(select(cursor, part, given) for part in parts))


def rewritten(before: CatalogState, after: CatalogState) -> list[str]:
    """The tables that have another file than before: each was rewritten, or emptied by TRUNCATE."""
    return sorted(
        before.name(oid)
        for oid, old in before.relations.items()
        if old["kind"] in REWRITABLE and (new := after.relations.get(oid)) and new["file"] != old["file"]
    )


def changes(before: CatalogState, after: CatalogState) -> list[Change]:
    """What was added to the tables or changed in them, and which of them were dropped, by their former names."""
    found: list[Change] = []
    tables = {row["oid"] for row in before.columns}
    for oid in tables:
        old, new = before.relations.get(oid), after.relations.get(oid)
        if old and new is None:
            found.append(Change(before.name(oid), "dropped", old["name"]))
        elif old and new and before.name(oid) != after.name(oid):
            found.append(Change(before.name(oid), "renamed", new["name"]))
        elif old and new and new["partition"] and not old["partition"]:
            found.append(Change(before.name(oid), "attached", new["name"]))
    found += _columns(before, after)
    known = {row["key"]: row for row in before.constraints}
    for row in after.constraints:
        was = known.get(row["key"])
        if was and was["valid"] == row["valid"]:
            continue
        kind = "validated" if was else KINDS[row["type"]]
        for oid in {row["oid"], row["referenced"]} & tables:
            on = after.name(row["oid"]) if oid != row["oid"] else ""
            found.append(Change(before.name(oid), kind, row["name"], on, row["valid"]))
    indexes, triggers = ({row["key"] for row in part} for part in (before.indexes, before.triggers))
    found += [
        Change(before.name(row["oid"]), "index", row["name"], valid=row["valid"])
        for row in after.indexes
        if row["key"] not in indexes
    ]
    found += [
        Change(before.name(row["oid"]), "trigger", row["name"]) for row in after.triggers if row["key"] not in triggers
    ]
    return sorted(found, key=lambda change: (change.table, change.kind, change.name, change.on))


def _columns(before: CatalogState, after: CatalogState) -> list[Change]:
    found = []
    known = {(row["oid"], row["number"]): row for row in before.columns}
    for row in after.columns:
        table, was = before.name(row["oid"]), known.pop((row["oid"], row["number"]), None)
        if was is None:
            found.append(Change(table, "column", row["name"]))
            continue
        differences = {
            "column_renamed": was["name"] != row["name"],
            "type": was["type"] != row["type"],
            "not_null": row["not_null"] and not was["not_null"],
        }
        found += [Change(table, kind, row["name"]) for kind, differs in differences.items() if differs]
    found += [
        Change(before.name(oid), "column_dropped", row["name"])
        for (oid, _), row in known.items()
        if oid in after.relations
    ]
    return found
