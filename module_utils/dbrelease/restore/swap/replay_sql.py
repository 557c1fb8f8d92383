"""The statements of a replay script: new, changed and deleted rows, with every value as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...postgres.catalog import quoted_part
from ...postgres.session import LOST_CLIENT, OWN_SETTINGS, PATH, SESSION_SETTINGS, TIMEOUTS
from ...postgres.table_shape import Pair, Table
from .replay_hold_sql import REPLAY_HOLD_SQL
from .replay_names import CHANGED, CHECK, DELETE, DELETE_EQUAL, DELETED, HOLD, NEW, PLAN, RELEASE, STATE, VERIFY, WRITE
from .replay_write_sql import REPLAY_WRITE_SQL
from .row_diff import Difference

# A policy on rows would omit some silently: with row_security off this is an error.
SETTINGS = {
    **SESSION_SETTINGS,
    "standard_conforming_strings": "on",
    "client_encoding": "UTF8",
    "row_security": "off",
}
# Before any name is resolved: the script must call only the server's own functions and operators.
PINNED = f"SET LOCAL {PATH} = {OWN_SETTINGS[PATH]};\n"
# An older server does not have each of the timeouts, and only a superuser may set this role, even to its current value:
# both are set from the catalog.
REPLICA = "session_replication_role"
NOT_REPLAYED = (*LOST_CLIENT, *TIMEOUTS, REPLICA, "default_transaction_read_only")
HOLD_DEADLINE = "30 s"
# A table with a pending check cannot be altered.
ENDING = f"SET CONSTRAINTS ALL IMMEDIATE;\nCALL {VERIFY}();\nCALL {RELEASE}();\n"


def beginning() -> str:
    """The start of the transaction; then follow the staged rows, `held_statement`, the writes, and `ENDING`."""
    settings = "".join(
        f"SET LOCAL {name} = {literal(value)};\n" for name, value in SETTINGS.items() if name not in NOT_REPLAYED
    )
    timeouts = f"SELECT set_config(name, '0', true) FROM pg_settings WHERE name = ANY ({array(TIMEOUTS)});\n"
    # The server refuses a role that may not change this setting: its rows would be written unchecked.
    checked = literal(SETTINGS[REPLICA])
    origin = (
        f"SELECT set_config(name, {checked}, true) FROM pg_settings"
        f" WHERE name = {literal(REPLICA)} AND setting <> {checked};\n"
    )
    # Rows that refer to one another can be written only before the constraint is checked.
    return f"{settings}{timeouts}{origin}SET CONSTRAINTS ALL DEFERRED;\n{REPLAY_HOLD_SQL}{REPLAY_WRITE_SQL}"


def held_statement() -> str:
    """Lock the planned tables, and refuse if they were written to since, before the first write."""
    return f"CALL {HOLD}({literal(HOLD_DEADLINE)});\nCALL {CHECK}();\n"


def given(table: Table, columns: Sequence[str]) -> list[str]:
    """The columns, of these, that take a value."""
    return [column for column in columns if column not in table.generated]


def staging_statements(pair: Pair, number: int) -> str:
    """Create staging tables for this table's rows, with its types but without constraints and generated columns."""
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
    """Stage rows of one kind; without a key each written row is a new one."""
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
    """Plan how a table's rows are found; state: the expression that hashes a row of a table with a key."""
    hashed = literal(state if pair.keyed else None)
    return f"CALL {PLAN}({_target(pair)}, {number}, {array(pair.key)}, {hashed});\n"


def write_statement(pair: Pair, number: int) -> str:
    """Write the staged rows."""
    if pair.keyed:
        return f"CALL {WRITE}({number});\n"
    table = qualified(pair.live.schema, pair.live.name)
    names = ", ".join(map(quoted_part, given(pair.live, pair.columns)))
    return f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {NEW}{number};\n"


def delete_statement(pair: Pair, number: int, *, early: bool = False) -> str:
    """Delete rows; early, where a new row may need their place: those still referred to are deleted at the end.

    ONLY: a table that inherits may have its own row with the same key.
    """
    if not pair.keyed:
        return f"CALL {DELETE_EQUAL}({number});\n"
    return f"CALL {DELETE}({number}, {'true' if early else 'false'});\n"


def _target(pair: Pair) -> str:
    return literal(qualified(pair.live.schema, pair.live.name))


def qualified(schema: str, name: str) -> str:
    """Return the name of a table or a sequence as SQL."""
    return f"{quoted_part(schema)}.{quoted_part(name)}"


def array(values: Iterable[str | None]) -> str:
    """Return texts as SQL."""
    return f"ARRAY[{', '.join(map(literal, values))}]::text[]"


def literal(value: str | None) -> str:
    """Return a value as SQL; the script sets standard_conforming_strings."""
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"
