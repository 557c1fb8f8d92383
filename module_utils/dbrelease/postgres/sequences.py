"""The values of a database's sequences; no snapshot freezes them, so a value is a lower bound."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg2.extensions import cursor as Cursor

from .session import Row, select
from .table_key import table_key

# An unused sequence has no value, and one that cycles is never behind.
VALUES = """
SELECT schemaname AS schema, sequencename AS name, last_value, increment_by AS increment FROM pg_sequences
WHERE last_value IS NOT NULL AND NOT cycle ORDER BY 1, 2
"""


def read_values(cursor: Cursor) -> dict[str, Row]:
    """Of each sequence that was used, by `schema.sequence`: last_value and increment."""
    return {
        table_key(row["schema"], row["name"]): {key: int(row[key]) for key in ("last_value", "increment")}
        for row in select(cursor, VALUES)
    }


def set_back(recorded: Mapping[str, Row], now: Mapping[str, Row]) -> list[str]:
    """The sequences that would give a value again that they had given by the record."""
    return [
        name
        for name, row in recorded.items()
        if name not in now or (now[name]["last_value"] - row["last_value"]) * row["increment"] < 0
    ]
