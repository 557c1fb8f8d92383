"""Check mode plans, shows the SQL, and changes nothing: on the target, in the database, in the containers."""

from __future__ import annotations

from pathlib import Path

from canary import canary, forms_in
from outside import STATE, Psql, play
from testinfra.host import Host


def written() -> list[str]:
    """What is in the state directory, which check mode does not even make."""
    return [str(STATE), *map(str, STATE.rglob("*"))] if STATE.exists() else []


def test_a_dry_deploy_shows_the_sql_and_leaves_nothing(psql: Psql, backend: Host, tmp_path: Path) -> None:
    before = psql.fingerprint()
    with canary(psql, tmp_path) as verbosely:
        dry = play("deploy_8_1a.yml", "--check", "--diff", *verbosely)
    assert dry.status == 0, dry.output
    assert "CREATE TABLE drawing_project_associations" in dry.output
    assert "Planned:" in dry.output
    assert forms_in(dry) == []
    assert psql.fingerprint() == before
    assert psql.value("SELECT to_regclass('drawing_project_associations') IS NULL") == "t"
    assert psql.value("SELECT version_num FROM alembic_version") == "0ab370a9afb6"
    assert written() == []
    assert backend.run("ls /app/migrations/versions | grep -c f4c8a2b5e1d9").stdout.strip() == "0"
    assert backend.run("find /tmp -mindepth 1 -type d").stdout == ""


def test_a_dry_run_refuses_what_the_real_one_would() -> None:
    dry = play("deploy_8_1a.yml", "--check", "-e", "db_password=wrong")
    assert dry.status != 0
    assert "check db_user and db_password" in dry.output
    assert written() == []
