"""A database without a container, a release without API, worker, queue or monitoring: what is not there is not run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest
import yaml
from outside import POSTGRES, ROOT, Playbook, Psql, docker, play

ADDRESS = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
Run = Callable[[str], Playbook]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a playbook for a copy of the release that declares only what it needs, on a target that has no more."""
    folder = tmp_path_factory.mktemp("releases") / "8_1a"
    shutil.copytree(ROOT / "releases/8_1a", folder)
    release = yaml.safe_load((folder / "release.yml").read_text())
    for section in ("api", "monitoring", "readiness"):
        del release[section]
    release["services"], release["clients"] = ["backend"], ["backend"]
    (folder / "release.yml").write_text(yaml.safe_dump(release, allow_unicode=True))
    nothing = dict.fromkeys(("db_container", "worker_container", "redis_container", "api_base_url"), "")
    target = {
        **nothing,
        "db_host": docker("inspect", "--format", ADDRESS, POSTGRES).strip(),
        "run_releases": str(folder.parent),
    }

    def run(playbook: str) -> Playbook:
        return play(playbook, "-e", json.dumps(target))

    return run


def proofs(run: Playbook) -> dict[str, str]:
    return {proof["name"]: proof["status"] for proof in run.evidence["proofs"]}


def skipped_steps(run: Playbook) -> dict[str, str]:
    return {stage["step"]: stage["message"] for stage in run.evidence["stages"] if stage["status"] == "skipped"}


def test_it_is_deployed_and_the_evidence_says_what_was_not_looked_at(run: Run) -> None:
    done = run("deploy_8_1a.yml")
    assert (done.status, done.evidence["outcome"]) == (0, "deployed"), done.output
    seen = proofs(done)
    assert not [name for name in seen if name.startswith(("api.", "monitor."))]
    assert seen["backup.saved"] == seen["backup.decoded"] == "pass", "by the client tools of the target itself"
    assert skipped_steps(done)["api"] == "The release declares no API."
    assert skipped_steps(done)["monitor"] == "The release declares no monitoring."
    items = {item["item"]: item["status"] for item in done.evidence["checklist"]}
    assert items["Existing API endpoints work"] == items["No errors in backend logs (15 min)"] == "not_seen"


def test_the_second_run_changes_nothing(run: Run, psql: Psql) -> None:
    before = psql.fingerprint()
    done = run("deploy_8_1a.yml")
    assert (done.status, done.evidence["outcome"]) == (0, "already_deployed"), done.output
    assert psql.fingerprint() == before


@pytest.mark.parametrize(
    ("playbook", "says"),
    [
        ("monitor_8_1a.yml", "The release declares no monitoring"),
        ("readiness_8_1b.yml", "the release declares no `readiness`"),
    ],
)
def test_what_is_not_declared_cannot_be_asked_for(run: Run, playbook: str, says: str) -> None:
    done = run(playbook)
    assert done.status != 0 and says in done.evidence["headline"], done.output


def test_it_is_rolled_back(run: Run, psql: Psql) -> None:
    done = run("rollback_8_1a.yml")
    assert (done.status, done.evidence["outcome"]) == (0, "rolled_back"), done.output
    assert proofs(done)["guard.phase_b_answers_absent"] == "skipped"
    assert psql.value("SELECT version_num FROM alembic_version") == "0ab370a9afb6"
