"""A database that is shared with a role that nobody trusts: it gets nowhere, it stops nobody, and nobody speaks for it."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import backup
import guard_info
import leftovers
import preflight_info
import psycopg2
import pytest
import query_plan_info
import reconcile
import restored_info
import sql_check_info
import sql_scenario_info
import sql_step
import structure_info
import untouched_info
from ansible.module_utils.dbrelease import advisory, database as engine
from ansible.module_utils.dbrelease.acting import acting
from ansible.module_utils.dbrelease.advisory import KEY, NameLock, advisory_lock, name_key
from ansible.module_utils.dbrelease.beyond import BeyondError, refuse_reaching_out
from ansible.module_utils.dbrelease.database import Login, select_declared, transaction
from ansible.module_utils.dbrelease.errors import ReleaseError
from ansible.module_utils.dbrelease.fingerprints import read_tables
from ansible.module_utils.dbrelease.journal import Journal, Run
from ansible.module_utils.dbrelease.sessions import end_sessions
from own_sessions import connect

from attacks.hostile_role import CAUGHT, PASSWORD, Stranger, stranger_in

ONE, TWO = "20260102T030405Z-aaaaaa", "20260102T030406Z-bbbbbb"
SCHEMA = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('b2');
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE orders (id int PRIMARY KEY, title text, mood mood DEFAULT 'glad', at timestamptz DEFAULT now());
CREATE TABLE items (id int CONSTRAINT items_pkey PRIMARY KEY, order_id int,
  CONSTRAINT items_order FOREIGN KEY (order_id) REFERENCES orders ON DELETE CASCADE);
CREATE INDEX ix_items_order ON items (order_id);
INSERT INTO orders SELECT n, 'order ' || n FROM generate_series(1, 20) n;
INSERT INTO items SELECT n, n FROM generate_series(1, 20) n;
"""
ITEMS = {
    "columns": {"id": {"type": "integer", "nullable": False}, "order_id": {"type": "integer", "nullable": True}},
    "indexes": {"ix_items_order": {"columns": ["order_id"]}},
    "constraints": {
        "items_pkey": {"type": "primary_key", "columns": ["id"]},
        "items_order": {
            "type": "foreign_key",
            "columns": ["order_id"],
            "references": {"table": "orders", "columns": ["id"]},
            "on_delete": "cascade",
        },
    },
}
CHECKS = [
    {"name": "no_stray", "title": "No stray", "violations": "SELECT id FROM items WHERE order_id IS NULL"},
    {"name": "counts", "title": "Counts", "equal": "SELECT (SELECT max(id) FROM orders) AS a, (SELECT max(id) FROM items) AS b"},
]
STEP = {
    "name": "delta",
    "title": "Delta",
    "sql": "INSERT INTO items SELECT id FROM orders EXCEPT SELECT id FROM items",
    "pending": "SELECT count(*) AS pending FROM (SELECT id FROM orders EXCEPT SELECT id FROM items) AS left_over",
}


@pytest.fixture(scope="module")
def stranger(server: Login) -> Iterator[Stranger]:
    """In a shop's database in which it has set every trap."""
    name = f"test_{secrets.token_hex(6)}"
    shop = replace(server, database=name)
    with closing(connect(server, "tests")) as session, session.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            with closing(connect(shop, "tests")) as inside, inside.cursor() as making:
                making.execute(SCHEMA)
            with stranger_in(shop, server) as found:
                assert found.plants() > 200
                yield found
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def shop(stranger: Stranger) -> Login:
    """As the engine comes."""
    return replace(stranger.server, database=stranger.login.database)


@pytest.fixture
def asked(shop: Login, run_parameters: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """The options of a module: its defaults, where and for whom, and what a test says."""
    where = {"login_host": shop.host, "login_port": shop.port, "login_user": shop.user, "login_db": shop.database}

    def of(module: Any, **given: Any) -> dict[str, Any]:
        defaults = {name: option.get("default") for name, option in module.OPTIONS.items()}
        who = {**where, "login_password": shop.password, "ssl_mode": shop.ssl_mode, "run": run_parameters}
        return {**defaults, **who, **given}

    return of


RELEASE = {
    "release": "sample",
    "migration": {"command": ["true"], "from_revision": "a1", "to_revision": "b2"},
    "tables": {"existing": {"orders": ["id"]}, "created": {"items": ITEMS}},
    "checks": CHECKS,
}
LOSSES = [{"table": "items", "rows": "SELECT id FROM items", "key": ["id"]}]
GUARDS = [
    {"name": "lost", "title": "Lost", "road": "Ask.", "losses": {**LOSSES[0]}},
    {"name": "there", "title": "There", "road": "Ask.", "columns": {"orders": ["id"]}},
]
SERVICES = {"guards": [], "containers": {}, "api_base_url": "", "timeout_seconds": 1}
TABLES = {"existing": {"orders": ["id"]}, "created": {"items": ITEMS}}
READS = {
    "structure": (structure_info, {"tables": TABLES, "revision": "b2"}),
    "checks": (sql_check_info, {"checks": CHECKS}),
    "plans": (
        query_plan_info,
        {"plans": [{"name": "p", "title": "P", "sql": "SELECT id FROM items WHERE order_id = 1", "table": "items",
                    "index": "ix_items_order", "row_floor": 1000}]},
    ),
    "scenario": (
        sql_scenario_info,
        {"scenarios": [{"name": "s", "title": "S", "steps": [{"title": "One", "sql": "DELETE FROM orders WHERE id = 1"}],
                        "leaves_nothing": "SELECT count(*) FROM orders WHERE id = 99"}]},
    ),
    "preflight": (
        preflight_info,
        {"release": RELEASE, "services": {}, "address_problem": "", "backend_container": "", "db_container": "",
         "workdir": "", "api_base_url": "", "staging_evidence_path": "", "require_staging_evidence": False},
    ),
    "backup": (backup, {"label": "1", "observations": [], "db_container": None, "timeout_seconds": 60}),
    "leftovers": (leftovers, {"backend_container": "", "db_container": "", "from_revision": "a1", "revision": "b2"}),
}  # fmt: skip


@pytest.mark.parametrize("check_mode", [True, False], ids=["check", "run"])
@pytest.mark.parametrize("name", READS)
def test_no_trap_is_met(shop: Login, stranger: Stranger, asked: Any, name: str, check_mode: bool) -> None:
    module, given = READS[name]
    answer: Any = ""
    try:
        answer = module.act(asked(module, **given), check_mode)
    except ReleaseError as error:
        answer = error.message
    assert CAUGHT not in str(answer)
    assert not stranger.is_superuser
    if name not in ("preflight",):
        assert isinstance(answer, dict), answer
        assert not [proof for proof in answer["proofs"] if proof["status"] == "fail"]


def test_the_traps_would_be_met(shop: Login) -> None:
    """On the role's own path, where the engine was."""
    with closing(connect(shop, "tests")) as session, session.cursor() as cursor:
        for statement in (
            "SELECT 1 FROM pg_class c WHERE c.oid = 1259",
            "SELECT format('%s', relname) FROM pg_class",
            "SELECT 1 FROM pg_index WHERE indexrelid::regclass = indrelid",
        ):
            # With the right to write it would not only be told.
            cursor.execute("BEGIN READ ONLY")
            with pytest.raises(psycopg2.Error, match=CAUGHT):
                cursor.execute(statement)
            cursor.execute("ROLLBACK")
