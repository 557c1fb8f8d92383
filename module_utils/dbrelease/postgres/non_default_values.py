"""Values that were explicitly given to a column: all but NULL, and the default where that is a constant."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from .session import select
from .trusted_roles import trusted_roles

# A computed default differs for each row, so that only a constant one shows that no value was written. One of a type to
# which another role has defined a cast is not read: to write it would call that role's function. The same holds for one
# that leads to a domain of a role that is not trusted: to write it is to check it as that role demands.
DEFAULTS = """
SELECT a.attname::text AS name,
       CASE WHEN pg_get_expr(d.adbin, d.adrelid) ~ '^(''([^'']|'''')*''|[0-9.]+|true|false)(::[^'']*)?$'
            THEN format('(%%s)::%%s', pg_get_expr(d.adbin, d.adrelid), format_type(a.atttypid, a.atttypmod))
            END AS value
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 AND NOT EXISTS (SELECT FROM pg_cast x JOIN pg_proc f ON f.oid = x.castfunc JOIN pg_roles o ON o.oid = f.proowner
                 WHERE x.casttarget IN (t.oid, t.typbasetype) AND NOT o.rolsuper AND o.rolname <> current_user)
 AND NOT EXISTS (
  WITH RECURSIVE reached (oid) AS (
    SELECT t.oid
    UNION SELECT part.oid FROM reached JOIN pg_type r USING (oid) CROSS JOIN LATERAL (
      SELECT r.typbasetype UNION ALL SELECT r.typelem
      UNION ALL SELECT p.atttypid FROM pg_attribute p WHERE p.attrelid = r.typrelid AND r.typrelid <> 0
      UNION ALL SELECT g.rngsubtype FROM pg_range g
      WHERE r.oid IN (g.rngtypid, (to_jsonb(g) ->> 'rngmultitypid')::oid)) AS part (oid) WHERE part.oid <> 0)
  SELECT FROM reached JOIN pg_type r USING (oid) JOIN pg_constraint x ON x.contypid = r.oid
  WHERE r.typowner <> ALL (%s::oid[]))
WHERE a.attrelid = %s AND a.attname = ANY(%s) AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum
"""


def given_values(cursor: Cursor, table: int, names: Sequence[str]) -> dict[str, sql.Composed]:
    """For each existing column that is not generated: the condition that its value was given.

    table: its oid. The conditions are not for select_declared().
    """
    # As the server writes them: a cast may call anybody's function.
    trusted = trusted_roles(cursor, cursor.connection.info.dbname)
    given, otherwise = (
        "{column} IS DISTINCT FROM NULL",
        ' AND concat({column}) COLLATE "C" IS DISTINCT FROM concat({value})',
    )
    return {
        row["name"]: sql.SQL(f"({given}{otherwise if row['value'] else ''})").format(
            column=sql.Identifier(row["name"]), value=sql.SQL(row["value"] or "NULL")
        )
        for row in select(cursor, DEFAULTS, (trusted, table, list(names)))
    }
