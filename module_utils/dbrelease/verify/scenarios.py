"""A declared scenario: steps that write, in one transaction that is always rolled back and proved to leave nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2.extras import Json

from ..core.errors import ReleaseError
from ..core.options import Options
from ..core.proof import Proof, sentence
from ..postgres.could_not_run import could_not_run, verdict_of
from ..postgres.declared_select import select_declared
from ..postgres.declared_sql import (
    EXECUTE,
    NOT_ONE_STATEMENT,
    advice,
    as_text,
    limit_statements,
    prepare,
    readable_row,
    still_connected,
)
from ..postgres.session import Connection, Login, Row, as_declared, connect, select, server_reason, transaction
from ..runs.work import Work

Cursor = psycopg2.extensions.cursor
Scenario = Mapping[str, Any]

ATTEMPTS = 3
PAUSE_S = 0.5
# Another session's lock, a deadlock with one, a conflict with one: worth another attempt.
BUSY = frozenset({"55P03", "40P01", "40001"})
_SAVED = re.compile(r"%\((\w+)\)s")
_PLACEHOLDER = re.compile(r"%\((\w+)\)s|%%")


@dataclass(frozen=True)
class Limits:
    """How long a statement may run, and how long it may wait for a lock that another session holds."""

    statement_timeout_ms: int
    lock_timeout_ms: int


@dataclass(frozen=True)
class StepSeen:
    """One step, what was expected of its row, and what was observed."""

    title: str
    expected: Mapping[str, Any] | None
    observed: Any
    problem: str = ""


@dataclass
class Played:
    """What a scenario did: its steps as far as it came, the values saved, and the error that ended it, if one did."""

    steps: list[StepSeen] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    error: psycopg2.Error | None = None
    transaction_id: str = ""


@dataclass(frozen=True)
class Left:
    """What existed after the rollback: the fate of the transaction and the rows that `leaves_nothing` counted."""

    fate: str
    rows: Any = None
    problem: str = ""
    error: psycopg2.Error | None = None


def play_scenarios(login: Login, scenarios: Sequence[Scenario], limits: Limits) -> list[Proof]:
    """Each of them, in a transaction of its own."""
    with closing(connect(login, "dbrelease scenarios")) as connection:
        return [run_scenario(connection, scenario, limits) for scenario in scenarios]


def run_scenario(connection: Connection, scenario: Scenario, limits: Limits) -> Proof:
    """Play it, roll it back, check what is left; retried while another session's lock blocks it."""
    started = time.monotonic()
    unknown = unsaved_values(scenario)
    if unknown:
        return _proof(scenario, _unsaved(unknown), [], started)
    for attempt in range(1, ATTEMPTS + 1):
        played = _play(connection, scenario, limits)
        if played.error is None or played.error.pgcode not in BUSY or attempt == ATTEMPTS:
            break
        time.sleep(PAUSE_S)
    left = _check_leftovers(connection, scenario, played, limits)
    return _proof(scenario, judge(scenario, played, left), played.steps, started)


def unsaved_values(scenario: Scenario) -> list[str]:
    """The `%(name)s` that a step, or the end, uses before any step has saved them."""
    saved: set[str] = set()
    unknown: list[str] = []
    for step in scenario["steps"]:
        unknown += [name for name in _SAVED.findall(step["sql"]) if name not in saved]
        saved.update(step.get("save") or ())
    unknown += [name for name in _SAVED.findall(scenario["leaves_nothing"]) if name not in saved]
    return list(dict.fromkeys(unknown))


def fill(sql: str, values: Mapping[str, Any], connection: Connection) -> str:
    """The statement with each `%(name)s` as a literal, and each `%%` as a percent sign, as any other one is."""
    return _PLACEHOLDER.sub(lambda found: _literal(values[found[1]], connection) if found[1] else "%", sql)


def _literal(value: Any, connection: Connection) -> str:
    adapted = psycopg2.extensions.adapt(Json(value) if isinstance(value, dict) else value)
    if hasattr(adapted, "prepare"):
        adapted.prepare(connection)
    quoted: bytes = adapted.getquoted()
    return quoted.decode(psycopg2.extensions.encodings[connection.encoding])


def _play(connection: Connection, scenario: Scenario, limits: Limits) -> Played:
    played = Played()
    with transaction(connection, commit=False) as cursor:
        try:
            limit_statements(
                cursor,
                limits.statement_timeout_ms,
                lock_timeout=limits.lock_timeout_ms,
                # Should this process be stopped, its locks go with the transaction.
                idle_in_transaction_session_timeout=limits.statement_timeout_ms,
            )
            # What is deferred to a commit that never comes would never be checked.
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            played.transaction_id = str(select(cursor, "SELECT pg_current_xact_id()::text AS id")[0]["id"])
        except psycopg2.Error as error:
            still_connected(cursor, error)
            played.error = error
            return played
        for step in scenario["steps"]:
            if not _step(cursor, step, played):
                break
    return played


def _step(cursor: Cursor, step: Mapping[str, Any], played: Played) -> bool:
    """Run one step; false when the scenario cannot go on."""
    expected = step.get("expect") or None
    try:
        prepare(cursor, fill(step["sql"], played.values, cursor.connection))
        with as_declared(cursor):
            cursor.execute(EXECUTE)
        rows: list[Row] = [dict(row) for row in cursor.fetchall()] if cursor.description else []
    except psycopg2.Error as error:
        still_connected(cursor, error)
        played.error = error
        played.steps.append(StepSeen(step["title"], expected, server_reason(error), "failed"))
        return False
    if cursor.description is None and (cursor.statusmessage or "").startswith("SELECT"):
        played.steps.append(StepSeen(step["title"], expected, "a new table", "SELECT INTO creates a table"))
        return False
    problem = mismatch(rows, expected, step.get("save") or ())
    observed = readable_row(rows[0]) if len(rows) == 1 else {"rows": len(rows) or max(cursor.rowcount, 0)}
    played.steps.append(StepSeen(step["title"], expected, observed, problem))
    saved = {name: rows[0][name] for name in step.get("save") or () if len(rows) == 1 and name in rows[0]}
    played.values.update(saved)
    return len(saved) == len(step.get("save") or ())


def mismatch(rows: Sequence[Row], expected: Mapping[str, Any] | None, save: Sequence[str]) -> str:
    """What the returned rows lack of what a step expects or saves; empty when nothing."""
    if not expected and not save:
        return ""
    if len(rows) != 1:
        return f"it returned {len(rows)} rows, not one"
    row = rows[0]
    absent = [name for name in (*save, *(expected or ())) if name not in row]
    if absent:
        return f"its row has no {', '.join(absent)}"
    return ", ".join(
        f"{name} was {as_text(row[name])}, expected {value}"
        for name, value in (expected or {}).items()
        # Numbers compare as numbers, to the digits that were declared; all else (a uuid, a moment) also by its text.
        if row[name] != value and as_text(row[name]) != value and not _same_number(row[name], value)
    )


def _same_number(found: Any, expected: Any) -> bool:
    return isinstance(found, Decimal) and isinstance(expected, float) and found == Decimal(str(expected))


def _check_leftovers(connection: Connection, scenario: Scenario, played: Played, limits: Limits) -> Left:
    """After the rollback, in a transaction of its own that cannot write."""
    if not played.transaction_id:
        return Left("never begun", 0)
    with transaction(connection, read_only=True, commit=False) as cursor:
        limit_statements(cursor, limits.statement_timeout_ms)
        fate = str(select(cursor, "SELECT pg_xact_status(%s::xid8) AS fate", (played.transaction_id,))[0]["fate"])
        if any(name not in played.values for name in _SAVED.findall(scenario["leaves_nothing"])):
            return Left(fate)
        try:
            rows = select_declared(cursor, fill(scenario["leaves_nothing"], played.values, connection), limit=2)
        except psycopg2.Error as error:
            still_connected(cursor, error)
            return Left(fate, problem=server_reason(error), error=error)
    if len(rows) != 1 or len(rows[0]) != 1:
        return Left(fate, problem="it must yield one row with one column")
    return Left(fate, rows=next(iter(rows[0].values())))


def judge(scenario: Scenario, played: Played, left: Left) -> dict[str, Any]:
    """The verdict on what was played and what it left."""
    steps = len(scenario["steps"])
    held = sum(not step.problem for step in played.steps)
    verdict: dict[str, Any] = {
        "expected": {"steps": steps, "rows_left": 0, "transaction": "aborted"},
        "observed": {"steps": held, "rows_left": left.rows, "transaction": left.fate},
    }
    if left.fate not in ("aborted", "never begun") or left.rows not in (0, None):
        seen = f"the transaction is {left.fate}, and {left.rows} of its rows exist"
        remedy = "Remove the rows of the scenario, and report this as a defect: it should be impossible."
        return {**verdict, "status": "fail", "detail": f"The scenario left something behind: {seen}.", "remedy": remedy}
    if played.error is not None:
        return {**verdict, **_stopped(played)}
    wrong = "; ".join(f"step {step.title!r}: {step.problem}" for step in played.steps if step.problem)
    if wrong:
        remedy = "Correct the constraint or trigger that the step relies on, as the release declares it."
        return {**verdict, "status": "fail", "detail": f"In {wrong}.", "remedy": remedy}
    if left.error is not None and could_not_run(left.error):
        return {**verdict, **verdict_of(left.error, "The count of what the scenario leaves")}
    if left.problem:
        remedy = "Correct the query leaves_nothing in the release."
        detail = f"The rows that the scenario leaves could not be counted: {left.problem}."
        return {**verdict, "status": "fail", "detail": detail, "remedy": remedy}
    detail = f"All {steps} steps passed; rolled back, no rows left."
    return {**verdict, "status": "pass", "detail": detail}


def _stopped(played: Played) -> dict[str, Any]:
    error = played.error
    if error is None:
        raise ReleaseError("A scenario that did not stop has no reason for stopping.")
    reason = server_reason(error)
    where = f"Step {played.steps[-1].title!r}" if played.steps else "The transaction"
    if error.pgcode in BUSY:
        detail = f"{where} was blocked by a lock of another session in {ATTEMPTS} attempts: {reason}."
        return {"status": "inconclusive", "detail": detail, "remedy": advice(error, "Verify again.")}
    if could_not_run(error):
        return verdict_of(error, where)
    if error.pgcode in NOT_ONE_STATEMENT:
        otherwise = "A step is one SELECT, INSERT, UPDATE or DELETE, and nothing else: correct it in the release."
        return {"status": "fail", "detail": f"{where} was refused: {reason}.", "remedy": otherwise}
    otherwise = "Correct what the message names, in the database or in the release."
    return {"status": "fail", "detail": f"{where} failed: {reason}.", "remedy": advice(error, otherwise)}


def _unsaved(names: Sequence[str]) -> dict[str, Any]:
    used = ", ".join(f"%({name})s" for name in names)
    detail = f"It uses {used}, which no earlier step saves; nothing was run."
    return {"status": "fail", "detail": detail, "remedy": "Add the name to the `save` of the step that returns it."}


def _proof(scenario: Scenario, verdict: Mapping[str, Any], steps: Sequence[StepSeen], started: float) -> Proof:
    return Proof(
        name=f"scenario.{scenario['name']}",
        title=scenario["title"],
        sql=";\n".join(str(step["sql"]).strip() for step in scenario["steps"]),
        sample=[asdict(step) for step in steps],
        duration_ms=round((time.monotonic() - started) * 1000),
        **verdict,
    )


OPTIONS: Options = {
    "scenarios": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "title": {"type": "str", "required": True},
            "steps": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "title": {"type": "str", "required": True},
                    "sql": {"type": "str", "required": True},
                    "save": {"type": "list", "elements": "str", "default": []},
                    "expect": {"type": "dict", "default": {}},
                },
            },
            "leaves_nothing": {"type": "str", "required": True},
        },
    },
    "statement_timeout_ms": {"type": "int", "default": 30_000},
    "lock_timeout_ms": {"type": "int", "default": 1_000},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Play them in both modes; nothing of them stays."""
    limits = Limits(params["statement_timeout_ms"], params["lock_timeout_ms"])
    work = Work.of(params, check_mode)
    with work.journal.step("scenario") as step:
        proofs = play_scenarios(work.login, params["scenarios"], limits)
        step.prove(*proofs)
        step.facts["duration_ms"] = sum(proof.duration_ms for proof in proofs)
    lines = [proof.as_dict() for proof in proofs]
    return {"proofs": lines, "message": sentence(lines), "duration_ms": step.facts["duration_ms"]}
