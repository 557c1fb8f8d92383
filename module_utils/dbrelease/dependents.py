"""What would keep tables from being dropped, or go with them: objects that are neither theirs nor the release's."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from psycopg2.extensions import cursor as Cursor

from .catalog import quoted
from .database import select

# What belongs to a table goes with it (its indexes, defaults, sequences, partitions, and the keys by which it refers to
# others); what merely uses it does not. What belongs to a column of a table has the column's number.
OWN = """
WITH RECURSIVE own (classid, objid, objsubid, dropped) AS (
  SELECT 'pg_class'::regclass::oid, to_regclass(name)::oid, 0, name = ANY (%(dropped)s::text[])
  FROM unnest(%(tables)s::text[]) AS name
  UNION
  SELECT 'pg_class'::regclass, a.attrelid, a.attnum, false
  FROM unnest(%(altered)s::text[], %(names)s::text[]) AS added (name, part)
  JOIN pg_attribute a ON a.attrelid = to_regclass(added.name) AND a.attname = added.part
  UNION
  SELECT 'pg_constraint'::regclass, c.oid, 0, false
  FROM unnest(%(altered)s::text[], %(names)s::text[]) AS added (name, part)
  JOIN pg_constraint c ON c.conrelid = to_regclass(added.name) AND c.conname = added.part
  UNION
  SELECT d.classid, d.objid, d.objsubid, own.dropped
  FROM pg_depend d JOIN own ON (d.refclassid, d.refobjid) = (own.classid, own.objid)
  WHERE d.deptype IN ('a', 'i', 'P', 'S') AND own.objsubid IN (0, d.refobjsubid))
"""
DEPENDENTS = """
SELECT DISTINCT coalesce('view ' || r.ev_class::regclass, pg_describe_object(d.classid, d.objid, d.objsubid)) AS name
FROM pg_depend d JOIN own ON (d.refclassid, d.refobjid) = (own.classid, own.objid)
LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
WHERE own.dropped AND d.deptype = 'n'
  AND NOT EXISTS (SELECT FROM own o WHERE (o.classid, o.objid) = (d.classid, d.objid) AND o.objsubid IN (0, d.objsubid))
ORDER BY 1
"""
# What is gone afterwards and a function may name: with a table its partitions and the sequences of its columns.
GONE = """
SELECT DISTINCT c.relname::text AS name, n.nspname::text AS schema
FROM own JOIN pg_class c ON (own.classid, own.objid) = ('pg_class'::regclass, c.oid)
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE own.dropped AND own.objsubid = 0 AND c.relkind IN ('r', 'p', 'f', 'S')
ORDER BY 1, 2
"""
# No catalog knows what the body of a function names. The server's own triggers have functions without a body, and what
# the partitions have of a trigger is told once, with it.
TRIGGERS = """
SELECT t.tgname::text AS name, t.tgrelid::regclass::text AS of_table,
       p.proname::text AS function, p.oid::regprocedure::text AS signature, p.prosrc AS body
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_language l ON l.oid = p.prolang
WHERE t.tgenabled <> 'D' AND l.lanname NOT IN ('internal', 'c')
  AND NOT EXISTS (SELECT FROM pg_trigger above WHERE above.oid = t.tgparentid AND above.tgenabled <> 'D')
  AND NOT EXISTS (SELECT FROM own o WHERE (o.classid, o.objid, o.objsubid) = ('pg_class'::regclass, t.tgrelid, 0))
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE (d.classid, d.objid) = ('pg_proc'::regclass, p.oid) AND d.deptype = 'e')
ORDER BY 1, 2
"""
# A name with what qualifies it, if anything does: not the %I of format(), nor the $schema of a string in Perl.
QUALIFIED = r"(?:(?<![%$\w])(?P<of>\w[\w$]*)\"?\s*\.\s*\"?)?(?<![\w$]){}(?![\w$])"


def dependents_of(
    cursor: Cursor,
    tables: Collection[str],
    beside: Collection[str] = (),
    altered: Mapping[str, Mapping[str, Any]] | None = None,
    downgrade: str = "",
) -> list[str]:
    """Those of the tables, in words: `view monthly_report`.

    Also each trigger that would write to them, or read them, for a table that stays: after that no write to it would
    succeed. beside: tables that go together with them. altered: what goes from others, as in `tables.altered` of a
    release. downgrade: the text that takes them back; a trigger that it names, or whose function, it deals with.
    """
    added = [
        (quoted(table), name)
        for table, declared in (altered or {}).items()
        for kind in ("columns", "constraints")
        for name in declared.get(kind) or {}
    ]
    given = {
        "dropped": [quoted(table) for table in tables],
        "tables": [quoted(table) for table in {*tables, *beside}],
        "altered": [table for table, _ in added],
        "names": [name for _, name in added],
    }
    gone = select(cursor, OWN + GONE, given)
    triggers = [
        f"trigger {row['name']} of {row['of_table']} (its function {row['signature']} mentions {' and '.join(names)})"
        for row in select(cursor, OWN + TRIGGERS, given)
        if (names := [one["name"] for one in gone if _mentions(row["body"], one["name"], one["schema"])])
        and not any(_mentions(downgrade, row[key]) for key in ("name", "function"))
    ]
    return [*(str(row["name"]) for row in select(cursor, OWN + DEPENDENTS, given)), *triggers]


def _mentions(text: str, name: str, schema: str = "") -> bool:
    """Whether a text has the name as a word of its own; with its schema, not what is in another one, nor a column."""
    pattern = QUALIFIED.format(re.escape(name.replace('"', '""')))
    return any(
        not (schema and match["of"]) or text[: match.end("of")].lower().endswith(schema.lower())
        for match in re.finditer(pattern, text, re.IGNORECASE)
    )
