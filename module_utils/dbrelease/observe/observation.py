"""What a migration did to others, as data: its statements, their locks, who waited for them, and what it wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
    "wal_bytes": int,
    "temp_bytes": int,
    "size_bytes": int,
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
    meanwhile. not_observed: sentences on what could not be observed, and why. probed: false where no probe requested
    locks beside the migration, as on a live database: then a lock is known only by how long it was held.
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
    probed: bool = True

    def as_dict(self) -> dict[str, Any]:
        """For the journal, as it is read from there."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content

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


def observation_of(facts: Mapping[str, Any]) -> Observation | None:
    """The `observation` among the facts of a step; None where there is none that can be read."""
    try:
        return Observation.from_dict(facts["observation"]) if facts.get("observation") else None
    except (ValueError, TypeError, KeyError):
        return None


def joined(first: Observation, second: Observation) -> Observation:
    """Two observations of one migration, the second of what it did after the first."""
    offset = first.statements_total
    later = replace(
        second,
        statements=tuple(
            replace(one, number=one.number + offset, start_ms=one.start_ms + first.duration_ms)
            for one in second.statements
        ),
        waits=tuple(
            replace(wait, writer=_numbered(wait.writer, offset), reader=_numbered(wait.reader, offset))
            for wait in second.waits
        ),
    )
    sums = (
        "duration_ms",
        "samples",
        "statements_total",
        "transactions",
        "wal_bytes",
        "size_bytes",
        "temp_files",
        "temp_bytes",
    )
    unions = ("rewritten", "changes", "not_observed")
    parts: dict[str, Any] = {
        "largest_gap_ms": max(first.largest_gap_ms, second.largest_gap_ms),
        "statements": first.statements + later.statements,
        "waits": _longest((*first.waits, *later.waits)),
        "probed": first.probed and second.probed,
        "kinds": {**first.kinds, **second.kinds},
        **{name: getattr(first, name) + getattr(second, name) for name in sums},
        **{name: tuple(dict.fromkeys(getattr(first, name) + getattr(second, name))) for name in unions},
    }
    return replace(later, **parts)


def _numbered(fault: Fault | None, offset: int) -> Fault | None:
    if fault is None:
        return None
    numbers = {"statement": fault.statement, "through": fault.through}
    return replace(fault, **{name: n + offset for name, n in numbers.items() if n is not None})  # type: ignore[arg-type]


def _longest(waits: Sequence[TableWait]) -> tuple[TableWait, ...]:
    """By table, the writer's and the reader's longest wait; one that was not observed is none that was short."""
    found: dict[str, TableWait] = {}
    for wait in waits:
        known = found.setdefault(wait.table, wait)
        if known is wait:
            continue
        parts: dict[str, Any] = {"rows": known.rows + wait.rows, "gap_ms": max(known.gap_ms, wait.gap_ms)}
        for role in ("writer", "reader"):
            times = [getattr(one, f"{role}_ms") for one in (known, wait)]
            longer = wait if None not in times and times[1] > times[0] else known
            parts |= {f"{role}_ms": None if None in times else max(times), role: getattr(longer, role)}
        found[wait.table] = replace(known, **parts, finished=known.finished and wait.finished)
    return tuple(found.values())


def _statement(content: Mapping[str, Any]) -> Statement:
    return Statement(**{**content, "locks": tuple(Lock(**one) for one in content["locks"])})


def _wait(content: Mapping[str, Any]) -> TableWait:
    faults = {role: Fault(**content[role]) if content.get(role) else None for role in ("writer", "reader")}
    return TableWait(**{**content, **faults})
