"""The statements of a replay script: rows that are new, changed or gone, written with every value as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...postgres.catalog import quoted_part
from ...postgres.session import LOST_CLIENT, OWN_SETTINGS, PATH, SESSION_SETTINGS, TIMEOUTS
from ...postgres.table_shape import Pair, Table
from .replay_hold_sql import REPLAY_HOLD_SQL
from .replay_names import CHANGED, CHECK, DELETE, DELETE_EQUAL, DELETED, HOLD, NEW, PLAN, RELEASE, STATE, VERIFY, WRITE
from .replay_write_sql import REPLAY_WRITE_SQL
from .row_diff import Difference

# A policy on rows would leave some out without a word: with row_security off it is an error.
SETTINGS = {
    **SESSION_SETTINGS,
    "standard_conforming_strings": "on",
    "client_encoding": "UTF8",
    "row_security": "off",
}
# Before anything is looked for: whoever runs the script calls nobody's functions and operators but the server's.
PINNED = f"SET LOCAL {PATH} = {OWN_SETTINGS[PATH]};\n"
# Timeouts are set from the catalog, as an older server does not know each.
NOT_REPLAYED = (*LOST_CLIENT, *TIMEOUTS, "default_transaction_read_only")
HOLD_DEADLINE = "30 s"
# A table that waits for a check cannot be altered.
ENDING = f"SET CONSTRAINTS ALL IMMEDIATE;\nCALL {VERIFY}();\nCALL {RELEASE}();\n"


def beginning() -> str:
    """How the transaction begins; after it come the rows that wait, `held_statement`, what is written, and `ENDING`."""
    settings = "".join(
        f"SET LOCAL {name} = {literal(value)};\n" for name, value in SETTINGS.items() if name not in NOT_REPLAYED
    )
    timeouts = f"SELECT set_config(name, '0', true) FROM pg_settings WHERE name = ANY ({array(TIMEOUTS)});\n"
    # Rows that refer to one another can only be written before that is checked.
    return f"{settings}{timeouts}SET CONSTRAINTS ALL DEFERRED;\n{REPLAY_HOLD_SQL}{REPLAY_WRITE_SQL}"


def held_statement() -> str:
    """Hold the planned tables, and refuse what was written since, before anything is."""
    return f"CALL {HOLD}({literal(HOLD_DEADLINE)});\nCALL {CHECK}();\n"


def given(table: Table, columns: Sequence[str]) -> list[str]:
    """Those of the columns that take a value."""
    return [column for column in columns if column not in table.generated]


def staging_statements(pair: Pair, number: int) -> str:
    """Places for rows of this table, with its types but without what it demands of a row, or computes of one."""
    table = qualified(pair.live.schema, pair.live.name)
    places = [(f"{NEW}{number}", pair.columns)] if pair.keyed or given(pair.live, pair.columns) else []
    if pair.keyed:
        places += [(f"{CHANGED}{number}", pair.columns), (f"{DELETED}{number}", pair.key)]
    made = "".join(
        f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS\n"
        f"SELECT {', '.join(map(quoted_part, columns))}, NULL::text AS {STATE} FROM ONLY {table} WITH NO DATA;\n"
        for name, columns in places
    )
    return made if pair.keyed else f"{made}CREATE TEMPORARY TABLE {DELETED}{number} (texts text[]) ON COMMIT DROP;\n"


def insert_statement(pair: Pair, rows: Sequence[Difference], number: int) -> str:
    """Rows of one kind that wait; without a key each that is written is a new one."""
    if rows[0].change == "deleted" and not pair.keyed:
        texts = ",\n".join(f"({array(row.values)})" for row in rows)
        return f"INSERT INTO {DELETED}{number} (texts) VALUES\n{texts};\n"
    if not given(pair.live, pair.columns):
        return f"INSERT INTO {qualified(pair.live.schema, pair.live.name)} DEFAULT VALUES;\n" * len(rows)
    deleted, changed = rows[0].change == "deleted", pair.keyed and rows[0].change == "changed"
    columns = pair.key if deleted else pair.columns
    places = [(pair.key if deleted else pair.live.columns).index(column) for column in columns]
    values = ",\n".join(
        f"({', '.join(map(literal, [*(row.values[place] for place in places), row.state]))})" for row in rows
    )
    staged = f"{DELETED if deleted else CHANGED if changed else NEW}{number}"
    return f"INSERT INTO {staged} ({', '.join(map(quoted_part, [*columns, STATE]))}) VALUES\n{values};\n"


def plan_statement(pair: Pair, number: int, state: str) -> str:
    """How rows of a table are found again; state: the expression that hashes one where a key tells them apart."""
    hashed = literal(state if pair.keyed else None)
    return f"CALL {PLAN}({_target(pair)}, {number}, {array(pair.key)}, {hashed});\n"


def write_statement(pair: Pair, number: int) -> str:
    """Write the rows that wait."""
    if pair.keyed:
        return f"CALL {WRITE}({number});\n"
    table = qualified(pair.live.schema, pair.live.name)
    names = ", ".join(map(quoted_part, given(pair.live, pair.columns)))
    return f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {NEW}{number};\n"


def delete_statement(pair: Pair, number: int, *, early: bool = False) -> str:
    """Rows that are gone; early, where a new row may need their place: those that others still refer to go at the end.

    ONLY: a table that inherits may have a row of the same key, which is its own.
    """
    if not pair.keyed:
        return f"CALL {DELETE_EQUAL}({number});\n"
    return f"CALL {DELETE}({number}, {'true' if early else 'false'});\n"


def _target(pair: Pair) -> str:
    return literal(qualified(pair.live.schema, pair.live.name))


def qualified(schema: str, name: str) -> str:
    """The name of a table or a sequence as SQL."""
    return f"{quoted_part(schema)}.{quoted_part(name)}"


def array(values: Iterable[str | None]) -> str:
    """Texts as SQL."""
    return f"ARRAY[{', '.join(map(literal, values))}]::text[]"


def literal(value: str | None) -> str:
    """A value as SQL; the script sets standard_conforming_strings."""
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"
