"""What in a database would prevent a dump of it from being restored: searched while the database still has it.

Nothing is restored for it. What a restore computes while it loads rows or builds indexes is tried on some rows, with
the empty search_path that a restore has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from .collations import other_versions
from .session import Row, giving_back_locks, select, server_reason
from .trusted_roles import trusted_roles

ROWS_TRIED = 100
SHOWN = 5
# Of one expression: a restore has all the time it needs, and this is no restore.
LIMITS = """
SELECT set_config('search_path', '', true), set_config('statement_timeout', '5s', true),
       set_config('lock_timeout', '1s', true)
"""
# An error that shows nothing about the expression: no time, no lock, no right, a view that is not read.
UNDECIDED = ("57014", "55P03", "42501", "55000")

# What calls a user's function, directly or by an operator; a function of a role that is not trusted is not called. A
# restore computes it while it loads rows (the table is not empty) or, for an index, in any case.
EXPRESSIONS = """
WITH calls AS (
  SELECT d.classid, d.objid, p.oid, p.proowner FROM pg_depend d
  JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid WHERE p.oid >= 16384
  UNION ALL
  SELECT d.classid, d.objid, p.oid, p.proowner FROM pg_depend d
  JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
  JOIN pg_proc p ON p.oid = o.oprcode WHERE o.oid >= 16384
), called AS (
  SELECT classid, objid, bool_and(proowner = ANY (%(trusted)s::oid[])) AS trusted,
         string_agg(DISTINCT oid::regprocedure::text, ', ') AS functions
  FROM calls GROUP BY classid, objid
), computed AS (
  SELECT format('the index %%s', x.relname) AS what, i.indrelid AS relation, false AS with_rows,
         concat_ws(', ', pg_get_expr(i.indexprs, i.indrelid), pg_get_expr(i.indpred, i.indrelid)) AS expression,
         pg_get_expr(i.indpred, i.indrelid) AS condition, k.trusted, k.functions
  FROM called k JOIN pg_index i ON k.classid = 'pg_class'::regclass AND k.objid = i.indexrelid
  JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
  UNION ALL
  SELECT format('the generated column %%s', a.attname), a.attrelid, true, pg_get_expr(e.adbin, e.adrelid), NULL,
         k.trusted, k.functions
  FROM called k JOIN pg_attrdef e ON k.classid = 'pg_attrdef'::regclass AND k.objid = e.oid
  JOIN pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum AND a.attgenerated <> ''
  UNION ALL
  SELECT format('the constraint %%s', c.conname), c.conrelid, true, pg_get_expr(c.conbin, c.conrelid), NULL,
         k.trusted, k.functions
  FROM called k JOIN pg_constraint c ON k.classid = 'pg_constraint'::regclass AND k.objid = c.oid
  WHERE c.contype = 'c' AND c.conrelid <> 0 AND c.convalidated
  UNION ALL
  SELECT format('the domain %%s, of which the column %%s is,', t.typname, a.attname), a.attrelid, true,
         format('%%I::text::%%s', a.attname, format_type(a.atttypid, NULL)), NULL, k.trusted, k.functions
  FROM called k JOIN pg_constraint c ON k.classid = 'pg_constraint'::regclass AND k.objid = c.oid
  JOIN pg_type t ON t.oid = c.contypid JOIN pg_attribute a ON a.atttypid IN (t.oid, t.typarray)
  WHERE c.contype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT 'the partition key', p.partrelid, true, pg_get_expr(p.partexprs, p.partrelid), NULL, k.trusted, k.functions
  FROM called k JOIN pg_partitioned_table p ON k.classid = 'pg_class'::regclass AND k.objid = p.partrelid
  WHERE p.partexprs IS NOT NULL
)
SELECT e.*, n.nspname::text AS schema, c.relname::text AS name, c.relkind = 'p' AS partitioned,
       e.trusted AND c.relowner = ANY (%(trusted)s::oid[]) AS may_call
FROM computed e JOIN pg_class c ON c.oid = e.relation JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
ORDER BY 8, 9, 1
"""
# REFRESH is a part of a restore.
VIEWS = """
SELECT DISTINCT n.nspname::text AS schema, c.relname::text AS name, rtrim(pg_get_viewdef(c.oid), ';') AS definition,
       c.relowner = ANY (%(trusted)s::oid[]) AND NOT EXISTS (
         SELECT FROM pg_depend o JOIN pg_proc q ON o.refclassid = 'pg_proc'::regclass AND q.oid = o.refobjid
         WHERE (o.classid, o.objid) = (d.classid, d.objid) AND q.proowner <> ALL (%(trusted)s::oid[])) AS may_call
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_rewrite r ON r.ev_class = c.oid
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_proc'::regclass
WHERE c.relkind = 'm' AND c.relispopulated AND d.refobjid >= 16384
ORDER BY 1, 2
"""
# What template0 has (oids below 16384) every copy has.
EXTENSIONS = """
SELECT x.extname::text AS name, a.name IS NOT NULL AS available,
       coalesce(v.superuser AND NOT v.trusted, false) AND NOT r.rolsuper AS forbidden,
       x.extname = 'pg_cron' AS once, r.rolname::text AS role
FROM pg_extension x JOIN pg_roles r ON r.rolname = current_user
LEFT JOIN pg_available_extensions a ON a.name = x.extname
LEFT JOIN pg_available_extension_versions v ON v.name = x.extname AND v.version = a.default_version
WHERE x.oid >= 16384
ORDER BY 1
"""
# Of a table that an extension marks its rows are dumped.
OF_EXTENSIONS = """
SELECT x.extname::text AS extension, n.nspname::text AS schema, c.relname::text AS name
FROM pg_depend d JOIN pg_extension x ON d.refclassid = 'pg_extension'::regclass AND x.oid = d.refobjid
JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE d.deptype = 'e' AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
  AND c.oid <> ALL (coalesce(x.extconfig, '{}'))
ORDER BY 1, 2, 3
"""
# The restoring role creates everything, and then gives it to its owner; what only a superuser can create is missing.
FOREIGN_OBJECTS = """
WITH members AS (
  SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), objects AS (
  SELECT 'pg_class'::regclass AS classid, c.oid, c.relowner AS owner, format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
  UNION ALL SELECT 'pg_proc'::regclass, oid, proowner, oid::regprocedure::text FROM pg_proc
  UNION ALL SELECT 'pg_type'::regclass, oid, typowner, oid::regtype::text FROM pg_type WHERE typtype IN ('e', 'd', 'r')
  UNION ALL SELECT 'pg_namespace'::regclass, oid, nspowner, format('schema %I', nspname) FROM pg_namespace
  WHERE nspname !~ '^pg_'
  UNION ALL SELECT 'pg_foreign_server'::regclass, oid, srvowner, format('server %I', srvname) FROM pg_foreign_server
)
SELECT pg_get_userbyid(o.owner)::text AS owner, count(*)::int AS objects,
       (array_agg(o.name ORDER BY o.name))[1:3] AS some
FROM objects o
WHERE o.oid >= 16384 AND NOT pg_has_role(o.owner, 'MEMBER')
  AND NOT EXISTS (SELECT FROM members m WHERE (m.classid, m.objid) = (o.classid, o.oid))
GROUP BY o.owner ORDER BY 1
"""
OF_SUPERUSERS = """
WITH members AS (
  SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
)
SELECT o.name FROM (
  SELECT 'pg_proc'::regclass AS classid, f.oid, format('function %s', f.oid::regprocedure) AS name
  FROM pg_proc f JOIN pg_language l ON l.oid = f.prolang WHERE NOT l.lanpltrusted
  UNION ALL SELECT 'pg_event_trigger'::regclass, oid, format('event trigger %I', evtname) FROM pg_event_trigger
  UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, format('foreign-data wrapper %I', fdwname)
  FROM pg_foreign_data_wrapper
  UNION ALL SELECT 'pg_publication'::regclass, oid, format('publication %I', pubname) FROM pg_publication
  WHERE puballtables
  UNION ALL SELECT 'pg_type'::regclass, oid, format('base type %s', oid::regtype) FROM pg_type
  WHERE typtype = 'b' AND typelem = 0
) AS o
WHERE o.oid >= 16384 AND NOT EXISTS (SELECT FROM members m WHERE (m.classid, m.objid) = (o.classid, o.oid))
ORDER BY 1
"""
SUPERUSER = "SELECT rolsuper AS superuser, rolname::text AS role FROM pg_roles WHERE rolname = current_user"
QUALIFY = (
    "Write the schemas into the functions that it calls, or set their path (ALTER FUNCTION ... SET search_path = ...), "
    "before the backup is taken."
)


@dataclass
class Obstacles:
    """What would stop a restore, each with what to do; and what could not be checked."""

    found: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    def words(self) -> str:
        """Some of both, in sentences; empty where nothing is in the way."""
        shown = [f"{number}) {text}" for number, text in enumerate(self.found[:SHOWN], start=1)]
        more = len(self.found) - SHOWN
        left = f"And {more} more." if more > 0 else ""
        unseen = f"Not checked: {'; '.join(self.unseen[:SHOWN])}." if self.unseen else ""
        return " ".join(filter(None, [*shown, left, unseen]))


def read_obstacles(cursor: Cursor) -> Obstacles:
    """All that is known to stop a restore of what the cursor's transaction sees, by the role of the session."""
    seen = Obstacles()
    trusted = trusted_roles(cursor, cursor.connection.info.dbname)
    for row in select(cursor, EXPRESSIONS, {"trusted": trusted}):
        what = f"{row['what']} of {row['schema']}.{row['name']}"
        _try(cursor, seen, what, row["functions"], row["may_call"], partial(_computed, cursor, row))
    for row in select(cursor, VIEWS, {"trusted": trusted}):
        what = f"the materialized view {row['schema']}.{row['name']}"
        _try(cursor, seen, what, "functions", row["may_call"], partial(_view, row))
    (role,) = select(cursor, SUPERUSER)
    seen.found += _of_extensions(cursor, seen.unseen)
    seen.found += other_versions(cursor)
    if not role["superuser"]:
        seen.found += _of_others(cursor, role["role"])
    return seen


def _try(
    cursor: Cursor, seen: Obstacles, what: str, functions: str, may_call: bool, text: Callable[[], sql.Composed | None]
) -> None:
    if not may_call:
        seen.unseen.append(f"{what}, which involves a role that is not trusted")
        return
    with giving_back_locks(cursor):
        try:
            cursor.execute(LIMITS)
            if (statement := text()) is not None:
                cursor.execute(statement)
        except psycopg2.Error as error:
            if cursor.connection.closed:
                raise
            if error.pgcode in UNDECIDED:
                seen.unseen.append(f"{what} ({server_reason(error)})")
                return
            seen.found.append(
                f"A restore fails at {what}, which calls {functions}, as its search_path is empty "
                f"({server_reason(error)}). {QUALIFY}"
            )


def _computed(cursor: Cursor, row: Row) -> sql.Composed | None:
    table = sql.SQL("{} {}").format(
        sql.SQL("" if row["partitioned"] else "ONLY"), sql.Identifier(row["schema"], row["name"])
    )
    if row["with_rows"]:
        cursor.execute(sql.SQL("SELECT EXISTS (SELECT FROM {}) AS filled").format(table))
        (found,) = map(dict, cursor.fetchall())
        if not found["filled"]:
            return None
    condition = sql.SQL("WHERE {}").format(sql.SQL(row["condition"])) if row["condition"] else sql.SQL("")
    return sql.SQL("SELECT {} FROM {} {} LIMIT {}").format(
        sql.SQL(row["expression"]), table, condition, sql.Literal(ROWS_TRIED)
    )


def _view(row: Row) -> sql.Composed:
    return sql.SQL("SELECT * FROM ({}) AS refreshed LIMIT {}").format(
        sql.SQL(row["definition"]), sql.Literal(ROWS_TRIED)
    )


def _of_extensions(cursor: Cursor, unseen: list[str]) -> Iterable[str]:
    for row in select(cursor, EXTENSIONS):
        if row["once"]:
            yield (
                f"The extension {row['name']} can be created in one database of a server only, so not in a copy beside "
                "this one. Restore to another server, or keep the extension in a database of its own."
            )
        elif not row["available"]:
            yield f"The server can no longer create the extension {row['name']}. Install its files there again."
        elif row["forbidden"]:
            yield (
                f"The role {row['role']} may not create the extension {row['name']}, which is not trusted. Let a "
                "superuser be db_user, or restore as one."
            )
    for row in select(cursor, OF_EXTENSIONS):
        table = f"{row['schema']}.{row['name']}"
        with giving_back_locks(cursor):
            try:
                cursor.execute(LIMITS)
                statement = sql.SQL("SELECT EXISTS (SELECT FROM {}) AS filled")
                cursor.execute(statement.format(sql.Identifier(row["schema"], row["name"])))
                (found,) = map(dict, cursor.fetchall())
            except psycopg2.Error as error:
                if cursor.connection.closed:
                    raise
                unseen.append(f"the rows of {table} ({server_reason(error)})")
                continue
        if found["filled"]:
            yield (
                f"The table {table} belongs to the extension {row['extension']}, and its rows are in no dump: a copy "
                "has those that the extension makes itself. Let the extension mark the table "
                "(pg_extension_config_dump), or keep your rows in a table of your own."
            )


def _of_others(cursor: Cursor, role: str) -> Iterable[str]:
    for row in select(cursor, FOREIGN_OBJECTS):
        yield (
            f"The role {role} may not give objects to {row['owner']}, who owns {row['objects']} "
            f"({', '.join(row['some'])}). Grant {row['owner']} to {role}, or let a superuser be db_user."
        )
    names: Sequence[str] = [row["name"] for row in select(cursor, OF_SUPERUSERS)]
    if names:
        yield f"Only a superuser can restore {', '.join(names[:SHOWN])}. Let a superuser be db_user, or restore as one."
