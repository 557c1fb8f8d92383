"""Read the server in short read-only transactions that never wait long for a lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..postgres.blocker_policy import SIGNALS
from ..postgres.catalog import find_table, quoted, resolved, written
from ..postgres.commit_wait import endless_commit
from ..postgres.could_not_run import advised
from ..postgres.invalid_indexes import read_invalid
from ..postgres.kept_log import kept_log
from ..postgres.lock_retry import mask_literals
from ..postgres.restorable import Obstacles, read_obstacles
from ..postgres.revision import database_revisions
from ..postgres.session import Connection, Row, select, select_as_declared, server_reason, transaction
from ..postgres.strangers import read_strangers
from ..postgres.taken_names import read_taken
from ..postgres.trusted_roles import version_table_of
from ..release.requirements import Demands
from .facts import Database, Locks, Rights, Table, Unseen

LIMITS = "SELECT set_config('lock_timeout', '1s', true), set_config('statement_timeout', '20s', true)"

SERVER = """
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::int / 10000 AS major,
       pg_is_in_recovery() AS standby,
       coalesce((SELECT rolsuper FROM pg_roles WHERE rolname = current_user), false) AS superuser,
       (SELECT reset_val = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only') AS read_only,
       coalesce((SELECT setting FROM pg_settings WHERE name = 'data_directory'), '') AS data_directory,
       pg_tablespace_location(coalesce(
         (SELECT oid FROM pg_tablespace WHERE spcname = current_setting('default_tablespace')),
         (SELECT dattablespace FROM pg_database WHERE datname = current_database()))) AS tables_directory
"""

# A dump locks every table and every sequence while it runs, and so does the swap of two databases. The server rounds
# its lock table up; that rest is left to other sessions.
LOCKS = """
SELECT (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
          AND n.nspname <> 'information_schema')::int AS needed,
       (SELECT sum(setting::int) FROM pg_settings
        WHERE name IN ('max_connections', 'autovacuum_max_workers', 'max_worker_processes', 'max_wal_senders',
                       'max_prepared_transactions'))::int
         * current_setting('max_locks_per_transaction')::int AS places,
       current_setting('max_locks_per_transaction')::int AS per_transaction
"""

TABLES = """
SELECT declared.name, c.oid::bigint AS oid, c.relkind::text AS kind,
       ARRAY(SELECT attname::text FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum) AS columns
FROM unnest(%s::text[], %s::oid[]) AS declared (name, relation)
LEFT JOIN pg_class c ON c.oid = declared.relation
"""

EVERY_TABLE = """
SELECT c.oid::bigint AS oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""

# A dump contains no indexes, and is compressed, so it is smaller than the tables.
SIZES = """
SELECT (SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM unnest(%(existing)s::oid[]) AS t (oid))::bigint
         AS existing_bytes,
       (SELECT coalesce(sum(pg_table_size(c.oid)), 0)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = 'pg_catalog.pg_largeobject'::regclass
           OR c.relkind = 'r' AND c.relpersistence <> 't'
          AND n.nspname NOT IN ('pg_catalog', 'information_schema'))::bigint AS dump_bytes
"""

# The functions above wait for a table that is locked exclusively; the counts in the catalog do not.
ESTIMATED_SIZES = """
WITH pages AS (
  SELECT c.oid, c.relpages + coalesce(t.relpages, 0) AS own,
         (SELECT coalesce(sum(i.relpages), 0) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
          WHERE x.indrelid = c.oid) AS indexes
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
  WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema'))
SELECT coalesce(sum(own + indexes) FILTER (WHERE oid = ANY (%(existing)s::oid[])), 0)::bigint
         * current_setting('block_size')::int AS existing_bytes,
       coalesce(sum(own), 0)::bigint * current_setting('block_size')::int AS dump_bytes
FROM pages
"""

PREPARED = """
SELECT gid, owner::text AS "user", to_char(prepared AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS since
FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared
"""

RIGHTS = """
SELECT me.rolname::text AS "user", me.rolsuper AS superuser, me.rolcreatedb AS creates_databases,
       (SELECT datdba = me.oid FROM pg_database WHERE datname = current_database()) AS owns_database
FROM pg_roles me WHERE me.rolname = current_user
"""
# Alembic makes its table with this one column, whatever it is called.
VERSION_TABLES = """
SELECT n.nspname::text AS schema, c.relname::text AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
      = ARRAY['version_num']
ORDER BY 1, 2 LIMIT 5
"""
OWNERS = """
SELECT declared.name, pg_get_userbyid(c.relowner)::text AS owner, pg_has_role(c.relowner, 'USAGE') AS may_act,
       has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid, 'SELECT') AS may_read
FROM unnest(%s::text[], %s::oid[]) AS declared (name, oid)
JOIN pg_class c ON c.oid = declared.oid AND c.relkind IN ('r', 'p')
ORDER BY declared.name
"""

# The baseline and the backup read every table and sequence, not only those of the release.
UNDUMPED = """
SELECT format('%%I.%%I', n.nspname, c.relname) AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%%'
  AND c.oid <> ALL (ARRAY(SELECT declared.oid FROM unnest(%s::oid[]) AS declared (oid) WHERE declared.oid IS NOT NULL))
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  AND NOT (has_schema_privilege(n.oid, 'USAGE') AND CASE c.relkind
    WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT')
    ELSE has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid, 'SELECT') END)
ORDER BY 1 LIMIT 20
"""
# The rights of a migration: to create in the schemas, alter tables, reference tables, and write the revision.
MISSING_RIGHTS = """
SELECT 'create tables in the schema ' || n.nspname AS lacks
FROM unnest(%(schemas)s::text[]) AS made (name) JOIN pg_namespace n ON n.nspname = made.name
WHERE NOT has_schema_privilege(%(role)s, n.oid, 'CREATE')
UNION ALL
SELECT 'alter ' || declared.name || ', which ' || pg_get_userbyid(c.relowner) || ' owns'
FROM unnest(%(altered)s::text[], %(altered_oids)s::oid[]) AS declared (name, oid) JOIN pg_class c USING (oid)
WHERE NOT pg_has_role(%(role)s, c.relowner, 'USAGE')
UNION ALL
SELECT 'reference ' || declared.name
FROM unnest(%(referenced)s::text[], %(referenced_oids)s::oid[]) AS declared (name, oid) JOIN pg_class c USING (oid)
WHERE NOT has_table_privilege(%(role)s, c.oid, 'REFERENCES')
UNION ALL
SELECT 'write ' || %(version_table)s FROM pg_class c
WHERE c.oid = %(version_oid)s::oid AND NOT has_table_privilege(%(role)s, c.oid, 'UPDATE')
"""
MADE_IN = "SELECT pg_catalog.current_schema()::pg_catalog.text AS name"

# An unprivileged role sees neither the age nor the kind of another role's session: it is counted, not judged.
TRANSACTIONS = """
SELECT a.pid, a.usename::text AS "user", a.application_name AS application, a.state,
       to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS since,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float AS age_s, a.query,
       array_agg(DISTINCT l.relation::bigint) AS tables
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'relation' AND l.relation = ANY (%(oids)s::oid[])
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND a.pid <> pg_backend_pid()
  AND coalesce(a.backend_type, 'client backend') = 'client backend'
GROUP BY 1, 2, 3, 4, 5, 6, 7
ORDER BY age_s DESC NULLS LAST, a.pid
"""

# A role without pg_monitor sees of a server process only that it has a database and no user; its query is hidden.
VACUUMS = """
SELECT a.pid, format('%%I.%%I', n.nspname, c.relname) AS "table",
       to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS since,
       coalesce(a.query LIKE '%%(to prevent wraparound)', false) AS wraparound,
       (100 * p.heap_blks_scanned / nullif(p.heap_blks_total, 0))::int AS percent
FROM pg_locks l
JOIN pg_stat_activity a ON a.pid = l.pid
JOIN pg_class c ON c.oid = l.relation
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_progress_vacuum p ON p.pid = a.pid AND p.relid = c.oid
WHERE l.relation = ANY (%s::oid[]) AND l.granted AND l.mode = 'ShareUpdateExclusiveLock'
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND a.usesysid IS NULL AND coalesce(a.backend_type, 'autovacuum worker') = 'autovacuum worker'
ORDER BY 2
"""
INDEXES_THERE = """
SELECT DISTINCT c.relname::text AS name FROM unnest(%s::oid[], %s::text[]) AS wanted (relation, name)
JOIN pg_index i ON i.indrelid = wanted.relation JOIN pg_class c ON c.oid = i.indexrelid AND c.relname = wanted.name
ORDER BY 1
"""
# For every role, for db_user, and for the owner of Alembic's table, which usually is the backend's role.
SETTINGS = """
SELECT split_part(one, '=', 1) AS name, substr(one, strpos(one, '=') + 1) AS value,
       concat_ws(' in ', coalesce('the role ' || r.rolname, 'every role'), 'the database ' || d.datname) AS whom
FROM pg_db_role_setting s
LEFT JOIN pg_roles r ON r.oid = s.setrole
LEFT JOIN pg_database d ON d.oid = s.setdatabase
CROSS JOIN LATERAL unnest(s.setconfig) AS one
WHERE (s.setdatabase = 0 OR d.datname = current_database())
  AND (s.setrole = 0 OR r.rolname = current_user OR s.setrole = (SELECT relowner FROM pg_class WHERE oid = %(table)s))
ORDER BY 1, 3
"""
# Of a role that is connected although its password has expired, the server asks for none. One day is enough for a
# release, its watch, and a way back.
EXPIRING = """
SELECT r.rolname::text AS role, to_char(r.rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS until
FROM pg_roles r
WHERE r.rolvaliduntil > now() AND r.rolvaliduntil < now() + interval '1 day'
  AND (r.rolname = session_user OR r.oid = (SELECT relowner FROM pg_class WHERE oid = %(table)s))
ORDER BY 1
"""
RESOURCES = """
SELECT max(setting::bigint) FILTER (WHERE name = 'work_mem') AS work_mem_kb,
       max(setting::bigint) FILTER (WHERE name = 'temp_file_limit') AS temp_file_limit_kb
FROM pg_settings WHERE name IN ('work_mem', 'temp_file_limit')
"""

Value = TypeVar("Value")


def read_database(connection: Connection, demands: Demands) -> Database:
    """Read everything that the rules need of the server; raises ReleaseError where reading fails."""
    try:
        (server,) = _read(connection, lambda cursor: select(cursor, SERVER))
        tables = _read(connection, lambda cursor: read_tables(cursor, demands))
        revisions = _read(connection, _revisions)
        existing = [
            table.oid
            for name in dict.fromkeys([*demands.existing, *demands.changed])
            if (table := tables[name]) and table.is_table
        ]
        oids = [table.oid for table in tables.values() if table]
        if not demands.existing:  # the migration may lock any
            existing = [row["oid"] for row in _read(connection, lambda cursor: select(cursor, EVERY_TABLE))]
            oids = [*dict.fromkeys([*oids, *existing])]
        (sizes,) = _sizes(connection, {"existing": existing})
        planted, open_schemas = _read(connection, read_strangers)
        sessions = _read(connection, lambda cursor: _sessions(cursor, oids))
        return Database(
            **server,
            tables=tables,
            revisions=revisions,
            created_rows={name: _count(connection, name) for name in demands.created if tables[name]},
            **sizes,
            taken=_read(connection, lambda cursor: read_taken(cursor, demands.needed)),
            prepared=_read(connection, lambda cursor: select(cursor, PREPARED)),
            old_transactions=old_transactions(sessions, demands.age_limit_s),
            hidden=sum(session["age_s"] is None for session in sessions),
            rights=_read(connection, lambda cursor: read_rights(cursor, demands)),
            version_tables=() if revisions else _read(connection, _version_tables),
            planted=planted,
            vacuums=_read(connection, lambda cursor: select(cursor, VACUUMS, (existing,))),
            invalid_indexes=_read(connection, lambda cursor: read_invalid(cursor, oids)),
            early_indexes=_read(connection, lambda cursor: _early_indexes(cursor, demands, tables)),
            settings=_read(connection, lambda cursor: select(cursor, SETTINGS, {"table": _bookkeeping(cursor)})),
            expiring=_read(connection, lambda cursor: select(cursor, EXPIRING, {"table": _bookkeeping(cursor)})),
            resources=_read(connection, lambda cursor: select(cursor, RESOURCES)[0]),
            signals=_read(connection, lambda cursor: select(cursor, SIGNALS)[0]),
            open_schemas=open_schemas,
            obstacles=_obstacles(connection),
            locks=Locks(**_read(connection, lambda cursor: select(cursor, LOCKS))[0]),
            endless_commit=_read(connection, endless_commit),
            kept_log=_read(connection, kept_log),
        )
    except psycopg2.Error as error:
        advice = advised(error, "check that db_user may connect and read, and check the server's log.")
        raise ReleaseError(f"Reading the catalog of the database failed ({server_reason(error)}): {advice}") from error


def _obstacles(connection: Connection) -> Obstacles:
    """Read what may obstruct a restore; a failure is reported as unknown, and stops nothing."""
    try:
        return _read(connection, read_obstacles)
    except psycopg2.Error as error:
        if connection.closed:
            raise
        return Obstacles(unseen=[f"what a restore computes ({server_reason(error)})"])


def read_tables(cursor: Cursor, demands: Demands) -> Mapping[str, Table | None]:
    """Read which relation has each declared name."""
    names = [*dict.fromkeys([*demands.existing, *demands.changed, *demands.created])]
    return {
        row["name"]: Table(row["kind"], tuple(row["columns"]), row["oid"]) if row["oid"] else None
        for row in select(cursor, TABLES, (names, resolved(cursor, [*map(quoted, names)])))
    }


def read_rights(cursor: Cursor, demands: Demands) -> Rights:
    """Read what db_user may do with the database and with the declared tables."""
    (role,) = select(cursor, RIGHTS)
    if role["superuser"]:
        return Rights(role["user"])
    version_table = version_table_of(cursor)
    names = [*dict.fromkeys([*demands.existing, *demands.changed]), version_table]
    rows = select(cursor, OWNERS, (names, resolved(cursor, [*map(quoted, names)])))
    strange = [row for row in rows if not row["may_act"]]
    return Rights(
        **role,
        unreadable=(
            *(row["name"] for row in rows if not row["may_read"]),
            *(row["name"] for row in select(cursor, UNDUMPED, (resolved(cursor, [*map(quoted, names)]),))),
        ),
        strangers={
            owner: tuple(row["name"] for row in strange if row["owner"] == owner)
            for owner in dict.fromkeys(row["owner"] for row in strange)
        },
        owner=next((row["owner"] for row in rows if row["name"] == version_table and row["may_act"]), ""),
    )


def read_missing_rights(connection: Connection, demands: Demands, role: str) -> tuple[str, ...]:
    """Read which rights for the release's migration a role lacks."""

    def read(cursor: Cursor) -> list[Row]:
        (made_in,) = select_as_declared(cursor, MADE_IN)
        schemas = {name.split(".", 1)[0] if "." in name else made_in["name"] for name in demands.created}
        altered = [*dict.fromkeys([*demands.altered, *demands.changed])]
        lists = {"altered": altered, "referenced": list(demands.referenced)}
        oids = {f"{key}_oids": resolved(cursor, [*map(quoted, names)]) for key, names in lists.items()}
        (version_oid,) = resolved(cursor, [quoted(demands.version_table)])
        asked = {"schemas": sorted(filter(None, schemas)), "role": role, "version_table": demands.version_table}
        return select(cursor, MISSING_RIGHTS, {**asked, **lists, **oids, "version_oid": version_oid})

    try:
        return tuple(str(row["lacks"]) for row in _read(connection, read))
    except psycopg2.Error as error:
        raise ReleaseError(f"Reading the rights of {role} failed ({server_reason(error)}).") from error


def _sessions(cursor: Cursor, oids: Sequence[int]) -> list[Row]:
    found = select(cursor, TRANSACTIONS, {"oids": list(oids)})
    known = written(cursor, {oid for row in found for oid in row["tables"]})
    return [{**row, "tables": sorted(known[oid] for oid in row["tables"])} for row in found]


def old_transactions(sessions: Sequence[Row], limit_s: int) -> list[Row]:
    """The transactions older than the limit, with the literals in their queries masked."""
    return [
        {**session, "age_s": round(session["age_s"]), "query": mask_literals(session["query"] or "")}
        for session in sessions
        if session["age_s"] is not None and session["age_s"] > limit_s
    ]


def _read(connection: Connection, read: Callable[[Cursor], Value]) -> Value:
    """Run one query in its own short read-only transaction, so that no lock is kept for the next."""
    with transaction(connection, read_only=True) as cursor:
        cursor.execute(LIMITS)
        return read(cursor)


def _early_indexes(cursor: Cursor, demands: Demands, tables: Mapping[str, Table | None]) -> list[str]:
    pairs = [
        (table.oid, index)
        for name, indexes in demands.added_indexes.items()
        if (table := tables.get(name)) is not None
        for index in indexes
    ]
    found = select(cursor, INDEXES_THERE, ([oid for oid, _ in pairs], [index for _, index in pairs]))
    return [row["name"] for row in found]


def _bookkeeping(cursor: Cursor) -> int | None:
    return resolved(cursor, [quoted(version_table_of(cursor))])[0]


def _revisions(cursor: Cursor) -> list[str] | Unseen:
    try:
        return database_revisions(cursor)
    except ReleaseError as error:
        return Unseen(error.message)


def _version_tables(cursor: Cursor) -> tuple[str, ...]:
    return tuple(f"{row['schema']}.{row['name']}" for row in select(cursor, VERSION_TABLES))


def _sizes(connection: Connection, parameters: Mapping[str, list[int]]) -> list[Row]:
    try:
        return _read(connection, lambda cursor: select(cursor, SIZES, parameters))
    except psycopg2.errors.LockNotAvailable:
        return _read(connection, lambda cursor: select(cursor, ESTIMATED_SIZES, parameters))


def _count(connection: Connection, name: str) -> int | None:
    """Count the rows of a table; None where that fails or takes too long."""
    try:
        with transaction(connection, read_only=True) as cursor:
            cursor.execute(LIMITS)
            cursor.execute("SET LOCAL statement_timeout = '2s'")
            # A view would run its creator's code; with our own settings the server refuses one that replaces a table.
            if not (found := find_table(cursor, name)):
                return None
            counted = sql.SQL("SELECT count(*) AS rows FROM {}").format(sql.Identifier(found["schema"], found["name"]))
            return int(select(cursor, counted.as_string(cursor))[0]["rows"])
    except psycopg2.Error:
        return None
