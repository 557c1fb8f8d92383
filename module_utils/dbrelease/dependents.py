"""What would keep a table from being dropped, or go with it: objects that are not its own."""

from __future__ import annotations

from psycopg2.extensions import cursor as Cursor

from .database import select

# What belongs to the table goes with it (its indexes, defaults, sequences, partitions); what merely uses it does not.
DEPENDENTS = """
WITH RECURSIVE own (classid, objid) AS (
  SELECT 'pg_class'::regclass::oid, %s::oid
  UNION
  SELECT d.classid, d.objid FROM pg_depend d JOIN own ON (d.refclassid, d.refobjid) = (own.classid, own.objid)
  WHERE d.deptype IN ('a', 'i', 'P', 'S'))
SELECT DISTINCT coalesce('view ' || r.ev_class::regclass, pg_describe_object(d.classid, d.objid, d.objsubid)) AS name
FROM pg_depend d JOIN own ON (d.refclassid, d.refobjid) = (own.classid, own.objid)
LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
WHERE d.deptype = 'n' AND NOT EXISTS (SELECT FROM own o WHERE (o.classid, o.objid) = (d.classid, d.objid))
  AND (r.ev_class IS NULL OR r.ev_class <> %s)
ORDER BY 1
"""


def dependents_of(cursor: Cursor, oid: int) -> list[str]:
    """In words: `view monthly_report`."""
    return [str(row["name"]) for row in select(cursor, DEPENDENTS, (oid, oid))]
