"""What would keep tables from being dropped, or go with them: objects that are neither theirs nor the release's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from psycopg2.extensions import cursor as Cursor

from .catalog import quoted
from .database import select

# What belongs to a table goes with it (its indexes, defaults, sequences, partitions, and the keys by which it refers to
# others); what merely uses it does not. What belongs to a column of a table has the column's number.
DEPENDENTS = """
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
SELECT DISTINCT coalesce('view ' || r.ev_class::regclass, pg_describe_object(d.classid, d.objid, d.objsubid)) AS name
FROM pg_depend d JOIN own ON (d.refclassid, d.refobjid) = (own.classid, own.objid)
LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
WHERE own.dropped AND d.deptype = 'n'
  AND NOT EXISTS (SELECT FROM own o WHERE (o.classid, o.objid) = (d.classid, d.objid) AND o.objsubid IN (0, d.objsubid))
ORDER BY 1
"""


def dependents_of(
    cursor: Cursor,
    tables: Collection[str],
    beside: Collection[str] = (),
    altered: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[str]:
    """Those of the tables, in words: `view monthly_report`.

    beside: tables that go together with them. altered: what goes from others, as in `tables.altered` of a release.
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
    return [str(row["name"]) for row in select(cursor, DEPENDENTS, given)]
