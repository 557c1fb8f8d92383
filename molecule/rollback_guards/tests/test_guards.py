"""Each condition of the runbook, broken on the real stack: refused, nothing changed, and the other road is named."""

from __future__ import annotations

import os
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from outside import API, POSTGRES, ROOT, STATE, Psql, docker, play
from testinfra.host import Host

# The watch after a deployment is not what is looked at here.
BRIEFLY = ("-e", "monitor_watch_seconds=1", "-e", "monitor_interval_seconds=1")
TABLE = "drawing_project_associations"
DRAWING = "(SELECT id FROM drawings WHERE project_id IS NOT NULL ORDER BY id LIMIT 1)"
BARE = "(SELECT id FROM drawings WHERE project_id IS NULL ORDER BY id LIMIT 1)"
ITS_PROJECT = f"(SELECT project_id FROM drawings WHERE id = {DRAWING})"
OTHER = f"(SELECT id FROM projects WHERE id <> {ITS_PROJECT} ORDER BY id LIMIT 1)"


def add(drawing: str, by: str) -> str:
    return f"INSERT INTO {TABLE} (drawing_id, project_id, assigned_by) VALUES ({drawing}, {OTHER}, '{by}')"


@contextmanager
def sql(psql: Psql, do: str, undo: str) -> Iterator[None]:
    psql.lines(do)
    try:
        yield
    finally:
        psql.lines(undo)


@contextmanager
def uncommitted(psql: Psql) -> Iterator[None]:
    inside = ["docker", "exec", "-i", POSTGRES, "psql", "-X", "-U", "user", "-d", "drawing_index", "-At"]
    with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdin and session.stdout
        session.stdin.write(f"BEGIN;\n{add(BARE, 'slow')};\nSELECT 'there';\n")
        session.stdin.flush()
        while "there" not in session.stdout.readline():
            pass
        try:
            yield
        finally:
            session.stdin.write("ROLLBACK;\n")
            session.stdin.close()


@contextmanager
def phase_b(_: Psql) -> Iterator[None]:
    stack("B")
    try:
        yield
    finally:
        stack("A")


def stack(phase: str) -> None:
    made = subprocess.run(
        ["make", "--no-print-directory", "stack"],
        cwd=ROOT,
        env={**os.environ, "APP_PHASE": phase},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr


@contextmanager
def traffic(psql: Psql) -> Iterator[None]:
    drawing = psql.value(f"SELECT {DRAWING}")
    with suppress(urllib.error.HTTPError):  # phase A answers 404, and logs the request all the same
        urllib.request.urlopen(f"{API}/drawings/{drawing}/projects")  # noqa: S310 - an address of this test's own
    yield


Break = Callable[[Psql], AbstractContextManager[None]]
STALE = f"UPDATE {TABLE} SET project_id = {OTHER} WHERE drawing_id = {DRAWING}"
MEND = (
    f"UPDATE {TABLE} a SET project_id = d.project_id FROM drawings d "
    f"WHERE d.id = a.drawing_id AND d.project_id <> a.project_id"
)
CASES: list[tuple[str, Break, list[str], list[str]]] = [
    (
        "project_id_present",
        lambda psql: sql(
            psql,
            "ALTER TABLE drawings RENAME COLUMN project_id TO project_id_away",
            "ALTER TABLE drawings RENAME COLUMN project_id_away TO project_id",
        ),
        [],
        ["drawings.project_id is missing", "restore_8_1a.yml"],
    ),
    (
        "no_association_lost",
        lambda psql: sql(psql, add(BARE, "someone"), f"DELETE FROM {TABLE} WHERE assigned_by = 'someone'"),
        [],
        ["1 row would be lost", "someone", "accept_loss=1"],
    ),
    (
        "no_association_lost",
        lambda psql: sql(psql, STALE, MEND),
        [],
        ["1 row would be lost", "migration_8.1a", "reconcile_8_1a.yml"],
    ),
    (
        "one_project_per_drawing",
        lambda psql: sql(psql, add(DRAWING, "someone"), f"DELETE FROM {TABLE} WHERE assigned_by = 'someone'"),
        [],
        ["“No drawing has more than one project” failed: 1 row breaks it", "1 row would be lost"],
    ),
    (
        "no_association_lost",
        lambda psql: sql(psql, add(BARE, "someone"), f"DELETE FROM {TABLE} WHERE assigned_by = 'someone'"),
        ["-e", "accept_loss=2"],
        ["accept_loss=2 is not the number counted: 1 row would be lost"],
    ),
    (
        "nothing_depends",
        lambda psql: sql(psql, f"CREATE VIEW monthly_report AS SELECT id FROM {TABLE}", "DROP VIEW monthly_report"),
        [],
        ["view monthly_report would be left without it"],
    ),
    (
        "no_other_column",
        lambda psql: sql(psql, f"ALTER TABLE {TABLE} ADD contract text", f"ALTER TABLE {TABLE} DROP contract"),
        [],
        [f"{TABLE}.contract exists, and the release does not declare it"],
    ),
    ("", lambda _: nullcontext(), ["-e", "accept_loss=-1"], ["accept_loss=-1 is not the number counted: 0 rows"]),
    ("", lambda _: nullcontext(), ["-e", "accept_loss=1"], ["accept_loss=1 is not the number counted: 0 rows"]),
    ("no_association_lost", uncommitted, [], [f"has written to {TABLE} and has not committed"]),
    ("phase_b_answers_absent", lambda _: nullcontext(), ["-e", "api_base_url=http://localhost:9"], ["localhost:9"]),
    ("phase_b_image_absent", lambda _: nullcontext(), ["-e", "backend_container=no_such"], ["no_such"]),
]


def refused(psql: Psql, guard: str, break_it: Break, arguments: list[str], says: list[str]) -> None:
    with break_it(psql):
        before = psql.fingerprint()
        run = play("rollback_8_1a.yml", *arguments)
        assert psql.fingerprint() == before
    assert run.status != 0, run.output
    assert run.evidence["outcome"] == "refused", run.evidence["headline"]
    assert not guard or guard in {
        proof["name"].removeprefix("guard.")
        for proof in run.evidence["proofs"]
        if proof["status"] in ("fail", "inconclusive")
    }
    for text in says:
        assert text in run.evidence["headline"]


@pytest.fixture(scope="module", autouse=True)
def deployed() -> None:
    assert play("deploy_8_1a.yml", *BRIEFLY).evidence["outcome"] == "deployed"


@pytest.mark.parametrize(("guard", "break_it", "arguments", "says"), CASES, ids=range(len(CASES)))
def test_a_guard_that_does_not_hold_refuses(
    psql: Psql, guard: str, break_it: Break, arguments: list[str], says: list[str]
) -> None:
    refused(psql, guard, break_it, arguments, says)
    assert not list(STATE.glob("lost_rows_*"))


def test_accepted_rows_are_saved_and_their_script_puts_them_back(psql: Psql, postgres: Host) -> None:
    psql.lines(add(BARE, "it''s \\ here"))
    psql.lines(add(DRAWING, "someone"))
    kept = f"SELECT a FROM {TABLE} a WHERE assigned_by <> 'migration_8.1a' ORDER BY 1"
    before = psql.lines(kept)
    assert len(before) == 2
    run = play("rollback_8_1a.yml", "-e", "accept_loss=2")
    assert (run.status, run.evidence["outcome"]) == (0, "rolled_back"), run.output
    (script,), (rows,) = STATE.glob("lost_rows_*_replay.sql"), STATE.glob("lost_rows_*.tsv")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (script, rows)] == [0o600, 0o600]
    assert len(rows.read_text().splitlines()) == 3  # with the names of the columns

    assert play("deploy_8_1a.yml", *BRIEFLY).evidence["outcome"] == "deployed"
    for _ in range(2):
        replay(script)
        assert psql.lines(kept) == before
    psql.lines(f"DELETE FROM {TABLE} WHERE assigned_by <> 'migration_8.1a'")


def replay(script: Path) -> None:
    docker("cp", str(script), f"{POSTGRES}:/tmp/replay.sql")
    docker(
        "exec",
        POSTGRES,
        "psql",
        "-X",
        "-v",
        "ON_ERROR_STOP=1",
        "-U",
        "user",
        "-d",
        "drawing_index",
        "-f",
        "/tmp/replay.sql",
    )
    docker("exec", "-u", "root", POSTGRES, "rm", "/tmp/replay.sql")


def test_phase_b_traffic_refuses_whatever_is_accepted(psql: Psql) -> None:
    refused(psql, "phase_b_traffic_absent", traffic, [], ["/projects", "restore_8_1a.yml"])
    refused(psql, "phase_b_traffic_absent", traffic, ["-e", "accept_loss=0"], ["/projects"])


def test_phase_b_refuses_by_its_answers_its_schema_and_its_image(psql: Psql) -> None:
    refused(
        psql,
        "phase_b_schema_absent",
        phase_b,
        ["-e", "accept_loss=0"],
        ["answers with projects", "/api/v1/drawings/{drawing_id}/projects", "APP_PHASE=B", "created again"],
    )


def test_with_phase_b_neither_a_reconcile_nor_another_deploy_touches_a_row(psql: Psql) -> None:
    """What seems stale or missing may be a user's own change by then."""
    with phase_b(psql), sql(psql, STALE, MEND):
        before = psql.fingerprint()
        for playbook, says in (
            ("reconcile_8_1a.yml", "was not run: its rows may no longer belong to the release alone"),
            ("deploy_8_1a.yml", "Every drawing with a project"),
        ):
            run = play(playbook, *BRIEFLY)
            assert psql.fingerprint() == before
            assert (run.status, run.evidence["outcome"]) == (2, "failed"), run.output
            assert says in run.evidence["headline"]
    assert play("reconcile_8_1a.yml").evidence["outcome"] == "already_deployed"
