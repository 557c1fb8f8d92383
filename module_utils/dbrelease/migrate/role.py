"""The role as which Alembic creates what a later step must own: PostgreSQL lets only the owner alter a table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from psycopg2.extras import RealDictCursor

from ..host.commands import Commands
from ..postgres.catalog import quoted, resolved
from ..postgres.session import Login, connect, select
from .alembic import READ_ONLY, READ_TIMEOUT_S, READER_ENVIRONMENT, libpq_options, writes

# A superuser may alter every table. A role that may not act as the owner gains nothing if the owner owns more.
OWNER = """
SELECT pg_get_userbyid(c.relowner)::text AS owner
FROM pg_class c
JOIN pg_roles me ON me.rolname = current_user
WHERE c.oid = %s AND NOT me.rolsuper AND pg_has_role(c.relowner, 'USAGE')
"""


def settings_for(login: Login, commands: Commands, command: Sequence[str], table: str) -> dict[str, str]:
    """The setting by which Alembic's sessions act as the owner of its table, where they may and db_user needs it.

    The backend's role may differ from db_user, and would own what it creates.
    """
    owner = owner_of(login, table)
    return {"role": owner} if owner and takes(commands, command, owner) else {}


def owner_of(login: Login, table: str) -> str:
    """The owner of Alembic's table, where db_user may act as that role and is not a superuser; else empty."""
    with (
        closing(connect(login, "dbrelease role")) as connection,
        connection.cursor(cursor_factory=RealDictCursor) as cursor,
    ):
        found = select(cursor, OWNER, (resolved(cursor, [quoted(table)])[0],))
    return str(found[0]["owner"]) if found else ""


def takes(commands: Commands, command: Sequence[str], role: str, *, read_only: bool = False) -> bool | None:
    """Whether Alembic's sessions may act as the role: Alembic reads its revision as that role.

    read_only: env.py may not write meanwhile; None where it tries to, because the result then shows nothing about
    the role.
    """
    more = [READ_ONLY] if read_only else []
    environment = {**READER_ENVIRONMENT, "PGOPTIONS": libpq_options(commands, {"role": role}, *more)}
    finished = commands.run([*command, "current"], timeout_s=READ_TIMEOUT_S, environment=environment)
    return None if read_only and writes(finished) else finished.status == 0
