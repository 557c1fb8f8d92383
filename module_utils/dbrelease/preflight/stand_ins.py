"""Tables as they will be after the release, only for planning: empty, and in a transaction that never commits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..postgres.catalog import identifier
from ..postgres.session import PATH, Connection, Row, Session, as_declared, select, select_as_declared, server_reason
from ..release.requirements import Demands, Key
from .facts import Database

# Copies columns, and which of them are generated; it locks the table in ACCESS SHARE mode, as a query does.
LIKE = "LIKE {} INCLUDING GENERATED INCLUDING IDENTITY"

NAME = """
SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %s
"""

# LIKE would give the keys other names, and ON CONFLICT may name one.
KEYS = """
SELECT conname AS name, contype = 'p' AS primary, pg_get_constraintdef(oid) AS definition
FROM pg_constraint WHERE conrelid = %s AND contype IN ('p', 'u', 'x') ORDER BY conname
"""
# A type as the server writes it: its schema, its name, its modifier, and whether it is an array.
_IDENTIFIER = r'(?:[a-z_][a-z0-9_$]*|"(?:[^"]|"")+")'
DECLARED_TYPE = re.compile(
    rf"(?:(?P<schema>{_IDENTIFIER})\.)?(?P<name>{_IDENTIFIER})(?:\([^()]*\))?(?P<array>(?:\[\])*)"
)
SCHEMA_THERE = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %s) AS found"
TYPE = "SELECT pg_catalog.to_regtype(%s)::pg_catalog.oid::pg_catalog.int8 AS oid"


@dataclass(frozen=True)
class StandIn:
    """A temporary table that replaces `schema.name`; qualified: the release names the table with its schema."""

    schema: str
    name: str
    qualified: bool = False


@dataclass(frozen=True)
class MadeType:
    """A type that the migration will create, of which only the name is known; `table` uses it."""

    name: str
    table: str


def stand_in_for_created(cursor: Cursor, demands: Demands, database: Database) -> list[MadeType]:
    """Create each missing table in its schema, without references, so that no other table is locked.

    Returns the types that had to be created for it.
    """
    made: list[MadeType] = []
    for name, columns in demands.created.items():
        if database.tables[name] is None:
            parts = [*_columns(cursor, demands, "created", name, columns, made), *map(_key, demands.keys[name])]
            statement = sql.SQL("CREATE TABLE {} ({})")
            with as_declared(cursor):
                cursor.execute(statement.format(identifier(name), sql.SQL(", ").join(parts)))
    return made


def stand_in_for_altered(cursor: Cursor, demands: Demands, database: Database, types: list[MadeType]) -> list[StandIn]:
    """Hide each table that lacks a new column or key behind a temporary one that has it; extends `types`."""
    made = []
    for name, declared in demands.altered.items():
        table = database.tables[name]
        if table is None or not table.is_table:
            continue
        columns = {column: kind for column, kind in declared.items() if column not in table.columns}
        there = select(cursor, KEYS, (table.oid,))
        keys = [key for key in demands.keys[name] if key.name not in [row["name"] for row in there]]
        if columns or keys:
            (real,) = select(cursor, NAME, (table.oid,))
            parts = [
                sql.SQL(LIKE).format(sql.Identifier(real["schema"], real["name"])),
                *_columns(cursor, demands, "altered", name, columns, types),
                *(_as_it_is(row) for row in there),
                *(_key(key, primary=not any(row["primary"] for row in there)) for key in keys),
            ]
            made.append(StandIn(**real, qualified="." in name))
            statement = sql.SQL("CREATE TEMPORARY TABLE {} ({})")
            with as_declared(cursor):
                cursor.execute(statement.format(sql.Identifier(real["name"]), sql.SQL(", ").join(parts)))
    return made


@contextmanager
def found_first(connection: Connection) -> Iterator[None]:
    """Within the block the release's SQL finds stand-ins first, also where the role's path has pg_temp later."""
    if not isinstance(connection, Session) or "pg_temp" not in connection.role_settings[PATH]:
        yield
        return
    kept = connection.role_settings
    connection.role_settings = {**kept, PATH: f"pg_temp, {kept[PATH]}"}
    try:
        yield
    finally:
        connection.role_settings = kept


def _as_it_is(row: Row) -> sql.Composed:
    return sql.SQL("CONSTRAINT {} {}").format(sql.Identifier(row["name"]), sql.SQL(row["definition"]))


def _columns(
    cursor: Cursor,
    demands: Demands,
    section: str,
    table: str,
    columns: Mapping[str, Mapping[str, Any]],
    made: list[MadeType],
) -> Iterator[sql.Composed]:
    for column, declared in columns.items():
        place = f"release.yml: tables.{section}.{table}.columns.{column}.type"
        kind = _type(cursor, demands, place, table, declared["type"], made)
        yield sql.SQL("{} {}").format(sql.Identifier(column), kind)


def _key(key: Key, *, primary: bool = True) -> sql.Composed:
    """Declare a key of the table; where it already has a primary key, as unique."""
    return sql.SQL("CONSTRAINT {} {} ({})").format(
        sql.Identifier(key.name),
        sql.SQL("PRIMARY KEY" if primary and key.primary else "UNIQUE"),
        sql.SQL(", ").join(map(sql.Identifier, key.columns)),
    )


def _type(
    cursor: Cursor, demands: Demands, place: str, table: str, declared: str, made: list[MadeType]
) -> sql.Composed:
    """Return the server's own name of a type, so that declared text never becomes part of a statement."""
    reason = "there is no such type"
    try:
        with _savepoint(cursor):
            (found,) = select_as_declared(cursor, TYPE, (declared,))
        if found["oid"] is not None:
            name = select(cursor, "SELECT format_type(%s, %s) AS name", (found["oid"], None))[0]["name"]
            return sql.Composed([sql.SQL(str(name))])
    except psycopg2.errors.UndefinedObject:
        pass  # with a modifier, such as x(4), an unknown type is an error
    except psycopg2.Error as error:
        reason = server_reason(error)
    if (parts := DECLARED_TYPE.fullmatch(declared)) and demands.may_make(_plain(parts["name"])):
        return _made(cursor, parts, table, made)
    raise ReleaseError(
        f"{place} is {declared!r}, which is not a type of this server ({reason}), and the release's revision does not "
        "name it: correct it."
    )


def _made(cursor: Cursor, parts: re.Match[str], table: str, made: list[MadeType]) -> sql.Composed:
    """Create a domain in place of a type that the migration creates: the labels of an enum are unknown yet."""
    names = [_plain(name) for name in (parts["schema"], parts["name"]) if name]
    kind = sql.Identifier(*names)
    if len(names) == 2 and not select(cursor, SCHEMA_THERE, (names[0],))[0]["found"]:
        kind = sql.Identifier("pg_catalog", "text")  # the migration creates the schema, too
    elif names[-1] not in {one.name for one in made}:
        with as_declared(cursor):
            cursor.execute(sql.SQL("CREATE DOMAIN {} AS pg_catalog.text").format(kind))
    made.append(MadeType(names[-1], table))
    return sql.Composed([kind, sql.SQL(parts["array"])])


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


@contextmanager
def _savepoint(cursor: Cursor) -> Iterator[None]:
    cursor.execute("SAVEPOINT stand_in")
    try:
        yield
    except psycopg2.Error:
        cursor.execute("ROLLBACK TO SAVEPOINT stand_in")
        raise
    cursor.execute("RELEASE SAVEPOINT stand_in")
