"""Tables that can be read only with the role's own search path."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psycopg2
from psycopg2.extensions import cursor as Cursor

from .session import as_declared, giving_back_locks
from .strangers import refuse_planted

Value = TypeVar("Value")
NOT_FOUND = (
    psycopg2.errors.UndefinedFunction,
    psycopg2.errors.UndefinedTable,
    psycopg2.errors.UndefinedObject,
    psycopg2.errors.InvalidSchemaName,
)


def read_table(cursor: Cursor, read: Callable[[], Value]) -> Value:
    """The result of `read`, a statement of ours on a table; its locks are released at its end.

    When the server plans a statement on a table, it inlines the SQL functions that the table's indexes call. A function
    that omits a schema finds what it calls only with the role's own path. So the statement is then repeated with that
    path. It is refused where a role that is not trusted has created an object there that it could call.
    """
    try:
        with giving_back_locks(cursor):
            return read()
    except NOT_FOUND:
        refuse_planted(cursor)
        with as_declared(cursor), giving_back_locks(cursor):
            return read()
