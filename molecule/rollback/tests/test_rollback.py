"""Both roads lead back to the very database there was before the deployment, asked from outside; twice is once."""

from __future__ import annotations

import re

import pytest
from outside import ROOT, STATE, Psql, journal, play
from testinfra.host import Host

# The watch after a deployment is not what is looked at here.
BRIEFLY = ("-e", "monitor_watch_seconds=1", "-e", "monitor_interval_seconds=1")


def whole_catalog(postgres: Host) -> str:
    """What pg_dump makes of the schema: columns, defaults, indexes, constraints, triggers, owners and grants."""
    dumped = postgres.run("pg_dump -U user -d drawing_index --schema-only")
    assert dumped.rc == 0, dumped.stderr
    return "\n".join(line for line in dumped.stdout.splitlines() if not line.startswith("\\"))


@pytest.mark.parametrize("method", ["alembic", "sql"])
def test_it_leaves_what_was_there_before_the_deployment(psql: Psql, postgres: Host, method: str) -> None:
    rows, catalog = psql.fingerprint(), whole_catalog(postgres)
    assert play("deploy_8_1a.yml", *BRIEFLY).evidence["outcome"] == "deployed"
    deployed = psql.fingerprint()
    assert deployed != rows

    dry = play("rollback_8_1a.yml", "-e", f"rollback_method={method}", "--check", "--diff")
    assert (dry.status, "DROP TABLE drawing_project_associations" in dry.output) == (0, True), dry.output
    assert psql.fingerprint() == deployed

    first = play("rollback_8_1a.yml", "-e", f"rollback_method={method}")
    assert (first.status, first.evidence["outcome"]) == (0, "rolled_back"), first.output
    assert psql.fingerprint() == rows
    assert whole_catalog(postgres) == catalog
    statuses = {proof["name"]: proof["status"] for proof in first.evidence["proofs"]}
    for name in (
        "restored.catalog",
        "restored.public.alembic_version",
        "restored.public.drawings",
        "restored.drawing_project_associations.absent",
        "restored.observation.drawings_with_project",
        "rollback.downgrade",
        "rollback.log",
        "guard.phase_b_traffic_absent",
        "guard.no_association_lost",
        "api.drawings.shape",
    ):
        assert statuses[name] == "pass", name

    again = play("rollback_8_1a.yml", "-e", f"rollback_method={method}")
    assert (again.status, again.evidence["outcome"]) == (0, "rolled_back"), again.output
    assert "nothing to roll back" in again.output
    assert re.search(r"changed=0 ", again.output)
    assert psql.fingerprint() == rows


def test_each_rollback_left_its_log() -> None:
    logs = sorted(STATE.glob("rollback_log_*.log"))
    assert len(logs) == 2
    assert "Running downgrade f4c8a2b5e1d9 -> 0ab370a9afb6" in logs[0].read_text()
    assert "Phase A rolled back" in logs[1].read_text()


def test_no_session_and_no_temporary_file_is_left(psql: Psql) -> None:
    assert psql.left_sessions() == []
    assert not list(STATE.rglob("*.tmp*"))
    assert {line["event"] for line in journal() if line["step"] == "rolled_back"} == {"passed"}


def test_a_method_that_there_is_not_is_refused(psql: Psql) -> None:
    before = psql.fingerprint()
    wrong = play("rollback_8_1a.yml", "-e", "rollback_method=hope")
    assert wrong.status != 0
    assert "alembic, sql" in wrong.output
    assert (ROOT / ".stack/db_password").read_text().strip() not in wrong.output  # Ansible shows the whole spec
    assert psql.fingerprint() == before
