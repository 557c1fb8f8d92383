"""Find the rows in which two databases differ: sums of hashes select the few that must be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ...postgres.fingerprints import row_hash, text_of
from ...postgres.session import Connection
from ...postgres.table_shape import Pair

# Rows are spread over this many sums; a written row changes one of them, and only the rows of that one are fetched.
BUCKETS = 4096
FETCH = 2000

Change = Literal["new", "changed", "deleted"]
Values = tuple[str | None, ...]
Sums = dict[int, tuple[int, str]]


@dataclass(frozen=True)
class Difference:
    """One row: `values` are those of the live table's columns, or of the key alone if the row was deleted.

    state: the hash of the row that the other database has in its place, None if it has none.
    """

    change: Change
    values: Values
    state: str | None = None


def sums(cursor: Cursor, pair: Pair) -> Sums:
    """Return each bucket's number of rows and the sum of their hashes."""
    key, row = _hashes(cursor, pair)
    cursor.execute(
        sql.SQL(
            "SELECT bucket, count(*) AS rows, sum(hash)::text AS hashes FROM "
            "(SELECT {} & {} AS bucket, {} AS hash FROM {}) hashed GROUP BY bucket"
        ).format(key, sql.Literal(BUCKETS - 1), row, pair.live.source)
    )
    return {answer["bucket"]: (answer["rows"], answer["hashes"]) for answer in map(dict, cursor.fetchall())}


def differing(live: Sums, other: Sums) -> list[int]:
    """Return the buckets whose rows differ."""
    return sorted(bucket for bucket in live.keys() | other.keys() if live.get(bucket) != other.get(bucket))


def differences(
    live: Connection, live_cursor: Cursor, other_cursor: Cursor, pair: Pair, buckets: Sequence[int]
) -> Iterator[Difference]:
    """Yield each row of these buckets that is new or changed in the live table, or deleted from it."""
    # No parameter, because a percent sign in a name would be read as a placeholder.
    chosen = sql.Literal(list(buckets))
    key_hash, row_hash = _hashes(other_cursor, pair)
    other_cursor.execute(
        sql.SQL("SELECT ({})::text AS hash, {} AS key FROM {} WHERE {} & {} = ANY({})").format(
            row_hash, _texts(pair.key), pair.live.source, key_hash, sql.Literal(BUCKETS - 1), chosen
        )
    )
    known: dict[Values, str] = {}
    counted: Counter[Values] = Counter()
    for answer in map(dict, other_cursor.fetchall()):
        known[tuple(answer["key"])] = answer["hash"]
        counted[tuple(answer["key"])] += 1
    key_hash, row_hash = _hashes(live_cursor, pair)
    with live.cursor("dbrelease_rows", withhold=True) as stream:
        stream.itersize = FETCH
        stream.execute(
            sql.SQL("SELECT ({})::text, {}, {} FROM {} WHERE {} & {} = ANY({})").format(
                row_hash,
                _texts(pair.key),
                _texts(pair.live.columns),
                pair.live.source,
                key_hash,
                sql.Literal(BUCKETS - 1),
                chosen,
            )
        )
        for hash_, key, values in stream:
            found = tuple(key)
            if counted[found] == 0:
                yield Difference("new", tuple(values))
                continue
            counted[found] -= 1
            if known[found] != hash_:
                yield Difference("changed", tuple(values), known[found])
    for key, count in counted.items():
        for _ in range(count):
            yield Difference("deleted", key, known[key])


def state_expression(cursor: Cursor, pair: Pair) -> sql.Composed:
    """Return the expression that hashes a row in the cursor's database, without generated columns."""
    columns = [column for column in pair.columns if column not in pair.live.generated]
    return row_hash(cursor, pair.live.schema, pair.live.name, columns, by_text=pair.retyped)


def _hashes(cursor: Cursor, pair: Pair) -> tuple[sql.Composed, sql.Composed]:
    """Return the hashes of the key and of the whole row, without generated columns."""
    row = state_expression(cursor, pair)
    if not pair.keyed:
        return row, row
    return row_hash(cursor, pair.live.schema, pair.live.name, pair.key, by_text=pair.retyped), row


def _texts(columns: Sequence[str]) -> sql.Composable:
    if not columns:
        return sql.SQL("'{}'::text[]")
    return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(text_of(sql.Identifier(column)) for column in columns))
