"""A full restore, asked from outside: every row is as before the release, and every row written since is in a file."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from shutil import rmtree
from typing import Any

import pytest
import requests
from outside import API, BACKEND, POSTGRES, ROOT, STATE, WORKER, Playbook, Psql, docker, journal, play, until

LIVE = "drawing_index"
TABLES = ("alembic_version", "components", "drawings", "projects")


def content(psql: Psql, database: str = LIVE) -> dict[str, str]:
    """Every row of the tables that were there before the release, in words."""
    return {
        table: psql.value(
            f"SELECT count(*) || md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM {table} t", database
        )
        for table in TABLES
    }


def written(title: str) -> str:
    """A drawing, written through the API; its id."""
    body = {"title": title, "file_path": "/plans/new.pdf"}
    answer = requests.post(f"{API}/drawings", json=body, timeout=30)
    answer.raise_for_status()
    return str(answer.json()["id"])


def health(container: str) -> str:
    return docker("inspect", "--format", "{{.State.Status}} {{.State.Health.Status}}", container).strip()


def ids(psql: Psql) -> list[str]:
    return psql.lines("SELECT id FROM drawings ORDER BY 1")


@pytest.fixture(scope="session")
def before(psql: Psql) -> Iterator[dict[str, str]]:
    """The deploy changed no row of the older tables but the revision, so that they are as they were."""
    yield {**content(psql), "alembic_version": ""}


@pytest.fixture(scope="session")
def drawing(psql: Psql, before: dict[str, str]) -> str:
    """A drawing that the worker has processed: nobody writes to its row any more."""
    identity = written("Written after the deploy")
    status = f"SELECT processing_status FROM drawings WHERE id = '{identity}'"
    until(lambda: psql.value(status) == "completed", "the worker processed the new drawing")
    return identity


@pytest.fixture(scope="session")
def restored(psql: Psql, drawing: str) -> Playbook:
    """The default backup, restored over a release that has been written to; its container was made anew before."""
    recreate()
    done = play("restore_8_1a.yml")
    assert done.status == 0, done.output
    return done


def recreate() -> None:
    """What the runbook loses its dump by: the database's container removed and made again, on the same volume."""
    docker("exec", POSTGRES, "touch", "/tmp/gone")
    docker("rm", "--force", POSTGRES)
    subprocess.run(["make", "--no-print-directory", "stack"], cwd=ROOT, check=True, capture_output=True)
    assert docker("exec", POSTGRES, "ls", "-A", "/tmp") == ""


def kept(evidence: dict[str, Any]) -> str:
    (proof,) = [proof for proof in evidence["proofs"] if proof["name"] == "restore.swapped"]
    return str(proof["observed"]["kept"])


def test_a_dry_restore_refuses_nothing_and_changes_nothing(psql: Psql, drawing: str) -> None:
    seen, lines = psql.fingerprint(), journal()
    dry = play("restore_8_1a.yml", "--check", "--diff")
    assert dry.status == 0, dry.output
    assert "revision 0ab370a9afb6" in dry.output
    assert (psql.fingerprint(), journal()) == (seen, lines)
    assert docker("exec", POSTGRES, "ls", "-A", "/tmp") == ""


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        ("truncated", "it was cut or changed"),
        ("flipped", "it was changed"),
        ("without manifest", "has no manifest"),
        ("another release's", "is of release other"),
        ("missing", "there is no file"),
    ],
)
def test_what_is_no_backup_is_refused_before_anything_is_touched(
    psql: Psql, drawing: str, spoiled: str, words: str
) -> None:
    folder = STATE / "spoiled"  # of files elsewhere none is taken
    folder.mkdir(mode=0o700)
    (manifest,) = STATE.glob("backup_before_8.1a_*.manifest.json")
    facts = json.loads(manifest.read_text())
    data = bytearray((STATE / facts["file"]).read_bytes())
    if spoiled == "truncated":
        del data[len(data) // 2 :]
    if spoiled == "flipped":
        data[len(data) // 2] ^= 1
    if spoiled == "another release's":
        facts["release"] = "other"
    if spoiled != "missing":
        (folder / facts["file"]).write_bytes(data)
    if spoiled != "without manifest":
        (folder / manifest.name).write_text(json.dumps(facts))
    seen = psql.fingerprint()
    refused = play("restore_8_1a.yml", "-e", f"restore_backup={folder / facts['file']}")
    rmtree(folder)
    assert refused.status != 0
    assert refused.evidence["outcome"] == "refused"
    assert words in refused.evidence["headline"]
    assert psql.fingerprint() == seen
    assert (health(BACKEND), health(WORKER)) == ("running healthy", "running healthy")


def test_every_row_is_as_it_was_before_the_release(psql: Psql, restored: Playbook, before: dict[str, str]) -> None:
    assert {**content(psql), "alembic_version": ""} == before
    assert psql.value("SELECT version_num FROM alembic_version") == "0ab370a9afb6"
    assert psql.value("SELECT to_regclass('drawing_project_associations') IS NULL") == "t"
    assert restored.evidence["outcome"] == "restored"


def test_the_application_is_up_and_answers(restored: Playbook, psql: Psql) -> None:
    assert (health(BACKEND), health(WORKER)) == ("running healthy", "running healthy")
    assert requests.get(f"{API}/drawings?limit=1", timeout=30).status_code == 200
    proofs = {proof["name"]: proof["status"] for proof in restored.evidence["proofs"]}
    for name in ("backup", "room", "verified", "settings", "rows_saved", "swapped", "services"):
        assert proofs[f"restore.{name}"] == "pass"
    assert "fail" not in proofs.values()


def test_the_row_written_since_is_in_a_file_and_can_be_replayed(psql: Psql, restored: Playbook, drawing: str) -> None:
    assert drawing not in ids(psql)
    (folder,) = STATE.glob("rows_since_backup_*")
    lines = [json.loads(line) for line in (folder / "public.drawings.jsonl").read_text().splitlines()]
    assert [(line["change"], line["row"]["id"]) for line in lines] == [("new", drawing)]
    docker("cp", str(folder / "replay.sql"), f"{POSTGRES}:/tmp/replay.sql")
    docker("exec", POSTGRES, "psql", "-X", "-U", "user", "-d", LIVE, "-f", "/tmp/replay.sql")
    docker("exec", POSTGRES, "rm", "/tmp/replay.sql")
    assert drawing in ids(psql)
    psql.lines(f"DELETE FROM drawings WHERE id = '{drawing}'")


def test_the_database_before_stays_and_nothing_else(psql: Psql, restored: Playbook, drawing: str) -> None:
    name = kept(restored.evidence)
    assert psql.databases() == [LIVE, name]
    assert psql.lines("SELECT datname FROM pg_database WHERE NOT datallowconn AND datname <> 'template0'") == []
    assert psql.value("SELECT version_num FROM alembic_version", name) == "f4c8a2b5e1d9"
    assert psql.value(f"SELECT count(*) FROM drawings WHERE id = '{drawing}'", name) == "1"
    assert docker("exec", POSTGRES, "ls", "-A", "/tmp") == ""


def test_a_second_restore_changes_nothing(psql: Psql, restored: Playbook, before: dict[str, str]) -> None:
    again = play("restore_8_1a.yml")
    assert again.status == 0, again.output
    assert "changed=0" in again.output
    assert again.evidence["outcome"] == "restored"
    assert psql.databases() == [LIVE, kept(restored.evidence)]


def test_both_commands_of_the_report_do_what_it_says(psql: Psql, restored: Playbook, drawing: str) -> None:
    (proof,) = [proof for proof in restored.evidence["proofs"] if proof["name"] == "restore.swapped"]
    back = proof["detail"].partition("Swap it back: ")[2].partition(" . ")[0]
    done = play(*shlex.split(back)[1:2], *shlex.split(back)[4:])
    assert done.status == 0, done.output
    assert drawing in ids(psql)
    assert psql.value("SELECT version_num FROM alembic_version") == "f4c8a2b5e1d9"
    (swapped,) = [proof for proof in done.evidence["proofs"] if proof["name"] == "restore.swapped"]
    drop = swapped["detail"].partition("Drop it: ")[2].removesuffix(" .")
    subprocess.run(shlex.split(drop), check=True)
    assert psql.databases() == [LIVE]
