"""What is started to look at a target changes nothing: an env.py that writes is refused, or seen."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import preflight_info
import psycopg2.extensions
import pytest
from ansible.module_utils.dbrelease.core.outcome import PREVIEW_READS_PROOF, READS_PROOF, judge
from ansible.module_utils.dbrelease.core.proof import Proof
from ansible.module_utils.dbrelease.core.stages import stages_of
from ansible.module_utils.dbrelease.host.commands import HostCommands
from ansible.module_utils.dbrelease.migrate import alembic
from ansible.module_utils.dbrelease.migrate.reads_only import prove
from ansible.module_utils.dbrelease.migrate.role import takes
from ansible.module_utils.dbrelease.postgres.catalog_state import State
from ansible.module_utils.dbrelease.postgres.session import Login

WRITES = "CREATE SCHEMA IF NOT EXISTS ops"
# As an Alembic whose env.py writes whenever it connects; `{unset}` makes it one whose driver takes no PGOPTIONS.
SCRIPT = """#!/bin/sh
if [ "$1" = heads ]; then echo 'b2 (head)'; exit; fi
{unset}
exec {python} -c '
import os, psycopg2
connection = psycopg2.connect(os.environ["TEST_DSN"])
connection.autocommit = True
cursor = connection.cursor()
cursor.execute("{sql}")
cursor.execute("SELECT version_num FROM alembic_version")
print(cursor.fetchone()[0])
'
"""
Session = psycopg2.extensions.connection


@pytest.fixture
def folder(tmp_path: Path, database: Login, session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with session.cursor() as cursor:
        cursor.execute("CREATE TABLE alembic_version (version_num text)")
        cursor.execute("INSERT INTO alembic_version VALUES ('a1')")
        cursor.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    dsn = psycopg2.extensions.make_dsn(
        host=database.host,
        port=database.port,
        user=database.user,
        password=database.password or "",
        dbname=database.database,
    )
    monkeypatch.setenv("TEST_DSN", dsn)
    folder = tmp_path / "application"
    folder.mkdir()
    yield folder


def command(folder: Path, sql: str = WRITES, *, takes_options: bool = True) -> list[str]:
    script = folder / "alembic.sh"
    unset = "" if takes_options else "unset PGOPTIONS"
    script.write_text(SCRIPT.format(unset=unset, python=sys.executable, sql=sql))
    return ["sh", str(script)]


def schemas(session: Session) -> int:
    with session.cursor() as cursor:
        cursor.execute("SELECT count(*) AS count FROM pg_namespace WHERE nspname = 'ops'")
        (row,) = cursor.fetchall()
    return int(dict(row)["count"] if isinstance(row, dict) else row[0])


def test_an_env_py_that_writes_is_refused_and_named(folder: Path, session: Session) -> None:
    with pytest.raises(alembic.WritesError, match=r"env\.py writes to the database whenever Alembic connects"):
        alembic.alembic_current(HostCommands(str(folder)), command(folder))
    assert takes(HostCommands(str(folder)), command(folder), "pg_monitor", read_only=True) is None
    assert schemas(session) == 0


def test_one_that_only_reads_is_read(folder: Path) -> None:
    assert alembic.alembic_current(HostCommands(str(folder)), command(folder, "SELECT 1")) == ["a1"]


def test_the_options_of_the_place_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c search_path=nowhere")
    assert os.environ["PGOPTIONS"] in alembic.reader_environment(HostCommands(str(folder)))["PGOPTIONS"]


def test_where_a_pooler_accepts_no_options_it_connects_without(folder: Path) -> None:
    script = folder / "pooled.sh"
    script.write_text(
        'if [ -n "$PGOPTIONS" ]; then echo "FATAL: unsupported startup parameter: options" >&2; exit 1; fi; echo a1\n'
    )
    assert alembic.alembic_current(HostCommands(str(folder)), ["sh", str(script)]) == ["a1"]


@pytest.mark.parametrize("takes_options", [True, False])
def test_check_mode_says_what_it_started_and_what_it_saw_change(
    folder: Path,
    session: Session,
    login_parameters: dict[str, Any],
    run_parameters: dict[str, Any],
    takes_options: bool,
) -> None:
    argv = command(folder, takes_options=takes_options)
    asked = {
        **login_parameters,
        "run": run_parameters,
        "release": {
            "release": "sample",
            "migration": {"command": argv, "from_revision": "a1", "to_revision": "b2"},
            "tables": {"existing": {"orders": ["id"]}, "created": {}},
        },
        "services": {},
        "address_problem": "",
        "backend_container": "",
        "db_container": "",
        "workdir": str(folder),
        "api_base_url": "",
        "staging_evidence_path": None,
        "require_staging_evidence": False,
    }
    proofs = {proof["name"]: proof for proof in preflight_info.act(asked, True)["proofs"]}
    seen = proofs[READS_PROOF]
    assert f"`{' '.join(argv)} current` was started" in seen["detail"]
    assert schemas(session) == (0 if takes_options else 1)
    assert seen["status"] == ("pass" if takes_options else "inconclusive")
    assert ("new: schema ops" in seen["detail"]) is not takes_options
    # Where it could not be asked, the comparison of the two databases stays open.
    assert proofs["preflight.revision"]["status"] == ("inconclusive" if takes_options else "pass")


CASES = {
    "nothing": (State(7, frozenset("a")), State(7, frozenset("a")), "pass", "no transaction wrote anything"),
    "others": (State(7, frozenset("a")), State(9, frozenset("a")), "pass", "2 transactions of any session"),
    "a change": (State(7, frozenset("a")), State(9, frozenset("b")), "inconclusive", "removed: a; new: b"),
    "not seen": ("No answer.", State(9, frozenset("b")), "inconclusive", "what it changed is unknown. No answer."),
}


@pytest.mark.parametrize(("before", "after", "status", "said"), CASES.values(), ids=CASES.keys())
def test_the_state_before_and_after(before: State | str, after: State | str, status: str, said: str) -> None:
    proof = prove(READS_PROOF, before, after, ["alembic", "current"])
    assert (proof.status, said in proof.detail) == (status, True), proof.detail


HEADLINES = {
    "changed": ([Proof(READS_PROOF, "", "inconclusive", detail="the catalog changed.")], "but the catalog changed."),
    "unchanged": ([Proof(READS_PROOF, "", "pass")], "check mode reads only, and nothing was changed."),
    "the preview changed": (
        [Proof(READS_PROOF, "", "pass"), Proof(PREVIEW_READS_PROOF, "", "inconclusive", detail="it wrote.")],
        "but it wrote.",
    ),
    "not looked at": ([], "check mode reads only."),
}


@pytest.mark.parametrize(("proofs", "said"), HEADLINES.values(), ids=HEADLINES.keys())
def test_a_plan_claims_only_what_was_seen(proofs: list[Proof], said: str) -> None:
    facts = {"proofs": [proof.as_dict() for proof in proofs]}
    stages = stages_of([{"step": "preflight", "event": "passed", "facts": facts}])
    verdict = judge(stages, None, None, check_mode=True, title="Items", environment="test")
    assert (verdict.outcome, verdict.headline.endswith(said)) == ("planned", True), verdict.headline
