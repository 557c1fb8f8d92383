"""A deploy while clients write through the API, and what the runbook demands, asked from outside our own checks.

It ends deployed, no acknowledged write is lost, none waits for it, and a second one changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import stat
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from canary import canary, forms_in
from live import Client, writing
from outside import ARTIFACTS, POSTGRES, ROOT, STATE, Playbook, Psql, docker, journal, patient, play
from testinfra.host import Host

TABLE = "drawing_project_associations"
MISSING = "checks.no_missing_association"
LONGEST_ACCEPTABLE_WRITE_S = 5.0  # of a request, on a machine that has much to do; bench/ measures the database's share
SEEDED = "title NOT LIKE 'live %'"  # what no client writes
REHEARSED = ("-e", "rehearsal=container")
WATCH = ("-e", "monitor_watch_seconds=2", "-e", "monitor_interval_seconds=1")


@pytest.fixture(scope="module")
def live() -> tuple[Playbook, Client]:
    """The deploy, and who wrote meanwhile."""
    with writing() as client:
        run = play("deploy_8_1a.yml", *patient(), *WATCH, *REHEARSED)
    return run, client


@pytest.fixture(scope="module", autouse=True)
def again(live: tuple[Playbook, Client], psql: Psql, tmp_path_factory: pytest.TempPathFactory) -> Playbook:
    """A second one, after the old code has written something more."""
    with writing() as client:
        client.until_acknowledged(4)
    assert client.errors == []
    with canary(psql, tmp_path_factory.mktemp("canary")) as verbosely:
        return play("deploy_8_1a.yml", *patient(), *WATCH, *REHEARSED, *verbosely)


def verdicts(evidence: dict[str, Any]) -> dict[str, str]:
    return {proof["name"]: proof["status"] for proof in evidence["proofs"] if proof["name"].startswith("checks.")}


def test_the_deploy_succeeds_and_every_acknowledged_write_is_there(live: tuple[Playbook, Client], psql: Psql) -> None:
    run, client = live
    assert run.status == 0, run.output
    assert run.evidence["outcome"] == "deployed"
    (rights,) = [proof for proof in run.evidence["proofs"] if proof["name"] == "preflight.rights"]
    assert (rights["status"], rights["observed"]) == ("pass", "owner (app_owner)")
    assert not [proof for proof in run.evidence["proofs"] if proof["status"] == "fail"]
    assert len(client.acknowledged) > 20
    assert client.errors == []
    assert client.longest_s < LONGEST_ACCEPTABLE_WRITE_S
    there = dict(
        line.split("|") for line in psql.lines("SELECT id, project_id FROM drawings WHERE title LIKE 'live %'")
    )
    assert client.acknowledged.items() <= there.items()


def test_a_second_deploy_changes_nothing_and_calls_what_the_old_code_wrote_drift(again: Playbook) -> None:
    assert (again.status, again.evidence["outcome"]) == (0, "already_deployed"), again.output
    assert "changed=0 " in again.output
    assert verdicts(again.evidence)[MISSING] == "inconclusive"
    assert "drift, which reconcile repairs" in again.evidence["headline"]


def test_the_passwords_are_in_no_output_however_verbose(again: Playbook) -> None:
    assert forms_in(again) == []


def test_alembic_is_at_the_named_revision(backend: Host) -> None:
    assert backend.run("python3 -m alembic current").stdout.split()[0] == "f4c8a2b5e1d9"


@pytest.mark.parametrize(
    ("column", "type_", "nullable"),
    [
        ("id", "uuid", "NO"),
        ("drawing_id", "uuid", "NO"),
        ("project_id", "uuid", "NO"),
        ("assigned_at", "timestamp with time zone", "NO"),
        ("assigned_by", "character varying", "YES"),
    ],
)
def test_the_junction_table_has_its_columns(psql: Psql, column: str, type_: str, nullable: str) -> None:
    seen = psql.value(
        "SELECT data_type, is_nullable FROM information_schema.columns"
        f" WHERE table_name = '{TABLE}' AND column_name = '{column}'"
    )
    assert seen == f"{type_}|{nullable}"


@pytest.mark.parametrize("index", ["idx_dpa_drawing_id", "idx_dpa_project_id", "uq_drawing_project_association"])
def test_its_indexes_are_there_and_valid(psql: Psql, index: str) -> None:
    assert psql.value(f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{index}'::regclass") == "t"


def test_both_foreign_keys_cascade_and_are_valid(psql: Psql) -> None:
    assert psql.lines(
        "SELECT confrelid::regclass, confdeltype, convalidated FROM pg_constraint"
        f" WHERE conrelid = '{TABLE}'::regclass AND contype = 'f' ORDER BY confrelid::regclass::text"
    ) == ["drawings|c|t", "projects|c|t"]


def test_the_pairs_are_the_same_set_in_both_tables(psql: Psql) -> None:
    source = psql.lines(f"SELECT id, project_id FROM drawings WHERE project_id IS NOT NULL AND {SEEDED}")
    copied = psql.lines(
        f"SELECT drawing_id, a.project_id FROM {TABLE} a JOIN drawings d ON d.id = drawing_id WHERE {SEEDED}"
    )
    assert len(source) > 5000
    assert sorted(source) == sorted(copied)


def test_a_tenth_of_the_drawings_has_no_project_and_no_association(psql: Psql) -> None:
    assert psql.value("SELECT count(*) FROM drawings WHERE project_id IS NULL") != "0"


def test_no_stray_database_session_or_lock_is_left(psql: Psql) -> None:
    assert psql.databases() == ["drawing_index"]
    assert psql.left_sessions() == []
    assert psql.lines("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []


def test_the_backup_is_the_database_before_the_release(psql: Psql, postgres: Host) -> None:
    """Restores the dump into a database of its own, and compares it with the live one row by row."""
    (manifest_path,) = STATE.glob("backup_before_8.1a_*.manifest.json")
    manifest = json.loads(manifest_path.read_text())
    dump = STATE / manifest["file"]
    assert hashlib.sha256(dump.read_bytes()).hexdigest() == manifest["sha256"]
    docker("cp", str(dump), f"{POSTGRES}:/tmp/outside.dump")
    try:
        for command in (
            "createdb -U user -T template0 outside_proof",
            "pg_restore -U user -d outside_proof --exit-on-error /tmp/outside.dump",
        ):
            done = postgres.run(command)
            assert done.rc == 0, done.stderr
        seeded = f"drawing_id IN (SELECT id FROM drawings WHERE {SEEDED})"
        for table, which in {"drawings": SEEDED, "projects": "true", "components": seeded}.items():
            everything = f"SELECT md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM {table} t WHERE {which}"
            assert psql.value(everything, "outside_proof") == psql.value(everything)
        assert psql.value("SELECT version_num FROM alembic_version", "outside_proof") == "0ab370a9afb6"
    finally:
        postgres.run("dropdb -U user --if-exists outside_proof")
        postgres.run("rm -f /tmp/outside.dump")


def test_only_the_owner_can_read_what_a_run_leaves() -> None:
    for path in [STATE, *STATE.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert not list(STATE.rglob("*.tmp*"))


def test_the_first_run_ends_deployed_and_the_second_already_deployed() -> None:
    outcomes = [json.loads(path.read_text())["outcome"] for path in sorted(STATE.glob("runs/*/evidence.json"))]
    assert outcomes == ["deployed", "already_deployed"]


def test_the_journal_has_an_end_for_every_beginning() -> None:
    lines = journal()
    begun = [(line["run_id"], line["step"]) for line in lines if line["event"] == "started"]
    ended = [(line["run_id"], line["step"]) for line in lines if line["event"] in {"passed", "failed", "refused"}]
    assert begun and set(begun) <= set(ended)
    assert {"ts", "run_id", "release", "environment", "playbook", "step", "event", "facts"} == set(lines[0])


def test_the_fetched_evidence_is_the_targets() -> None:
    run = sorted(STATE.glob("runs/*"))[-1]
    for name in ("evidence.json", "report.md", "junit.xml"):
        assert (ARTIFACTS / run.name / name).read_bytes() == (run / name).read_bytes()


def test_the_junit_file_counts_a_test_for_each_proof() -> None:
    run = sorted(STATE.glob("runs/*"))[-1]
    cases = ElementTree.parse(run / "junit.xml").getroot().iter("testcase")
    assert len(list(cases)) >= len(json.loads((run / "evidence.json").read_text())["proofs"]) > 10


def test_the_password_is_in_no_file_of_the_run() -> None:
    password = (ROOT / ".stack/db_password").read_text().strip().encode()
    for path in [*STATE.rglob("*"), *ARTIFACTS.rglob("*")]:
        assert path.is_dir() or password not in Path(path).read_bytes(), path
