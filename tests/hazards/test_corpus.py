"""A corpus of hazardous migrations: each is found by what is observed, with its table and lock, and its twin passes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from ansible.module_utils.dbrelease.core.proof import Proof
from ansible.module_utils.dbrelease.observe.budget import judge
from ansible.module_utils.dbrelease.observe.observation import Observation
from ansible.module_utils.dbrelease.observe.observing import observing
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect

CORPUS: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "corpus.yml").read_text())
# What a release would declare; what else is locked is found by its lock alone.
TABLES = ("customers", "orders", "events", "old_events", "new_events", "lines", "settings", "log_rest")
TRIES = 3
ALONE, WORK = "alone ", "SELECT pg_sleep(0.6)"
# Far above what a short lock costs on a busy machine, and below what WORK takes.
BUDGET = {"write_wait_ms": 300}
SCHEMA = """
CREATE DOMAIN status AS text;
CREATE TYPE colour AS ENUM ('red', 'blue');
CREATE TABLE customers (id int PRIMARY KEY, name text);
CREATE TABLE orders (id int PRIMARY KEY, customer_id int, title text, note text, amount int CONSTRAINT positive
    CHECK (amount >= 0), state status, colour colour DEFAULT 'red');
CREATE INDEX orders_amount ON orders (amount);
CREATE TABLE events (id int NOT NULL, during int4range);
CREATE TABLE old_events (id int NOT NULL);
CREATE TABLE all_events (id int NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE new_events PARTITION OF all_events FOR VALUES FROM (100000) TO (200000);
INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 100) n;
INSERT INTO orders SELECT n, 1 + n % 100, 'order ' || n, 'note', n, 'open' FROM generate_series(1, 2000) n;
INSERT INTO events SELECT n, int4range(n, n + 1) FROM generate_series(1, 2000) n;
INSERT INTO old_events SELECT n FROM generate_series(1, 2000) n;
INSERT INTO all_events SELECT n FROM generate_series(100000, 102000) n;
CREATE TABLE lines (id int PRIMARY KEY, customer_id int CONSTRAINT lines_customer REFERENCES customers
    ON DELETE CASCADE, code varchar(20), price numeric(10, 2), made timestamp);
INSERT INTO lines SELECT n, 1 + n % 100, 'code', n, 'epoch' FROM generate_series(1, 2000) n;
CREATE TRIGGER unchanged BEFORE UPDATE ON lines
    FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
CREATE TABLE notes (customer_id int CONSTRAINT notes_customer REFERENCES customers ON DELETE CASCADE);
CREATE TABLE settings (id int PRIMARY KEY, value text);
INSERT INTO settings SELECT n, 'old' FROM generate_series(1, 5) n;
CREATE UNLOGGED TABLE drafts (id int);
CREATE SEQUENCE tickets;
CREATE VIEW names AS SELECT id, name FROM customers;
CREATE MATERIALIZED VIEW totals AS SELECT customer_id, count(*) AS n FROM lines GROUP BY customer_id;
CREATE UNIQUE INDEX totals_customer ON totals (customer_id);
CREATE TABLE log (id int NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE log_rest PARTITION OF log DEFAULT;
CREATE TABLE log_new (id int NOT NULL, CHECK (id >= 100000 AND id < 200000));
INSERT INTO log SELECT n FROM generate_series(1, 2000) n;
CREATE TYPE address AS (street text);
CREATE TABLE homes OF address;
"""


Make = Callable[[], Login]


@pytest.fixture(scope="module")
def spare(server: Login) -> Iterator[str]:
    """A tablespace beside the databases' own."""
    name = f"test_{secrets.token_hex(6)}"
    with closing(connect(server, "tests")) as session, session.cursor() as cursor:
        cursor.execute("SET allow_in_place_tablespaces = on")
        cursor.execute(f"CREATE TABLESPACE {name} LOCATION ''")
        yield name
        cursor.execute(f"DROP TABLESPACE {name}")


@pytest.fixture
def make_shop(server: Login, spare: str) -> Iterator[Make]:
    """Makes a new database of the shop at each call."""
    made: list[str] = []
    with closing(connect(server, "tests")) as session, session.cursor() as cursor:

        def make() -> Login:
            made.append(f"test_{secrets.token_hex(6)}")
            cursor.execute(f'CREATE DATABASE "{made[-1]}" TEMPLATE template0')
            login = replace(server, database=made[-1])
            with closing(connect(login, "tests")) as own, own.cursor() as inside:
                inside.execute(SCHEMA)
            return login

        yield make
        for name in made:
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def migrated(make_shop: Make, spare: str, transactions: list[str]) -> tuple[Observation, Proof, str]:
    """What was observed, the verdict on the longest wait, and the error that ended the migration.

    On a machine that is too busy for the probes nothing is known, which the verdict says: then it is tried again.
    """
    transactions = [text.replace("SPARE", spare).replace("WORK", WORK) for text in transactions]
    for _ in range(TRIES):
        seen, error = observed(make_shop(), transactions)
        (proof,) = (one for one in judge(seen, BUDGET) if one.name.endswith("write_wait"))
        if proof.status != "inconclusive":
            break
    return seen, proof, error


def observed(shop: Login, transactions: list[str]) -> tuple[Observation, str]:
    error = ""
    with (
        closing(connect(shop, "migration")) as session,
        session.cursor() as cursor,
        observing(shop, TABLES, application_name="migration") as seen,
    ):
        for text in transactions:
            # Several statements that are sent at once are one transaction.
            try:
                cursor.execute(text.removeprefix(ALONE))
            except psycopg2.Error as failure:
                error = str(failure)
                break
    return seen.observation, error


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case["name"])
def test_a_safe_twin_passes(case: dict[str, Any], make_shop: Make, spare: str) -> None:
    seen, proof, error = migrated(make_shop, spare, case["twin"])

    assert error == ""
    assert seen.rewritten == ()
    assert proof.status == "pass", proof.detail


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case["name"])
def test_a_hazard_is_found_with_its_table_and_its_lock(case: dict[str, Any], make_shop: Make, spare: str) -> None:
    seen, proof, error = migrated(make_shop, spare, case["hazard"])

    how = case.get("found", "budget")
    if how == "fails":
        assert "unsafe use of new value" in error
        return
    assert error == ""
    if how == "rewritten":
        assert case["table"] in seen.rewritten
    if case.get("lock"):
        assert proof.status == "fail", proof.detail
        assert {row["table"]: row["lock"] for row in proof.sample}.get(case["table"]) == case["lock"], proof.detail
        assert proof.remedy
        assert case.get("advice", "") in proof.remedy


def test_the_corpus_is_large_enough() -> None:
    names = [case["name"] for case in CORPUS]
    assert len(set(names)) == len(names) >= 60
