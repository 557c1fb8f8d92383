"""The roles of the live server, which are in no dump: read there, created in the throwaway server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..postgres.session import Row, select, server_reason
from ..restore.settings import setting
from .recipe import refused

ROLES = r"""
SELECT rolname AS name, rolsuper AS superuser, rolinherit AS inherit, rolcreaterole AS createrole,
       rolcreatedb AS createdb, rolcanlogin AS login, rolreplication AS replication, rolbypassrls AS bypassrls,
       rolconnlimit AS limit, coalesce(rolconfig, '{}') AS settings
FROM pg_roles WHERE rolname NOT LIKE 'pg\_%' ORDER BY rolname
"""
MEMBERS = """
SELECT pg_get_userbyid(m.roleid) AS role, pg_get_userbyid(m.member) AS member, bool_or(m.admin_option) AS admin,
       bool_or((to_jsonb(m) ->> 'inherit_option')::boolean) AS inherit,
       bool_or((to_jsonb(m) ->> 'set_option')::boolean) AS set
FROM pg_auth_members m GROUP BY m.roleid, m.member ORDER BY 1, 2
"""
MAY_READ = "SELECT has_table_privilege('pg_authid', 'SELECT') AS yes"
VERIFIERS = "SELECT rolname AS name, rolpassword AS verifier FROM pg_authid WHERE rolpassword IS NOT NULL"
SWITCHES = ("superuser", "inherit", "createrole", "createdb", "login", "replication", "bypassrls")


@dataclass(frozen=True)
class Roles:
    """Roles, memberships, and the verifiers of passwords that db_user may read; the repr has no verifier."""

    roles: Sequence[Row]
    members: Sequence[Row]
    verifiers: Mapping[str, str] = field(default_factory=dict, repr=False)


def read_roles(cursor: Cursor) -> Roles:
    """Read them; the cursor's session may be read-only."""
    found = select(cursor, VERIFIERS) if select(cursor, MAY_READ)[0]["yes"] else []
    return Roles(select(cursor, ROLES), select(cursor, MEMBERS), {row["name"]: row["verifier"] for row in found})


def create_roles(cursor: Cursor, roles: Roles, own: str, password_of: Mapping[str, str]) -> None:
    """Create them as a superuser; raises ReleaseError.

    own: the role that exists already. password_of: known passwords, for a role whose verifier cannot be read.
    """
    try:
        # The image's own scripts may have created some.
        existing = {row["name"] for row in select(cursor, "SELECT rolname AS name FROM pg_roles")}
        for role in roles.roles:
            if role["name"] != own:
                # A verifier may be of a method that the new server does not ask for.
                given = password_of.get(role["name"]) or roles.verifiers.get(role["name"])
                cursor.execute(_created(role, given, exists=role["name"] in existing))
            for line in role["settings"]:
                cursor.execute(sql.SQL("ALTER ROLE {} SET {}").format(sql.Identifier(role["name"]), setting(line)))
        for member in roles.members:
            cursor.execute(_granted(member))
    except psycopg2.Error as error:
        # The statement may contain a verifier: only the server's first words are shown.
        raise refused(
            f"the live server's roles could not be created in the throwaway server: {server_reason(error)}"
        ) from error


def _created(role: Mapping[str, Any], password: str | None, *, exists: bool) -> sql.Composed:
    words = [word.upper() if role[word] else f"NO{word.upper()}" for word in SWITCHES]
    statement = sql.SQL("{} ROLE {} {} CONNECTION LIMIT {}").format(
        sql.SQL("ALTER" if exists else "CREATE"),
        sql.Identifier(role["name"]),
        sql.SQL(" ".join(words)),
        sql.Literal(role["limit"]),
    )
    return statement + sql.SQL(" PASSWORD {}").format(sql.Literal(password)) if password else statement


def _granted(member: Mapping[str, Any]) -> sql.Composed:
    statement = sql.SQL("GRANT {} TO {}").format(sql.Identifier(member["role"]), sql.Identifier(member["member"]))
    if member["inherit"] is None:  # before PostgreSQL 16
        return statement + sql.SQL(" WITH ADMIN OPTION" if member["admin"] else "")
    options = (f"{word.upper()} {'TRUE' if member[word] else 'FALSE'}" for word in ("admin", "inherit", "set"))
    return statement + sql.SQL(" WITH " + ", ".join(options))
