"""A rehearsal proves a backup, changes nothing on the live database, and leaves no server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from outside import STATE, Psql, Releases, docker, newest_evidence, play, until

LABEL = f"label=dbrelease.rehearsal.target={STATE}"


def left() -> str:
    """Containers and networks of rehearsals."""
    return docker("ps", "--all", "--quiet", "--filter", LABEL) + docker("network", "ls", "--quiet", "--filter", LABEL)


# Preflight plans the declared statements on the table to come, in a transaction that it rolls back.
PLANNED = 'CREATE TABLE "drawing_project_associations" ("id" uuid,'


def written() -> list[str]:
    """The statements that the live server has logged, which change something."""
    log = subprocess.run(["docker", "logs", "drawing_postgres"], check=True, capture_output=True, text=True).stderr
    logged = (line for line in log.splitlines() if "LOG:  statement:" in line or "LOG:  execute" in line)
    return [line for line in logged if PLANNED not in line]


@contextmanager
def untouched(psql: Psql) -> Iterator[None]:
    """Within the block no row and no object of the live server changes, and its log has no statement that tries it."""
    set_to, reload = "ALTER SYSTEM SET log_statement = 'mod'", "SELECT pg_reload_conf()"
    psql.lines(set_to)
    psql.lines(reload)
    try:
        until(lambda: psql.value("SHOW log_statement") == "mod", "the server does not log what changes it")
        psql.lines("CREATE TABLE is_logged (); DROP TABLE is_logged")
        before, fingerprint = written(), psql.fingerprint()
        assert "is_logged" in before[-1]
        yield
        assert psql.fingerprint() == fingerprint
        assert written() == before
    finally:
        psql.lines("ALTER SYSTEM RESET log_statement")
        psql.lines(reload)


def test_the_backup_is_proved_by_a_restore() -> None:
    evidence = newest_evidence()
    proofs = [(proof["name"], proof["status"]) for proof in evidence["proofs"]]

    assert evidence["outcome"] == "planned"
    assert ("rehearse.restored", "pass") in proofs
    assert ("backup.restorable", "pass") in proofs
    restored = json.loads(max(STATE.glob("*.manifest.json")).read_text())["restored"]
    assert restored["where"] == "container"
    assert restored["restore_ms"] > 0
    assert left() == ""


def test_the_live_database_is_only_read(psql: Psql) -> None:
    with untouched(psql):
        done = play("rehearse_8_1a.yml")

    assert done.status == 0, done.output
    assert psql.left_sessions() == []
    assert left() == ""


def test_a_rehearsal_that_cannot_start_its_server_is_refused_and_leaves_nothing(psql: Psql) -> None:
    with untouched(psql):
        done = play("rehearse_8_1a.yml", "-e", "rehearse_memory_mib=6")

    assert done.status != 0
    assert done.evidence["outcome"] == "refused"
    assert "Rehearsing was refused" in done.output
    assert left() == ""


REVISION = "migrations/f4c8a2b5e1d9_create_drawing_project_associations_junction_table.py"
BEGIN, END = "    op.execute(BOUND_LOCK_WAITS)\n", "    op.drop_table(TABLE)\n"
REHEARSED = ("-e", "rehearsal=container", "-e", "monitor_watch_seconds=1")


class Point(NamedTuple):
    """What is wrong with a release, which claim fails, and what the verdict says."""

    file: str
    old: str
    new: str
    claim: str
    says: str


def begins(sql: str) -> tuple[str, str, str]:
    return REVISION, BEGIN, f'{BEGIN}    op.execute("{sql}")\n'


def ends(sql: str) -> tuple[str, str, str]:
    return REVISION, END, f'{END}    op.execute("{sql}")\n'


TYPE = "assigned_by: {type: character varying(255), nullable: true}"
POINTS = {
    "the upgrade fails": Point(*begins("SELECT 1 / 0"), "rehearse.upgrade", "division by zero"),
    "a step after it fails": Point(
        "release.yml", "sql: ANALYZE drawing", "sql: ANALYZE no_such_drawing", "rehearse.finalize", "does not exist"
    ),
    "it blocks writers": Point(
        *begins("LOCK TABLE drawings IN SHARE MODE; SELECT pg_sleep(2)"),  # plays: a slow migration
        "rehearse.budget.write_wait",
        "A writer of public.drawings waited",
    ),
    "what it declares is not true": Point(
        "release.yml", TYPE, TYPE.replace("255", "254"), "rehearse.verified", "assigned_by"
    ),
    "it changes another table": Point(
        *begins("UPDATE projects SET name = name || '!'"), "rehearse.untouched", "public.projects"
    ),
    "the downgrade fails": Point(*ends("DROP TABLE no_such_table"), "rehearse.downgrade", "no_such_table"),
    "the downgrade is no inverse": Point(
        *ends("COMMENT ON TABLE drawings IS 'left'"), "rehearse.back", "TABLE drawings: new"
    ),
}


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_a_deploy_whose_rehearsal_fails_is_refused_before_the_live_database_is_touched(
    point: Point, psql: Psql
) -> None:
    releases = Releases.copied()

    with releases.edited(point.old, point.new, point.file), untouched(psql):
        done = play("deploy_8_1a.yml", *releases.arguments, *REHEARSED)

    assert done.status != 0
    assert done.evidence["outcome"] == "refused", done.output
    assert [proof["name"] for proof in done.evidence["proofs"] if proof["status"] == "fail"] == [point.claim]
    verdict = done.output.partition("VERDICT")[2]
    assert point.says in verdict
    assert "the database was not changed" in verdict
    assert psql.left_sessions() == []
    assert left() == ""


def test_a_deploy_after_which_the_application_does_not_start_is_refused(psql: Psql) -> None:
    """A new file hides a library of the application."""
    releases, hidden = Releases.copied(), "destination: /app/fastapi.py"

    with releases.edited("destination: /app/migrations/rollback_phase_a.sql", hidden), untouched(psql):
        anywhere = ("-e", json.dumps({"payload_folders": ["/app"]}))
        done = play("deploy_8_1a.yml", *releases.arguments, *anywhere, *REHEARSED)

    assert done.evidence["outcome"] == "refused", done.output
    failed = [proof for proof in done.evidence["proofs"] if proof["status"] == "fail"]
    assert [proof["name"] for proof in failed] == ["rehearse.api_upgraded"]
    assert "its container ended while it started" in failed[0]["detail"]
    assert left() == ""
