"""plans: an index must be able to serve its query, and must serve it where that is the cheaper way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest
import shared_database
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.verify import plans as query_plans
from ansible.module_utils.dbrelease.verify.plans import fetched, seeking, serves

database, emptied = shared_database.database, shared_database.emptied

Session = psycopg2.extensions.connection
Look = Callable[..., dict[str, Any]]

OF_AN_ACCOUNT: dict[str, Any] = {
    "name": "orders_of_an_account",
    "title": "The orders of an account are found by the index",
    "index": "idx_account",
    "table": "orders",
    "row_floor": 5000,
    "sql": "SELECT * FROM orders o JOIN accounts a ON a.id = o.account_id"
    " WHERE o.account_id = (SELECT account_id FROM orders LIMIT 1)",
}
MANY = "INSERT INTO orders SELECT n, n % 500, repeat('x', 50) FROM generate_series(1, 20000) n"
FEW = "INSERT INTO orders SELECT n, n % 5, repeat('x', 50) FROM generate_series(1, 20) n"


def execute(session: Session, *statements: str) -> None:
    with session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@pytest.fixture
def shop(session: Session) -> Session:
    execute(
        session,
        "CREATE TABLE accounts (id int PRIMARY KEY, name text)",
        "INSERT INTO accounts SELECT n, 'Account ' || n FROM generate_series(0, 499) n",
        "CREATE TABLE orders (id int, account_id int, note text) WITH (autovacuum_enabled = off)",
        "CREATE INDEX idx_account ON orders (account_id)",
        "ANALYZE accounts",
    )
    return session


@pytest.fixture
def look(login_parameters: dict[str, Any], run_parameters: dict[str, Any]) -> Look:
    def run(check_mode: bool = False, login: dict[str, Any] | None = None, **plan: Any) -> dict[str, Any]:
        plans = [{**OF_AN_ACCOUNT, **plan}]
        common = {**login_parameters, **(login or {}), "run": run_parameters, "statement_timeout_ms": 60_000}
        return query_plans.act({**common, "plans": plans}, check_mode)

    return run


def test_a_large_analyzed_table_is_served_by_its_index(shop: Session, look: Look) -> None:
    execute(shop, MANY, "ANALYZE orders")
    for _ in range(2):
        result = look()
        (proof,) = result["proofs"]
        assert (proof["name"], proof["status"], result["message"]) == ("plans.orders_of_an_account", "pass", "")
        assert (proof["observed"]["can"], proof["observed"]["does"], proof["observed"]["rows"]) == (True, True, 20000)
        assert "changed" not in result


def test_in_a_small_table_another_way_is_right(shop: Session, look: Look) -> None:
    execute(shop, FEW, "ANALYZE orders")
    (proof,) = look()["proofs"]
    assert proof["status"] == "pass"
    assert (proof["observed"]["can"], proof["observed"]["does"], proof["observed"]["rows"]) == (True, False, 20)
    assert "with 20 rows (fewer than 5000) another plan is right" in proof["detail"]


@pytest.mark.parametrize(("rows", "analyze"), [(MANY, []), (FEW, []), (MANY, ["REINDEX TABLE orders"])])
def test_a_table_that_was_never_analyzed_cannot_be_judged(
    shop: Session, look: Look, rows: str, analyze: list[str]
) -> None:
    execute(shop, rows, *analyze)
    result = look()
    (proof,) = result["proofs"]
    assert (proof["status"], result["message"]) == ("inconclusive", "")
    assert proof["remedy"].startswith("ANALYZE orders")
    execute(shop, "ANALYZE orders")
    assert look()["proofs"][0]["status"] == "pass"


def test_an_empty_analyzed_table_is_green(shop: Session, look: Look) -> None:
    execute(shop, "ANALYZE orders")
    assert look()["proofs"][0]["status"] == "pass"


RED = {
    "dropped": ("DROP INDEX idx_account", "There is no index idx_account on orders."),
    "on another table": (
        "DROP INDEX idx_account; CREATE INDEX idx_account ON accounts (name)",
        "There is no index idx_account on orders.",
    ),
    "invalid": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_account'::regclass",
        "The index idx_account is invalid",
    ),
    "on another column": (
        "DROP INDEX idx_account; CREATE INDEX idx_account ON orders (note)",
        "The planner cannot serve the query by idx_account",
    ),
    "another index takes it": (
        "DROP INDEX idx_account; CREATE INDEX idx_account ON orders (id); CREATE INDEX other ON orders (account_id)",
        "The planner cannot serve the query by idx_account; it takes accounts_pkey, other instead.",
    ),
    "for other rows": (
        "DROP INDEX idx_account; CREATE INDEX idx_account ON orders (account_id) WHERE note = 'y'",
        "The planner cannot serve the query by idx_account",
    ),
    "no table": ("DROP TABLE orders", "There is no table orders."),
}


@pytest.mark.parametrize("rows", [MANY, FEW], ids=["large", "small"])
@pytest.mark.parametrize(("change", "detail"), RED.values(), ids=RED)
def test_an_index_that_cannot_serve_is_red_whatever_the_size(
    shop: Session, look: Look, rows: str, change: str, detail: str
) -> None:
    execute(shop, rows, "ANALYZE orders")
    assert look()["proofs"][0]["status"] == "pass"
    execute(shop, change)
    result = look()
    assert result["proofs"][0]["status"] == "fail"
    assert detail in result["proofs"][0]["detail"]
    assert result["proofs"][0]["observed"]["can"] is False
    assert result["message"]


MISLED = {
    "random_page_cost": "random_page_cost = 100000",
    "enable": "enable_indexscan = off; ALTER DATABASE {db} SET enable_bitmapscan = off; "
    "ALTER DATABASE {db} SET enable_indexonlyscan = off",
}


@pytest.mark.parametrize("setting", MISLED.values(), ids=MISLED)
def test_a_large_table_that_is_not_served_is_red(
    shop: Session, look: Look, setting: str, login_parameters: dict[str, Any]
) -> None:
    execute(shop, MANY, "ANALYZE orders")
    name = login_parameters["login_db"]
    execute(shop, f"ALTER DATABASE {name} SET {setting.format(db=name)}")
    (proof,) = look()["proofs"]
    assert (proof["status"], proof["observed"]["can"], proof["observed"]["does"]) == ("fail", True, False)
    assert "would fetch only 0 % of the 20000 rows" in proof["detail"]
    assert "random_page_cost" in proof["remedy"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM orders WHERE account_id = 1",
        "SELECT * FROM orders o JOIN accounts a ON a.id + 0 = o.account_id",
    ],
    ids=["a value that most rows have", "a join of all rows"],
)
def test_a_query_for_most_of_the_table_may_read_all_of_it(shop: Session, look: Look, sql: str) -> None:
    execute(shop, MANY, "UPDATE orders SET account_id = 1 WHERE id % 10 > 0", "ANALYZE orders")
    (proof,) = look(sql=sql)["proofs"]
    assert (proof["status"], proof["observed"]["can"], proof["observed"]["does"]) == ("pass", True, False)
    assert proof["observed"]["cost_by_index"] > proof["observed"]["cost"]
    assert proof["observed"]["share"] >= 0.85
    assert "reading the whole table is right" in proof["detail"]


def test_the_order_of_an_index_serves_a_limit(shop: Session, look: Look) -> None:
    execute(shop, MANY, "ANALYZE orders")
    (proof,) = look(sql="SELECT * FROM orders ORDER BY account_id LIMIT 10")["proofs"]
    assert (proof["status"], proof["observed"]["does"]) == ("pass", True)


def test_an_index_that_is_read_from_end_to_end_does_not_serve(shop: Session, look: Look) -> None:
    execute(shop, MANY, "ANALYZE orders")
    (proof,) = look(sql="SELECT * FROM orders WHERE account_id IS DISTINCT FROM 1")["proofs"]
    assert (proof["status"], proof["observed"]["can"]) == ("fail", False)


def test_the_index_of_a_partitioned_table_serves_by_its_partitions(shop: Session, look: Look) -> None:
    execute(
        shop,
        "DROP TABLE orders",
        "CREATE TABLE orders (id int, account_id int, note text) PARTITION BY RANGE (id)",
        "CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10000)",
        "CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10000) TO (100000)",
        "CREATE INDEX idx_account ON orders (account_id)",
        MANY,
        "ANALYZE orders",
    )
    (proof,) = look()["proofs"]
    assert (proof["status"], proof["observed"]["does"]) == ("pass", True)


REFUSED = {
    "delete": "DELETE FROM orders WHERE account_id = 1",
    "second statement": "SELECT 1; DELETE FROM orders",
    "second statement, balanced": "SELECT 1) AS declared; DELETE FROM orders; SELECT 1 FROM (SELECT 1",
    "two selects, balanced": "SELECT 1) AS declared; SELECT 1 FROM (SELECT 1",
    "explain analyze": "ANALYZE DELETE FROM orders",
    "options": "(ANALYZE) SELECT * FROM orders",
    "with": "WITH gone AS (DELETE FROM orders WHERE account_id = 1 RETURNING id) SELECT * FROM gone",
    "commit": "COMMIT",
    "into": "SELECT * INTO copied FROM orders WHERE account_id = 1",
    "broken": "SELECT missing FROM orders",
}


@pytest.mark.parametrize("sql", REFUSED.values(), ids=REFUSED)
def test_a_query_that_would_do_more_than_read_is_red_and_does_not_run(shop: Session, look: Look, sql: str) -> None:
    execute(shop, FEW, "ANALYZE orders")
    (proof,) = look(sql=sql)["proofs"]
    assert proof["status"] == "fail"
    assert proof["detail"].startswith("The query could not be planned: ")
    assert proof["remedy"]
    with shop.cursor() as cursor:
        cursor.execute("SELECT count(*), to_regclass('copied') IS NULL FROM orders")
        assert cursor.fetchone() == (20, True)


def test_the_query_is_not_executed(shop: Session, look: Look) -> None:
    execute(shop, MANY, "ANALYZE orders")
    sql = "SELECT pg_sleep(60) FROM orders WHERE account_id = 1"
    assert look(sql=sql)["proofs"][0]["duration_ms"] < 10_000


def test_the_journal_has_the_step_and_check_mode_writes_none(
    shop: Session, look: Look, run_parameters: dict[str, Any]
) -> None:
    execute(shop, FEW, "ANALYZE orders")
    journal = Path(run_parameters["state_dir"]) / "journal.jsonl"
    assert look(check_mode=True)["proofs"][0]["status"] == "pass"
    assert not journal.exists()
    execute(shop, "DROP INDEX idx_account")
    look()
    started, ended = [json.loads(line) for line in journal.read_text().splitlines()]
    assert (started["step"], started["event"], ended["event"]) == ("plans", "started", "failed")


def test_an_unreachable_database_is_one_sentence(look: Look) -> None:
    with pytest.raises(ReleaseError, match=r"Connecting to database .* failed"):
        look(login={"login_port": 1})


def test_rows_of_a_repeated_look_up_are_counted_each_time() -> None:
    inner = {"Node Type": "Index Scan", "Index Name": "i", "Index Cond": "x", "Plan Rows": 2}
    outer = {"Node Type": "Seq Scan", "Plan Rows": 100, "Parent Relationship": "Outer"}
    plan = {"Node Type": "Nested Loop", "Plan Rows": 200, "Plans": [outer, {**inner, "Parent Relationship": "Inner"}]}
    assert fetched(plan, ["i"]) == 200
    assert not serves(plan, ["another"])


def test_a_seek_by_the_same_column_is_distinguished() -> None:
    def sought(condition: str) -> list[str]:
        scan = {"Node Type": "Bitmap Index Scan", "Index Name": "other", "Index Cond": condition}
        return list(seeking(scan, "account_id", ["other"]))

    assert sought("(account_id = $0)") == ["other"]
    assert sought("((id = 1) AND (account_id > 7))") == ["other"]
    assert sought("(id = account_id)") == sought("(main_account_id = 1)") == []
