"""What the old code wrote after a deploy is drift and takes nothing back; damage is an error. And the ways back.

After test_deployed.py; all of it as a role that owns the database and is no superuser.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from canary import canary, forms_in
from outside import Psql, patient, play

MISSING = "checks.no_missing_association"


def verdicts(evidence: dict[str, Any]) -> dict[str, str]:
    return {proof["name"]: proof["status"] for proof in evidence["proofs"] if proof["name"].startswith("checks.")}


def test_whoever_asks_whether_all_is_true_learns_of_it(psql: Psql, tmp_path: Path) -> None:
    with canary(psql, tmp_path) as verbosely:
        verified = play("verify_8_1a.yml", *verbosely)
    assert (verified.status != 0, verified.evidence["outcome"]) == (True, "failed"), verified.output
    assert verdicts(verified.evidence)[MISSING] == "fail"
    assert "reconcile_8_1a.yml" in verified.evidence["headline"]
    assert forms_in(verified) == []


def test_a_row_that_went_otherwise_is_damage(psql: Psql) -> None:
    seeded = psql.value(
        "SELECT a.id FROM drawing_project_associations a JOIN drawings d ON d.id = a.drawing_id "
        "WHERE d.title NOT LIKE 'live %' ORDER BY 1 LIMIT 1"
    )
    psql.lines(f"DELETE FROM drawing_project_associations WHERE id = '{seeded}'")
    verified = play("verify_8_1a.yml")
    assert (verified.status != 0, verified.evidence["outcome"]) == (True, "failed"), verified.output
    assert verdicts(verified.evidence)[MISSING] == "fail"
    assert "of which" in verified.output and "drift" in verified.output


def test_reconcile_brings_both_in_line() -> None:
    repaired = play("reconcile_8_1a.yml")
    assert (repaired.status, repaired.evidence["outcome"]) == (0, "already_deployed"), repaired.output
    assert set(verdicts(repaired.evidence).values()) == {"pass"}


def test_it_needed_no_superuser(psql: Psql) -> None:
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    assert psql.lines(owners) == ["app_owner"]
    assert psql.value("SELECT rolsuper FROM pg_roles WHERE rolname = 'app_owner'") == "f"


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


def test_its_owner_rolls_it_back_and_restores_it(psql: Psql) -> None:
    drawings = psql.value("SELECT count(*) FROM drawings")
    back = play("rollback_8_1a.yml")
    assert (back.status, back.evidence["outcome"]) == (0, "rolled_back"), back.output
    deployed = play("deploy_8_1a.yml", *patient(), "-e", "monitor_watch_seconds=2", "-e", "monitor_interval_seconds=1")
    assert (deployed.status, deployed.evidence["outcome"]) == (0, "deployed"), deployed.output
    # Nobody writes: every checklist item of the deploy is proved.
    unproved = {item["item"] for item in deployed.evidence["checklist"] if item["status"] != "proved"}
    assert unproved <= UNSEEN, unproved - UNSEEN
    assert not [proof for proof in deployed.evidence["proofs"] if proof["status"] == "fail"]
    restored = play("restore_8_1a.yml")
    assert (restored.status, restored.evidence["outcome"]) == (0, "restored"), restored.output
    assert psql.value("SELECT count(*) FROM drawings") == drawings
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
    assert psql.value(owner) == "app_owner"
