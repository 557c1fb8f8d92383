"""The values of a database's sequences; no snapshot freezes them, so a value is a lower bound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.extensions import cursor as Cursor

from .session import Row, giving_back_locks, select
from .table_key import table_key

# One that cycles is never behind. The view pg_sequences is not asked for the values: it keeps a lock on each sequence
# until the transaction ends, whatever is rolled back, and the lock table of a server holds some thousands.
NAMES = """
SELECT n.nspname AS schema, c.relname AS name, s.seqincrement AS increment
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relpersistence <> 't' AND NOT s.seqcycle AND has_sequence_privilege(s.seqrelid, 'SELECT') ORDER BY 1, 2
"""
# So many are read, and locked, at a time.
SLICE = 200


@dataclass(frozen=True)
class Value:
    """Of a sequence: `last` was given out already if it `is_called`, and is the next value otherwise."""

    last: int
    is_called: bool


def read_values(cursor: Cursor) -> dict[str, Row]:
    """Of each sequence that was used, by `schema.sequence`: last_value and increment."""
    rows = {(row["schema"], row["name"]): row for row in select(cursor, NAMES)}
    return {
        table_key(*name): {"last_value": value.last, "increment": int(rows[name]["increment"])}
        for name, value in read_each(cursor, list(rows))
        if value.is_called
    }


def read_each(cursor: Cursor, names: Sequence[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], Value]]:
    """The value of each sequence, by schema and name; one that was dropped meanwhile is left out.

    Only some are locked at a time, also within a transaction. The cursor gives rows as mappings.
    """
    for begin in range(0, len(names), SLICE):
        part = names[begin : begin + SLICE]
        try:
            yield from _read(cursor, part)
        except psycopg2.errors.UndefinedTable:
            for name in part:
                try:
                    yield from _read(cursor, [name])
                except psycopg2.errors.UndefinedTable:
                    continue


def _read(cursor: Cursor, names: Sequence[tuple[str, str]]) -> list[tuple[tuple[str, str], Value]]:
    each = (
        sql.SQL("SELECT {} AS place, last_value AS last, is_called FROM {}").format(
            sql.Literal(place), sql.Identifier(*name)
        )
        for place, name in enumerate(names)
    )
    alone = cursor.connection.info.transaction_status == TRANSACTION_STATUS_IDLE
    with nullcontext() if alone else giving_back_locks(cursor):
        cursor.execute(sql.SQL(" UNION ALL ").join(each))
        found = [dict(row) for row in cursor.fetchall()]
    return [(names[row["place"]], Value(int(row["last"]), row["is_called"])) for row in found]


def set_back(recorded: Mapping[str, Row], now: Mapping[str, Row]) -> list[str]:
    """The sequences that would give a value again that they had given by the record."""
    return [
        name
        for name, row in recorded.items()
        if name not in now or (now[name]["last_value"] - row["last_value"]) * row["increment"] < 0
    ]
