"""Objects that prevent tables from being dropped, or are dropped with them: neither theirs nor the release's."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from psycopg2.extensions import cursor as Cursor

from .catalog import quoted, resolved
from .session import Row, select, select_as_declared
from .trusted_roles import trusted_roles

# What belongs to a table goes with it (its indexes, defaults, sequences, partitions, and the keys by which it refers to
# others); what merely uses it does not. What belongs to a column of a table has the column's number.
OWN = """
WITH RECURSIVE own (classid, objid, objsubid, dropped) AS (
  SELECT 'pg_class'::regclass::oid, relation, 0, relation = ANY (%(dropped)s::oid[])
  FROM unnest(%(tables)s::oid[]) AS relation
  UNION
  SELECT 'pg_class'::regclass, a.attrelid, a.attnum, false
  FROM unnest(%(altered)s::oid[], %(names)s::text[]) AS added (relation, part)
  JOIN pg_attribute a ON a.attrelid = added.relation AND a.attname = added.part
  UNION
  SELECT 'pg_constraint'::regclass, c.oid, 0, false
  FROM unnest(%(altered)s::oid[], %(names)s::text[]) AS added (relation, part)
  JOIN pg_constraint c ON c.conrelid = added.relation AND c.conname = added.part
  UNION
  SELECT d.classid, d.objid, d.objsubid, own.dropped
  FROM pg_depend d JOIN own ON (d.refclassid, d.refobjid) = (own.classid, own.objid)
  WHERE d.deptype IN ('a', 'i', 'P', 'S') AND own.objsubid IN (0, d.refobjsubid))
"""
DEPENDENTS = """
SELECT DISTINCT d.classid::bigint AS classid, d.objid::bigint AS objid, d.objsubid,
       coalesce(r.ev_class, 0)::bigint AS view
FROM pg_depend d JOIN own ON (d.refclassid, d.refobjid) = (own.classid, own.objid)
LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
WHERE own.dropped AND d.deptype = 'n'
  AND NOT EXISTS (SELECT FROM own o WHERE (o.classid, o.objid) = (d.classid, d.objid) AND o.objsubid IN (0, d.objsubid))
"""
# As the role writes them, so of all that is the server's the schema is named.
DESCRIBED = """
SELECT DISTINCT CASE WHEN view OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
         THEN pg_catalog.concat('view ', view::pg_catalog.regclass)
         ELSE pg_catalog.pg_describe_object(classid, objid, objsubid) END AS name
FROM ROWS FROM (pg_catalog.unnest(%s::pg_catalog.oid[]), pg_catalog.unnest(%s::pg_catalog.oid[]),
                pg_catalog.unnest(%s::pg_catalog.int4[]), pg_catalog.unnest(%s::pg_catalog.oid[]))
  AS found (classid, objid, objsubid, view)
ORDER BY 1
"""
# What no longer exists afterwards and a function may name: with a table its partitions and its columns' sequences.
GONE = """
SELECT DISTINCT c.relname::text AS name, n.nspname::text AS schema
FROM own JOIN pg_class c ON (own.classid, own.objid) = ('pg_class'::regclass, c.oid)
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE own.dropped AND own.objsubid = 0 AND c.relkind IN ('r', 'p', 'f', 'S')
ORDER BY 1, 2
"""
# No catalog records what the body of a function names. The server's own triggers have functions without a body, and a
# trigger of a partitioned table is named once for all partitions. One of another role's own table is its owner's to
# fix.
TRIGGERS = """
SELECT t.tgname::text AS name, t.tgrelid::bigint AS relation,
       p.proname::text AS function, p.oid::bigint AS procedure, p.prosrc AS body
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_language l ON l.oid = p.prolang
JOIN pg_class c ON c.oid = t.tgrelid
WHERE t.tgenabled <> 'D' AND l.lanname NOT IN ('internal', 'c') AND c.relowner = ANY (%(trusted)s::oid[])
  AND NOT EXISTS (SELECT FROM pg_trigger above WHERE above.oid = t.tgparentid AND above.tgenabled <> 'D')
  AND NOT EXISTS (SELECT FROM own o WHERE (o.classid, o.objid, o.objsubid) = ('pg_class'::regclass, t.tgrelid, 0))
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE (d.classid, d.objid) = ('pg_proc'::regclass, p.oid) AND d.deptype = 'e')
"""
SIGNATURES = """
SELECT relation::pg_catalog.regclass::pg_catalog.text AS of_table,
       procedure::pg_catalog.regprocedure::pg_catalog.text AS signature
FROM ROWS FROM (pg_catalog.unnest(%s::pg_catalog.oid[]), pg_catalog.unnest(%s::pg_catalog.oid[]))
  WITH ORDINALITY AS found (relation, procedure, place)
ORDER BY place
"""
# A name with its qualifier, if it has one: not the %I of format(), nor the $schema of a string in Perl.
QUALIFIED = r"(?:(?<![%$\w])(?P<of>\w[\w$]*)\"?\s*\.\s*\"?)?(?<![\w$]){}(?![\w$])"


def dependents_of(
    cursor: Cursor,
    tables: Collection[str],
    beside: Collection[str] = (),
    altered: Mapping[str, Mapping[str, Any]] | None = None,
    downgrade: str = "",
) -> list[str]:
    """Those of the tables, in words: `view monthly_report`.

    Also each trigger that would write to them, or read them, for a table that stays: afterwards no write to that would
    succeed. beside: tables that are dropped together with them. altered: what other tables lose, as in `tables.altered`
    of a release. downgrade: the text that rolls them back; it handles a trigger that it names, or whose function it
    names.
    """
    added = [
        (quoted(table), name)
        for table, declared in (altered or {}).items()
        for kind in ("columns", "constraints")
        for name in declared.get(kind) or {}
    ]
    names = {*tables, *beside}
    found = dict(zip(names, resolved(cursor, [quoted(table) for table in names]), strict=True))
    given = {
        "dropped": [oid for table in tables if (oid := found[table])],
        "tables": [oid for oid in found.values() if oid],
        "altered": resolved(cursor, [table for table, _ in added]),
        "names": [name for _, name in added],
        "trusted": trusted_roles(cursor, cursor.connection.info.dbname),
    }
    gone = select(cursor, OWN + GONE, given)
    triggers = [
        f"trigger {row['name']} of {row['of_table']} (its function {row['signature']} mentions {' and '.join(named)})"
        for row in _signed(cursor, select(cursor, OWN + TRIGGERS, given))
        if (named := [one["name"] for one in gone if _mentions(row["body"], one["name"], one["schema"])])
        and not any(_mentions(downgrade, row[key]) for key in ("name", "function"))
    ]
    return [*_described(cursor, select(cursor, OWN + DEPENDENTS, given)), *triggers]


def _described(cursor: Cursor, found: Sequence[Row]) -> list[str]:
    columns = ([row[key] for row in found] for key in ("classid", "objid", "objsubid", "view"))
    return [str(row["name"]) for row in select_as_declared(cursor, DESCRIBED, tuple(columns))] if found else []


def _signed(cursor: Cursor, triggers: Sequence[Row]) -> list[Row]:
    asked = tuple([row[key] for row in triggers] for key in ("relation", "procedure"))
    signed = zip(triggers, select_as_declared(cursor, SIGNATURES, asked) if triggers else (), strict=True)
    return sorted((row | texts for row, texts in signed), key=lambda row: (row["name"], row["of_table"]))


def _mentions(text: str, name: str, schema: str = "") -> bool:
    """Whether a text has the name as a separate word; with its schema, not a name in another schema, nor a column."""
    pattern = QUALIFIED.format(re.escape(name.replace('"', '""')))
    return any(
        not (schema and match["of"]) or text[: match.end("of")].lower().endswith(schema.lower())
        for match in re.finditer(pattern, text, re.IGNORECASE)
    )
