"""Advance the incoming database's sequences as far as the live one's, so that no key is returned twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2.extensions import cursor as Cursor

from ...core.errors import ReleaseError
from ...postgres.could_not_run import advised
from ...postgres.sequences import SLICE, read_each
from ...postgres.session import Login, select, server_reason, session
from ...postgres.table_key import table_key

APPLICATION = "dbrelease sequences"
SEQUENCES = """
SELECT n.nspname AS schema, c.relname AS name, s.seqincrement AS step, s.seqmin AS minimum, s.seqmax AS maximum,
       s.seqcycle AS cycle
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relpersistence <> 't' ORDER BY 1, 2
"""
ADVANCE = """
SELECT setval(format('%%I.%%I', schema, name)::regclass, last, is_called)
FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bool[]) AS wanted (schema, name, last, is_called)
"""


@dataclass(frozen=True)
class Position:
    """The position of a sequence: `last` was returned already if it `is_called`, and is the next value otherwise."""

    schema: str
    name: str
    step: int
    minimum: int
    maximum: int
    cycle: bool
    last: int
    is_called: bool

    @property
    def next(self) -> int:
        """The next value, even if it is beyond the bounds."""
        return self.last + self.step * self.is_called


@dataclass
class Advance:
    """The positions to set, and the sequences left behind: the live value is out of their bounds or direction."""

    steps: list[Position] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """For the journal."""
        return {"sequences": {"advanced": len(self.steps), "left": self.left}}


def plan(live: Mapping[str, Position], incoming: Mapping[str, Position]) -> Advance:
    """Compare by name; one that only one database has is unchanged. One that cycles continues at the live position."""
    advance = Advance()
    for key, there in incoming.items():
        now = live.get(key)
        if now is None or not _is_behind(there, now):
            continue
        if there.minimum <= now.last <= there.maximum and (there.step > 0) == (now.step > 0):
            advance.steps.append(now)
        else:
            advance.left.append(key)
    return advance


def _is_behind(there: Position, now: Position) -> bool:
    if there.cycle:
        return (there.last, there.is_called) != (now.last, now.is_called)
    return now.next > there.next if there.step > 0 else now.next < there.next


def read_sequences(cursor: Cursor) -> dict[str, Position]:
    """Read every sequence of the database, by `schema.sequence`. The cursor returns mappings."""
    rows = {(row["schema"], row["name"]): row for row in select(cursor, SEQUENCES)}
    return {
        table_key(*name): Position(**rows[name], last=value.last, is_called=value.is_called)
        for name, value in read_each(cursor, list(rows))
    }


def advance(incoming: Login, live: Mapping[str, Position]) -> Advance:
    """Set those that are behind; raises ReleaseError. Call it while writers of the live database are locked out."""
    try:
        with session(incoming, APPLICATION) as cursor:
            planned = plan(live, read_sequences(cursor))
            for begin in range(0, len(planned.steps), SLICE):
                part = planned.steps[begin : begin + SLICE]
                values = [(one.schema, one.name, one.last, one.is_called) for one in part]
                select(cursor, ADVANCE, [list(column) for column in zip(*values, strict=True)])
    except psycopg2.Error as error:
        raise ReleaseError(
            f"Advancing the sequences of {incoming.database} failed ({server_reason(error)}): nothing was swapped; "
            f"{advised(error, 'remove the cause, and rerun the playbook.')}"
        ) from error
    return planned
