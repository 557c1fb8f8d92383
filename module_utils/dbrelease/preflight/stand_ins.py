"""Tables as they will be after the release, made for planning alone: empty, and in a transaction that never commits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..postgres.catalog import identifier
from ..postgres.session import PATH, Connection, Row, Session, as_declared, select, select_as_declared, server_reason
from ..release.requirements import Demands, Key
from .facts import Database

# Columns, and which of them nobody may write to; it takes ACCESS SHARE on the table, as a query does.
LIKE = "LIKE {} INCLUDING GENERATED INCLUDING IDENTITY"

NAME = """
SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %s
"""

# LIKE would give them other names, and ON CONFLICT may name one.
KEYS = """
SELECT conname AS name, contype = 'p' AS primary, pg_get_constraintdef(oid) AS definition
FROM pg_constraint WHERE conrelid = %s AND contype IN ('p', 'u', 'x') ORDER BY conname
"""
TYPE = "SELECT pg_catalog.to_regtype(%s)::pg_catalog.oid::pg_catalog.int8 AS oid"


@dataclass(frozen=True)
class StandIn:
    """A temporary table in the place of `schema.name`; qualified: the release itself names it with its schema."""

    schema: str
    name: str
    qualified: bool = False


def stand_in_for_created(cursor: Cursor, demands: Demands, database: Database) -> None:
    """Make each table that is not there yet, where it will be; it references none, so no other table is locked."""
    for name, columns in demands.created.items():
        if database.tables[name] is None:
            parts = [*_columns(cursor, f"created.{name}", columns), *map(_key, demands.keys[name])]
            statement = sql.SQL("CREATE TABLE {} ({})")
            with as_declared(cursor):
                cursor.execute(statement.format(identifier(name), sql.SQL(", ").join(parts)))


def stand_in_for_altered(cursor: Cursor, demands: Demands, database: Database) -> list[StandIn]:
    """Hide each table that lacks a new column or key behind a temporary one which has it."""
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
                *_columns(cursor, f"altered.{name}", columns),
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
    """Within the block what a release declares finds stand-ins first, wherever its role's path has temporary tables."""
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


def _columns(cursor: Cursor, place: str, columns: Mapping[str, Mapping[str, Any]]) -> Iterator[sql.Composed]:
    for column, declared in columns.items():
        kind = _type(cursor, f"release.yml: tables.{place}.columns.{column}.type", declared["type"])
        yield sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(kind))


def _key(key: Key, *, primary: bool = True) -> sql.Composed:
    """A key of the table; where it has a primary one already, any other is only unique."""
    return sql.SQL("CONSTRAINT {} {} ({})").format(
        sql.Identifier(key.name),
        sql.SQL("PRIMARY KEY" if primary and key.primary else "UNIQUE"),
        sql.SQL(", ").join(map(sql.Identifier, key.columns)),
    )


def _type(cursor: Cursor, place: str, declared: str) -> str:
    """The server's own name of a type, so that declared text never becomes a part of a statement."""
    reason = "there is no such type"
    try:
        (found,) = select_as_declared(cursor, TYPE, (declared,))
        if found["oid"] is not None:
            return str(select(cursor, "SELECT format_type(%s, %s) AS name", (found["oid"], None))[0]["name"])
    except psycopg2.Error as error:
        reason = server_reason(error)
    raise ReleaseError(f"{place} is {declared!r}, which is no type of this server ({reason}): correct it.")
