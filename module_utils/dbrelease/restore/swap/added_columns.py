"""Count the values of columns that only the live database has, which cannot be replayed."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ...postgres.catalog import find_relation
from ...postgres.non_default_values import given_values
from ...postgres.table_shape import Table
from .replay_sql import qualified


@dataclass(frozen=True)
class Columns:
    """The columns of one table with a value other than their default, and the number of such rows."""

    names: tuple[str, ...]
    rows: int


def only_live(cursor: Cursor, live: Table, other: Table) -> Columns | None:
    """Count what the live table has beyond the columns of the other one; None if there is nothing."""
    names = [name for name in live.columns if name not in other.columns and name not in live.generated]
    if not names:
        return None
    relation = find_relation(cursor, qualified(live.schema, live.name))
    given = given_values(cursor, relation["oid"] if relation else 0, names)
    counts = [sql.SQL("count(*) FILTER (WHERE {})").format(condition) for condition in given.values()]
    any_given = sql.SQL("count(*) FILTER (WHERE {})").format(sql.SQL(" OR ").join(given.values()))
    cursor.execute(
        sql.SQL("SELECT ARRAY[{}] AS counts FROM {}").format(sql.SQL(", ").join([any_given, *counts]), live.source)
    )
    (answer,) = map(dict, cursor.fetchall())
    rows, *of_each = answer["counts"]
    return Columns(tuple(name for name, count in zip(given, of_each, strict=True) if count), rows) if rows else None
