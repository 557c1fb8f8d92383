"""What a migration did to others, as data: its statements, their locks, who waited for them, and what it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..core.json_shape import EACH, difference

# Of an UPDATE, and of a SELECT that only reads.
WRITER_MODE, READER_MODE = "ROW EXCLUSIVE", "ACCESS SHARE"
ROW_LOCK = "row lock"
# The modes that block a writer or a reader, the weakest first.
STRENGTH = ("SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE")
# Which modes a session that requests this one waits for.
CONFLICTS: Mapping[str, frozenset[str]] = {
    READER_MODE: frozenset({"ACCESS EXCLUSIVE"}),
    WRITER_MODE: frozenset({"SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE"}),
}

SHAPE = {
    "duration_ms": (int, float),
    "largest_gap_ms": (int, float),
    "statements": [{"number": int, "text": str, "tag": str, "locks": [{"table": str, "mode": str}]}],
    "waits": [{"table": str, "writer_ms": (int, float, None), "reader_ms": (int, float, None)}],
    "rewritten": [str],
    "kinds?": {EACH: str},
    "changes": [{"table": str, "kind": str, "name": str}],
    "not_observed": [str],
}


@dataclass(frozen=True)
class Lock:
    """A lock on a table: how long it was held or awaited, by the samples, and whether another statement may have it.

    certain: only this statement ran between the last sample without the lock and the first one with it.
    """

    table: str
    mode: str
    held_ms: float
    awaited_ms: float = 0.0
    certain: bool = True


@dataclass(frozen=True)
class Statement:
    """A statement of the migration; its locks are those that it took, and they last until its transaction ends.

    tag: the command, as the server names it where its log was read, else the first words of the text.
    """

    number: int
    session: int
    text: str
    tag: str
    start_ms: float
    duration_ms: float
    lock_wait_ms: float = 0.0
    locks: tuple[Lock, ...] = ()


@dataclass(frozen=True)
class Fault:
    """For what a probe waited.

    statement: the number of the statement that took, or awaits, the lock. through: of the statement that ran longest
    during the wait. by_migration: false where another session has the lock; `other` describes it.
    """

    mode: str = ""
    awaited: bool = False
    statement: int | None = None
    through: int | None = None
    certain: bool = True
    by_migration: bool = True
    other: str = ""


@dataclass(frozen=True)
class TableWait:
    """The longest time that a writer and a reader waited for one table; None where no probe observed it.

    rows: how many times a row of the table was tried. A table in which none was found is observed by its lock alone.
    gap_ms: the longest time between two requests of the writer; a wait that is no longer may have been missed.
    finished: false where the wait went on when the observation ended, so that it is at least this long.
    """

    table: str
    writer_ms: float | None = None
    reader_ms: float | None = None
    writer: Fault | None = None
    reader: Fault | None = None
    rows: int = 0
    gap_ms: float = 0.0
    finished: bool = True


@dataclass(frozen=True)
class Change:
    """A difference of the catalog of an existing table: a constraint, an index, a column, a type, a trigger.

    on: for a foreign key that references the table, the table that has it. valid: false for NOT VALID.
    """

    table: str
    kind: str
    name: str
    on: str = ""
    valid: bool = True


@dataclass(frozen=True)
class Observation:
    """What was observed; a figure of the samples is known to within `largest_gap_ms`.

    statements: at most so many as fit a journal; statements_total says how many ran. transactions: those that wrote.
    kinds: what was locked and is no table, and what it is instead, such as `view`.
    wal_bytes, temp_bytes and size_bytes are the server's and the database's, and so include what others wrote
    meanwhile. not_observed: sentences on what could not be observed, and why.
    """

    duration_ms: float
    largest_gap_ms: float
    samples: int
    statements: tuple[Statement, ...] = ()
    statements_total: int = 0
    transactions: int = 0
    waits: tuple[TableWait, ...] = ()
    rewritten: tuple[str, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    wal_bytes: int = 0
    temp_files: int = 0
    temp_bytes: int = 0
    size_bytes: int = 0
    not_observed: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Observation:
        """From the journal; raises ValueError where it is none."""
        if problem := difference(dict(content), SHAPE):
            raise ValueError(f"This is no observation of a migration: {problem}.")
        try:
            return cls(
                **{
                    **content,
                    "statements": tuple(map(_statement, content["statements"])),
                    "waits": tuple(map(_wait, content["waits"])),
                    "changes": tuple(Change(**one) for one in content["changes"]),
                    "rewritten": tuple(content["rewritten"]),
                    "not_observed": tuple(content["not_observed"]),
                }
            )
        except TypeError as error:
            raise ValueError(f"This is no observation of a migration: {error}.") from error

    def statement(self, number: int | None) -> Statement | None:
        """The statement of that number, if it was kept."""
        return next((one for one in self.statements if one.number == number), None)


def _statement(content: Mapping[str, Any]) -> Statement:
    return Statement(**{**content, "locks": tuple(Lock(**one) for one in content["locks"])})


def _wait(content: Mapping[str, Any]) -> TableWait:
    faults = {role: Fault(**content[role]) if content.get(role) else None for role in ("writer", "reader")}
    return TableWait(**{**content, **faults})
