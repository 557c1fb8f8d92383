"""Prove that a release's checks and guards can fail: break one row or object of a copy, see it fail, roll back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2.extras import RealDictCursor

from ..core.errors import ReleaseError
from ..core.proof import Proof
from ..postgres.catalog import quoted, resolved
from ..postgres.declared_checks import run_checks
from ..postgres.declared_sql import limit_statements, still_connected
from ..postgres.session import Login, connect, select, server_reason, transaction
from ..release.guard_kinds import KINDS_OF_DATABASE, Guard, kind_of
from ..rollback.in_database import evaluate_guard
from .breakages import Reads, Table, alter, breakages, make, of_structure, stop_triggers, tables_read

APPLICATION = "dbrelease rehearsal breaks"
PREFIX = "rehearse.can_fail"
UNDONE_PROOF = f"{PREFIX}.undone"
# Made to fail by a row; the others by an object of the database.
KINDS_OF_ROWS = ("violations", "losses", "values")
IDENTITY = """
SELECT (SELECT system_identifier::text FROM pg_control_system()) AS server,
       (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS database
"""
VACUOUS = "Declare one that fails when a row of {} is deleted, added or changed, or leave it out."
UNKNOWN = "Correct it, and rehearse again."
Check = Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """How much is tried to make one check fail: whichever is reached first."""

    tries: int = 400
    seconds: float = 30.0


@dataclass(frozen=True)
class Declared:
    """A release's checks, its guards (services' guards are left out), and all its tables by name."""

    checks: Sequence[Check] = ()
    guards: Sequence[Guard] = ()
    tables: Sequence[str] = ()


@dataclass(frozen=True)
class Answer:
    """What a check answered: whether its claim is broken; or why it could not answer."""

    red: bool = False
    error: str = ""


@dataclass(frozen=True)
class Claim:
    """A check or a guard: the name of its own proof, the text that it runs, and how it is judged.

    of_structure: the guard, where it reads the catalog and no rows.
    """

    name: str
    title: str
    sql: str
    ask: Callable[[RealDictCursor], Answer]
    of_structure: Guard | None = None

    def proof(self, begun: float, **more: Any) -> Proof:
        """That it can fail."""
        duration_ms = round((time.monotonic() - begun) * 1000)
        name, title = f"{PREFIX}.{self.name}", f"Able to fail: {self.title}"
        return Proof(name, title, expected="it fails", sql=self.sql, duration_ms=duration_ms, **more)


@dataclass
class Tries:
    """What has been tried so far."""

    changed: int = 0
    impossible: int = 0
    reason: str = ""
    errors: list[str] = field(default_factory=list)


def prove_can_fail(copy: Login, live: Login, declared: Declared, limits: Limits | None = None) -> list[Proof]:
    """Whether each check and each guard of the database fails once one row, or one object, that it reads is broken.

    copy: a database that nothing else uses; raises ReleaseError where it is the live one, which is only asked who it
    is. Where one of them does not say that, nothing is broken, and every claim is inconclusive.
    Each claim is broken in a transaction of its own, which is rolled back; the last proof says so. No sequence moves,
    but the server's counters of written rows count what was rolled back.
    """
    found = claims_of(declared)
    with closing(connect(copy, APPLICATION)) as connection:
        try:
            with closing(connect(live, APPLICATION, read_only=True)) as asked:
                same = _identity(connection, copy) == _identity(asked, live)
        except ReleaseError as error:
            return [_not_tried(claim, error.message) for claim in found]
        if same:
            raise ReleaseError(
                f"Breaking rows was refused, because the {copy.label} is the live database, and no copy: correct the "
                "login.",
                refused=True,
            )
        transactions: list[int] = []
        proofs = [_prove(connection, claim, declared.tables, limits or Limits(), transactions) for claim in found]
        return [*proofs, _undone(connection, transactions)]


def claims_of(declared: Declared) -> list[Claim]:
    """The checks, and the guards of the database."""
    return [
        *(_of_check(check) for check in declared.checks),
        *(_of_guard(guard) for guard in declared.guards if kind_of(guard) in KINDS_OF_DATABASE),
    ]


def _of_check(check: Check) -> Claim:
    def ask(cursor: RealDictCursor) -> Answer:
        (proof,) = run_checks(cursor, [check])
        # A failed check without an observation is one that did not run.
        if proof.status == "pass" or (proof.status == "fail" and proof.observed is not None):
            return Answer(proof.status == "fail")
        return Answer(error=proof.detail)

    return Claim(f"checks.{check['name']}", check["title"], check.get("violations") or check["equal"], ask)


def _of_guard(guard: Guard) -> Claim:
    def ask(cursor: RealDictCursor) -> Answer:
        try:
            found = evaluate_guard(cursor, guard)
        except psycopg2.Error as error:
            still_connected(cursor, error)
            return Answer(error=f"The guard {guard['name']} could not run: {server_reason(error)}.")
        return Answer(found.status == "fail") if found.status != "inconclusive" else Answer(error=found.detail)

    name, title = f"guard.{guard['name']}", guard["title"]
    if kind_of(guard) not in KINDS_OF_ROWS:
        return Claim(name, title, "", ask, guard)
    if values := guard.get("values"):
        columns = ", ".join(f'"{column}"' for column in values["columns"])
        return Claim(name, title, f"SELECT {columns} FROM {quoted(values['table'])}", ask)
    losses = guard.get("losses") or {}
    rows = guard.get("violations") or losses.get("rows") or f"SELECT * FROM {quoted(losses['table'])}"
    return Claim(name, title, rows, ask)


def _identity(connection: psycopg2.extensions.connection, login: Login) -> tuple[str, int]:
    """The cluster and the database that serve a session; raises ReleaseError where the server does not say it."""
    try:
        with transaction(connection, read_only=True) as cursor:
            (row,) = select(cursor, IDENTITY)
    except psycopg2.Error as error:
        raise ReleaseError(
            f"The {login.label} does not say which server it is ({server_reason(error)}), so that a copy cannot be "
            f"distinguished from the live database: grant {login.user} EXECUTE on pg_control_system()."
        ) from error
    return row["server"], row["database"]


def _prove(
    connection: psycopg2.extensions.connection,
    claim: Claim,
    tables: Sequence[str],
    limits: Limits,
    transactions: list[int],
) -> Proof:
    begun = time.monotonic()
    with transaction(connection, isolation="REPEATABLE READ", commit=False) as cursor:
        limit_statements(cursor, round(limits.seconds * 1000))
        oids = [oid for oid in resolved(cursor, [quoted(table) for table in tables]) if oid is not None]
        cursor.execute("SAVEPOINT dbrelease_unbroken")
        unbroken = claim.ask(cursor)
        if unbroken.error:
            return claim.proof(
                begun, status="inconclusive", could_not_run=True, detail=unbroken.error, remedy=UNKNOWN
            )  # fmt: skip
        if unbroken.red:
            return claim.proof(
                begun,
                status="pass",
                observed={"made_to_fail_by": "", "tries": 0},
                detail="It fails on the copy as it is, before anything was broken.",
            )
        reads = Reads() if claim.of_structure else tables_read(cursor, oids, claim.sql)
        if not reads.tables and not claim.of_structure:
            return _reads_nothing(claim, begun, reads)
        (row,) = select(cursor, "SELECT txid_current() AS id")
        transactions.append(row["id"])
        if claim.of_structure:
            return _break_structure(cursor, claim, claim.of_structure, begun)
        return _break(cursor, claim, reads.tables, limits, begun)


def _not_tried(claim: Claim, reason: str) -> Proof:
    return claim.proof(
        time.monotonic(),
        status="inconclusive",
        could_not_run=True,
        observed={"made_to_fail_by": None, "tries": 0},
        detail=f"It was not tried. {reason}",
        remedy=UNKNOWN,
    )


def _reads_nothing(claim: Claim, begun: float, reads: Reads) -> Proof:
    others = f" (it reads {', '.join(reads.others)})" if reads.others else ""
    return claim.proof(
        begun,
        status="inconclusive",
        observed={"made_to_fail_by": None, "tries": 0},
        detail=f"It reads no table of the release{others}, so that no row of one can make it fail.",
        remedy="Declare the tables that it reads (tables), or a check that reads tables of the release.",
    )


def _break(cursor: RealDictCursor, claim: Claim, tables: Sequence[Table], limits: Limits, begun: float) -> Proof:
    tries = Tries()
    stop_triggers(cursor, tables)
    deadline = time.monotonic() + limits.seconds
    complete = True
    for breakage in breakages(tables):
        left = deadline - time.monotonic()
        if left <= 0 or tries.changed >= limits.tries:
            complete = False
            break
        cursor.execute("SAVEPOINT dbrelease_broken")
        limit_statements(cursor, max(1, round(left * 1000)))
        reason = make(cursor, breakage)
        if reason is None:
            tries.changed += 1
            answer = claim.ask(cursor)
            if answer.red:
                return claim.proof(
                    begun,
                    status="pass",
                    observed={"made_to_fail_by": breakage.words, "tries": tries.changed},
                    detail=f"It failed after {breakage.words}.",
                )
            if answer.error:
                tries.errors.append(f"after {breakage.words}: {answer.error}")
        elif reason:
            tries.impossible += 1
            tries.reason = tries.reason or reason
        cursor.execute("ROLLBACK TO SAVEPOINT dbrelease_broken")
    return _not_made_to_fail(claim, begun, tables, tries, complete)


def _break_structure(cursor: RealDictCursor, claim: Claim, guard: Guard, begun: float) -> Proof:
    """Each table that the guard names: it fails only where the object of each of them was noticed."""
    tries = Tries()
    made: list[str] = []
    for breakage in of_structure(cursor, guard):
        cursor.execute("SAVEPOINT dbrelease_broken")
        if reason := alter(cursor, breakage):
            tries.reason = tries.reason or f"{breakage.words} failed: {reason}"
        else:
            tries.changed += 1
            answer = claim.ask(cursor)
            if answer.red:
                made.append(breakage.words)
            else:
                tries.errors.append(f"after {breakage.words} it {answer.error or 'passed'}")
        cursor.execute("ROLLBACK TO SAVEPOINT dbrelease_broken")
    if made and not tries.errors:
        words = made[0] if len(made) == 1 else f"each of: {'; '.join(made)}"
        return claim.proof(
            begun,
            status="pass",
            observed={"made_to_fail_by": made[0], "tries": tries.changed},
            detail=f"It failed after {words}.",
        )
    return claim.proof(
        begun,
        status="inconclusive",
        observed={"made_to_fail_by": None, "tries": tries.changed},
        detail=f"It was not made to fail: {'; '.join(tries.errors) or tries.reason or 'it names no existing table'}.",
        remedy="Break it on a copy by hand.",
    )


def _not_made_to_fail(claim: Claim, begun: float, tables: Sequence[Table], tries: Tries, complete: bool) -> Proof:
    names = " or ".join(table.label for table in tables)
    common: dict[str, Any] = {"status": "inconclusive", "observed": {"made_to_fail_by": None, "tries": tries.changed}}
    seconds = round(time.monotonic() - begun)
    if tries.errors:
        return claim.proof(
            begun,
            **common,
            could_not_run=len(tries.errors) == tries.changed,
            detail=f"None of {_changes(tries)} made it fail; {len(tries.errors)} ended with an error, which shows "
            f"nothing: {tries.errors[0]}",
            remedy="Correct it so that it runs on such rows, too, and rehearse again.",
        )
    if not tries.changed:
        return claim.proof(
            begun,
            **common,
            could_not_run=True,
            detail=f"No row of {names} could be changed: {tries.reason or 'none was found'}.",
            remedy="Let the rehearsing role own these tables, or break a row of a copy by hand.",
        )
    if not complete:
        return claim.proof(
            begun,
            **common,
            detail=f"None of {_changes(tries)} of {names} made it fail within {seconds} s, and there was no time for "
            "the others: it is unknown whether it can fail.",
            remedy="Break a row of a copy by hand, or make the check faster.",
        )
    if not any(table.rows for table in tables):
        return claim.proof(
            begun,
            **common,
            detail=f"{names.replace(' or ', ' and ')} {'is' if len(tables) == 1 else 'are'} empty, and none of "
            f"{tries.changed} added rows made it fail: it is unknown whether it can fail.",
            remedy="Rehearse on a backup that has rows in them.",
        )
    return claim.proof(
        begun,
        **common,
        detail=f"None of {_changes(tries)} of {names} made it fail (a row deleted, added, or one value changed): it is "
        "vacuous, as far as one row shows.",
        remedy=VACUOUS.format(names),
    )


def _changes(tries: Tries) -> str:
    return "1 change" if tries.changed == 1 else f"{tries.changed} changes"


def _undone(connection: psycopg2.extensions.connection, transactions: Sequence[int]) -> Proof:
    """As the server records it; a transaction that is rolled back takes its savepoints with it."""
    with transaction(connection, read_only=True) as cursor:
        found = select(
            cursor,
            "SELECT id, txid_status(id) AS status FROM unnest(%s::bigint[]) AS id ORDER BY id",
            (list(transactions),),
        )
    other = [row for row in found if row["status"] != "aborted"]
    if other:
        raise ReleaseError(
            f"Rolling back what was broken in the copy failed (transaction {other[0]['id']} is {other[0]['status']}): "
            "do not use this copy any further; rehearse again."
        )
    return Proof(
        UNDONE_PROOF,
        "What was broken to make checks fail was rolled back",
        "pass",
        expected={"aborted": len(transactions)},
        observed={"aborted": len(found)},
        detail=f"The server records each of the {len(found)} transactions as aborted.",
    )
