"""Whether the programs that check mode started have changed the database: its state is compared before and after."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from psycopg2 import Error

from ..core.errors import ReleaseError
from ..core.outcome import READS_PROOF
from ..core.proof import Proof
from ..postgres.fingerprints import position
from ..postgres.session import Login, connect, select, server_reason, transaction

TITLE = "The programs that were started to read the target changed nothing in the database"
SHOWN_LINES = 3
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
SELECT format('%s %s, written by transaction %s', i.type, i.identity, o.xmin) AS line
FROM ({" UNION ALL ".join(f"SELECT '{name}'::regclass AS catalog, oid, xmin FROM {name}" for name in CATALOGS)}) AS o
CROSS JOIN LATERAL pg_identify_object(o.catalog, o.oid, 0) AS i
WHERE o.oid >= 16384 AND coalesce(i.schema, '') !~ '^pg_(temp|toast)'
"""


@dataclass(frozen=True)
class State:
    """The next transaction id, and a line of each object of the catalog."""

    xid: int
    catalog: frozenset[str]


def state_of(login: Login) -> State | str:
    """Read the state of a database, or return why it could not be read."""
    try:
        with (
            closing(connect(login, "dbrelease reads only", read_only=True)) as connection,
            transaction(connection, read_only=True, isolation="REPEATABLE READ", commit=False) as cursor,
        ):
            return State(int(position(cursor)["xid"]), frozenset(str(row["line"]) for row in select(cursor, OBJECTS)))
    except ReleaseError as error:
        return error.message
    except Error as error:
        return f"Reading the catalog failed ({server_reason(error)})."


def prove(before: State | str, after: State | str, command: Sequence[str]) -> Proof:
    """Compare the catalogs; only where no transaction wrote in between is it known that the command wrote nothing."""
    started = f"`{' '.join(command)} current` was started, in read-only sessions where its driver supports them"
    if isinstance(before, str) or isinstance(after, str):
        reason = before if isinstance(before, str) else after
        return Proof(READS_PROOF, TITLE, "inconclusive", detail=f"{started}; what it changed is unknown. {reason}")
    gone, new = sorted(before.catalog - after.catalog), sorted(after.catalog - before.catalog)
    observed = {"transactions": after.xid - before.xid, "gone": len(gone), "new": len(new)}
    if gone or new:
        shown = "; ".join(
            [f"removed: {line}" for line in gone[:SHOWN_LINES]] + [f"new: {line}" for line in new[:SHOWN_LINES]]
        )
        return Proof(
            READS_PROOF,
            TITLE,
            "inconclusive",
            expected={"gone": 0, "new": 0},
            observed=observed,
            detail=f"{started}, and meanwhile the catalog of the database changed ({shown}).",
            remedy="Find out whether env.py or another session did it; let env.py write only when it migrates.",
        )
    between = observed["transactions"]
    detail = f"{started}; the catalog is unchanged, but {between} transactions of any session may have written."
    if not between:
        detail = f"{started}; no transaction wrote anything."
    return Proof(READS_PROOF, TITLE, "pass", observed=observed, detail=detail)
