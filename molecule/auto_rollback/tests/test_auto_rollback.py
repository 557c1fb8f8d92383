"""A verification or a watch that fails after the upgrade: rolled back at once where it is allowed, else held."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from outside import BACKEND, ROOT, STATE, Psql, docker, journal, play

RED = {"name": "never_true", "title": "A claim that never holds", "violations": "SELECT 1 AS row"}
FORBIDS = {"name": "forbids", "title": "Going back is allowed", "violations": "SELECT 1 AS row", "road": "Ask first."}
# A query of growth that yields no number: every sample is red, whatever there was before the release.
UNCOUNTED = {
    "growth": {
        "sql": "SELECT 'many' AS total",
        "total": "total",
        "shrink_at_most": 0.1,
        "watched_seconds": 0,
        "largest_gap_seconds": 60,
    }
}
NOISY = "/tmp/noisy"  # of the backend's container: there as long as it logs errors
GROWTH = "The growth of the release's table was watched"
BRIEFLY = ("-e", "monitor_watch_seconds=2", "-e", "monitor_interval_seconds=1")
Make = Callable[..., str]


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[Make]:
    """A copy of the release with what a test adds to it; by itself with a check that is red after the upgrade."""

    def make(
        guard: dict[str, str] | None = None, monitoring: dict[str, Any] | None = None, *, proved: bool = False
    ) -> str:
        folder = tmp_path / "releases/8_1a"
        shutil.copytree(ROOT / "releases/8_1a", folder)
        checks, release = (yaml.safe_load((folder / name).read_text()) for name in ("checks.yml", "release.yml"))
        checks["checks"] += [] if monitoring else [RED]
        if proved:
            (step,) = [step for step in release["migration"]["finalize"] if step.get("proves")]
            step["proves"].append(RED["name"])
        release["rollback"]["guards"] += [guard] if guard else []
        release["monitoring"] |= monitoring or {}
        for name, document in (("checks.yml", checks), ("release.yml", release)):
            (folder / name).write_text(yaml.safe_dump(document, allow_unicode=True))
        return f"run_releases={folder.parent}"

    yield make


def test_it_rolls_back_by_itself_and_names_the_first_cause(psql: Psql, releases: Make) -> None:
    before = psql.fingerprint()
    run = play("deploy_8_1a.yml", "-e", releases())
    assert run.status != 0
    assert run.evidence["outcome"] == "rolled_back", run.evidence["headline"]
    assert "was rolled back: “A claim that never holds” failed: 1 row breaks it." in run.evidence["headline"]
    assert psql.fingerprint() == before
    steps = [line["step"] for line in journal() if line["event"] == "passed"]
    assert (steps.count("downgrade"), steps.count("rolled_back")) == (1, 1)


def test_it_rolls_back_also_where_the_migration_cannot_prove_what_it_must(psql: Psql, releases: Make) -> None:
    before = psql.fingerprint()
    run = play("deploy_8_1a.yml", "-e", releases(proved=True))
    assert (run.status != 0, run.evidence["outcome"]) == (True, "rolled_back"), run.evidence["headline"]
    assert "checks.never_true" in run.evidence["headline"]
    assert psql.fingerprint() == before


def test_it_holds_where_a_guard_does_not_allow_it(psql: Psql, releases: Make) -> None:
    run = play("deploy_8_1a.yml", "-e", releases(FORBIDS), "-e", "accept_loss=0")
    assert (run.status != 0, run.evidence["outcome"]) == (True, "failed")
    for text in (
        "The step checks failed: “A claim that never holds” failed",
        "Held: ",
        "Going back is allowed",
        "Ask first.",
    ):
        assert text in run.evidence["headline"]
    assert any("rollback_8_1a.yml" in way["command"] for way in run.evidence["ways_back"])
    assert psql.value("SELECT version_num FROM alembic_version") == "f4c8a2b5e1d9"
    rolled = play("rollback_8_1a.yml")
    assert rolled.evidence["outcome"] == "rolled_back", rolled.output


def test_it_holds_where_the_inventory_asks_for_it_and_the_run_that_finishes_it_does_as_asked_then(
    psql: Psql, releases: Make
) -> None:
    before, red = psql.fingerprint(), releases()
    run = play("deploy_8_1a.yml", "-e", red, "-e", "on_failed_verification=hold")
    assert (run.status != 0, run.evidence["outcome"]) == (True, "failed")
    assert "Held: the release stays as it is, because on_failed_verification is hold" in run.evidence["headline"]
    again = play("deploy_8_1a.yml", "-e", red)  # no run has verified the upgrade, so that this one finishes it
    assert again.evidence["outcome"] == "rolled_back", again.output
    assert psql.fingerprint() == before


def test_a_window_that_fails_is_rolled_back_too(psql: Psql, releases: Make) -> None:
    before = psql.fingerprint()
    run = play("deploy_8_1a.yml", "-e", releases(monitoring=UNCOUNTED), *BRIEFLY)
    assert (run.status != 0, run.evidence["outcome"]) == (True, "rolled_back"), run.output
    assert f"was rolled back: “{GROWTH}” failed: " in run.evidence["headline"]
    assert {sample["verdict"] for sample in run.evidence["monitoring"]["samples"]} == {"fail"}
    assert psql.fingerprint() == before


def test_a_window_that_fails_is_held_where_the_inventory_asks_for_it(psql: Psql, releases: Make) -> None:
    run = play("deploy_8_1a.yml", "-e", releases(monitoring=UNCOUNTED), *BRIEFLY, "-e", "on_failed_verification=hold")
    assert (run.status != 0, run.evidence["outcome"]) == (True, "failed"), run.output
    assert run.evidence["headline"].startswith(f"The step monitor failed: “{GROWTH}” failed")
    assert "Held: the release stays as it is, because on_failed_verification is hold" in run.evidence["headline"]
    assert psql.value("SELECT version_num FROM alembic_version") == "f4c8a2b5e1d9"
    assert play("rollback_8_1a.yml").evidence["outcome"] == "rolled_back"


def test_errors_that_were_logged_before_are_not_blamed_on_it() -> None:
    """Something that the release has nothing to do with fails each second, before it and after it."""
    line = "$(date -u '+%Y-%m-%d %H:%M:%S,000') ERROR [app] no answer of 10.0.0.7"
    noise = f'touch {NOISY}; while [ -e {NOISY} ]; do echo "{line}" > /proc/1/fd/1; sleep 1; done'
    docker("exec", "--detach", BACKEND, "sh", "-c", noise)
    try:
        run = play("deploy_8_1a.yml", *BRIEFLY)
    finally:
        docker("exec", BACKEND, "rm", NOISY)
    assert (run.status, run.evidence["outcome"]) == (0, "deployed"), run.output
    proofs = {proof["name"]: proof for proof in run.evidence["proofs"]}
    assert proofs["monitor.backend_log"]["status"] == "inconclusive"
    assert "as frequent before the release" in proofs["monitor.backend_log"]["detail"]
    assert play("rollback_8_1a.yml").evidence["outcome"] == "rolled_back"


def test_a_schedule_that_cannot_be_had_takes_no_release_back_and_replaces_no_watch(tmp_path: Path) -> None:
    program = tmp_path / "crontab"
    program.write_text("#!/bin/sh\necho not allowed >&2; exit 1\n")
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = play("deploy_8_1a.yml", "-e", "monitor_schedule=hourly", *BRIEFLY, environment=environment)
    assert (run.status != 0, run.evidence["outcome"]) == (True, "failed"), run.output
    assert "The step schedule failed: " in run.evidence["headline"] and "install cron" in run.evidence["headline"]
    assert run.evidence["monitoring"]["window"]["seconds"] == 2, "the watch is as long as it was asked for"
    assert play("verify_8_1a.yml").status == 0
    assert play("rollback_8_1a.yml").evidence["outcome"] == "rolled_back"


def test_a_refusal_before_the_upgrade_rolls_nothing_back(psql: Psql, releases: Make) -> None:
    run = play("deploy_8_1a.yml", "-e", releases(), "-e", "db_password=wrong")
    assert run.status != 0
    assert run.evidence.get("outcome", "failed") in ("refused", "failed")
    assert psql.value("SELECT version_num FROM alembic_version") == "0ab370a9afb6"
    assert STATE.exists()
