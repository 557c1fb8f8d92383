"""Damage or drift: whether a row that breaks a claim was written by the application after the claim was proved."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..core.outcome import TAKEN_BACK
from .session import select, strip_terminator

SNAPSHOT = re.compile(r"\d+:\d+:[\d,]*")

# A row holds the lower 32 bits of the transaction that wrote it; it is no newer than the counter is now.
# Not by pg_visible_in_snapshot(), which ignores subtransactions: a row that was written within a savepoint, in a
# transaction that was open then, would pass for a visible one. What ended shortly before counts as written since.
# A check reads it with the names that its role resolves, so it names the schema of all that belongs to the server.
SINCE = """
coalesce({full} OPERATOR(pg_catalog.>=)
           pg_catalog.pg_snapshot_xmin({snapshot}::pg_catalog.pg_snapshot)::pg_catalog.text::pg_catalog.int8
         AND {full} OPERATOR(pg_catalog.<>) {transaction}::pg_catalog.int8, false)"""
FULL = """({now} OPERATOR(pg_catalog.-) pg_catalog.mod(
  {now} OPERATOR(pg_catalog.-) {written_in}::pg_catalog.text::pg_catalog.int8
    OPERATOR(pg_catalog.+) 4294967296, 4294967296))"""
NOW = "(SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text::pg_catalog.int8)"


@dataclass(frozen=True)
class Instant:
    """What was committed when claims were proved: the database's oid, its snapshot, and the transaction that proved."""

    database: int
    snapshot: str
    transaction: int

    @classmethod
    def now(cls, cursor: Cursor) -> Instant:
        """That of the caller's transaction, which is REPEATABLE READ."""
        (row,) = select(
            cursor,
            "SELECT d.oid::bigint AS database, pg_current_snapshot()::text AS snapshot, "
            "coalesce(pg_current_xact_id_if_assigned()::text, '0')::bigint AS transaction "
            "FROM pg_database d WHERE d.datname = current_database()",
        )
        return cls(**row)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Instant | None:
        """From the journal; None if it has none."""
        try:
            instant = cls(int(facts["database"]), str(facts["snapshot"]), int(facts["transaction"]))
        except (KeyError, TypeError, ValueError):
            return None
        return instant if SNAPSHOT.fullmatch(instant.snapshot) else None

    def facts(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)

    def is_past(self, cursor: Cursor) -> bool:
        """Whether it is of this very database; the numbers of another one mean nothing here."""
        now = Instant.now(cursor)
        return self.database == now.database and self._end <= now._end

    @property
    def _end(self) -> int:
        return int(self.snapshot.split(":")[1])

    def since(self, column: str, cursor: Cursor) -> str:
        """A condition on `declared`: the row whose xmin the column holds was written after this instant.

        Where it is null there is no such row, and no session has written it since.
        """
        written_in = sql.SQL("declared.{}").format(sql.Identifier(column))
        full = sql.SQL(FULL).format(now=sql.SQL(NOW), written_in=written_in)
        since = sql.SQL(SINCE).format(
            full=full, snapshot=sql.Literal(self.snapshot), transaction=sql.Literal(self.transaction)
        )
        return since.as_string(cursor)


def written_in(query: str, column: str) -> str:
    """The query that must be plannable where a check detects drift by this column of its query."""
    quoted = column.replace('"', '""')
    value = f'"{quoted}"::pg_catalog.text::pg_catalog.int8'
    return f"SELECT {value} AS written_in FROM (\n{strip_terminator(query)}\n) AS declared"


def proved(lines: Iterable[Mapping[str, Any]], *, release: str, environment: str) -> dict[str, Instant]:
    """By check, when it was last proved, from the journal; a release that was rolled back has proved nothing."""
    found: dict[str, Instant] = {}
    for line in lines:
        if (line["release"], line["environment"], line["event"]) != (release, environment, "passed"):
            continue
        if line["step"] in TAKEN_BACK or line["step"] == "upgrade":
            found.clear()
        proven = line["facts"].get("proven")
        for name, facts in proven.items() if isinstance(proven, Mapping) else ():
            if instant := Instant.of(facts):
                found[name] = instant
    return found
