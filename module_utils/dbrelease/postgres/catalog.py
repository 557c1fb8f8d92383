"""Read from the server's catalogs what a table consists of, and which revision the database is at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..core.proof import Proof
from .could_not_run import advised
from .session import Login, Row, connect, select, select_as_declared, server_reason, transaction
from .structure import (
    Catalog,
    prove_altered,
    prove_changed,
    prove_created,
    prove_dropped,
    prove_existing,
    prove_revision,
)

# As the role finds them, and as it writes them: of these texts each names the schema of all that is the server's.
RESOLVED = """
SELECT pg_catalog.to_regclass(name)::pg_catalog.oid::pg_catalog.int8 AS oid
FROM pg_catalog.unnest(%s::pg_catalog.text[]) WITH ORDINALITY AS wanted (name, place) ORDER BY place
"""
WRITTEN = """
SELECT oid::pg_catalog.int8 AS oid, oid::pg_catalog.regclass::pg_catalog.text AS name
FROM pg_catalog.unnest(%s::pg_catalog.oid[]) AS wanted (oid)
"""
WRITTEN_TYPES = """
SELECT pg_catalog.format_type(type, modifier) AS type
FROM ROWS FROM (pg_catalog.unnest(%s::pg_catalog.oid[]), pg_catalog.unnest(%s::pg_catalog.int4[]))
  WITH ORDINALITY AS wanted (type, modifier, place)
ORDER BY place
"""
WRITTEN_INDEXES = """
SELECT indexrelid::pg_catalog.int8 AS oid, pg_catalog.pg_get_expr(indpred, indrelid, true) AS "where",
       ARRAY(SELECT pg_catalog.pg_get_indexdef(indexrelid, place, true)
             FROM pg_catalog.generate_series(1, indnkeyatts::pg_catalog.int4) AS place) AS columns
FROM pg_catalog.pg_index WHERE indexrelid OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.oid[])
"""
WRITTEN_CONSTRAINTS = """
SELECT oid::pg_catalog.int8 AS oid, pg_catalog.pg_get_constraintdef(oid) AS definition,
       pg_catalog.pg_table_is_visible(confrelid) AS referenced_visible
FROM pg_catalog.pg_constraint WHERE oid OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.oid[])
"""

RELATION = """
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %s
"""

# Of a domain that of its base; what has no operator class of its own is compared as text, an array, an enum, and so on.
EQUAL = """
SELECT a.attname::text AS name,
       (SELECT format('%%I.%%s', o.oprnamespace::regnamespace, o.oprname)
        FROM pg_opclass c
        JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
        JOIN pg_amop e ON e.amopfamily = c.opcfamily AND e.amopstrategy = 3
         AND e.amoplefttype = c.opcintype AND e.amoprighttype = c.opcintype
        JOIN pg_operator o ON o.oid = e.amopopr
        WHERE c.opcdefault AND c.opcintype = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END) AS operator
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s AND a.attname = ANY(%s::text[])
"""

COLUMNS = """
SELECT attname AS name, atttypid::bigint AS type, atttypmod AS modifier, NOT attnotnull AS nullable
FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""

INDEXES = """
SELECT c.relname AS name, i.indexrelid::bigint AS oid,
       ARRAY(SELECT a.attname::text
             FROM generate_series(1, i.indnkeyatts) AS k
             LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k - 1] AND a.attnum <> 0
             ORDER BY k) AS columns,
       i.indisunique AS unique, m.amname::text AS method, NULL AS "where",
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
# table has a further one for each partition, of the same table; a constraint inherited by a partition has none.
CONSTRAINTS = """
SELECT x.conname AS name, x.oid::bigint AS oid,
       CASE x.contype WHEN 'p' THEN 'primary_key' WHEN 'u' THEN 'unique' WHEN 'f' THEN 'foreign_key'
                      WHEN 'c' THEN 'check' WHEN 'x' THEN 'exclusion' ELSE x.contype::text END AS type,
       ARRAY(SELECT a.attname::text FROM unnest(x.conkey) WITH ORDINALITY AS k (attnum, place)
             JOIN pg_attribute a ON a.attrelid = x.conrelid AND a.attnum = k.attnum ORDER BY k.place) AS columns,
       x.convalidated AS validated, x.condeferrable AS deferrable, x.condeferred AS initially_deferred,
       x.confrelid::bigint AS referenced_oid,
       ARRAY(SELECT a.attname::text FROM unnest(x.confkey) WITH ORDINALITY AS k (attnum, place)
             JOIN pg_attribute a ON a.attrelid = x.confrelid AND a.attnum = k.attnum ORDER BY k.place)
         AS referenced_columns,
       n.nspname AS referenced_schema, r.relname AS referenced_name,
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
            for table, declared in (tables.get("changed") or {}).items():
                proofs.extend(prove_changed(table, declared, catalog(table)))
            proofs.extend(prove_dropped(table, catalog(table)) for table in tables.get("dropped") or {})
            return proofs
    except psycopg2.Error as error:
        raise ReleaseError(
            f"Reading the structure of {login.label} failed ({server_reason(error)}): "
            f"{advised(error, 'let the deploying database user read it, and rerun the playbook.')}"
        ) from error
    finally:
        connection.close()


def resolved(cursor: Cursor, names: Sequence[str]) -> list[int | None]:
    """What the role finds under each of the names, which are as to_regclass() must get them; None where nothing is."""
    return [row["oid"] for row in select_as_declared(cursor, RESOLVED, (list(names),))] if names else []


def written(cursor: Cursor, oids: Iterable[int]) -> dict[int, str]:
    """The name of each relation as the role writes it: with the schema only where it would not be found without."""
    return {row["oid"]: row["name"] for row in select_as_declared(cursor, WRITTEN, (list(oids),))}


def find_relation(cursor: Cursor, name: str) -> Row | None:
    """What the role finds under a name as to_regclass() must get it: oid, schema, name, and kind as in pg_class."""
    (oid,) = resolved(cursor, [name])
    found = select(cursor, RELATION, (oid,)) if oid is not None else []
    return found[0] if found else None


def find_table(cursor: Cursor, name: str) -> Row | None:
    """The same for a declared name, if it names a table."""
    found = find_relation(cursor, quoted(name))
    return found if found and found["kind"] in ("r", "p") else None


def equal_operators(cursor: Cursor, relation: int, columns: Sequence[str]) -> dict[str, sql.SQL]:
    """For each column what compares its values as an index does; by the name alone, another one may be found."""
    found = {row["name"]: row["operator"] for row in select(cursor, EQUAL, (relation, list(columns)))}
    return {column: sql.SQL(f"OPERATOR({found.get(column) or 'pg_catalog.='})") for column in columns}


def read_revisions(cursor: Cursor, table: str) -> list[str] | None:
    """The rows of the bookkeeping table's only column; None if there is no such table."""
    found = find_table(cursor, table)
    if not found:
        return None
    cursor.execute(
        sql.SQL("SELECT version_num FROM {} ORDER BY 1").format(sql.Identifier(found["schema"], found["name"]))
    )
    return [str(value) for row in cursor.fetchall() for value in dict(row).values()]


def read_catalog(cursor: Cursor, table: str) -> Catalog:
    """A table, found by the search path unless its name is qualified."""
    found = find_table(cursor, table)
    if not found:
        return Catalog(present=False)
    oid = (found["oid"],)
    rows = select(cursor, CONSTRAINTS, oid)
    as_written = _as_written(cursor, WRITTEN_CONSTRAINTS, rows)
    constraints = {}
    for row in (row | as_written[row["oid"]] for row in rows if row["oid"] in as_written):
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
    return Catalog(columns=_columns(cursor, oid), indexes=_indexes(cursor, oid), constraints=constraints)


def _columns(cursor: Cursor, oid: tuple[int]) -> dict[str, Row]:
    rows = select(cursor, COLUMNS, oid)
    asked = ([row["type"] for row in rows], [row.pop("modifier") for row in rows])
    types = select_as_declared(cursor, WRITTEN_TYPES, asked)
    return _by_name([row | kind for row, kind in zip(rows, types, strict=True)])


def _indexes(cursor: Cursor, oid: tuple[int]) -> dict[str, Row]:
    rows = select(cursor, INDEXES, oid)
    as_written = _as_written(cursor, WRITTEN_INDEXES, rows)
    found = []
    for row in rows:
        if (texts := as_written.get(row.pop("oid"))) is not None:
            columns = [name or text for name, text in zip(row["columns"], texts["columns"], strict=True)]
            found.append({**row, "columns": columns, "where": texts["where"]})
    return _by_name(found)


def _as_written(cursor: Cursor, statement: str, rows: Sequence[Row]) -> dict[int, Row]:
    """How the role would write each of them; one that was dropped meanwhile is omitted."""
    found = select_as_declared(cursor, statement, ([row["oid"] for row in rows],)) if rows else []
    return {row["oid"]: row for row in found}


def present(cursor: Cursor, tables: Sequence[str]) -> list[str]:
    """Those of the declared names under which there is anything."""
    oids = resolved(cursor, [quoted(table) for table in tables])
    return [table for table, oid in zip(tables, oids, strict=True) if oid is not None]


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
