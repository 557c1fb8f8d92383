"""restored_info: whatever differs from the baseline in catalog, rows, revision or observation is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2.extensions
import pytest
import shared_database
from ansible.module_utils.dbrelease.baseline import read_baseline
from ansible.module_utils.dbrelease.database import Login, connect, transaction
from ansible.module_utils.dbrelease.fingerprints import write_counters
from ansible.module_utils.dbrelease.journal import Journal, Run
from restored_info import act

database, emptied = shared_database.database, shared_database.emptied

SCHEMA = """
CREATE TYPE mood AS ENUM ('fair', 'foul');
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
CREATE TABLE accounts (id int PRIMARY KEY, name text DEFAULT 'x' NOT NULL, feels mood,
    CONSTRAINT named CHECK (name <> ''));
CREATE TABLE orders (id serial PRIMARY KEY, account_id int REFERENCES accounts ON DELETE SET NULL);
CREATE INDEX by_account ON orders (account_id);
CREATE VIEW named_accounts AS SELECT name FROM accounts;
CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
INSERT INTO alembic_version VALUES ('a1');
INSERT INTO accounts SELECT i, 'account ' || i FROM generate_series(1, 20) i;
INSERT INTO orders (account_id) SELECT 1 + i % 20 FROM generate_series(1, 5000) i;
"""
# So many orders that no tests beside these have as many transactions meanwhile, who might have deleted them.
UP = ["BEGIN", "CREATE TABLE order_items (id int)", "UPDATE alembic_version SET version_num = 'b2'", "COMMIT"]
DOWN = ["BEGIN", "DROP TABLE order_items", "UPDATE alembic_version SET version_num = 'a1'", "COMMIT"]
COUNT = {"name": "accounts", "title": "Accounts", "sql": "SELECT count(*) AS accounts FROM accounts"}
Look = Callable[..., dict[str, dict[str, Any]]]


def execute(login: Login, *statements: str) -> None:
    connection = connect(login, "somebody")
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


def counters(login: Login) -> dict[str, Any]:
    connection = connect(login, "counters")
    try:
        with transaction(connection, read_only=True) as cursor:
            return write_counters(cursor)
    finally:
        connection.close()


@pytest.fixture
def look(
    database: Login,
    session: psycopg2.extensions.connection,
    login_parameters: dict[str, Any],
    run_parameters: dict[str, Any],
) -> Look:
    """Deployed; then what a test says, and the comparison."""
    execute(database, SCHEMA)
    journal = Journal(Run(**run_parameters))
    with transaction(session, read_only=True, isolation="REPEATABLE READ") as cursor:
        journal.append("baseline", "passed", read_baseline(cursor, [COUNT], "alembic_version").facts)
    before = counters(database)
    execute(database, *UP)
    journal.append("upgrade", "passed", {"before": before, "after": counters(database)})

    def look(*down: str, after: list[str] | None = None, altered: list[str] | None = None) -> dict[str, dict[str, Any]]:
        before = counters(database)
        execute(database, *down)
        journal.append("downgrade", "passed", {"before": before, "after": counters(database)})
        execute(database, *(after or []))
        params = {
            **login_parameters,
            "run": run_parameters,
            "created": ["order_items"],
            "altered": altered or [],
            "bookkeeping_table": "alembic_version",
            "settle_seconds": 1.0,
        }
        result = act(params, False)
        assert (result["changed"], result["compared"]) == (False, True)
        return {proof["name"].removeprefix("restored."): proof for proof in result["proofs"]}

    return look


def statuses(proofs: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: proof["status"] for name, proof in proofs.items()}


ALL = [
    "catalog",
    "public.accounts",
    "public.orders",
    "public.alembic_version",
    "order_items.absent",
    "observation.accounts",
]


def test_what_is_as_before_passes_and_again(look: Look) -> None:
    assert statuses(look(*DOWN)) == dict.fromkeys(ALL, "pass")
    assert statuses(look()) == dict.fromkeys(ALL, "pass")


CATALOG = [
    "ALTER TABLE accounts ADD more int",
    "ALTER TABLE accounts ALTER name DROP DEFAULT",
    "ALTER TABLE accounts ALTER name DROP NOT NULL",
    "ALTER TABLE accounts DROP CONSTRAINT named",
    "ALTER TABLE orders ALTER account_id TYPE bigint",
    "DROP INDEX by_account",
    "CREATE INDEX more ON orders (id)",
    "ALTER TABLE orders DROP CONSTRAINT orders_account_id_fkey",
    "GRANT SELECT ON accounts TO PUBLIC",
    "GRANT SELECT (name) ON accounts TO PUBLIC",
    "ALTER TABLE accounts OWNER TO pg_monitor",
    "ALTER TYPE mood ADD VALUE 'odd'",
    "ALTER SEQUENCE orders_id_seq INCREMENT 2",
    "CREATE OR REPLACE VIEW named_accounts AS SELECT upper(name) AS name FROM accounts",
    "CREATE OR REPLACE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 2'",
    "CREATE TRIGGER t BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "ALTER TABLE accounts ENABLE ROW LEVEL SECURITY",
    "COMMENT ON TABLE accounts IS 'x'",
    "CREATE TABLE left_over (id int)",
    "CREATE SCHEMA left_over",
]


@pytest.mark.parametrize("change", CATALOG)
def test_every_change_of_the_catalog_is_red(look: Look, change: str) -> None:
    proof = look(*DOWN, change)["catalog"]
    assert proof["status"] == "fail", proof
    assert proof["sample"]


RED: list[tuple[str, list[str], str]] = [
    ("not dropped", ["UPDATE alembic_version SET version_num = 'a1'"], "order_items.absent"),
    ("another revision", [*DOWN, "UPDATE alembic_version SET version_num = 'c3'"], "public.alembic_version"),
    ("a second revision", [*DOWN, "INSERT INTO alembic_version VALUES ('c3')"], "public.alembic_version"),
    ("rewrites rows", [*DOWN[:-1], "UPDATE accounts SET name = 'y' WHERE id < 4", "COMMIT"], "public.accounts"),
    ("deletes rows", [*DOWN[:-1], "DELETE FROM orders", "COMMIT"], "public.orders"),
    ("drops a table", [*DOWN, "DROP TABLE orders"], "public.orders"),
]


@pytest.mark.parametrize(("down", "red"), [row[1:] for row in RED], ids=[row[0] for row in RED])
def test_what_the_downgrade_does_to_rows_is_red(look: Look, down: list[str], red: str) -> None:
    assert statuses(look(*down))[red] == "fail"


def test_what_the_application_wrote_since_is_not_red(look: Look) -> None:
    proofs = statuses(look(*DOWN, after=["INSERT INTO accounts VALUES (99, 'new')"]))
    assert proofs["public.accounts"] == proofs["observation.accounts"] == "inconclusive"
    assert "fail" not in proofs.values()


# What a migration writes to fill a column is still written when the column is gone again.
FILLED = [
    "BEGIN",
    "ALTER TABLE accounts ADD more int",
    "UPDATE accounts SET more = 1",
    "ALTER TABLE accounts DROP more",
]


@pytest.mark.parametrize(("altered", "status"), [([], "fail"), (["accounts"], "inconclusive")])
def test_rows_that_the_migration_filled_are_not_red_where_it_may(look: Look, altered: list[str], status: str) -> None:
    after = ["INSERT INTO accounts VALUES (99, 'new')"]
    proofs = statuses(look(*FILLED, *DOWN[1:], after=after, altered=altered))
    assert (proofs["public.accounts"], proofs["catalog"]) == (status, "pass")


def test_a_filled_table_that_nobody_else_wrote_is_as_before(look: Look) -> None:
    assert statuses(look(*FILLED, *DOWN[1:], altered=["accounts"])) == dict.fromkeys(ALL, "pass")


def test_a_filled_table_that_lost_what_it_held_is_red(look: Look) -> None:
    spoiled = [FILLED[0], FILLED[1], f"{FILLED[2]}, name = 'y'", FILLED[3]]
    assert statuses(look(*spoiled, *DOWN[1:], altered=["accounts"]))["public.accounts"] == "fail"


def test_without_a_baseline_nothing_is_claimed(
    database: Login, login_parameters: dict[str, Any], run_parameters: dict[str, Any]
) -> None:
    params: dict[str, Any] = {
        "created": [],
        "altered": [],
        "bookkeeping_table": "alembic_version",
        "settle_seconds": 1.0,
        "run": run_parameters,
    }
    result = act({**login_parameters, **params}, False)
    assert [(proof["name"], proof["status"]) for proof in result["proofs"]] == [("restored.baseline", "inconclusive")]
    assert (result["compared"], result["message"]) == (False, "")
