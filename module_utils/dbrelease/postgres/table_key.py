"""The name of a table in a baseline, a manifest and the journal."""

from __future__ import annotations


def table_key(schema: str, name: str) -> str:
    """`schema.table`; a part that holds a dot or a quote is quoted, so that no two tables share a key."""
    return ".".join(_part(part) for part in (schema, name))


def _part(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if "." in name or '"' in name else name
