"""Which roles of a server are trusted: whose sessions and objects count, and whose do not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg2.extensions import cursor as Cursor

from .catalog import quoted, resolved
from .session import Session, select, select_as_declared

# Superusers, the session's role and the database's owner, with every role that may become one of them; the roles that
# the session's role may become; and every role that may write the revision, as the application's migrations do. From
# version 16 on the creator of a role is a member of it, without being able to become it. Any role may create a table of
# that name where it is found before the application's own, or a schema of the session role's name, which is found
# first: such a table proves nothing.
TRUSTED = """
WITH RECURSIVE asking AS (
  SELECT oid FROM pg_roles WHERE rolname IN (session_user, current_user)
), known AS (
  SELECT oid FROM asking
  UNION SELECT oid FROM pg_roles WHERE rolsuper OR rolname = 'pg_database_owner'
  UNION SELECT datdba FROM pg_database WHERE datname = %(database)s
  UNION SELECT m.member FROM pg_auth_members m JOIN known ON known.oid = m.roleid
), above AS (
  SELECT oid FROM asking
  UNION SELECT m.roleid FROM pg_auth_members m JOIN above ON above.oid = m.member
  WHERE coalesce((to_jsonb(m) ->> 'set_option')::bool, true)
)
SELECT oid::bigint AS oid FROM known
UNION SELECT oid::bigint FROM above
UNION SELECT r.oid::bigint FROM pg_roles r JOIN pg_class c ON has_table_privilege(r.oid, c.oid, 'UPDATE')
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %(table)s::oid
  AND (c.relowner IN (SELECT oid FROM known UNION SELECT oid FROM above)
    OR NOT EXISTS (SELECT FROM pg_class o JOIN pg_namespace p ON p.oid = o.relnamespace
                   WHERE o.relname = c.relname AND o.relowner <> c.relowner AND p.nspname = ANY (%(schemas)s))
   AND NOT (n.nspname = current_user AND n.nspowner NOT IN (SELECT oid FROM known UNION SELECT oid FROM above)))
ORDER BY oid
"""
SCHEMAS = "SELECT pg_catalog.current_schemas(true)::pg_catalog.text[] AS schemas"
LONGEST = 63


def trusted_roles(cursor: Cursor, database: str, version_table: str = "") -> list[int]:
    """Their oids, for a database of the server; the roles that may write the revision are known in that database only.

    version_table: Alembic's table, as it is declared; by default the one that the session knows.
    """
    table_name = version_table or version_table_of(cursor)
    (table,) = resolved(cursor, [quoted(table_name)]) if cursor.connection.info.dbname == database else [None]
    (path,) = select_as_declared(cursor, SCHEMAS)
    asked = {"database": database, "table": table, "schemas": path["schemas"]}
    return [int(row["oid"]) for row in select(cursor, TRUSTED, asked)]


def version_table_of(cursor: Cursor) -> str:
    """Where the database of a session keeps its revision, as its login says."""
    session = cursor.connection
    return session.version_table if isinstance(session, Session) else Session.version_table


def quoted_text(text: Any, longest: int = LONGEST) -> str:
    """A name that a session or a role has chosen: quoted and short, so that it cannot pass for our own words.

    The server's own processes have no user, and a dropped role has no name: that is said without quotes.
    """
    if text is None:
        return "unknown"
    said = str(text)
    return json.dumps(said if len(said) <= longest else f"{said[:longest]}…", ensure_ascii=False)


def session_words(row: Mapping[str, Any]) -> str:
    """One session, as statements that ask for pid, user, application, host and since give it."""
    return (
        f"{quoted_text(row['application'])} (pid {row['pid']}, user {quoted_text(row['user'])}, from {row['host']}, "
        f"since {row['since']})"
    )


def all_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Some of the sessions, in words."""
    return " and ".join([*map(session_words, rows[:3]), *([f"{len(rows) - 3} more"] if len(rows) > 3 else [])])
