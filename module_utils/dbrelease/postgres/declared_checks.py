"""Declared checks: each is a SELECT that the server does not allow to write, and each ends as a proof."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

import psycopg2
import psycopg2.extensions

from ..core.proof import Proof, Status
from .could_not_run import could_not_run, remedy_of, verdict_of
from .declared_select import select_declared
from .declared_sql import advice, limit_statements, readable, readable_row, still_connected
from .proof_instant import Instant
from .session import Login, Row, connect, select, server_reason, strip_terminator, transaction

Cursor = psycopg2.extensions.cursor
Check = Mapping[str, Any]

# Hash joins and set operations of a million rows stay in memory (measured: 4.0 s instead of 7.4 s for six checks).
WORK_MEM_MB = 64
SAMPLE_SIZE = 5
HELD = "It passed when it was proved, right after the release was finalized or reconciled"
SINCE = "written by the application since: drift"
NOTHING_PROVED: Mapping[str, Instant] = {}


def read_checks(
    login: Login,
    checks: Sequence[Check],
    *,
    proved: Mapping[str, Instant],
    drift: Status,
    statement_timeout_ms: int,
    sample_size: int,
) -> tuple[list[Proof], dict[str, Any]]:
    """Every check on one instant of a database, with that instant (`taken_at`) and how long it took (`duration_ms`).

    `held` are the names of the failed ones that passed when they were proved, after the migration: others broke them
    since.

    `proved` records by name when a check was proved: violating rows that were written since are drift, and `drift` is
    the verdict where no other row violates it.
    """
    with (
        closing(connect(login, "dbrelease sql_check_info")) as connection,
        transaction(connection, read_only=True, isolation="REPEATABLE READ", commit=False) as cursor,
    ):
        limit_statements(cursor, statement_timeout_ms)
        taken_at = select(cursor, "SELECT clock_timestamp() AS taken_at")[0]["taken_at"]
        proofs = run_checks(cursor, checks, sample_size, proved, drift)
        before = {f"checks.{name}" for name, instant in proved.items() if instant.is_past(cursor)}
    held = [proof.name for proof in proofs if proof.status == "fail" and proof.observed is not None]
    return proofs, {
        "taken_at": taken_at.isoformat(),
        "duration_ms": sum(proof.duration_ms for proof in proofs),
        "held": [name for name in held if name in before],
    }


def run_checks(
    cursor: Cursor,
    checks: Sequence[Check],
    sample_size: int = SAMPLE_SIZE,
    proved: Mapping[str, Instant] = NOTHING_PROVED,
    drift: Status = "inconclusive",
) -> list[Proof]:
    """Every check, in the caller's transaction, each in a savepoint, so that a broken one hides no other."""
    _tune(cursor)
    done: dict[str, Proof] = {}
    for check in sorted(checks, key=lambda check: bool(check.get("equal"))):  # those that others follow come first
        instant = proved.get(check["name"])
        if instant and not instant.is_past(cursor):
            instant = None
        followed = [done[name] for name in check.get("follows") or () if name in done]
        done[check["name"]] = _run(cursor, check, sample_size, instant, drift, followed)
    return [done[check["name"]] for check in checks]


def plan_checks(cursor: Cursor, statements: Iterable[Mapping[str, str]]) -> list[Proof]:
    """A proof for each of `{name, title, sql}` that the server can plan it and would run it; no row is read."""
    proofs = []
    for statement in statements:
        rows = _ask(cursor, statement["sql"], limit=0)
        problem = rows if isinstance(rows, psycopg2.Error) else None
        proofs.append(
            Proof(
                name=f"preflight.checks_plan.{statement['name']}",
                title=statement["title"],
                status="pass" if problem is None else "inconclusive" if could_not_run(problem) else "fail",
                could_not_run=could_not_run(problem),
                expected="one SELECT that the server can plan",
                observed=server_reason(problem) if problem else "planned",
                detail=f"{statement['name']} cannot run: {server_reason(problem)}." if problem else "",
                remedy=_advice(problem) if problem else "",
                sql=statement["sql"],
            )
        )
    return proofs


def counting(sql: str, sample_size: int, since: str = "false") -> str:
    """One evaluation of a declared query that yields how many rows it has and the first few of them.

    `since` is a condition on `declared`; how many rows meet it is `drifted`, and the sample shows the others first.
    It is for select_declared(): of what is the server's it names the schema.
    """
    order = "" if since == "false" else f"ORDER BY {since}"
    return f"""
        SELECT pg_catalog.count(*) AS count, pg_catalog.count(*) FILTER (WHERE since) AS drifted,
               pg_catalog.json_agg(line) FILTER (WHERE line IS NOT NULL) AS sample
        FROM (
            SELECT {since} AS since, CASE WHEN pg_catalog.row_number() OVER ({order})
                     OPERATOR(pg_catalog.<=) {int(sample_size)} THEN pg_catalog.row_to_json(declared.*) END AS line
            FROM (\n{strip_terminator(sql)}\n) AS declared
        ) AS numbered"""


def comparing(sql: str) -> str:
    """The rows of a declared query, each with how many columns and how many different values it has.

    The server compares: two numbers are equal as numbers (1 and 1.0), to the last digit, and null equals null.
    """
    each = "pg_catalog.json_each(pg_catalog.row_to_json(declared.*))"
    return f"""
        SELECT pg_catalog.row_to_json(declared.*) AS line,
               (SELECT pg_catalog.count(*) FROM {each}) AS columns,
               (SELECT pg_catalog.count(DISTINCT value::pg_catalog.text::pg_catalog.jsonb) FROM {each}) AS differing
        FROM (\n{strip_terminator(sql)}\n) AS declared"""


def _run(
    cursor: Cursor, check: Check, sample_size: int, instant: Instant | None, drift: Status, followed: Sequence[Proof]
) -> Proof:
    started = time.monotonic()
    declared = check.get("violations") or check["equal"]
    if check.get("violations"):
        written_in = check.get("written_in")
        since = instant.since(written_in, cursor) if instant and written_in else "false"
        rows = _ask(cursor, counting(declared, sample_size, since))
    else:
        rows = _ask(cursor, comparing(declared), limit=2)
    duration_ms = round((time.monotonic() - started) * 1000)
    common = {"name": f"checks.{check['name']}", "title": check["title"], "sql": declared, "duration_ms": duration_ms}
    if isinstance(rows, psycopg2.Error):
        expected = 0 if check.get("violations") else "equal columns"
        if could_not_run(rows):
            return Proof(**common, expected=expected, **verdict_of(rows, f"The check {check['name']}"))
        return Proof(
            **common,
            status="fail",
            expected=expected,
            detail=f"The check {check['name']} could not run: {server_reason(rows)}.",
            remedy=_advice(rows),
        )
    if check.get("violations"):
        (row,) = rows
        return Proof(**common, **judge_violations(row["count"], row["drifted"], row["sample"] or [], drift))
    return Proof(**common, **judge_equal(rows, instant is not None and _all_drift(followed)))


def _all_drift(followed: Sequence[Proof]) -> bool:
    if any(proof.could_not_run for proof in followed):
        return False
    return {proof.status for proof in followed} in ({"inconclusive"}, {"inconclusive", "pass"})


def judge_violations(count: int, drifted: int, sample: Sequence[Row], drift: Status) -> dict[str, Any]:
    """The verdict on the rows that break a claim, of which some were written after it was proved; `drift`, if all."""
    verdict: dict[str, Any] = {"expected": 0, "observed": count, "sample": [readable_row(row) for row in sample]}
    if count == 0:
        return {**verdict, "status": "pass", "detail": "No row breaks it."}
    rows = "1 row breaks it" if count == 1 else f"{count} rows break it"
    if count == drifted and drift != "fail":
        return {**verdict, "status": drift, "detail": f"{HELD}; {rows} now, {SINCE}."}
    remedy = "Correct the rows (the sample shows some of them), and verify again."
    which = "" if count == drifted else f"of which {drifted} {'was' if drifted == 1 else 'were'} "
    since = f", {which}{SINCE}" if drifted else ""
    return {**verdict, "status": "fail", "detail": f"{rows}{since}.", "remedy": remedy}


def judge_equal(rows: Sequence[Row], drifted: bool) -> dict[str, Any]:
    """The verdict on a query that must yield one row whose columns are equal."""
    remedy = "Declare a query that yields one row with two or more columns, each with a name of its own."
    verdict: dict[str, Any] = {"expected": "equal columns", "status": "fail", "remedy": remedy}
    if len(rows) != 1:
        seen = "no row" if not rows else "more than one row"
        return {**verdict, "observed": seen, "detail": f"It yields {seen} instead of exactly one."}
    line, columns = rows[0]["line"], rows[0]["columns"]
    verdict["observed"] = readable_row(line)
    if columns < 2:
        return {**verdict, "detail": "It yields a single column, with nothing to compare it with."}
    if len(line) < columns:
        return {**verdict, "detail": "Two of its columns have the same name."}
    shown = ", ".join(f"{name} = {readable(value)}" for name, value in line.items())
    if rows[0]["differing"] == 1:
        return {**verdict, "status": "pass", "detail": f"{shown}.", "remedy": ""}
    if drifted:
        detail = f"{HELD}; now {shown}{_apart(line)}, {SINCE}."
        return {**verdict, "status": "inconclusive", "detail": detail, "remedy": ""}
    remedy = "Find the rows that cause the difference (the other checks name them), and verify again."
    return {**verdict, "detail": f"{shown}{_apart(line)}.", "remedy": remedy}


def _apart(line: Row) -> str:
    numbers = [value for value in line.values() if isinstance(value, int | float) and not isinstance(value, bool)]
    return f", {max(numbers) - min(numbers)} apart" if len(numbers) == len(line) else ""


def _ask(cursor: Cursor, sql: str, *, limit: int | None = None) -> list[Row] | psycopg2.Error:
    cursor.execute("SAVEPOINT declared_check")
    try:
        answer: list[Row] | psycopg2.Error = select_declared(cursor, sql, limit=limit)
    except psycopg2.Error as error:
        still_connected(cursor, error)
        cursor.execute("ROLLBACK TO SAVEPOINT declared_check")
        answer = error
    cursor.execute("RELEASE SAVEPOINT declared_check")
    return answer


def _advice(error: psycopg2.Error) -> str:
    if could_not_run(error):
        return remedy_of(error)
    return advice(error, "Declare one SELECT that only reads and that this server understands.")


def _tune(cursor: Cursor) -> None:
    # query_to_xml() plans with parallel workers as a direct query does (measured); compiling costs more than it brings.
    cursor.execute("SELECT set_config('jit', 'off', true)")
    cursor.execute(
        "SELECT set_config('work_mem', %s, true) WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes(%s)",
        (f"{WORK_MEM_MB}MB", f"{WORK_MEM_MB}MB"),
    )
