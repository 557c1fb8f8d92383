"""What a migration may cost others: an observation against the release's budget, as a forecast, and against the actual.

Pure functions. Locks, rewritten tables, changes of the catalog and the server's command tags decide on an advice; no
text of a statement does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.proof import Proof, Status
from .observation import CONFLICTS, READER_MODE, ROW_LOCK, WRITER_MODE, Fault, Observation, Statement

WRITE_WAIT, DURATION, SIZE = "write_wait", "duration", "size"
TITLES = {
    WRITE_WAIT: "No writer waits longer than the budget allows",
    DURATION: "The migration takes no longer than the budget allows",
    SIZE: "The database grows by no more than the budget allows",
}
KEYS = {WRITE_WAIT: "write_wait_ms", DURATION: "duration_seconds", SIZE: "size_bytes"}
MATERIALIZED = "materialized view"
TABLES_AT_MOST = 5
TEXT_AT_MOST = 160
# A writer that waits longer has been forgotten by the user who sent it; a release may declare more.
DEFAULT = {"write_wait_ms": 1000}

SHARE, SHARE_ROW, EXCLUSIVE, ACCESS = "SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE"
BATCHES = (
    "Change the rows in batches, each in a transaction of its own, for example in a finalize step with batch_rows: "
    "a writer then waits for one batch at most."
)
# By the kind of a change of the catalog: the modes of its lock, and the usual safe form.
ADVICE: Mapping[str, tuple[frozenset[str], str]] = {
    "foreign_key": (
        frozenset({SHARE_ROW, ACCESS}),
        "Add the foreign key with NOT VALID, as the last statement of the transaction, and VALIDATE CONSTRAINT it in a "
        "later transaction, for example in a finalize step: that blocks no writer.",
    ),
    "index": (
        frozenset({SHARE}),
        "Build the index with CREATE INDEX CONCURRENTLY, outside a transaction (Alembic: autocommit_block and "
        "postgresql_concurrently). Of a partitioned table, create it ON ONLY that table, build one concurrently on "
        "each partition, and ATTACH PARTITION those.",
    ),
    "unique": (
        frozenset({ACCESS, SHARE}),
        "Build the index with CREATE UNIQUE INDEX CONCURRENTLY, and then add the constraint with UNIQUE USING INDEX.",
    ),
    "primary_key": (
        frozenset({ACCESS, SHARE}),
        "Build the index with CREATE UNIQUE INDEX CONCURRENTLY on columns that are NOT NULL, and then add the "
        "constraint with PRIMARY KEY USING INDEX.",
    ),
    "not_null": (
        frozenset({ACCESS}),
        "Add CHECK (column IS NOT NULL) NOT VALID, VALIDATE CONSTRAINT it in a later transaction, and then SET NOT "
        "NULL, which reads no row because the constraint proves it; drop the constraint afterwards.",
    ),
    "check": (
        frozenset({ACCESS}),
        "Add the constraint with NOT VALID, and VALIDATE CONSTRAINT it in a later transaction.",
    ),
    "validated": (
        frozenset({SHARE_ROW, ACCESS}),
        "VALIDATE CONSTRAINT in a transaction of its own, not in one that has taken a stronger lock before.",
    ),
    "exclusion": (
        frozenset({ACCESS}),
        "An exclusion constraint cannot be added concurrently: create it on a new table that triggers and batches "
        "keep in line with this one, and exchange them; or migrate in a maintenance window.",
    ),
    "attached": (
        frozenset({ACCESS, SHARE_ROW}),
        "Add a CHECK constraint that equals the bounds of the partition with NOT VALID, VALIDATE CONSTRAINT it, and "
        "then ATTACH PARTITION, which reads no row because the constraint proves it.",
    ),
    "trigger": (
        frozenset({SHARE_ROW, ACCESS}),
        "Create the trigger as the last statement, or in a transaction of its own, with a short lock_timeout.",
    ),
    **dict.fromkeys(
        ("column_dropped", "column_renamed", "renamed", "dropped"),
        (
            frozenset({ACCESS}),
            "Rename or drop it in a transaction of its own, with a short lock_timeout, once no running code uses it.",
        ),
    ),
}
REWRITES: Mapping[str, str] = {
    "type": (
        "The table was rewritten for another type of a column: add a new column, copy the values in batches, keep both "
        "in line with a trigger, and let the application change over."
    ),
    "column": (
        "The table was rewritten for a new column: add it without a default, set the default afterwards for new rows, "
        "and fill the existing rows in batches. Only a default that is not volatile needs no rewrite."
    ),
}
REWRITTEN = (
    "The table was rewritten, or emptied, under its strongest lock: do that in a maintenance window, or use a program "
    "that copies beside it, such as pg_repack."
)
# By the command tag, where the catalog shows no change.
BY_TAG: Mapping[str, str] = {
    "UPDATE": BATCHES,
    "DELETE": BATCHES,
    "REINDEX": "Use REINDEX CONCURRENTLY, outside a transaction.",
    "DROP INDEX": "Use DROP INDEX CONCURRENTLY, outside a transaction.",
    "REFRESH MATERIALIZED VIEW": "Use REFRESH MATERIALIZED VIEW CONCURRENTLY, which needs a unique index.",
    "LOCK TABLE": "Lock the table last, in the weakest mode that suffices, and commit at once.",
    "TRUNCATE TABLE": "Truncate in a transaction of its own, with a short lock_timeout.",
    "CREATE INDEX": ADVICE["index"][1],
    "CREATE TRIGGER": ADVICE["trigger"][1],
    "CREATE TABLE": ADVICE["foreign_key"][1],
}
# Of tables that rows are changed in, by the command tag; an INSERT locks only rows that nobody else has.
CHANGING = frozenset({"UPDATE", "DELETE", "MERGE"})
CHANGED_LAST = "Change these rows in the last statement of the transaction, or in a transaction of their own."
AWAITED = (
    "It waited for that lock behind another session, and all that came later waited behind it: give the migration a "
    "short lock_timeout, and let it be tried again."
)
LAST = "Take the lock last: do what lasts before it, or in another transaction."
SHORTEN = "Let the transaction that takes this lock do nothing else, and commit at once."


@dataclass(frozen=True)
class Waited:
    """How long a writer of a table waited, or, where no probe observed the table, could have waited."""

    table: str
    ms: float
    fault: Fault | None
    finished: bool = True
    probed: bool = True


@dataclass(frozen=True)
class _Verdict:
    status: Status
    observed: Any
    detail: str
    remedy: str = ""
    sql: str = ""
    sample: list[dict[str, Any]] = field(default_factory=list)


def judge(observation: Observation, budget: Mapping[str, Any], stage: str = "rehearse") -> list[Proof]:
    """One proof for each key of the budget, `<stage>.budget.<what>`; one that is not declared is skipped."""
    judges = {WRITE_WAIT: _write_wait, DURATION: _duration, SIZE: _size}
    return [
        _proof(f"{stage}.budget.{name}", name, judges[name](observation, budget.get(key)), budget.get(key))
        for name, key in KEYS.items()
    ]


def forecast(observation: Observation) -> list[str]:
    """What the migration will cost, in sentences for the report."""
    sentences = [
        f"The migration took {as_time(observation.duration_ms)} in {_count(observation.statements_total, 'statement')}."
    ]
    waited = [one for one in _waited(observation) if one.probed]
    if waited:
        worst = max(waited, key=lambda one: one.ms)
        sentences.append(
            f"The longest that a writer waited was {_at_least(worst)}{as_time(worst.ms)}, for {worst.table}"
            f"{_because(observation, worst.fault)}."
        )
    readers = [wait for wait in observation.waits if wait.reader_ms is not None]
    if readers:
        slowest = max(readers, key=lambda wait: wait.reader_ms or 0)
        sentences.append(
            f"The longest that a reader waited was {as_time(slowest.reader_ms or 0)}, for {slowest.table}."
        )
    sentences.append(
        f"The database grew by {as_bytes(observation.size_bytes)}, the server wrote "
        f"{as_bytes(observation.wal_bytes)} of WAL and {as_bytes(observation.temp_bytes)} of temporary files."
    )
    if observation.rewritten:
        sentences.append(f"Rewritten or emptied: {', '.join(observation.rewritten)}.")
    return [*sentences, *observation.not_observed]


def advice(observation: Observation, table: str, fault: Fault) -> list[str]:
    """The usual safe forms of what made others wait for the table; at least one."""
    if fault.mode == ROW_LOCK:
        return [BATCHES]
    if fault.awaited:
        return [AWAITED]
    if observation.kinds.get(table) == MATERIALIZED:
        return [BY_TAG["REFRESH MATERIALIZED VIEW"]]
    changed = [change for change in observation.changes if change.table == table]
    kinds = list(dict.fromkeys(change.kind for change in changed if change.valid))
    found = [ADVICE[kind][1] for kind in kinds if kind in ADVICE and fault.mode in ADVICE[kind][0]]
    if table in observation.rewritten and fault.mode == ACCESS:
        found = [*([REWRITES[kind] for kind in REWRITES if kind in kinds] or [REWRITTEN]), *found]
    taken = observation.statement(fault.statement)
    if not found and not changed and taken is not None and taken.tag in BY_TAG:
        found = [BY_TAG[taken.tag]]
    lasting = fault.through is not None and fault.through != fault.statement
    return found or [LAST if lasting else SHORTEN]


def _write_wait(observation: Observation, limit: float | None) -> _Verdict:
    waited = sorted(_waited(observation), key=lambda one: one.ms, reverse=True)
    observed = {one.table: one.ms for one in waited}
    if not waited and (observation.probed or not observation.statements):
        return _unknown(limit, "No writer was observed on any table.")
    if not waited:
        return _without_lock(observation, limit)
    worst = waited[0]
    if limit is None:
        return _Verdict("skipped", observed, f"No budget is declared; {_wait(observation, worst)}")
    over = [one for one in waited if one.ms > limit]
    ours = [one for one in over if one.fault and one.fault.by_migration]
    if ours:
        worst = ours[0]
        detail = f"{_wait(observation, worst)} The budget is {as_time(limit)}."
        if len(ours) > 1:
            others = ", ".join(f"{one.table} ({as_time(one.ms)})" for one in ours[1:TABLES_AT_MOST])
            detail += f" Also over it: {others}{' and more' if len(ours) > TABLES_AT_MOST else ''}."
        return _Verdict(
            "fail",
            observed,
            detail,
            " ".join(dict.fromkeys(text for one in ours for text in _advice(observation, one))),
            sql=_texts(observation, worst.fault),
            sample=[_row(observation, one) for one in ours[:TABLES_AT_MOST]],
        )
    if over:
        names = sorted({one.fault.other for one in over if one.fault})
        cause = (
            f"Another session blocked it: {', '.join(names)}." if names else "No lock that was observed explains it."
        )
        return _Verdict(
            "inconclusive",
            observed,
            f"{_wait(observation, worst)} The budget is {as_time(limit)}. {cause} A wait for the migration may have "
            "been missed meanwhile.",
        )
    unsure = [wait.table for wait in observation.waits if wait.writer_ms is None or wait.gap_ms > limit]
    if unsure:
        return _Verdict(
            "inconclusive",
            observed,
            f"A wait of more than {as_time(limit)} could have been missed, because the probes of {', '.join(unsure)} "
            "did not run often enough, or not at all.",
        )
    detail = f"{_wait(observation, worst)} The budget is {as_time(limit)}."
    if unmet := _unmet(observation, limit):
        return _Verdict("inconclusive", observed, f"{detail} {unmet} {CHANGED_LAST}")
    return _Verdict("pass", observed, detail)


def _unmet(observation: Observation, limit: float) -> str:
    """Rows that stayed locked for longer than the budget, and that no probe tried; empty if there are none."""
    met = {wait.table: wait for wait in observation.waits if not (wait.writer and wait.writer.mode == ROW_LOCK)}
    for one in observation.statements:
        for lock in one.locks:
            if one.tag in CHANGING and lock.mode == WRITER_MODE and lock.held_ms > limit and lock.table in met:
                return (
                    f"{_quoted(one)} may have locked rows of {lock.table} for {as_time(lock.held_ms)}, until its "
                    f"transaction ended: the probe, which tried {_count(met[lock.table].rows, 'row')}, met none of "
                    "them."
                )
    return ""


def _without_lock(observation: Observation, limit: float | None) -> _Verdict:
    """No probe was there, and no lock was seen: one that is shorter than the time between two samples may be missed."""
    gap = as_time(observation.largest_gap_ms)
    detail = f"no lock that blocks the writers of an existing table was observed, by samples at most {gap} apart."
    if limit is None:
        return _Verdict("skipped", {}, f"No budget is declared; {detail}")
    return _Verdict("pass" if observation.largest_gap_ms <= limit else "inconclusive", {}, detail)


def _duration(observation: Observation, limit: float | None) -> _Verdict:
    seconds = round(observation.duration_ms / 1000, 1)
    took = f"took {as_time(observation.duration_ms)}"
    if limit is None:
        return _Verdict("skipped", seconds, f"No budget is declared; the migration {took}.")
    if observation.duration_ms <= limit * 1000:
        return _Verdict("pass", seconds, f"It {took}. The budget is {as_time(limit * 1000)}.")
    longest = max(observation.statements, key=lambda one: one.duration_ms, default=None)
    named = f" The longest statement took {as_time(longest.duration_ms)}: {_quoted(longest)}." if longest else ""
    return _Verdict(
        "fail",
        seconds,
        f"It {took}. The budget is {as_time(limit * 1000)}.{named}",
        "Move what blocks no writer, such as copying and validating, to finalize steps, or raise "
        "migration.budget.duration_seconds.",
        sql=longest.text if longest else "",
    )


def _size(observation: Observation, limit: float | None) -> _Verdict:
    grew = f"grew by {as_bytes(observation.size_bytes)}"
    if limit is None:
        return _Verdict("skipped", observation.size_bytes, f"No budget is declared; the database {grew}.")
    if observation.size_bytes <= limit:
        return _Verdict("pass", observation.size_bytes, f"It {grew}. The budget is {as_bytes(round(limit))}.")
    rewritten = ", ".join(observation.rewritten)
    return _Verdict(
        "fail",
        observation.size_bytes,
        f"It {grew}. The budget is {as_bytes(round(limit))}."
        + (f" Rewritten, so that both copies needed room: {rewritten}." if rewritten else ""),
        "Make room, or change the rows in batches with VACUUM between them, and raise migration.budget.size_bytes.",
    )


def _unknown(limit: float | None, detail: str) -> _Verdict:
    return _Verdict("skipped" if limit is None else "inconclusive", {}, detail)


def _waited(observation: Observation) -> Iterator[Waited]:
    """By table: what the probe waited; where none was, how long a lock was held for which a writer waits."""
    probed = set()
    for wait in observation.waits:
        if wait.writer_ms is not None:
            probed.add(wait.table)
            yield Waited(wait.table, wait.writer_ms, wait.writer, wait.finished)
    yield from (one for one in write_locks(observation) if one.table not in probed)


def write_locks(observation: Observation) -> list[Waited]:
    """By table: the longest that a lock was held, or awaited, for which a writer waits."""
    held: dict[str, Waited] = {}
    for one in observation.statements:
        for lock in one.locks:
            ms = lock.held_ms + lock.awaited_ms
            known = held.get(lock.table)
            # Only REFRESH writes to a materialized view.
            used = READER_MODE if observation.kinds.get(lock.table) == MATERIALIZED else WRITER_MODE
            if lock.mode in CONFLICTS[used] and (not known or ms > known.ms):
                fault = Fault(lock.mode, statement=one.number, certain=lock.certain)
                held[lock.table] = Waited(lock.table, ms, fault, probed=False)
    return list(held.values())


def _advice(observation: Observation, waited: Waited) -> list[str]:
    return advice(observation, waited.table, waited.fault) if waited.fault else [SHORTEN]


def _wait(observation: Observation, waited: Waited) -> str:
    verb = "waited" if waited.probed else "would have waited"
    return (
        f"{_user(observation, waited)} {waited.table} {verb} {_at_least(waited)}{as_time(waited.ms)}"
        f"{_because(observation, waited.fault)}."
    )


def _user(observation: Observation, waited: Waited) -> str:
    kind = observation.kinds.get(waited.table, "")
    return f"a session that uses the {kind}" if kind else "a writer of"


def _at_least(waited: Waited) -> str:
    return "" if waited.finished else "at least "


def _because(observation: Observation, fault: Fault | None) -> str:
    """For which lock, which statement took it, and during which one."""
    if fault is None:
        return ""
    if not fault.by_migration:
        return f" for another session, {fault.other}"
    taken, through = observation.statement(fault.statement), observation.statement(fault.through)
    lock = f" for the {fault.mode} lock" if fault.mode and fault.mode != ROW_LOCK else " for a row"
    if not fault.mode:
        lock = ""
    if taken is not None:
        verb = "requested" if fault.awaited else "changed" if fault.mode == ROW_LOCK else "took"
        sure = "" if fault.certain else ", or one right beside it,"
        lock += f" that {_quoted(taken)}{sure} {verb}"
    if through is not None and through is not taken:
        lock += f", while {_quoted(through)} ran for {as_time(through.duration_ms)}"
    return lock


def _row(observation: Observation, waited: Waited) -> dict[str, Any]:
    fault = waited.fault or Fault()
    taken, through = observation.statement(fault.statement), observation.statement(fault.through)
    return {
        "table": waited.table,
        "waited_ms": waited.ms,
        "lock": fault.mode,
        "statement": taken.text if taken else "",
        "while": through.text if through else "",
    }


def _texts(observation: Observation, fault: Fault | None) -> str:
    numbers: Sequence[int | None] = (fault.statement, fault.through) if fault else ()
    found = [observation.statement(number) for number in dict.fromkeys(numbers)]
    return ";\n".join(one.text for one in found if one)


def _quoted(statement: Statement) -> str:
    text = " ".join(statement.text.split())
    return f"“{text if len(text) <= TEXT_AT_MOST else text[: TEXT_AT_MOST - 1] + '…'}”"


def _proof(name: str, what: str, verdict: _Verdict, limit: Any) -> Proof:
    return Proof(
        name,
        TITLES[what],
        verdict.status,
        expected=limit,
        observed=verdict.observed,
        detail=_upper(verdict.detail),
        remedy=verdict.remedy,
        sql=verdict.sql,
        sample=verdict.sample,
    )


def as_time(ms: float) -> str:
    """To the second from ten seconds on."""
    return f"{ms / 1000:.1f} s" if ms >= 10_000 else f"{ms:.0f} ms"


def as_bytes(number: float) -> str:
    """In the unit that leaves fewer than four digits."""
    sign, value = "-" if number < 0 else "", float(abs(number))
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{sign}{value:.0f} {unit}"
        value /= 1024
    return f"{sign}{value:.0f} TiB"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
