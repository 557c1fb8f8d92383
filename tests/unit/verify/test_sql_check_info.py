"""sql_check_info: a check is green on good rows, red on bad ones, and can never write."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest
import shared_database
import sql_check_info
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.postgres.declared_checks import (
    judge_equal,
    judge_violations,
    plan_checks,
    run_checks,
)
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from own_sessions import connect

database, emptied = shared_database.database, shared_database.emptied

Session = psycopg2.extensions.connection
Look = Callable[..., dict[str, Any]]

NO_ORPHAN = {
    "name": "no_orphan",
    "title": "No order without its account",
    "violations": "SELECT o.id, o.note FROM orders o LEFT JOIN accounts a ON a.id = o.account_id WHERE a.id IS NULL",
}
SAME_COUNT = {
    "name": "same_count",
    "title": "As many orders as the accounts say",
    "equal": "SELECT (SELECT sum(orders) FROM accounts) AS said, (SELECT count(*) FROM orders) AS found",
}


def execute(session: Session, *statements: str) -> None:
    with session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def value(session: Session, sql: str) -> Any:
    with session.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone()
        assert row
        return row[0]


@pytest.fixture
def shop(session: Session) -> Session:
    execute(
        session,
        "CREATE TABLE accounts (id int PRIMARY KEY, name text, orders int)",
        "CREATE TABLE orders (id int PRIMARY KEY, account_id int, note text)",
        "INSERT INTO accounts SELECT n, 'Account ' || n, 3 FROM generate_series(1, 10) n",
        "INSERT INTO orders SELECT n, 1 + n % 10, 'as <b>bold</b> & ''quoted'', 50% 🛠' FROM generate_series(1, 30) n",
    )
    return session


@pytest.fixture
def look(login_parameters: dict[str, Any], run_parameters: dict[str, Any]) -> Look:
    def run(*checks: dict[str, Any], check_mode: bool = False, **options: Any) -> dict[str, Any]:
        defaults = {"drift": "inconclusive", "statement_timeout_ms": 60_000, "sample_size": 5, "reconcile_command": ""}
        given = {**login_parameters, "run": run_parameters, "checks": list(checks), **defaults, **options}
        return sql_check_info.act(given, check_mode)

    return run


def declared(sql: str, kind: str = "violations") -> dict[str, Any]:
    return {"name": "declared", "title": "Declared", kind: sql}


@pytest.mark.usefixtures("shop")
def test_good_rows_are_green_each_time(look: Look) -> None:
    for _ in range(2):
        result = look(NO_ORPHAN, SAME_COUNT)
        assert [proof["status"] for proof in result["proofs"]] == ["pass", "pass"]
        assert result["message"] == ""
        assert "changed" not in result
    assert [proof["name"] for proof in result["proofs"]] == ["checks.no_orphan", "checks.same_count"]
    assert result["proofs"][0]["sql"] == NO_ORPHAN["violations"]
    assert result["proofs"][1]["observed"] == {"said": 30, "found": 30}


def test_bad_rows_are_red_with_their_number_and_a_sample(shop: Session, look: Look) -> None:
    execute(shop, "UPDATE orders SET account_id = 99 WHERE id <= 8")
    (orphan, same) = look(NO_ORPHAN, SAME_COUNT, sample_size=3)["proofs"]
    assert (orphan["status"], orphan["expected"], orphan["observed"]) == ("fail", 0, 8)
    assert len(orphan["sample"]) == 3
    assert orphan["sample"][0] == {"id": 1, "note": "as <b>bold</b> & 'quoted', 50% 🛠"}
    assert same["status"] == "pass"


def test_a_red_check_that_ran_names_the_command_that_repairs_it(shop: Session, look: Look) -> None:
    execute(shop, "DELETE FROM orders WHERE id <= 2")
    proofs = look(NO_ORPHAN, SAME_COUNT, declared("SELECT nothing"), reconcile_command="reconcile -i {environment}")
    assert [("`reconcile -i test`" in one["remedy"]) for one in proofs["proofs"]] == [False, True, False]


def test_unequal_counts_are_red_and_say_by_how_much(shop: Session, look: Look) -> None:
    execute(shop, "DELETE FROM orders WHERE id <= 2")
    result = look(NO_ORPHAN, SAME_COUNT)
    assert [proof["status"] for proof in result["proofs"]] == ["pass", "fail"]
    assert result["message"].startswith(
        "1) “As many orders as the accounts say” failed: said = 30, found = 28, 2 apart. Find the rows"
    )


WOULD_WRITE = {
    "delete": "DELETE FROM orders",
    "delete returning": "DELETE FROM orders RETURNING id",
    "with": "WITH gone AS (DELETE FROM orders RETURNING id) SELECT * FROM gone",
    "second statement": "SELECT 1 AS a) AS declared) AS declared; DELETE FROM orders; SELECT 1 FROM (SELECT (SELECT 1",
    "commit and write": (
        "SELECT 1) AS declared) AS numbered) AS declared; COMMIT; BEGIN READ WRITE; DELETE FROM orders; COMMIT; "
        "SELECT 1 FROM (SELECT 1 FROM (SELECT 1 FROM (SELECT 1"
    ),
    "commit and write, out of a comparison": (
        "SELECT 1 AS a) AS declared) AS declared; COMMIT; BEGIN READ WRITE; DELETE FROM orders; COMMIT; "
        "SELECT 1 FROM (SELECT 1 FROM (SELECT 1"
    ),
    "write after the wrapping": (
        "SELECT 1) AS declared) AS numbered) AS declared; DELETE FROM orders; "
        "SELECT 1 FROM (SELECT 1 FROM (SELECT 1 FROM (SELECT 1"
    ),
    "drop": "DROP TABLE orders",
    "copy to a program": "COPY orders TO PROGRAM 'touch /tmp/dbrelease_was_here'",
    "a function that writes": "SELECT emptied() AS a",
    "sequence": "SELECT nextval('numbers') AS a",
    "into": "SELECT id INTO copied FROM orders",
    "locks rows": "SELECT id FROM orders FOR UPDATE",
    "leaves read only": "SELECT set_config('transaction_read_only', 'off', true), emptied()",
}


@pytest.mark.parametrize("kind", ["violations", "equal"])
@pytest.mark.parametrize("sql", WOULD_WRITE.values(), ids=WOULD_WRITE)
def test_a_check_that_would_write_is_red_and_writes_nothing(shop: Session, look: Look, sql: str, kind: str) -> None:
    execute(
        shop,
        "CREATE SEQUENCE numbers",
        "CREATE FUNCTION emptied() RETURNS int LANGUAGE plpgsql AS $$ BEGIN DELETE FROM orders; RETURN 1; END $$",
    )
    before, after = look(declared(sql, kind), NO_ORPHAN)["proofs"]
    assert before["status"] == "fail"
    assert before["detail"].startswith("The check declared could not run: ")
    assert before["remedy"]
    assert after["status"] == "pass", "a broken check hides no other"
    assert value(shop, "SELECT count(*) FROM orders") == 30
    assert value(shop, "SELECT NOT is_called FROM numbers")
    assert value(shop, "SELECT to_regclass('copied') IS NULL")


BROKEN = {
    "no such table": ("SELECT 1 FROM missing", 'relation "missing" does not exist (42P01)', "table back"),
    "no such column": ("SELECT missing FROM orders", 'column "missing" does not exist (42703)', "column back"),
    "syntax": ("SELEC 1", 'syntax error at or near "1" (42601)', "Declare one SELECT"),
    "division by zero": ("SELECT 1 / (id - id) AS a FROM orders", "division by zero (22012)", "Declare one SELECT"),
}


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(("sql", "reason", "remedy"), BROKEN.values(), ids=BROKEN)
def test_a_check_that_cannot_run_is_red_with_the_servers_reason(look: Look, sql: str, reason: str, remedy: str) -> None:
    broken, other = look(declared(sql), NO_ORPHAN, statement_timeout_ms=500)["proofs"]
    assert broken["status"] == "fail"
    assert broken["detail"] == f"The check declared could not run: {reason}."
    assert remedy in broken["remedy"]
    assert other["status"] == "pass"


def test_a_forbidden_table_is_red(shop: Session, look: Look, login_parameters: dict[str, Any]) -> None:
    role = f"reader_{login_parameters['login_db']}"
    execute(shop, f"CREATE ROLE {role} LOGIN PASSWORD 'canary'", f"GRANT SELECT ON accounts TO {role}")
    try:
        login_parameters.update(login_user=role, login_password="canary")
        (proof,) = look(NO_ORPHAN, **login_parameters)["proofs"]
    finally:
        execute(shop, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert proof["status"] == "fail"
    assert "permission denied for table orders (42501)" in proof["detail"]
    assert "Grant" in proof["remedy"]


def test_a_table_that_hides_rows_is_red(shop: Session, look: Look, login_parameters: dict[str, Any]) -> None:
    """Its policy would show a part of the rows as if they were all."""
    role = f"reader_{login_parameters['login_db']}"
    execute(
        shop,
        f"CREATE ROLE {role} LOGIN PASSWORD 'canary'",
        f"GRANT SELECT ON accounts, orders TO {role}",
        "INSERT INTO orders VALUES (99, 99, 'without its account')",
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
    )
    try:
        login_parameters.update(login_user=role, login_password="canary")
        (proof,) = look(NO_ORPHAN, **login_parameters)["proofs"]
    finally:
        execute(shop, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert proof["status"] == "fail"
    assert 'row-level security policy for table "orders"' in proof["detail"]


EQUALS = {
    "null equals null": ("SELECT NULL::int AS a, NULL::int AS b", "pass", "a = None"),
    "null is not zero": ("SELECT NULL::int AS a, 0 AS b", "fail", "a = None, b = 0."),
    "1 equals 1.0": ("SELECT 1 AS a, 1.0 AS b", "pass", ""),
    "to the last digit": ("SELECT 12345678901234567890123 AS a, 12345678901234567890124 AS b", "fail", ""),
    "three columns": ("SELECT 1 AS a, 1 AS b, 2 AS c", "fail", "1 apart"),
    "no row": ("SELECT 1 AS a, 1 AS b WHERE false", "fail", "It yields no row instead of exactly one."),
    "two rows": ("VALUES (1, 1), (2, 2)", "fail", "It yields more than one row instead of exactly one."),
    "one column": ("SELECT 1 AS a", "fail", "a single column"),
    "the same name twice": ("SELECT count(*), count(*) FROM orders", "fail", "the same name"),
    "words": ("SELECT 'a' AS a, 'b' AS b", "fail", "a = a, b = b."),
    "ends with a comment": ("SELECT 1 AS a, 1 AS b -- equal", "pass", ""),
    "ends with a semicolon": ("SELECT 1 AS a, 1 AS b;\n", "pass", ""),
}


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(("sql", "status", "detail"), EQUALS.values(), ids=EQUALS)
def test_equal_means(look: Look, sql: str, status: str, detail: str) -> None:
    (proof,) = look(declared(sql, "equal"))["proofs"]
    assert proof["status"] == status
    assert detail in proof["detail"]
    assert bool(proof["remedy"]) == (status == "fail")


def test_values_are_fit_for_json_and_bounded(shop: Session, look: Look) -> None:
    execute(shop, "CREATE TABLE kinds (u uuid, n numeric, t timestamptz, j jsonb, b bytea, long text)")
    execute(
        shop,
        "INSERT INTO kinds VALUES ('00000000-0000-0000-0000-000000000001', 1.5, '2026-01-02 03:04:05Z',"
        """ '{"a": [1]}', '\\x00ff', repeat('x', 100000))""",
    )
    (proof,) = look(declared("SELECT * FROM kinds"))["proofs"]
    (row,) = json.loads(json.dumps(proof["sample"]))
    assert row["u"] == "00000000-0000-0000-0000-000000000001"
    assert (row["n"], row["j"], row["b"]) == (1.5, {"a": [1]}, "\\x00ff")
    assert row["t"] == "2026-01-02T03:04:05+00:00"
    assert row["long"] == "x" * 200 + "… (100000 characters)"


SLEEPS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"


@pytest.mark.usefixtures("shop")
def test_every_check_sees_the_same_instant_whatever_is_written_meanwhile(database: Login, look: Look) -> None:
    def write() -> None:
        writer = connect(database, "writer")
        deadline = time.monotonic() + 30
        while not value(writer, SLEEPS) and time.monotonic() < deadline:
            time.sleep(0.05)
        execute(writer, "DELETE FROM orders")
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    slow = declared("SELECT 1 FROM pg_sleep(2) WHERE random() < 0")
    _, same = look(slow, SAME_COUNT)["proofs"]
    thread.join()
    assert same["status"] == "pass"
    assert look(SAME_COUNT)["proofs"][0]["status"] == "fail"


def test_a_query_is_evaluated_once_for_number_and_sample(shop: Session, look: Look) -> None:
    execute(shop, "CREATE TABLE big AS SELECT n FROM generate_series(1, 200000) n")
    (proof,) = look(declared("SELECT n, random() AS r FROM big WHERE random() < 0.5"))["proofs"]
    assert 90_000 < proof["observed"] < 110_000
    assert len(proof["sample"]) == 5


def test_columns_may_have_any_name(look: Look, shop: Session) -> None:
    execute(shop, 'CREATE TABLE odd (declared int, line int, numbered int, count int, "a b" int)')
    execute(shop, "INSERT INTO odd VALUES (1, 2, 3, 4, 5)")
    (proof,) = look(declared("SELECT * FROM odd"))["proofs"]
    assert proof["sample"] == [{"declared": 1, "line": 2, "numbered": 3, "count": 4, "a b": 5}]


@pytest.mark.usefixtures("shop")
def test_the_journal_has_the_step_and_check_mode_writes_none(look: Look, run_parameters: dict[str, Any]) -> None:
    journal = Path(run_parameters["state_dir"]) / "journal.jsonl"
    assert look(NO_ORPHAN, check_mode=True)["proofs"][0]["status"] == "pass"
    assert not journal.exists()
    look(NO_ORPHAN, declared("SELECT 1"))
    started, ended = [json.loads(line) for line in journal.read_text().splitlines()]
    assert (started["step"], started["event"]) == ("checks", "started")
    assert (ended["step"], ended["event"]) == ("checks", "failed")
    assert len(ended["facts"]["proofs"]) == 2
    assert "test" in ended["environment"]


def test_an_unreachable_database_is_one_sentence(look: Look) -> None:
    with pytest.raises(ReleaseError, match=r"Connecting to database .* failed"):
        look(NO_ORPHAN, login_port=1)


@pytest.mark.usefixtures("shop")
def test_a_session_that_is_ended_is_one_sentence(look: Look, database: Login) -> None:
    def end() -> None:
        other = connect(database, "other")
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        while not value(other, f"SELECT count(*) FROM ({ended} AND wait_event = 'PgSleep') AS ended"):
            time.sleep(0.1)
        other.close()

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(ReleaseError, match="ended during a statement"):
        look(declared("SELECT pg_sleep(20)"))
    thread.join()


def test_run_checks_sees_what_its_callers_transaction_wrote(shop: Session) -> None:
    with transaction(shop, isolation="REPEATABLE READ", commit=False) as cursor:
        cursor.execute("UPDATE orders SET account_id = 99 WHERE id = 1")
        (proof,) = run_checks(cursor, [NO_ORPHAN])
        assert (proof.status, proof.observed) == ("fail", 1)
        cursor.execute("UPDATE orders SET account_id = 1 WHERE id = 1")
        assert run_checks(cursor, [NO_ORPHAN])[0].status == "pass"


PLANNED = {
    "good": ("SELECT id FROM orders", "pass"),
    "reads no row": ("SELECT pg_sleep(60) FROM orders", "pass"),
    "broken": ("SELECT missing FROM orders", "fail"),
    "delete": ("DELETE FROM orders", "fail"),
    "second statement": ("SELECT 1) AS declared; DELETE FROM orders; SELECT 1 FROM (SELECT 1", "fail"),
    "with": ("WITH gone AS (DELETE FROM orders RETURNING id) SELECT * FROM gone", "fail"),
}


@pytest.mark.parametrize(("sql", "status"), PLANNED.values(), ids=PLANNED)
def test_planning_reports_what_could_not_run(shop: Session, sql: str, status: str) -> None:
    good = {"name": "good", "title": "Good", "sql": "SELECT 1 AS a"}
    with transaction(shop, commit=False) as cursor:
        planned, after = plan_checks(cursor, [{"name": "declared", "title": "Declared", "sql": sql}, good])
    assert planned.status == status
    assert planned.name == "preflight.checks_plan.declared"
    assert bool(planned.detail) == bool(planned.remedy) == (status == "fail")
    assert after.status == "pass"
    assert value(shop, "SELECT count(*) FROM orders") == 30


@pytest.mark.parametrize(
    ("count", "drifted", "status", "detail"),
    [
        (0, 0, "pass", "No row breaks it."),
        (1, 0, "fail", "1 row breaks it."),
        (7, 2, "fail", "7 rows break it, of which 2 were written by the application since: drift."),
        (7, 7, "inconclusive", "7 rows break it now, written by the application since: drift."),
    ],
)
def test_verdict_on_violations(count: int, drifted: int, status: str, detail: str) -> None:
    verdict = judge_violations(count, drifted, [{"id": 1}][:count], "inconclusive")
    assert verdict["status"] == status
    assert detail in verdict["detail"]


def test_verdict_on_text_names_no_distance() -> None:
    rows = [{"line": {"a": "x", "b": 2}, "columns": 2, "differing": 2}]
    assert "apart" not in judge_equal(rows, False)["detail"]
