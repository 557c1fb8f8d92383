"""What the runbook demands of a deployed release, asked from outside the project's own checks."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

import pytest
from outside import ARTIFACTS, POSTGRES, ROOT, STATE, Psql, docker, journal, play
from testinfra.host import Host

TABLE = "drawing_project_associations"


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
        f" WHERE conrelid = '{TABLE}'::regclass AND contype = 'f' ORDER BY 1::text"
    ) == ["drawings|c|t", "projects|c|t"]


def test_the_pairs_are_the_same_set_in_both_tables(psql: Psql) -> None:
    source = psql.lines("SELECT id, project_id FROM drawings WHERE project_id IS NOT NULL")
    copied = psql.lines(f"SELECT drawing_id, project_id FROM {TABLE}")
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
        for table in ("drawings", "projects", "components"):
            everything = f"SELECT md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM {table} t"
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


def test_every_checklist_item_of_the_deploy_is_proved() -> None:
    first = sorted(ARTIFACTS.glob("*/evidence.json"))[-2]
    evidence = json.loads(first.read_text())
    assert evidence["outcome"] == "deployed"
    unproved = {item["item"] for item in evidence["checklist"] if item["status"] != "proved"}
    assert unproved <= UNSEEN, unproved - UNSEEN
    assert not [proof for proof in evidence["proofs"] if proof["status"] == "fail"]


# Items of the runbook that a deploy alone does not see; the evidence says so instead of claiming them.
UNSEEN = {
    "Database backup created and verified",
    "Staging environment tested (if available)",
    "No errors in backend logs (15 min)",
    "No errors in database logs (15 min)",
    "No errors in backend/celery logs",
    "Junction table growth monitored (24 hours)",
    "Team notified of Phase A completion",
}


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


CANARY = "c@n/ary %42 'quoted' ü"
API_CANARY = "api-canary%2542"


@pytest.mark.parametrize(
    "arguments", [("deploy_8_1a.yml",), ("deploy_8_1a.yml", "--check", "--diff"), ("verify_8_1a.yml",)]
)
def test_the_password_is_in_no_output_however_verbose(psql: Psql, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    secret = tmp_path / "secret.yml"
    api = f"http://proxy:{API_CANARY}@localhost:8001"
    secret.write_text(json.dumps({"db_user": "canary", "db_password": CANARY, "api_base_url": api}))
    doubled = CANARY.replace("'", "''")
    psql.lines(f"CREATE ROLE canary SUPERUSER LOGIN PASSWORD '{doubled}'")
    try:
        run = play(*arguments, "-vvv", "-e", f"@{secret}")
    finally:
        psql.lines("DROP ROLE canary")
    assert run.status == 0, run.output
    forms = [
        API_CANARY,
        unquote(API_CANARY),
        CANARY,
        quote(CANARY),
        quote(CANARY, safe=""),
        quote_plus(CANARY),
        json.dumps(CANARY)[1:-1],
    ]
    forms.append(base64.b64encode(CANARY.encode()).decode())
    everything = run.output + "".join(path.read_text(errors="replace") for path in STATE.rglob("*") if path.is_file())
    assert [form for form in forms if form in everything] == []
