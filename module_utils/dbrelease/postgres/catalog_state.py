"""The objects of a database at one moment, to compare what a program that was started has changed."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from psycopg2 import Error

from ..core.errors import ReleaseError
from .fingerprints import position
from .session import Login, connect, select, server_reason, transaction

CATALOGS = (
    "pg_namespace",
    "pg_class",
    "pg_proc",
    "pg_type",
    "pg_attrdef",
    "pg_constraint",
    "pg_trigger",
    "pg_policy",
    "pg_rewrite",
    "pg_extension",
    "pg_event_trigger",
    "pg_operator",
    "pg_collation",
    "pg_cast",
)
# Each object that is not the server's own, and the transaction that last wrote its row; no temporary objects.
OBJECTS = f"""
SELECT format('%s %s, written by transaction %s', i.type, i.identity, o.xmin) AS line,
       upper(i.type) || ' ' || replace(i.identity, '"', '') AS named
FROM ({" UNION ALL ".join(f"SELECT '{name}'::regclass AS catalog, oid, xmin FROM {name}" for name in CATALOGS)}) AS o
CROSS JOIN LATERAL pg_identify_object(o.catalog, o.oid, 0) AS i
WHERE o.oid >= 16384 AND coalesce(i.schema, '') !~ '^pg_(temp|toast)'
"""


@dataclass(frozen=True)
class State:
    """The next transaction id, a line of each object of the catalog, and each object's type and name."""

    xid: int
    catalog: frozenset[str]
    objects: frozenset[str] = frozenset()


def made_between(before: State | str, after: State | str) -> list[str]:
    """Name the objects that exist only afterwards as pg_dump does (`SCHEMA ops`); none where a state is unknown."""
    if isinstance(before, str) or isinstance(after, str):
        return []
    return sorted(after.objects - before.objects)


def state_of(login: Login) -> State | str:
    """Read the state of a database, or return why it could not be read."""
    try:
        with (
            closing(connect(login, "dbrelease catalog", read_only=True)) as connection,
            transaction(connection, read_only=True, isolation="REPEATABLE READ", commit=False) as cursor,
        ):
            xid, rows = int(position(cursor)["xid"]), select(cursor, OBJECTS)
            lines, objects = (frozenset(str(row[key]) for row in rows) for key in ("line", "named"))
            return State(xid, lines, objects)
    except ReleaseError as error:
        return error.message
    except Error as error:
        return f"Reading the catalog failed ({server_reason(error)})."
