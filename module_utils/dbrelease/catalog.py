"""Read back from the server's catalogs what it holds of a table, and which revision it is at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from .database import Login, connect, select, server_reason, transaction
from .errors import ReleaseError
from .proof import Proof
from .structure import Catalog, prove_altered, prove_created, prove_existing, prove_revision

RELATION = """
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass(%s) AND c.relkind IN ('r', 'p')
"""

COLUMNS = """
SELECT attname AS name, format_type(atttypid, atttypmod) AS type, NOT attnotnull AS nullable
FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""

INDEXES = """
SELECT c.relname AS name,
       ARRAY(SELECT coalesce(a.attname::text, pg_get_indexdef(i.indexrelid, k::int, true))
             FROM generate_series(1, i.indnkeyatts) AS k
             LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k - 1] AND a.attnum <> 0
             ORDER BY k) AS columns,
       i.indisunique AS unique, m.amname::text AS method, pg_get_expr(i.indpred, i.indrelid, true) AS "where",
       i.indisvalid AS valid, i.indisready AND i.indislive AS ready,
       EXISTS (SELECT FROM pg_constraint x
               WHERE x.conindid = i.indexrelid AND x.conrelid = i.indrelid AND x.contype IN ('p', 'u', 'x'))
         AS of_constraint
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am m ON m.oid = c.relam
WHERE i.indrelid = %s ORDER BY c.relname
"""

# NOT NULL is a constraint of its own from version 18 on; it is compared with the column. A foreign key to a partitioned
# table has one more below it for each partition, of the same table; what a partition has of its own table has none.
CONSTRAINTS = """
SELECT x.conname AS name,
       CASE x.contype WHEN 'p' THEN 'primary_key' WHEN 'u' THEN 'unique' WHEN 'f' THEN 'foreign_key'
                      WHEN 'c' THEN 'check' WHEN 'x' THEN 'exclusion' ELSE x.contype::text END AS type,
       ARRAY(SELECT a.attname::text FROM unnest(x.conkey) WITH ORDINALITY AS k (attnum, place)
             JOIN pg_attribute a ON a.attrelid = x.conrelid AND a.attnum = k.attnum ORDER BY k.place) AS columns,
       x.convalidated AS validated, x.condeferrable AS deferrable, x.condeferred AS initially_deferred,
       pg_get_constraintdef(x.oid) AS definition, x.confrelid::bigint AS referenced_oid,
       ARRAY(SELECT a.attname::text FROM unnest(x.confkey) WITH ORDINALITY AS k (attnum, place)
             JOIN pg_attribute a ON a.attrelid = x.confrelid AND a.attnum = k.attnum ORDER BY k.place)
         AS referenced_columns,
       n.nspname AS referenced_schema, r.relname AS referenced_name, pg_table_is_visible(r.oid) AS referenced_visible,
       CASE x.confdeltype WHEN 'a' THEN 'no_action' WHEN 'r' THEN 'restrict' WHEN 'c' THEN 'cascade'
                          WHEN 'n' THEN 'set_null' WHEN 'd' THEN 'set_default' END AS on_delete,
       CASE x.confupdtype WHEN 'a' THEN 'no_action' WHEN 'r' THEN 'restrict' WHEN 'c' THEN 'cascade'
                          WHEN 'n' THEN 'set_null' WHEN 'd' THEN 'set_default' END AS on_update,
       CASE x.confmatchtype WHEN 's' THEN 'simple' WHEN 'f' THEN 'full' WHEN 'p' THEN 'partial' END AS match
FROM pg_constraint x
LEFT JOIN pg_class r ON r.oid = x.confrelid
LEFT JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE x.conrelid = %s AND x.contype IN ('p', 'u', 'f', 'c', 'x')
  AND NOT EXISTS (SELECT FROM pg_constraint above WHERE above.oid = x.conparentid AND above.conrelid = x.conrelid)
ORDER BY x.conname
"""

CONSTRAINT_KEYS = ("type", "columns", "validated", "deferrable", "initially_deferred", "definition")
FOREIGN_KEY_KEYS = ("on_delete", "on_update", "match")


def read_back(login: Login, tables: Mapping[str, Any], revision: str, bookkeeping_table: str) -> list[Proof]:
    """The proofs of a release's structure, all of one snapshot."""
    connection = connect(login, "dbrelease structure")
    try:
        with transaction(connection, read_only=True, isolation="REPEATABLE READ") as cursor:
            proofs = [prove_revision(revision, read_revisions(cursor, bookkeeping_table), bookkeeping_table)]
            catalog = cache(partial(read_catalog, cursor))  # an altered table is an existing one, too
            for table, columns in (tables.get("existing") or {}).items():
                proofs.append(prove_existing(table, columns, catalog(table)))
            for table, declared in (tables.get("created") or {}).items():
                proofs.extend(prove_created(table, declared, catalog(table)))
            for table, declared in (tables.get("altered") or {}).items():
                proofs.extend(prove_altered(table, declared, catalog(table)))
            return proofs
    except psycopg2.Error as error:
        raise ReleaseError(
            f"Reading the structure of {login.label} failed ({server_reason(error)}): "
            "let the deploying database user read it, and run again."
        ) from error
    finally:
        connection.close()


def read_revisions(cursor: Cursor, table: str) -> list[str] | None:
    """What the bookkeeping table holds, its only column; None if there is no such table."""
    found = select(cursor, RELATION, (quoted(table),))
    if not found:
        return None
    cursor.execute(
        sql.SQL("SELECT version_num FROM {} ORDER BY 1").format(sql.Identifier(found[0]["schema"], found[0]["name"]))
    )
    return [str(value) for row in cursor.fetchall() for value in dict(row).values()]


def read_catalog(cursor: Cursor, table: str) -> Catalog:
    """A table, found by the search path unless its name is qualified."""
    found = select(cursor, RELATION, (quoted(table),))
    if not found:
        return Catalog(present=False)
    oid = (found[0]["oid"],)
    constraints = {}
    for row in select(cursor, CONSTRAINTS, oid):
        referenced = {
            "table": row["referenced_name"]
            if row["referenced_visible"]
            else f"{row['referenced_schema']}.{row['referenced_name']}",
            "columns": row["referenced_columns"],
        }
        constraints[row["name"]] = {
            **{key: row[key] for key in CONSTRAINT_KEYS},
            **(
                {
                    "references": referenced,
                    "references_schema": row["referenced_schema"],
                    **{key: row[key] for key in FOREIGN_KEY_KEYS},
                }
                if row["referenced_oid"]
                else {}
            ),
        }
    return Catalog(
        columns=_by_name(select(cursor, COLUMNS, oid)),
        indexes=_by_name(select(cursor, INDEXES, oid)),
        constraints=constraints,
    )


def present(cursor: Cursor, tables: Sequence[str]) -> list[str]:
    """Those of the declared names under which there is anything."""
    found = select(
        cursor,
        "SELECT name FROM unnest(%s::text[], %s::text[]) AS t (name, quoted) WHERE to_regclass(quoted) IS NOT NULL",
        (list(tables), [quoted(table) for table in tables]),
    )
    return [str(row["name"]) for row in found]


def quoted(name: str) -> str:
    """A declared name as to_regclass() must get it, so that capitals count; a dot separates schema and table."""
    return ".".join(map(quoted_part, name.split(".")))


def quoted_part(name: str) -> str:
    """A name as it is, in quotes; the driver's quote_ident() spoils what is no ASCII where a session is not UTF-8."""
    return '"' + name.replace('"', '""') + '"'


def identifier(name: str) -> sql.Identifier:
    """A declared name, with its schema if it has one."""
    return sql.Identifier(*name.split(".", 1))


def _by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row.pop("name"): row for row in rows}
