"""Plan every declared query as it will be asked after the release, in a transaction that is always rolled back."""

from __future__ import annotations

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..checks import plan_checks
from ..database import Connection, select, server_reason, transaction
from ..errors import ReleaseError
from ..proof import Proof
from ..statement import advice, prepare
from .catalog import LIMITS, identifier
from .demands import Demands, Statement
from .facts import Database


def plan_statements(connection: Connection, demands: Demands, database: Database) -> list[Proof]:
    """One proof for each of `demands.statements`, in their order; raises ReleaseError where none could be planned.

    The tables that the release will create are stood in for by bare ones, empty and without keys: so no lock is taken
    on any other table, and nothing is left, because nothing here commits.
    """
    if not demands.statements:
        return []
    queries = [{"name": query.place, "title": query.title, "sql": query.sql} for query in demands.queries]
    try:
        with transaction(connection, commit=False) as cursor:
            cursor.execute(LIMITS)
            cursor.execute("SET LOCAL lock_timeout = '250ms'")
            for name in demands.created:
                if database.tables[name] is None:
                    _stand_in(cursor, name, demands)
            return [*plan_checks(cursor, queries), *(_plan_step(cursor, step) for step in demands.steps)]
    except psycopg2.Error as error:
        raise ReleaseError(
            f"Planning the declared queries failed ({server_reason(error)}): "
            "check that db_user may create tables in this database and that the server is well."
        ) from error


def _plan_step(cursor: Cursor, step: Statement) -> Proof:
    """A scenario's step may write, so it is explained and never run; its locks go with the savepoint."""
    name = f"preflight.checks_plan.{step.place}"
    cursor.execute("SAVEPOINT step")
    try:
        prepare(cursor, step.sql)
        return Proof(name, step.title, "pass", sql=step.sql)
    except psycopg2.OperationalError:
        raise
    except psycopg2.Error as error:
        detail = f"{step.place} cannot run: {server_reason(error)}."
        return Proof(name, step.title, "fail", detail=detail, remedy=advice(error, "Correct it."), sql=step.sql)
    finally:
        if not cursor.connection.closed:
            cursor.execute("ROLLBACK TO SAVEPOINT step")


def _stand_in(cursor: Cursor, name: str, demands: Demands) -> None:
    columns = [
        sql.SQL("{} {}").format(
            sql.Identifier(column),
            sql.SQL(_type(cursor, f"release.yml: tables.created.{name}.columns.{column}.type", declared["type"])),
        )
        for column, declared in demands.created[name].items()
    ]
    cursor.execute(sql.SQL("CREATE TABLE {} ({})").format(identifier(name), sql.SQL(", ").join(columns)))


def _type(cursor: Cursor, place: str, declared: str) -> str:
    """The server's own name of a type, so that declared text never becomes a part of a statement."""
    reason = "there is no such type"
    try:
        name: str | None = select(cursor, "SELECT to_regtype(%s)::text AS name", (declared,))[0]["name"]
        if name:
            return name
    except psycopg2.Error as error:
        reason = server_reason(error)
    raise ReleaseError(f"{place} is {declared!r}, which is no type of this server ({reason}): correct it.")
