"""Tables that are partitioned by a hash which another database computes otherwise: their rows move among partitions.

The hash of an enum's value, or of a regclass, is that of an oid, which a restored database has otherwise. Such a table
is compared as a whole.
"""

from __future__ import annotations

from collections import defaultdict

from psycopg2.extensions import cursor as Cursor

from .session import select

# Most databases have none, and are asked no more.
ANY_HASHED = "SELECT EXISTS (SELECT FROM pg_partitioned_table WHERE partstrat = 'h') AS found"
# A type that contains such a type, however deeply nested, has such a hash, too. The type of an expression is not in the
# catalog: it counts as one where the operator class accepts several. In a foreign table nothing is read.
SCATTERED = """
WITH RECURSIVE edges (part, whole) AS (
  SELECT typbasetype, oid FROM pg_type WHERE typbasetype <> 0
  UNION ALL SELECT typelem, oid FROM pg_type WHERE typelem <> 0
  UNION ALL SELECT rngsubtype, rngtypid FROM pg_range
  UNION ALL SELECT rngtypid, (to_jsonb(r) ->> 'rngmultitypid')::oid FROM pg_range r
  UNION ALL SELECT a.atttypid, c.reltype FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  WHERE c.reltype <> 0 AND a.attnum > 0 AND NOT a.attisdropped
), moving (oid) AS (
  SELECT oid FROM pg_type WHERE typtype = 'e' OR (typnamespace = 'pg_catalog'::regnamespace AND typname ~ '^reg')
  UNION SELECT e.whole FROM moving m JOIN edges e ON e.part = m.oid
), hashed (oid) AS (
  SELECT p.partrelid FROM pg_partitioned_table p WHERE p.partstrat = 'h' AND EXISTS (
    SELECT FROM unnest(p.partattrs::int2[], p.partclass::oid[]) AS k (attnum, opclass)
    JOIN pg_opclass o ON o.oid = k.opclass
    LEFT JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.attnum AND k.attnum <> 0
    WHERE a.atttypid IN (SELECT oid FROM moving)
       OR a.attnum IS NULL AND o.opcintype IN (SELECT oid FROM pg_type WHERE typtype = 'p'))
), below (top, oid) AS (
  SELECT oid, oid FROM hashed
  UNION ALL SELECT b.top, i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.oid
)
SELECT b.top::bigint AS top, c.oid::bigint AS oid, c.relkind::text AS kind
FROM below b JOIN pg_class c ON c.oid = b.oid
WHERE c.relkind IN ('r', 'f') AND c.relpersistence <> 't'
  AND NOT EXISTS (SELECT FROM below o WHERE o.oid = b.top AND o.top <> b.top)
"""


def scattered(cursor: Cursor) -> dict[int, list[int]]:
    """The oid of each such partitioned table, or part of one, with those of the partitions that hold its rows."""
    (asked,) = select(cursor, ANY_HASHED)
    if not asked["found"]:
        return {}
    found: defaultdict[int, list[int]] = defaultdict(list)
    foreign = set()
    for row in select(cursor, SCATTERED):
        found[row["top"]].append(row["oid"])
        if row["kind"] == "f":
            foreign.add(row["top"])
    return {top: parts for top, parts in found.items() if top not in foreign}
