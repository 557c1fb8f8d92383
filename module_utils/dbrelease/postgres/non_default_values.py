"""Values that somebody gave to a column: all but NULL, and the default where that is a constant."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from .session import select

# A default that is computed is another one for each row, so that only a constant one tells that nobody wrote a value.
# One of a type to which another role has made a cast is not looked at: to write it would call that role's function.
DEFAULTS = """
SELECT a.attname::text AS name,
       CASE WHEN pg_get_expr(d.adbin, d.adrelid) ~ '^(''([^'']|'''')*''|[0-9.]+|true|false)(::[^'']*)?$'
            THEN format('(%%s)::%%s', pg_get_expr(d.adbin, d.adrelid), format_type(a.atttypid, a.atttypmod))
            END AS value
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 AND NOT EXISTS (SELECT FROM pg_cast x JOIN pg_proc f ON f.oid = x.castfunc JOIN pg_roles o ON o.oid = f.proowner
                 WHERE x.casttarget IN (t.oid, t.typbasetype) AND NOT o.rolsuper AND o.rolname <> current_user)
WHERE a.attrelid = %s AND a.attname = ANY(%s) AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum
"""


def given_values(cursor: Cursor, table: int, names: Sequence[str]) -> dict[str, sql.Composed]:
    """For each of these columns that is there, and not computed from others: the condition that its value was given.

    table: its oid. The conditions are not for select_declared().
    """
    # As the server writes them: a cast may call anybody's function.
    given, otherwise = (
        "{column} IS DISTINCT FROM NULL",
        ' AND concat({column}) COLLATE "C" IS DISTINCT FROM concat({value})',
    )
    return {
        row["name"]: sql.SQL(f"({given}{otherwise if row['value'] else ''})").format(
            column=sql.Identifier(row["name"]), value=sql.SQL(row["value"] or "NULL")
        )
        for row in select(cursor, DEFAULTS, (table, list(names)))
    }
