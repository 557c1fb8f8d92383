"""What roles that are not trusted have created, or may create, where a release's text finds functions and operators."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import RealDictCursor

from .outside_functions import BeyondError
from .session import Row, Session, select, select_as_declared
from .table_key import table_key
from .trusted_roles import quoted_text, trusted_roles

SHOWN = 5
SCHEMAS = """
SELECT pg_catalog.current_schemas(true)::pg_catalog.text[] AS schemas, pg_catalog.current_database() AS database
"""
# Of two that fit the better one is called, wherever on the path it is. Of two relations of one name the first is found;
# and a schema of the role's own name comes first, so that whatever its maker puts there is found before all else.
PLANTED = """
WITH places AS (
  SELECT oid, nspname FROM pg_namespace WHERE nspname = ANY (%(schemas)s) AND nspname <> 'pg_catalog'
)
SELECT 'operator' AS kind, p.nspname::text AS schema, o.oprname::text AS name,
       pg_get_userbyid(o.oprowner)::text AS owner
FROM pg_operator o JOIN places p ON p.oid = o.oprnamespace
WHERE o.oprowner <> ALL (%(trusted)s::oid[])
  AND EXISTS (SELECT FROM pg_operator s WHERE s.oprname = o.oprname AND s.oprnamespace = 'pg_catalog'::regnamespace)
UNION
SELECT 'function', p.nspname, f.proname, pg_get_userbyid(f.proowner)
FROM pg_proc f JOIN places p ON p.oid = f.pronamespace
WHERE f.proowner <> ALL (%(trusted)s::oid[])
  AND EXISTS (SELECT FROM pg_proc s WHERE s.proname = f.proname AND s.pronamespace = 'pg_catalog'::regnamespace)
UNION
SELECT 'relation', p.nspname, c.relname, pg_get_userbyid(c.relowner)
FROM pg_class c JOIN places p ON p.oid = c.relnamespace
WHERE c.relowner <> ALL (%(trusted)s::oid[]) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND EXISTS (SELECT FROM pg_class s JOIN places q ON q.oid = s.relnamespace WHERE s.relname = c.relname
              AND array_position(%(schemas)s, q.nspname::text) > array_position(%(schemas)s, p.nspname::text))
UNION
SELECT 'schema', p.nspname, p.nspname, pg_get_userbyid(n.nspowner)
FROM pg_namespace n JOIN places p USING (oid)
WHERE p.nspname = current_user AND %(own_first)s AND n.nspowner <> ALL (%(trusted)s::oid[])
ORDER BY 1, 2, 3, 4
"""
# A schema of the role's own name is searched first by default; a role that may create in the database may create it.
OPEN = """
SELECT n.nspname::text AS schema,
       array_agg(DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END) AS roles
FROM pg_namespace n CROSS JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
WHERE n.nspname = ANY (%(schemas)s) AND n.nspname !~ '^pg_' AND a.privilege_type = 'CREATE'
  AND a.grantee <> ALL (%(trusted)s::oid[])
GROUP BY n.nspname
UNION ALL
SELECT current_user::text,
       array_agg(DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END)
FROM pg_database d CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
WHERE d.datname = current_database() AND a.privilege_type = 'CREATE' AND a.grantee <> ALL (%(trusted)s::oid[])
  AND %(own_first)s AND NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = current_user)
HAVING count(*) > 0
ORDER BY 1
"""

OF_STRANGERS = """
SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND c.relowner <> ALL (%s::oid[])
ORDER BY 1, 2
"""


def tables_of_strangers(cursor: Cursor, trusted: Sequence[int]) -> list[str]:
    """The tables (`schema.table`) whose owners are none of these roles."""
    return [table_key(row["schema"], row["name"]) for row in select(cursor, OF_STRANGERS, (list(trusted),))]


def read_strangers(cursor: Cursor) -> tuple[list[Row], list[Row]]:
    """Their operators and functions that have a name of the server's own, and the schemas in which they may create."""
    (found,) = select_as_declared(cursor, SCHEMAS)
    session = cursor.connection
    path = session.role_settings.get("search_path", "") if isinstance(session, Session) else ""
    asked = {
        "schemas": found["schemas"],
        "trusted": trusted_roles(cursor, found["database"]),
        "own_first": "$user" in path,
    }
    return select(cursor, PLANTED, asked), select(cursor, OPEN, asked)


def planted_words(planted: Sequence[Row]) -> str:
    """What was created, by which role, and where."""
    said = [
        f"the {row['kind']} {quoted_text(row['name'])} in {quoted_text(row['schema'])} is {quoted_text(row['owner'])}'s"
        for row in planted[:SHOWN]
    ]
    return ", ".join([*said, *([f"and {len(planted) - SHOWN} more"] if len(planted) > SHOWN else [])])


def refuse_planted(cursor: Cursor) -> None:
    """Raise BeyondError where a release's declarations could call an untrusted role's object; read once a session."""
    session = cursor.connection
    if not isinstance(session, Session):
        return
    if session.planted is None:
        with session.cursor(cursor_factory=RealDictCursor) as asking:
            planted, _ = read_strangers(asking)
        session.planted = planted_words(planted)
    if session.planted:
        raise BeyondError(f"it may call an object of a role that is not trusted: {session.planted}")
