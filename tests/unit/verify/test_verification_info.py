"""verification_info: every look that is given is taken and judged; what is not given proves nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal
from ansible.module_utils.dbrelease.core.options import run_of
from ansible.module_utils.dbrelease.postgres.proof_instant import Instant
from ansible.module_utils.dbrelease.postgres.session import transaction
from ansible.module_utils.testing import patch_module_args  # type: ignore[import-untyped]
from declared_tables import PROOFS, SQL, TABLES
from verification_info import act, main

HOLDS = {"name": "no_order", "title": "There is no order", "violations": "SELECT id FROM orders", "equal": None}
CHECKS = {
    "checks": [HOLDS],
    "drift": "inconclusive",
    "statement_timeout_ms": 9000,
    "sample_size": 5,
    "reconcile_command": "",
}
STRUCTURE = {"tables": TABLES, "revision": "b2", "bookkeeping_table": "alembic_version", "reconcile_command": ""}
NOTHING = dict.fromkeys(("structure", "checks", "scenarios", "plans", "untouched", "api"))
ORDER = "INSERT INTO orders VALUES (gen_random_uuid())"


@pytest.fixture
def params(
    session: psycopg2.extensions.connection, login_parameters: dict[str, Any], run_parameters: dict[str, Any]
) -> dict[str, Any]:
    with session.cursor() as cursor:
        cursor.execute(SQL)
    return {**login_parameters, **NOTHING, "left_out": {}, "run": run_parameters}


def events(params: dict[str, Any]) -> list[tuple[str, str]]:
    lines = (Path(params["run"]["state_dir"]) / "journal.jsonl").read_text().splitlines()
    return [(line["step"], line["event"]) for line in map(json.loads, lines)]


GIVEN: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("nothing", {}, [], []),
    ("one look", {"checks": CHECKS}, ["checks.no_order"], ["checks"]),
    ("two", {"checks": CHECKS, "structure": STRUCTURE}, [*PROOFS, "checks.no_order"], ["structure", "checks"]),
]


@pytest.mark.parametrize(("_", "looks", "names", "steps"), GIVEN, ids=[row[0] for row in GIVEN])
def test_the_looks_that_are_given_are_taken(
    params: dict[str, Any], _: str, looks: dict[str, Any], names: list[str], steps: list[str]
) -> None:
    seen = act({**params, **looks}, False)
    assert {proof["name"]: proof["status"] for proof in seen["proofs"]} == dict.fromkeys(names, "pass")
    journaled = [(step, event) for step in steps for event in ("started", "passed")]
    assert events(params) == [*journaled, ("verify", "passed")]


def test_why_a_look_is_left_out_is_journaled(params: dict[str, Any]) -> None:
    act({**params, "checks": CHECKS, "left_out": {"api": "There is none."}}, False)
    assert events(params)[-2:] == [("api", "skipped"), ("verify", "passed")]


def test_a_red_claim_hides_no_other_and_ends_the_stage_as_failed(
    params: dict[str, Any], session: psycopg2.extensions.connection
) -> None:
    with session.cursor() as cursor:
        cursor.execute(f"{ORDER}; UPDATE alembic_version SET version_num = 'a1'")
    with pytest.raises(ReleaseError) as raised:
        act({**params, "checks": CHECKS, "structure": STRUCTURE}, False)
    assert "1) " in raised.value.message and "2) “There is no order” failed: 1 row breaks it." in raised.value.message
    assert [p["name"] for p in raised.value.facts["proofs"] if p["status"] == "fail"] == [PROOFS[0], "checks.no_order"]
    assert events(params)[-1] == ("verify", "failed")


def test_check_mode_looks_and_writes_nothing(params: dict[str, Any]) -> None:
    assert len(act({**params, "checks": CHECKS}, True)["proofs"]) == 1
    assert not Path(params["run"]["state_dir"]).exists()


def test_its_options_are_those_of_the_modules(params: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    given = {key: value for key, value in params.items() if value is not None}
    with patch_module_args({**given, "checks": {"checks": [], "colour": "red"}}), pytest.raises(SystemExit):
        main()
    assert "Unsupported parameters for (basic.py) module: checks.colour" in capsys.readouterr().out


def test_a_check_that_held_after_the_migration_and_is_red_now_is_named(
    params: dict[str, Any], session: psycopg2.extensions.connection
) -> None:
    with transaction(session, isolation="REPEATABLE READ") as cursor:
        proven = {"no_order": Instant.now(cursor).facts()}
    Journal(run_of(params)).append("finalize", "passed", {"proven": proven})
    with session.cursor() as cursor:
        cursor.execute(ORDER)
    other = {**HOLDS, "name": "never", "violations": "SELECT 1 AS row"}
    with pytest.raises(ReleaseError) as raised:
        act({**params, "checks": {**CHECKS, "checks": [HOLDS, other]}}, False)
    assert raised.value.facts["held"] == ["checks.no_order"]
