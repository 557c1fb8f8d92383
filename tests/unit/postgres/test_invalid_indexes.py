"""Which indexes are invalid, and stay so: not those that wait for the indexes of partitions."""

from __future__ import annotations

from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from ansible.module_utils.dbrelease.core.proof import Proof
from ansible.module_utils.dbrelease.migrate.move import with_invalid_indexes
from ansible.module_utils.dbrelease.postgres.invalid_indexes import left_invalid, removal
from ansible.module_utils.dbrelease.postgres.session import Login

SHOP = """
CREATE TABLE "Orders" (id int, title text);
INSERT INTO "Orders" SELECT i, 'x' FROM generate_series(1, 10) i;
CREATE TABLE parts (id int) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF parts FOR VALUES FROM (1) TO (10);
CREATE INDEX waiting ON ONLY parts (id);
CREATE INDEX good ON "Orders" (id);
"""


@pytest.fixture
def shop(session: psycopg2.extensions.connection) -> Any:
    cursor = session.cursor()
    cursor.execute(SHOP)
    return cursor


@pytest.fixture
def left(shop: Any) -> None:
    with pytest.raises(psycopg2.Error):
        shop.execute('CREATE UNIQUE INDEX CONCURRENTLY "By title" ON "Orders" (title)')


def test_none_is_left_where_all_is_well(shop: Any, database: Login) -> None:
    assert left_invalid(database) == []


@pytest.mark.usefixtures("left")
def test_the_one_that_was_stopped_is_named_with_what_removes_it(shop: Any, database: Login) -> None:
    rows = left_invalid(database)
    assert [(row["name"], row["table"]) for row in rows] == [('public."By title"', 'public."Orders"')]
    failed = with_invalid_indexes(Proof("a", "A", "fail", detail="It exists.", remedy="Run again."), database)
    assert failed.detail.startswith('It exists. The index public."By title" on public."Orders" is invalid')
    assert failed.remedy == f"Run again. {removal(rows)}"
    shop.execute(removal(rows).removeprefix("Remove it first: "))
    assert left_invalid(database) == []


@pytest.mark.usefixtures("left")
def test_a_success_says_nothing_of_it(database: Login) -> None:
    passed = Proof("a", "A", "pass")
    assert with_invalid_indexes(passed, database) is passed
