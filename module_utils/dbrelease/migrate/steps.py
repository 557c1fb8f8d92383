"""The steps that a release declares to run after its migration: each idempotent, in its own transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_INTRANS
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..core.proof import Proof
from ..postgres.could_not_run import advised, could_not_run, remedy_of
from ..postgres.declared_checks import run_checks
from ..postgres.declared_select import select_declared
from ..postgres.declared_sql import limit_statements
from ..postgres.lock_retry import RETRYABLE, ContendedError, LockLimits
from ..postgres.proof_instant import Instant
from ..postgres.session import Connection, as_declared, select, server_reason, transaction
from ..postgres.strangers import refuse_planted

# What a step may need and the migration has yet to create: schema, table, column, function, object.
NOT_YET_THERE = ("3F000", "42P01", "42703", "42883", "42704")
RERUN = "Correct it and rerun the playbook: completed work is not repeated."
MARK = "dbrelease.step"
BATCH_ROWS = "dbrelease.batch_rows"
SAMPLE_SIZE = 5


@dataclass(frozen=True)
class Step:
    """One declared step: `pending` counts the remaining rows, `proves` names checks that must pass when it commits.

    guarded_by: names of guards that must pass before it runs.
    batch_rows: the most rows that it changes at once, which it reads from dbrelease.batch_rows; 0: all.
    """

    name: str
    title: str
    sql: str
    pending: str
    proves: tuple[str, ...] = ()
    batch_rows: int = 0
    guarded_by: tuple[str, ...] = ()

    @classmethod
    def of(cls, declared: Mapping[str, Any]) -> Step:
        """Build from an item of the module's `steps`."""
        keys = ("name", "title", "sql", "pending")
        return cls(
            **{key: declared[key] for key in keys},
            proves=tuple(declared.get("proves") or ()),
            batch_rows=declared.get("batch_rows") or 0,
            guarded_by=tuple(declared.get("guarded_by") or ()),
        )

    @property
    def proof_name(self) -> str:
        """The name of its proof."""
        return f"migrate.finalize.{self.name}"

    def not_run(self, detail: str) -> Proof:
        """Its proof, where an error of the server or the connection kept it from running."""
        return replace(self.proof("inconclusive", None, detail), could_not_run=True)

    def proof(self, status: Any, observed: Any, detail: str, *, remedy: str = "", duration_ms: int = 0) -> Proof:
        """Its proof, with this verdict."""
        return Proof(
            self.proof_name,
            self.title,
            status,
            expected="nothing pending",
            observed=observed,
            detail=detail,
            remedy=remedy,
            sql=self.sql,
            duration_ms=duration_ms,
        )


@dataclass(frozen=True)
class Attempt:
    """The rows that a step changed, its proofs and their instant; more: it was a full batch, not the last."""

    rows: int
    proofs: list[Proof]
    instant: Instant
    more: bool = False


def attempt_step(
    connection: Connection,
    step: Step,
    checks: Sequence[Mapping[str, Any]],
    limits: LockLimits,
    *,
    keep_unproven: bool = False,
) -> Attempt:
    """Run a step once; its changes, the checks that it proves and `pending` are all of one instant.

    It commits unless a check fails: the proofs then report it. With `keep_unproven` it commits also then, if nothing
    is left pending. A full batch proves nothing and commits. Raises ContendedError where another attempt may help.
    """
    try:
        with transaction(connection, isolation="REPEATABLE READ") as cursor:
            limit_lock_waits(cursor, limits)
            cursor.execute(
                "SELECT set_config(%s, 'open', true), set_config(%s, %s, true)",
                (MARK, BATCH_ROWS, str(step.batch_rows or "")),
            )
            refuse_planted(cursor)
            with as_declared(cursor):
                cursor.execute(step.sql)
                rows = max(cursor.rowcount, 0)
                # Deferred triggers belong to the application, too, so they run with its search path.
                if cursor.connection.info.transaction_status == TRANSACTION_STATUS_INTRANS:
                    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            _demand_own_transaction(cursor, step)
            if 0 < step.batch_rows <= rows:
                return Attempt(rows, [], Instant.now(cursor), more=True)
            proofs = run_checks(cursor, checks, SAMPLE_SIZE) if checks else []
            attempt = Attempt(rows, proofs, Instant.now(cursor))
            red = any(proof.status == "fail" or proof.could_not_run for proof in proofs)
            if red and not keep_unproven:
                raise _RedError(replace(attempt, rows=0))
            # A step with checks may be declared to run every time; for the others this is the proof.
            if (not checks or red) and (left := read_pending(cursor, step)) != 0:
                raise ReleaseError(
                    f"Step {step.name} ({step.title}) ran, but left {left} pending, and was rolled back: "
                    f"its `sql` does not do what its `pending` counts. {RERUN}"
                )
    except _RedError as red:
        return red.attempt
    except psycopg2.Error as error:
        if error.pgcode in RETRYABLE:
            raise ContendedError(server_reason(error)) from error
        if could_not_run(error) and not connection.closed:
            said = f"could not run ({server_reason(error)}) and was rolled back. {remedy_of(error)}"
        elif connection.closed:
            said = f"lost its session ({server_reason(error)}): rerun the playbook, which finds out what is left to do."
        else:
            said = f"failed ({server_reason(error)}) and was rolled back. {RERUN}"
        raise ReleaseError(f"Step {step.name} ({step.title}) {said}", sqlstate=error.pgcode) from error
    return attempt


class _RedError(Exception):
    """Roll the step back; callers never receive it."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__()
        self.attempt = attempt


def count_pending(
    connection: Connection, step: Step, limits: LockLimits, *, absent_is_pending: bool = False
) -> int | None:
    """Count what a step has left to do; None where its tables do not exist yet, if that is allowed."""
    try:
        with transaction(connection, read_only=True, commit=False) as cursor:
            limit_lock_waits(cursor, limits)
            return read_pending(cursor, step)
    except psycopg2.Error as error:
        if error.pgcode in RETRYABLE:
            raise ContendedError(server_reason(error)) from error
        if absent_is_pending and error.pgcode in NOT_YET_THERE:
            return None
        if could_not_run(error):
            raise ReleaseError(
                f"Counting what step {step.name} has left to do could not run ({server_reason(error)}). "
                f"{remedy_of(error)}"
            ) from error
        raise ReleaseError(
            f"Counting what step {step.name} has left to do failed ({server_reason(error)}): "
            "correct its `pending` in the release file."
        ) from error


def check_alone(connection: Connection, step: Step, checks: Sequence[Mapping[str, Any]], limits: LockLimits) -> Attempt:
    """Run the checks of a step that has nothing left to do; reads only."""
    try:
        with transaction(connection, read_only=True, isolation="REPEATABLE READ", commit=False) as cursor:
            limit_lock_waits(cursor, limits)
            return Attempt(0, run_checks(cursor, checks, SAMPLE_SIZE), Instant.now(cursor))
    except psycopg2.Error as error:
        raise ReleaseError(
            f"Running the checks of step {step.name} failed ({server_reason(error)}): "
            f"{advised(error, 'rerun the playbook.')}"
        ) from error


def limit_lock_waits(cursor: Cursor, limits: LockLimits) -> None:
    """Limit the transaction's lock waits, not its time: all sessions behind it wait as long as it does."""
    limit_statements(cursor, 0, lock_timeout=limits.timeout_ms)


def read_pending(cursor: Cursor, step: Step) -> int:
    """Read the one number that `pending` selects; it cannot write."""
    rows = select_declared(cursor, step.pending, limit=2)
    values = [value for row in rows for value in row.values()]
    if len(values) != 1 or isinstance(values[0], bool) or not isinstance(values[0], int) or values[0] < 0:
        raise ReleaseError(
            f"`pending` of step {step.name} returned {values!r}, not one whole number: correct it in the release file."
        )
    return values[0]


def _demand_own_transaction(cursor: Cursor, step: Step) -> None:
    """Raise where a step ended its transaction: a COMMIT in its text would make its changes final, unproven."""
    inside = cursor.connection.info.transaction_status == TRANSACTION_STATUS_INTRANS
    if inside:
        (mark,) = select(cursor, "SELECT current_setting(%s, true) AS value", (MARK,))
        inside = mark["value"] == "open"
    if not inside:
        raise ReleaseError(
            f"Step {step.name} ({step.title}) ended its own transaction, so its changes are final and unproven: remove "
            "BEGIN, COMMIT and ROLLBACK from its `sql`, and check what it changed."
        )
