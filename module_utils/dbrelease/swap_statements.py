"""The statements of a replay script: rows that are new, changed or gone, written with every value as text."""

from __future__ import annotations

from collections.abc import Sequence

from .swap_rows import Values
from .swap_tables import Pair, Table


def given(table: Table, columns: Sequence[str]) -> list[str]:
    """Those of the columns that take a value."""
    return [column for column in columns if column not in table.generated]


def insert_statement(pair: Pair, rows: Sequence[Values], change: str) -> str:
    """New rows never overwrite; changed ones are written as they were in the live database."""
    columns = given(pair.live, pair.columns)
    places = [pair.live.columns.index(column) for column in columns]
    table = qualified(pair.live.schema, pair.live.name)
    if not columns:
        return f"INSERT INTO {table} DEFAULT VALUES;\n" * len(rows)
    values = ",\n".join(f"({', '.join(literal(row[place]) for place in places)})" for row in rows)
    names = ", ".join(map(quoted, columns))
    action = ""
    if pair.keyed:
        settable = [column for column in columns if column not in {*pair.key, *pair.live.identities}]
        assigned = ", ".join(f"{quoted(column)} = excluded.{quoted(column)}" for column in settable)
        update = change == "changed" and assigned
        keys = ", ".join(map(quoted, pair.key))
        action = f"\nON CONFLICT ({keys}) DO {f'UPDATE SET {assigned}' if update else 'NOTHING'}"
    return f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE VALUES\n{values}{action};\n"


def delete_statement(pair: Pair, key: Values) -> str:
    """A row that is gone; without a key it is one of those that are equal to it, whichever.

    ONLY: a table that inherits may have a row of the same key, which is its own.
    """
    table = qualified(pair.live.schema, pair.live.name)
    if pair.keyed:
        named = zip(pair.key, key, strict=True)
        condition = " AND ".join(f"{quoted(column)} = {literal(value)}" for column, value in named)
        return f"DELETE FROM ONLY {table} WHERE {condition};\n"
    # Some types know no equality, so that texts are compared.
    texts = ", ".join(f'{quoted(column)}::text COLLATE "C"' for column in pair.key)
    values = ", ".join(map(literal, key))
    same = f"ARRAY[{texts}]::text[] = ARRAY[{values}]::text[]"
    one = f"(SELECT ctid FROM ONLY {table} WHERE {same} LIMIT 1)"
    return f"DELETE FROM ONLY {table} WHERE ctid = {one};\n"


def early_delete_statement(pair: Pair, key: Values) -> str:
    """The same, where a new row may need its place; one that others still refer to goes at the end."""
    delete = delete_statement(pair, key).rstrip()
    body = f"BEGIN {delete} EXCEPTION WHEN foreign_key_violation OR restrict_violation THEN NULL; END"
    return f"DO {literal(body)};\n"


def qualified(schema: str, name: str) -> str:
    """The name of a table or a sequence as SQL."""
    return f"{quoted(schema)}.{quoted(name)}"


def literal(value: str | None) -> str:
    """A value as SQL; the script sets standard_conforming_strings."""
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """A name as SQL."""
    return '"' + name.replace('"', '""') + '"'
