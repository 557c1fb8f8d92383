"""The large objects of a database, which are in no table of the application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg2.extensions import cursor as Cursor

from .session import select

# Two statements: the server demands the right to read a table even where none of it would be read.
MAY_READ = "SELECT has_table_privilege('pg_catalog.pg_largeobject', 'SELECT') AS may_read"
NUMBERS = "SELECT oid::bigint AS oid, NULL AS hash FROM pg_largeobject_metadata"
# The hash of a record is a sum of its columns' hashes: hashed once more, so that pages in another order are detected.
CONTENTS = """
SELECT m.oid::bigint AS oid,
       sum(hashtextextended(hash_record_extended(ROW(m.oid, p.pageno, p.data), 0)::text COLLATE "C", 0))::text AS hash
FROM pg_largeobject_metadata m LEFT JOIN pg_largeobject p ON p.loid = m.oid GROUP BY m.oid
"""


@dataclass(frozen=True)
class LargeObjects:
    """How many of two databases' large objects differ, and for how many that both have it cannot be determined."""

    differing: int = 0
    unread: int = 0


def compare_large_objects(one: Mapping[int, str | None], other: Mapping[int, str | None]) -> LargeObjects:
    """From the answers of read_large_objects()."""
    both = one.keys() & other.keys()
    unread = sum(one[oid] is None or other[oid] is None for oid in both)
    equal = sum(one[oid] == other[oid] is not None for oid in both)
    return LargeObjects(len(one.keys() | other.keys()) - equal - unread, unread)


def fingerprint_of(large_objects: Mapping[int, str | None]) -> str | None:
    """One value that changes with any of them; None where the user may not read their content."""
    hashes = [hashed for hashed in large_objects.values() if hashed is not None]
    return str(sum(map(int, hashes))) if len(hashes) == len(large_objects) else None


def read_large_objects(cursor: Cursor) -> dict[int, str | None]:
    """The content of each as a hash; None where the user may only see that it exists."""
    (asked,) = select(cursor, MAY_READ)
    return {int(row["oid"]): row["hash"] for row in select(cursor, CONTENTS if asked["may_read"] else NUMBERS)}
