"""Which revisions the database is at, by the version table of the migrations."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
import psycopg2.extensions
from psycopg2 import sql
from psycopg2.extras import RealDictCursor

from ..core.errors import ReleaseError
from .catalog import find_relation, quoted
from .could_not_run import advised
from .session import Login, connect, select, server_reason
from .trusted_roles import version_table_of

POLL_S = 0.5


def database_revisions(cursor: psycopg2.extensions.cursor, table: str = "") -> list[str]:
    """The rows of the bookkeeping table, sorted; none where the table is missing. Raises ReleaseError.

    table: as it is declared; by default the one that the session knows.
    """
    table = table or version_table_of(cursor)
    try:
        found = find_relation(cursor, quoted(table))
        if not found:
            return []
        if found["kind"] not in ("r", "p"):
            raise ReleaseError(
                f"Reading the revision from the table {table} was refused (the relation of that name is not a table): "
                "find out who created it, and declare Alembic's table, with its schema, as migration.version_table of "
                "the release."
            )
        rows = select(cursor, _select_revisions(found["schema"], found["name"]).as_string(cursor))
    except psycopg2.Error as error:
        advice = advised(error, "check that it is Alembic's bookkeeping table and that db_user may read it.")
        raise ReleaseError(
            f"Reading the revision from the table {table} failed ({server_reason(error)}): {advice}"
        ) from error
    return sorted(str(row["version_num"]) for row in rows)


def _select_revisions(schema: str, table: str) -> sql.Composed:
    return sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(schema, table))


def read_revisions(login: Login, table: str) -> list[str]:
    """The database's revisions; raises ReleaseError where it does not answer."""
    with asking(login, "dbrelease revision") as cursor:
        return database_revisions(cursor, table)


def revisions_or_none(login: Login, table: str, patience_s: float = 0.0) -> list[str] | None:
    """The revisions of the database, read in a separate session; None where it does not answer within that time."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return read_revisions(login, table)
        except ReleaseError:
            if time.monotonic() >= deadline:
                return None
            time.sleep(POLL_S)


@contextmanager
def asking(login: Login, application: str) -> Iterator[RealDictCursor]:
    """A read-only session of its own for some questions, whose rows are mappings."""
    with (
        closing(connect(login, application, read_only=True)) as connection,
        connection.cursor(cursor_factory=RealDictCursor) as cursor,
    ):
        yield cursor
