"""scenarios: a scenario shows what the database does, and nothing of it stays."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest
import shared_database
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.verify import scenarios as engine
from ansible.module_utils.dbrelease.verify import scenarios as sql_scenarios
from ansible.module_utils.dbrelease.verify.scenarios import (
    Left,
    Played,
    StepSeen,
    fill,
    judge,
    mismatch,
    unsaved_values,
)
from lock_waits import let_go_after_an_attempt
from own_sessions import connect

database, emptied = shared_database.database, shared_database.emptied

Session = psycopg2.extensions.connection
Play = Callable[..., dict[str, Any]]

CASCADE: dict[str, Any] = {
    "name": "cascade",
    "title": "Deleting an account removes its orders",
    "steps": [
        {
            "title": "Create an account",
            "sql": "INSERT INTO accounts (name) VALUES ('50% ''test''') RETURNING id AS account, name",
            "save": ["account", "name"],
        },
        {"title": "Order", "sql": "INSERT INTO orders (account_id, note) VALUES (%(account)s, %(name)s)"},
        {
            "title": "The order is there",
            "sql": "SELECT count(*) AS orders, min(note) AS note FROM orders WHERE account_id = %(account)s",
            "expect": {"orders": 1, "note": "50% 'test'"},
        },
        {"title": "Delete the account", "sql": "DELETE FROM accounts WHERE id = %(account)s"},
        {
            "title": "The order is gone",
            "sql": "SELECT count(*) AS orders FROM orders WHERE account_id = %(account)s",
            "expect": {"orders": 0},
        },
    ],
    "leaves_nothing": (
        "SELECT (SELECT count(*) FROM accounts WHERE id = %(account)s)"
        " + (SELECT count(*) FROM orders WHERE account_id = %(account)s) AS rows_left"
    ),
}


def execute(session: Session, *statements: str) -> None:
    with session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def rows_of(session: Session) -> tuple[Any, ...]:
    """Everything that a step could have changed."""
    with session.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM orders),"
            " (SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace)"
        )
        row = cursor.fetchone()
        assert row
        return row


@pytest.fixture
def shop(session: Session) -> Session:
    execute(
        session,
        "CREATE TABLE accounts (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, code text UNIQUE)",
        "CREATE TABLE orders (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), note text,"
        " account_id uuid CONSTRAINT owner REFERENCES accounts ON DELETE CASCADE)",
        "INSERT INTO accounts (name) SELECT 'Account ' || n FROM generate_series(1, 3) n",
        "INSERT INTO orders (account_id, note) SELECT id, 'kept' FROM accounts",
    )
    return session


@pytest.fixture
def play(login_parameters: dict[str, Any], run_parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Play:
    monkeypatch.setattr(engine, "PAUSE_S", 0.0)

    def run(*scenarios: dict[str, Any], check_mode: bool = False, **options: Any) -> dict[str, Any]:
        limits = {"statement_timeout_ms": 5_000, "lock_timeout_ms": 200}
        given = {**login_parameters, "run": run_parameters, "scenarios": list(scenarios), **limits, **options}
        return sql_scenarios.act(given, check_mode)

    return run


def steps(*sql: str, leaves_nothing: str = "SELECT 0 AS rows_left") -> dict[str, Any]:
    listed = [{"title": f"Step {number}", "sql": text} for number, text in enumerate(sql, start=1)]
    return {"name": "declared", "title": "Declared", "steps": listed, "leaves_nothing": leaves_nothing}


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_cascade_that_works_is_green_and_leaves_nothing(shop: Session, play: Play, check_mode: bool) -> None:
    before = rows_of(shop)
    for _ in range(2):
        result = play(CASCADE, check_mode=check_mode)
        (proof,) = result["proofs"]
        assert (proof["name"], proof["status"], result["message"]) == ("scenario.cascade", "pass", "")
        assert proof["observed"] == {"steps": 5, "rows_left": 0, "transaction": "aborted"}
        assert "changed" not in result
        assert rows_of(shop) == before


@pytest.mark.usefixtures("shop")
def test_the_steps_are_shown_with_what_was_expected_and_observed(play: Play) -> None:
    sample = json.loads(json.dumps(play(CASCADE)["proofs"][0]["sample"]))
    assert [step["title"] for step in sample] == [step["title"] for step in CASCADE["steps"]]
    assert sample[0]["observed"]["name"] == "50% 'test'"
    assert sample[1] == {"title": "Order", "expected": None, "observed": {"rows": 1}, "problem": ""}
    assert sample[4] == {
        "title": "The order is gone",
        "expected": {"orders": 0},
        "observed": {"orders": 0},
        "problem": "",
    }


BROKEN_CASCADE = {
    "no foreign key": ("DROP CONSTRAINT owner", "step 'The order is gone': orders was 1, expected 0"),
    "no action": (
        "DROP CONSTRAINT owner, ADD CONSTRAINT owner FOREIGN KEY (account_id) REFERENCES accounts",
        "Step 'Delete the account' failed: update or delete on table \"accounts\" violates foreign key constraint",
    ),
    "deferred": (
        "DROP CONSTRAINT owner, ADD CONSTRAINT owner FOREIGN KEY (account_id) REFERENCES accounts"
        " DEFERRABLE INITIALLY DEFERRED",
        "Step 'Delete the account' failed: update or delete on table \"accounts\" violates foreign key constraint",
    ),
    "set null where null may not be": (
        "ALTER account_id SET NOT NULL, DROP CONSTRAINT owner,"
        " ADD CONSTRAINT owner FOREIGN KEY (account_id) REFERENCES accounts ON DELETE SET NULL",
        "Step 'Delete the account' failed: null value in column",
    ),
}


@pytest.mark.parametrize(("change", "detail"), BROKEN_CASCADE.values(), ids=BROKEN_CASCADE)
def test_a_broken_cascade_is_red(shop: Session, play: Play, change: str, detail: str) -> None:
    execute(shop, f"ALTER TABLE orders {change}")
    before = rows_of(shop)
    (proof,) = play(CASCADE)["proofs"]
    assert proof["status"] == "fail"
    assert detail in proof["detail"]
    assert proof["remedy"]
    assert rows_of(shop) == before


def test_set_null_is_red_where_the_order_must_go(shop: Session, play: Play) -> None:
    execute(
        shop,
        "ALTER TABLE orders DROP CONSTRAINT owner,"
        " ADD CONSTRAINT owner FOREIGN KEY (account_id) REFERENCES accounts ON DELETE SET NULL",
    )
    scenario = copy.deepcopy(CASCADE)
    scenario["steps"][-1]["sql"] = "SELECT count(*) AS orders FROM orders WHERE note = %(name)s"
    (proof,) = play(scenario)["proofs"]
    assert proof["status"] == "fail"
    assert "orders was 1, expected 0" in proof["detail"]


def test_a_missing_table_is_red_with_a_sentence(shop: Session, play: Play) -> None:
    execute(shop, "DROP TABLE orders")
    result = play(CASCADE)
    assert result["proofs"][0]["status"] == "fail"
    assert result["message"] == (
        "1) “Deleting an account removes its orders” failed: Step 'Order' failed: relation \"orders\" does not exist "
        "(42P01). Correct the statement, or bring the missing table back."
    )
    assert len(result["proofs"][0]["sample"]) == 2


CANNOT_GET_OUT = {
    "commit": "COMMIT",
    "end": "END",
    "rollback": "ROLLBACK",
    "insert and commit": "INSERT INTO accounts (name) VALUES ('left'); COMMIT",
    "commit first": "COMMIT; INSERT INTO accounts (name) VALUES ('left')",
    "commit and chain": "INSERT INTO accounts (name) VALUES ('left'); COMMIT AND CHAIN",
    "two inserts": "INSERT INTO accounts (name) VALUES ('one'); INSERT INTO accounts (name) VALUES ('two')",
    "quoted semicolon, then another": "INSERT INTO accounts (name) VALUES ('a;b'); DELETE FROM orders",
    "copy to a program": "COPY accounts TO PROGRAM 'touch /tmp/dbrelease_was_here'",
    "drop": "DROP TABLE orders",
    "truncate": "TRUNCATE orders",
    "alter": "ALTER TABLE orders ADD extra int",
    "lock": "LOCK TABLE orders",
    "create as": "CREATE TABLE copied AS SELECT * FROM orders",
    "select into": "SELECT * INTO copied FROM orders",
    "do": "DO $$ BEGIN COMMIT; END $$",
    "call": "CALL committed()",
    "prepare transaction": "PREPARE TRANSACTION 'left'",
    "prepare": "PREPARE mine AS SELECT 1",
    "execute": "EXECUTE declared_statement",
    "explain analyze": "EXPLAIN ANALYZE DELETE FROM orders",
    "analyze, after explain": "ANALYZE DELETE FROM orders",
    "options, after explain": "(ANALYZE) DELETE FROM orders",
    "vacuum": "VACUUM orders",
    "set": "SET lock_timeout = 0",
    "nothing": "",
    "a comment": "-- nothing",
}


@pytest.mark.parametrize("sql", CANNOT_GET_OUT.values(), ids=CANNOT_GET_OUT)
def test_a_step_cannot_leave_the_transaction(shop: Session, play: Play, sql: str) -> None:
    execute(
        shop,
        "CREATE PROCEDURE committed() LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO accounts (name) VALUES ('left'); COMMIT; END $$",
    )
    before = rows_of(shop)
    (proof,) = play(steps("INSERT INTO accounts (name) VALUES ('first')", sql))["proofs"]
    assert proof["status"] == "fail"
    assert "tep 'Step 2'" in proof["detail"]
    assert proof["remedy"]
    assert proof["observed"]["transaction"] == "aborted"
    assert rows_of(shop) == before


MAY_RUN = {
    "with": "WITH gone AS (DELETE FROM orders RETURNING 1) SELECT count(*) AS a FROM gone",
    "update": "UPDATE accounts SET name = 'x'",
    "values": "VALUES (1)",
    "comment and semicolon": "-- first\nSELECT 1 AS a /* ; */ ; ",
    "percent": "SELECT count(*) AS a FROM orders WHERE note LIKE '%(s)%' OR note LIKE '100%'",
    "dollar": "SELECT $$a;b$$ AS a",
}


@pytest.mark.parametrize("sql", MAY_RUN.values(), ids=MAY_RUN)
def test_a_single_statement_may_run(shop: Session, play: Play, sql: str) -> None:
    before = rows_of(shop)
    assert play(steps(sql))["proofs"][0]["status"] == "pass"
    assert rows_of(shop) == before


LOCKED = {
    "the table": "LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE",
    "the unique value": "INSERT INTO accounts (name, code) VALUES ('other', 'taken')",
}


@pytest.mark.parametrize("lock", LOCKED.values(), ids=LOCKED)
def test_a_lock_of_another_session_ends_it_soon(database: Login, shop: Session, play: Play, lock: str) -> None:
    other = connect(database, "other")
    execute(other, "BEGIN", lock)
    started = time.monotonic()
    (proof,) = play(steps("INSERT INTO accounts (name, code) VALUES ('mine', 'taken')"))["proofs"]
    assert time.monotonic() - started < 8
    assert proof["status"] == "inconclusive"
    assert "was blocked by a lock of another session in 3 attempts" in proof["detail"]
    execute(other, "ROLLBACK")
    other.close()
    assert play(CASCADE)["proofs"][0]["status"] == "pass"


def test_a_lock_that_goes_in_time_does_no_harm(
    database: Login, shop: Session, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PAUSE_S", 0.5)
    other = connect(database, "other")
    execute(other, "BEGIN", LOCKED["the table"])
    with let_go_after_an_attempt(database, other):
        assert play(CASCADE)["proofs"][0]["status"] == "pass"
    other.close()


@pytest.mark.usefixtures("shop")
def test_a_step_that_takes_too_long_is_inconclusive(play: Play) -> None:
    (proof,) = play(steps("SELECT pg_sleep(30)"), statement_timeout_ms=300)["proofs"]
    assert (proof["status"], proof["could_not_run"]) == ("inconclusive", True)
    assert "statement timeout (57014)" in proof["detail"]
    assert "statement_timeout_ms" in proof["remedy"]


def test_a_value_that_was_not_saved_runs_nothing(play: Play) -> None:
    (proof,) = play(steps("SELECT %(account)s AS a"))["proofs"]
    assert (proof["status"], proof["sample"]) == ("fail", [])
    assert "%(account)s, which no earlier step saves; nothing was run" in proof["detail"]


ROWS = {
    "two rows": ("VALUES (1), (2)", "it returned 2 rows, not one"),
    "no row": ("SELECT 1 AS column1 WHERE false", "it returned 0 rows, not one"),
    "another column": ("SELECT 1 AS a", "its row has no column1"),
    "another value": ("SELECT 2 AS column1", "column1 was 2, expected 1"),
}


@pytest.mark.parametrize(("sql", "problem"), ROWS.values(), ids=ROWS)
def test_a_row_that_is_not_as_expected_is_red(play: Play, sql: str, problem: str) -> None:
    scenario = steps(sql, "SELECT 1 AS after")
    scenario["steps"][0]["expect"] = {"column1": 1}
    (proof,) = play(scenario)["proofs"]
    assert proof["status"] == "fail"
    assert proof["detail"] == f"In step 'Step 1': {problem}."
    assert proof["sample"][1]["title"] == "Step 2", "a wrong value does not hide the later steps"


LEAVES = {
    "something": ("SELECT count(*) AS a FROM accounts", "left something behind"),
    "two columns": ("SELECT 0 AS a, 0 AS b", "it must yield one row with one column"),
    "no row": ("SELECT 0 AS a WHERE false", "it must yield one row with one column"),
    "broken": ("SELECT a", 'column "a" does not exist'),
    "would write": ("DELETE FROM accounts", "syntax error"),
}


@pytest.mark.parametrize(("sql", "detail"), LEAVES.values(), ids=LEAVES)
def test_what_it_leaves_is_counted(shop: Session, play: Play, sql: str, detail: str) -> None:
    before = rows_of(shop)
    (proof,) = play(steps("SELECT 1 AS a", leaves_nothing=sql))["proofs"]
    assert proof["status"] == "fail"
    assert detail in proof["detail"]
    assert rows_of(shop) == before


def test_a_transaction_that_was_committed_after_all_is_red() -> None:
    played = Played(steps=[StepSeen("Step 1", None, {"rows": 1})], transaction_id="7")
    verdict = judge(steps("SELECT 1"), played, Left("committed", 0))
    assert verdict["status"] == "fail"
    assert "the transaction is committed" in verdict["detail"]


@pytest.mark.usefixtures("shop")
def test_the_journal_has_the_step_and_check_mode_writes_none(play: Play, run_parameters: dict[str, Any]) -> None:
    journal = Path(run_parameters["state_dir"]) / "journal.jsonl"
    play(CASCADE, check_mode=True)
    assert not journal.exists()
    play(CASCADE)
    started, ended = [json.loads(line) for line in journal.read_text().splitlines()]
    assert (started["step"], started["event"], ended["event"]) == ("scenario", "started", "passed")
    assert ended["facts"]["proofs"][0]["name"] == "scenario.cascade"


def test_an_unreachable_database_is_one_sentence(play: Play) -> None:
    with pytest.raises(ReleaseError, match=r"Connecting to database .* failed"):
        play(CASCADE, login_port=1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (None, "NULL"),
        ("O'Hare; DROP TABLE accounts", "'O''Hare; DROP TABLE accounts'"),
        ("back\\slash", "'back\\slash'"),
        ({"a": "it's"}, "'{\"a\": \"it''s\"}'"),
    ],
)
def test_a_saved_value_becomes_a_literal(session: Session, value: Any, text: str) -> None:
    filled = fill("SELECT %(saved)s, 100%, '%s'", {"saved": value}, session)
    assert filled.replace("  ", " ") == f"SELECT {text}, 100%, '%s'"


KINDS = {
    "an interval": ("interval '26 hours'", "PT26H"),
    "bytes": (r"'\xdead'::bytea", r"\xdead"),
    "before our time": ("date '0044-03-15 BC'", "0044-03-15 BC"),
    "after all time": ("timestamptz 'infinity'", "infinity"),
    "a moment": ("timestamptz '2026-01-02 03:04:05.5'", "2026-01-02 03:04:05.500000+00:00"),
}


@pytest.mark.parametrize(("value", "text"), KINDS.values(), ids=KINDS)
def test_a_value_of_any_kind_is_shown_expected_and_given_back(play: Play, value: str, text: str) -> None:
    scenario = steps(f"SELECT {value} AS value", f"SELECT {value} = %(value)s AS same")
    scenario["steps"][0] |= {"save": ["value"], "expect": {"value": text}}
    scenario["steps"][1] |= {"expect": {"same": True}}
    (proof,) = play(scenario)["proofs"]
    assert proof["status"] == "pass", proof["detail"]
    assert proof["sample"][0]["observed"] == {"value": text}


def test_a_percent_sign_may_be_written_twice(play: Play) -> None:
    scenario = steps("SELECT 7 %% 4 AS a, '100 %' AS b, '%%' AS c")
    scenario["steps"][0]["expect"] = {"a": 3, "b": "100 %", "c": "%"}
    assert play(scenario)["proofs"][0]["status"] == "pass"


def test_unsaved_values_are_named_once() -> None:
    assert unsaved_values(CASCADE) == []
    assert unsaved_values(steps("SELECT %(a)s, %(b)s, %(a)s", leaves_nothing="SELECT %(c)s")) == ["a", "b", "c"]


def test_numbers_compare_as_numbers_and_the_rest_by_its_text() -> None:
    from decimal import Decimal

    assert mismatch([{"a": Decimal("5"), "b": True, "c": None}], {"a": 5, "b": True, "c": None}, []) == ""
    assert mismatch([{"a": Decimal("5.50")}], {"a": "5.50"}, []) == ""
    assert mismatch([{"a": Decimal("19.99")}], {"a": 19.99}, []) == ""
    assert mismatch([{"a": Decimal("19.991")}], {"a": 19.99}, []) == "a was 19.991, expected 19.99"
    assert mismatch([{"a": 0}], {"a": None}, []) == "a was 0, expected None"
