"""Tables that can be read only where the role's own search path is in force."""

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
    """What `read` finds in a table by a statement of ours; the locks that it takes are given back at its end.

    The server inlines the SQL functions that the indexes of a table call when it plans any statement on that table. A
    function that leaves out a schema finds what it calls only by the role's own path. So the statement is then repeated
    with that path: refused where a role that is not trusted has made something there that it could call.
    """
    try:
        with giving_back_locks(cursor):
            return read()
    except NOT_FOUND:
        refuse_planted(cursor)
        with as_declared(cursor), giving_back_locks(cursor):
            return read()
