"""The statements of a replay script: rows that are new, changed or gone, written with every value as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .database import SESSION_SETTINGS, TIMEOUTS
from .swap_procedures import CHANGED, HOLD, NEW, PROCEDURES, RELEASE, WRITE
from .swap_rows import Values
from .swap_tables import Pair, Table

# A policy on rows would leave some out without a word: with row_security off it is an error.
SETTINGS = {
    **SESSION_SETTINGS,
    "standard_conforming_strings": "on",
    "client_encoding": "UTF8",
    "row_security": "off",
}
NOT_REPLAYED = ("client_connection_check_interval",)
# A table that waits for a check cannot be altered.
ENDING = f"SET CONSTRAINTS ALL IMMEDIATE;\nCALL {RELEASE}();\n"


def beginning(tables: Iterable[str]) -> str:
    """How the transaction begins that writes to these tables; `ENDING` comes after what it writes."""
    settings = "".join(
        f"SET LOCAL {name} = {literal(value)};\n" for name, value in SETTINGS.items() if name not in NOT_REPLAYED
    )
    timeouts = f"SELECT set_config(name, '0', true) FROM pg_settings WHERE name = ANY ({array(TIMEOUTS)});\n"
    # Rows that refer to one another can only be written before that is checked.
    held = f"SET CONSTRAINTS ALL DEFERRED;\n{PROCEDURES}CALL {HOLD}({array(tables)});\n"
    return f"{settings}{timeouts}{held}"


def given(table: Table, columns: Sequence[str]) -> list[str]:
    """Those of the columns that take a value."""
    return [column for column in columns if column not in table.generated]


def staging_statements(pair: Pair) -> str:
    """Places for rows of this table, with its types but without what it demands of a row, or computes of one."""
    names = ", ".join(map(quoted, pair.columns))
    empty = f"AS SELECT {names} FROM ONLY {qualified(pair.live.schema, pair.live.name)} WITH NO DATA"
    return "".join(
        f"CREATE TEMPORARY TABLE {place.removeprefix('pg_temp.')} ON COMMIT DROP {empty};\n" for place in (CHANGED, NEW)
    )


def insert_statement(pair: Pair, rows: Sequence[Values], change: str) -> str:
    """Rows that wait to be written; without a key each is a new one."""
    if not given(pair.live, pair.columns):
        return f"INSERT INTO {qualified(pair.live.schema, pair.live.name)} DEFAULT VALUES;\n" * len(rows)
    places = [pair.live.columns.index(column) for column in pair.columns]
    values = ",\n".join(f"({', '.join(literal(row[place]) for place in places)})" for row in rows)
    staged = CHANGED if pair.keyed and change == "changed" else NEW
    return f"INSERT INTO {staged} ({', '.join(map(quoted, pair.columns))}) VALUES\n{values};\n"


def write_statements(pair: Pair) -> str:
    """Write the rows that wait."""
    table, names = qualified(pair.live.schema, pair.live.name), ", ".join(map(quoted, given(pair.live, pair.columns)))
    if pair.keyed:
        write = f"CALL {WRITE}({literal(table)}, {array(pair.key)});\n"
    else:
        write = f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {NEW};\n"
    return f"{write}DROP TABLE {CHANGED}, {NEW};\n"


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


def array(values: Iterable[str]) -> str:
    """Texts as SQL."""
    return f"ARRAY[{', '.join(map(literal, values))}]::text[]"


def literal(value: str | None) -> str:
    """A value as SQL; the script sets standard_conforming_strings."""
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """A name as SQL."""
    return '"' + name.replace('"', '""') + '"'
