"""What large objects a database holds: they are in no table of the application's."""

from __future__ import annotations

from psycopg2.extensions import cursor as Cursor

from .database import select

# Two statements: the server asks for the right to read a table even where nothing of it would be read.
MAY_READ = "SELECT has_table_privilege('pg_catalog.pg_largeobject', 'SELECT') AS may_read"
NUMBERS = "SELECT oid::bigint AS oid, NULL AS hash FROM pg_largeobject_metadata"
# The hash of a record is a sum of its columns' hashes: hashed once more, so that pages in another order are seen.
CONTENTS = """
SELECT m.oid::bigint AS oid,
       sum(hashtextextended(hash_record_extended(ROW(m.oid, p.pageno, p.data), 0)::text COLLATE "C", 0))::text AS hash
FROM pg_largeobject_metadata m LEFT JOIN pg_largeobject p ON p.loid = m.oid GROUP BY m.oid
"""


def read_large_objects(cursor: Cursor) -> dict[int, str | None]:
    """Each one's content as a hash; None where the user may only see that it is there."""
    (asked,) = select(cursor, MAY_READ)
    return {int(row["oid"]): row["hash"] for row in select(cursor, CONTENTS if asked["may_read"] else NUMBERS)}
