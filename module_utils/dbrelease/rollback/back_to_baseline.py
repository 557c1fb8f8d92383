"""Whether a database is as it was in the baseline: its catalog, every table's rows, its revision, what was observed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg2
import psycopg2.errors

from ..core.errors import ReleaseError
from ..core.journal import last_facts
from ..core.outcome import AS_BEFORE, BASELINE_PROOF
from ..core.proof import Proof, sentence
from ..postgres.catalog import find_relation, present
from ..postgres.catalog_text import bounded, fingerprint, read_lines
from ..postgres.declared_select import select_declared
from ..postgres.declared_sql import limit_statements
from ..postgres.fingerprints import READING, read_tables, table_key
from ..postgres.session import Login, Row, connect, server_reason, transaction
from ..runs.work import Work
from ..verify.unchanged_verdict import same
from ..verify.write_attribution import LOCK_WAIT_MS, Memory, compare

CATALOG_PROOF = "restored.catalog"
CATALOG_TITLE = "The catalog is what it was before the release"
SHOWN_LINES = 5
APPLICATION = "dbrelease restored"


def compare_with_baseline(
    login: Login,
    memory: Memory,
    downgrade: Mapping[str, Any] | None,
    *,
    bookkeeping_table: str,
    created: Sequence[str],
    altered: Sequence[str],
    settle_seconds: float,
) -> list[Proof]:
    """A proof for the catalog, each table, each created table's absence and each observation."""
    tables = _tables(login, memory, downgrade, altered, bookkeeping_table, settle_seconds)
    try:
        with (
            closing(connect(login, APPLICATION)) as connection,
            transaction(connection, read_only=True, isolation="REPEATABLE READ", commit=False) as cursor,
        ):
            limit_statements(cursor, 0, lock_timeout=LOCK_WAIT_MS)
            left = present(cursor, created)
            proofs = [_absent(name, left) for name in created]
            proofs.append(_catalog(cursor, memory.baseline.get("catalog")))
            proofs += _bookkeeping(cursor, memory.baseline["tables"], bookkeeping_table)
            written = any(proof.status != "pass" for proof in tables)
            observed = [(one, _observe(cursor, one)) for one in memory.baseline.get("observations") or ()]
    except psycopg2.Error as error:
        raise ReleaseError(
            f"Comparing {login.label} with the baseline failed ({server_reason(error)}): run again."
        ) from error
    return [*proofs, *tables, *(prove_observation(one, now, written=written) for one, now in observed)]


def _tables(
    login: Login,
    memory: Memory,
    downgrade: Mapping[str, Any] | None,
    altered: Sequence[str],
    bookkeeping_table: str,
    settle_seconds: float,
) -> list[Proof]:
    """Who wrote to a table that differs is asked twice: for the time of the upgrade, and for that of the downgrade."""

    def ask(memory: Memory, except_tables: Sequence[str]) -> list[Proof]:
        return compare(
            login,
            memory,
            except_tables=except_tables,
            altered_tables=altered,
            bookkeeping_tables=[bookkeeping_table],
            settle_seconds=settle_seconds,
        )

    first = {proof.name: proof for proof in ask(memory, [])}
    again = Memory.of(memory.baseline, downgrade, memory.transactions)
    if again.upgrade is not None and any(proof.status == "inconclusive" for proof in first.values()):
        decided = [name for name, proof in first.items() if proof.status != "inconclusive"]
        first |= {proof.name: proof for proof in ask(again, [name.removeprefix("untouched.") for name in decided])}
    return [replace(proof, name=f"restored.{name.removeprefix('untouched.')}") for name, proof in sorted(first.items())]


def _absent(name: str, left: Sequence[str]) -> Proof:
    there = name in left
    return Proof(
        f"restored.{name}.absent",
        f"Table {name} is gone",
        "fail" if there else "pass",
        expected="absent",
        observed="present" if there else "absent",
        detail="It is still there." if there else "",
        remedy="Look at what it holds; reconcile drops a table that an interrupted run has left." if there else "",
    )


def _catalog(cursor: psycopg2.extensions.cursor, before: Sequence[str] | None) -> Proof:
    """To tell how a view is defined the server locks what it reads, which may be held, and be a stranger's."""
    cursor.execute("SAVEPOINT catalog")
    try:
        proof = prove_catalog(before, read_lines(cursor))
    except psycopg2.errors.LockNotAvailable:
        cursor.execute("ROLLBACK TO SAVEPOINT catalog")
        detail = "It could not be read, as another session held a lock on a table."
        proof = Proof(CATALOG_PROOF, CATALOG_TITLE, "inconclusive", detail=detail)
    cursor.execute("RELEASE SAVEPOINT catalog")
    return proof


def prove_catalog(before: Sequence[str] | None, now: Sequence[str]) -> Proof:
    """Equal lines, or which are gone and which are new."""
    title = CATALOG_TITLE
    if not before:
        return Proof(
            CATALOG_PROOF,
            title,
            "inconclusive",
            observed={"lines": len(now)},
            detail="The baseline recorded no catalog.",
        )
    before = [*map(bounded, before)]
    gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    expected = {"lines": len(before), "sha256": fingerprint(before)}
    observed = {"lines": len(now), "sha256": fingerprint(now), "gone": len(gone), "new": len(new)}
    if gone or new:
        shown = "; ".join(
            [f"gone: {line}" for line in gone[:SHOWN_LINES]] + [f"new: {line}" for line in new[:SHOWN_LINES]]
        )
        return Proof(
            CATALOG_PROOF,
            title,
            "fail",
            expected=expected,
            observed=observed,
            detail=f"{len(gone)} of its lines are gone, and {len(new)} are new ({shown}).",
            remedy="Find out who changed it since the baseline, and change it back.",
            sample=[{"change": "gone", "line": line} for line in gone]
            + [{"change": "new", "line": line} for line in new],
        )
    detail = f"All {len(now)} lines: columns, defaults, indexes, constraints, triggers, owners, grants and types."
    return Proof(CATALOG_PROOF, title, "pass", expected=expected, observed=observed, detail=detail)


def _bookkeeping(
    cursor: psycopg2.extensions.cursor, before: Mapping[str, Row], bookkeeping_table: str
) -> Iterable[Proof]:
    """Its rows must be equal, whoever wrote them."""
    found = find_relation(cursor, bookkeeping_table)
    key = table_key(found["schema"], found["name"]) if found else f"public.{bookkeeping_table}"
    if key not in before:
        return []
    now = read_tables(cursor, only={key: before[key]["columns"]})[key]
    equal = same(before[key], now)
    return [
        Proof(
            f"restored.{key}",
            f"Table {key} holds the revision that it held before",
            "pass" if equal else "fail",
            expected={name: before[key][name] for name in ("rows", "fingerprint")},
            observed={name: now[name] for name in ("rows", "fingerprint")},
            detail="Rows and fingerprint are those of the baseline." if equal else "It holds another revision.",
            remedy="" if equal else "Read it, and the log of the rollback, before anything else.",
        )
    ]


def _observe(cursor: psycopg2.extensions.cursor, one: Row) -> list[Row] | str:
    cursor.execute("SAVEPOINT observation")
    try:
        rows: list[Row] | str = select_declared(cursor, one["sql"])
    except psycopg2.Error as error:
        rows = server_reason(error)
        cursor.execute("ROLLBACK TO SAVEPOINT observation")
    cursor.execute("RELEASE SAVEPOINT observation")
    return rows


def prove_observation(one: Row, now: list[Row] | str, *, written: bool) -> Proof:
    """Equal to the baseline's; where others have written since, a difference proves nothing."""
    name, title = f"restored.observation.{one['name']}", f"{one['title']}: as before the release"
    if isinstance(now, str):
        return Proof(
            name,
            title,
            "fail",
            expected=one["rows"],
            detail=f"It cannot be asked any more ({now}).",
            remedy="Compare the catalog with the baseline.",
            sql=one["sql"],
        )
    if now == one["rows"]:
        return Proof(name, title, "pass", expected=one["rows"], observed=now, sql=one["sql"])
    if written:
        detail = "It differs, and so do tables."
        return Proof(name, title, "inconclusive", expected=one["rows"], observed=now, detail=detail, sql=one["sql"])
    return Proof(
        name,
        title,
        "fail",
        expected=one["rows"],
        observed=now,
        detail="It differs, and no table does.",
        remedy="Compare the two, and find out what else the query reads.",
        sql=one["sql"],
    )


OTHERWISE = "The baseline of the release was recorded by another version of this program, which read it otherwise."
NO_BASELINE = Proof(
    BASELINE_PROOF,
    "The database is what it was before the release",
    "inconclusive",
    detail="The journal has no baseline of the release to compare with.",
)


def compare_restored(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """The module's act: reads only."""
    work = Work.of(params, check_mode)
    journal = work.journal
    events = journal.read()

    def newest(step: str) -> dict[str, Any] | None:
        return last_facts(events, release=journal.run.release, environment=journal.run.environment, step=step)

    baseline = newest("baseline")
    with journal.step(AS_BEFORE) as step:
        proofs = [NO_BASELINE]
        if baseline is not None and baseline.get("reading") != READING:
            baseline, proofs = None, [replace(NO_BASELINE, detail=OTHERWISE)]
        if baseline is not None:
            transactions = (newest("guards") or {}).get("migration_xids") or ()
            proofs = compare_with_baseline(
                work.login,
                Memory.of(baseline, newest("upgrade"), transactions),
                newest("downgrade"),
                bookkeeping_table=params["bookkeeping_table"],
                created=params["created"],
                altered=params["altered"],
                settle_seconds=params["settle_seconds"],
            )
        step.prove(*proofs)
    found = [proof.as_dict() for proof in proofs]
    return {"changed": False, "compared": baseline is not None, "proofs": found, "message": sentence(found)}
