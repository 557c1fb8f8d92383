"""A draft declares what SQL did to a database, and a release made of it is valid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.draft.compose import Draft, Walked, compose
from ansible.module_utils.dbrelease.draft.picture import Picture, read_picture
from ansible.module_utils.dbrelease.draft.proposals import Proposer
from ansible.module_utils.dbrelease.draft.write import Wanted, files_of
from ansible.module_utils.dbrelease.postgres.catalog import read_back
from ansible.module_utils.dbrelease.postgres.declared_checks import read_checks
from ansible.module_utils.dbrelease.postgres.fingerprints import read_tables
from ansible.module_utils.dbrelease.postgres.session import Login, connect, transaction
from ansible.module_utils.dbrelease.release.load import load
from yamllint import linter  # type: ignore[import-untyped]
from yamllint.config import YamlLintConfig  # type: ignore[import-untyped]

LINTED = YamlLintConfig(file=str(Path(__file__).resolve().parents[3] / ".yamllint"))
ROOT = Path(__file__).resolve().parents[3]
BEFORE = """
CREATE TABLE alembic_version (version_num varchar(32) NOT NULL);
INSERT INTO alembic_version VALUES ('a1');
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id int PRIMARY KEY, customer_id int REFERENCES customers, note text, amount numeric);
INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(1, 10) i;
INSERT INTO orders SELECT i, CASE WHEN i % 5 > 0 THEN 1 + i % 10 END, 'note ' || i, i FROM generate_series(1, 40) i;
"""
JUNCTION = """
CREATE TABLE order_customers (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id int NOT NULL REFERENCES orders ON DELETE CASCADE,
  customer_id int NOT NULL REFERENCES customers, CONSTRAINT uq_order_customer UNIQUE (order_id, customer_id));
CREATE INDEX idx_order_customers_customer ON order_customers (customer_id);
INSERT INTO order_customers (order_id, customer_id) SELECT id, customer_id FROM orders WHERE customer_id IS NOT NULL;
UPDATE alembic_version SET version_num = 'b2';
"""


@pytest.fixture
def login(database: Login) -> Iterator[Login]:
    with closing(connect(database, "test")) as connection, connection.cursor() as cursor:
        cursor.execute("SET search_path = public")
        cursor.execute(BEFORE)
    yield database


def pictured(login: Login) -> tuple[Picture, dict[str, Any]]:
    with (
        closing(connect(login, "test")) as connection,
        transaction(connection, read_only=True, isolation="REPEATABLE READ") as cursor,
    ):
        return read_picture(cursor, "alembic_version"), read_tables(cursor)


def drafted(login: Login, change: str) -> Draft:
    before, was = pictured(login)
    with closing(connect(login, "test")) as connection, connection.cursor() as cursor:
        cursor.execute("SET search_path = public")
        cursor.execute(change)
    after, _ = pictured(login)
    kept = {
        name.key: [one for one in before.catalogs[table].columns if one in after.catalogs[table].columns]
        for table, name in before.names.items()
        if table in after.catalogs
    }
    with (
        closing(connect(login, "test")) as connection,
        transaction(connection, read_only=True, isolation="REPEATABLE READ") as cursor,
    ):
        notes: list[str] = []
        walked = Walked(before, after, {}, {}, was, read_tables(cursor, only=kept), None, notes)
        return compose(walked, Proposer(cursor, before, after, notes))


def released(folder: Path, draft: Draft) -> dict[str, Any]:
    """The release that the draft's files are."""
    migration = {
        "command": ["alembic"],
        "from_revision": "a1",
        "to_revision": "b2",
        "lock": {"timeout_ms": 500, "attempts": 3, "deadline_seconds": 60},
        "timeout_seconds": 60,
        "growth_factor": 0.5,
    }
    place = folder / "drafted"
    place.mkdir()
    wanted = Wanted("drafted", "A drafted change", migration, ["backend", "db"], {"db": "shop_db"})
    for name, text in files_of(wanted, draft.as_dict(), "SELECT 1;").items():
        (place / name).write_text(text)
        if name.endswith(".yml"):
            assert [*map(str, linter.run(text, LINTED, f"releases/drafted/{name}"))] == [], text
    return load(place, ROOT / "schemas")


def test_a_junction_table_is_declared_with_its_checks_and_its_guard(login: Login, tmp_path: Path) -> None:
    draft = drafted(login, JUNCTION)
    release = released(tmp_path, draft)
    assert list(release["tables"]["created"]) == ["order_customers"]
    assert set(release["tables"]["existing"]) == {"orders", "customers"}
    assert [one["name"] for one in release["checks"]] == [
        "count_of_order_customers_matches_orders",
        "order_customers_customer_id_fkey_is_whole",
        "order_customers_order_id_fkey_is_whole",
        "order_customers_customer_id_equals_customer_id",
    ]
    assert [one["index"] for one in release["plans"]] == ["idx_order_customers_customer"]
    assert [step["sql"] for step in release["migration"]["finalize"]] == ["ANALYZE order_customers"]
    (guard,) = release["rollback"]["guards"]
    assert guard["losses"]["table"] == "order_customers"
    assert draft.notes == []


def test_what_it_declares_is_true_of_the_database_and_no_longer_after_a_change(login: Login, tmp_path: Path) -> None:
    release = released(tmp_path, drafted(login, JUNCTION))

    def statuses() -> dict[str, str]:
        proofs = read_back(login, release["tables"], "b2", "alembic_version")
        checked, _ = read_checks(
            login, release["checks"], proved={}, drift="fail", statement_timeout_ms=5000, sample_size=1
        )
        return {proof.name: proof.status for proof in [*proofs, *checked]}

    assert set(statuses().values()) == {"pass"}
    with closing(connect(login, "test")) as connection, connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM public.order_customers WHERE id = 3; DROP INDEX public.idx_order_customers_customer"
        )
    red = {name for name, status in statuses().items() if status == "fail"}
    assert red == {"structure.order_customers.indexes", "checks.count_of_order_customers_matches_orders"}


def test_a_filled_column_equals_its_source_and_is_guarded(login: Login, tmp_path: Path) -> None:
    release = released(tmp_path, drafted(login, "ALTER TABLE orders ADD title text; UPDATE orders SET title = note"))
    assert release["tables"]["altered"] == {"orders": {"columns": {"title": {"type": "text", "nullable": True}}}}
    assert [one["name"] for one in release["checks"]] == ["orders_title_equals_note"]
    (guard,) = release["rollback"]["guards"]
    assert guard["values_of"] == {"orders": ["title"]}


def test_a_constraint_that_is_left_unvalidated_becomes_a_step(login: Login, tmp_path: Path) -> None:
    change = "ALTER TABLE orders ADD CONSTRAINT ck_amount CHECK (amount > 0) NOT VALID"
    release = released(tmp_path, drafted(login, change))
    (step,) = release["migration"]["finalize"]
    assert step["sql"] == "ALTER TABLE orders VALIDATE CONSTRAINT ck_amount"
    assert release["tables"]["altered"]["orders"]["constraints"] == {
        "ck_amount": {"type": "check", "definition": "CHECK ((amount > (0)::numeric))"}
    }


DECLARE = "The upgrade {} orders: declare how many, and which columns (tables.changed.orders.rows)."


@pytest.mark.parametrize(
    ("change", "changed", "dropped"),
    [
        ("DROP TABLE orders", {}, {"orders": ["id", "customer_id", "note", "amount"]}),
        ("ALTER TABLE orders DROP note", {"orders": {"columns": {"note": None}}}, {}),
        (
            "ALTER TABLE orders RENAME note TO remark",
            {"orders": {"columns": {"remark": {"type": "text", "nullable": True, "renamed_from": "note"}}}},
            {},
        ),
        (
            "ALTER TABLE orders ALTER note TYPE varchar(50)",
            {"orders": {"columns": {"note": {"type": "character varying(50)", "nullable": True}}}},
            {},
        ),
        (
            "ALTER TABLE orders DROP CONSTRAINT orders_customer_id_fkey",
            {"orders": {"constraints": {"orders_customer_id_fkey": None}}},
            {},
        ),
        (
            "ALTER TABLE customers ALTER name DROP NOT NULL",
            {"customers": {"columns": {"name": {"type": "text", "nullable": True}}}},
            {},
        ),
    ],
)
def test_what_is_changed_or_dropped_is_declared(
    login: Login, tmp_path: Path, change: str, changed: dict[str, Any], dropped: dict[str, Any]
) -> None:
    release = released(tmp_path, drafted(login, change))
    assert (release["tables"]["changed"], release["tables"]["dropped"]) == (changed, dropped)
    proofs = read_back(login, release["tables"], "a1", "alembic_version")
    assert {proof.status for proof in proofs} == {"pass"}


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ("DELETE FROM orders WHERE id < 4", DECLARE.format("deletes 3 rows (or more) of")),
        ("UPDATE orders SET note = '' WHERE id = 4", DECLARE.format("changes values in")),
        (
            "ALTER TABLE orders ADD x text DEFAULT 'x'",
            "The upgrade fills orders.x in 40 rows, from no column that was found.",
        ),
    ],
)
def test_what_it_cannot_say_is_left_to_a_person(login: Login, change: str, note: str) -> None:
    draft = drafted(login, change)
    assert note in draft.notes
    written = files_of(Wanted("x", "x", {}, [], {}), draft.as_dict(), "")["release.yml"]
    assert f"- {note}" in " ".join(line.removeprefix("# ") for line in written.splitlines())
