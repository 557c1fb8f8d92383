"""What interrupted runs left is found, reported, ended and removed; what belongs to others stays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import leftovers
import psycopg2
import psycopg2.extensions
import pytest
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.core.process import Process, process_of, this_machine
from ansible.module_utils.dbrelease.core.restore_names import REPLAY, copy_name, kept_name, rows_folder
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.restore import cleanup
from ansible.module_utils.dbrelease.runs.interrupted import (
    Interrupted,
    interrupted_runs,
    lines_of_runs,
    may_live,
    notice,
    stray_databases,
    stray_dumps,
    stray_temporaries,
)
from own_sessions import connect
from psycopg2 import sql
from run_ids import run_id
from waits import until

DEAD, VERIFYING, OTHER = (run_id(f"20260102T03040{second}Z") for second in range(3))
FROM, TO = "a1", "b2"


@pytest.fixture
def parameters(run_parameters: dict[str, Any], login_parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        **login_parameters,
        "run": {**run_parameters, "playbook": "deploy"},
        "backend_container": "",
        "db_container": "",
        "from_revision": FROM,
        "revision": TO,
        "bookkeeping_table": "alembic_version",
    }


@pytest.fixture
def at_revision(session: psycopg2.extensions.connection) -> Iterator[None]:
    with session.cursor() as cursor:
        cursor.execute("CREATE TABLE alembic_version (version_num text)")
        cursor.execute("INSERT INTO alembic_version VALUES (%s)", (TO,))
    yield


def journal_of(parameters: dict[str, Any], run_id: str, playbook: str = "deploy") -> Journal:
    return Journal(Run(**{**parameters["run"], "run_id": run_id, "playbook": playbook}))


def begin(journal: Journal, *steps: str, claims: bool = True, controller: dict[str, Any] | None = None) -> None:
    who = controller or {"user": "ann", "host": "desk"}
    journal.append("run", "started", {"controller": who, "asked": ["deployed"]})
    if claims:
        journal.append("claim", "passed")
    for step in steps:
        journal.append(step, "started")


def close_with_evidence(journal: Journal) -> None:
    """As the evidence closes a run."""
    journal.append("run", "failed", {"outcome": "failed", "headline": "", "evidence": str(journal.run.directory)})


def controller(process: Process | None) -> dict[str, Any]:
    here = this_machine()
    assert process
    return {"user": "ann", "host": "desk", "pid": process.pid, "started": process.started,
            "boot_id": here.boot_id, "pid_namespace": here.pid_namespace}  # fmt: skip


def ends(parameters: dict[str, Any], run_id: str) -> list[tuple[str, str]]:
    lines = Journal(Run(**parameters["run"])).read()
    return [(line["step"], line["event"]) for line in lines if line["run_id"] == run_id and line["event"] != "started"]


def test_where_nothing_was_interrupted_nothing_is_asked(parameters: dict[str, Any]) -> None:
    """Not even the database: that it does not answer is for preflight to report."""
    result = leftovers.act({**parameters, "login_host": "192.0.2.1", "db_container": "no_such"}, False)
    assert (result["changed"], result["notice"], result["proofs"], result["settled"]) == (False, "", [], True)


def test_an_interrupted_run_is_reported_and_gets_its_end(parameters: dict[str, Any], at_revision: None) -> None:
    begin(journal_of(parameters, DEAD), "upgrade")
    result = leftovers.act(parameters, False)
    assert result["changed"] and result["settled"] and result["revisions"] == [TO]
    assert f"Run {DEAD} (deploy, begun 20" in result["notice"]
    assert "by ann on desk) was interrupted at step upgrade; the database is at b2: this run" in result["notice"]
    assert ends(parameters, DEAD)[1:] == [("upgrade", "failed"), ("run", "failed")]
    report = {"run_id": DEAD, "playbook": "deploy", "steps": ["upgrade"], "asked": ["deployed"]}
    assert result["interrupted"] == [report]
    assert [proof["status"] for proof in result["proofs"]] == ["pass"]
    close_with_evidence(journal_of(parameters, DEAD))
    again = leftovers.act(parameters, False)
    assert (again["changed"], again["notice"]) == (False, "")


def test_what_another_release_left_working_is_ended_and_its_own_next_run_goes_on(
    parameters: dict[str, Any], at_revision: None, database: Login
) -> None:
    other = {**parameters, "run": {**parameters["run"], "run_id": OTHER, "release": "other"}}
    begin(journal_of({**parameters, "run": {**parameters["run"], "release": "other"}}, DEAD), "upgrade")
    with closing(connect(database, f"dbrelease-upgrade-{DEAD}")) as stray:
        dry = leftovers.act(parameters, True)
        assert dry["notice"].endswith("what it left running would be cleaned up, and the next run of that release "
                                      "continues from there.")  # fmt: skip
        result = leftovers.act(parameters, False)
        with pytest.raises(psycopg2.OperationalError), stray.cursor() as cursor:
            cursor.execute("SELECT 1")
    assert (result["changed"], result["settled"], result["sessions_ended"]) == (True, True, 1)
    assert result["notice"].startswith(f"Run {DEAD} (deploy, begun 20")
    assert "of release other was interrupted at step upgrade; what it left running was cleaned up" in result["notice"]
    assert result["interrupted"] == [], "its report is for its own release to make"
    assert ends(parameters, DEAD)[1:] == [("upgrade", "failed"), ("run", "failed")]
    assert not leftovers.act(parameters, False)["changed"]
    own = leftovers.act(other, False)
    assert [run["run_id"] for run in own["interrupted"]] == [DEAD]
    assert "was interrupted at step upgrade; the database is at b2: this run finishes it" in own["notice"]


def test_an_interrupted_run_is_named_until_its_report_is_written(parameters: dict[str, Any], at_revision: None) -> None:
    """Who settled it may be killed before it came to that."""
    begin(journal_of(parameters, DEAD), "upgrade")
    first = leftovers.act(parameters, False)
    ended = ends(parameters, DEAD)
    again = leftovers.act(parameters, False)
    assert again["interrupted"] == first["interrupted"] and again["notice"] == first["notice"]
    assert ends(parameters, DEAD) == ended, "it has its ends once"
    close_with_evidence(journal_of(parameters, DEAD))
    assert leftovers.act(parameters, False)["interrupted"] == []


def test_check_mode_reports_and_leaves_all(parameters: dict[str, Any], at_revision: None, database: Login) -> None:
    begin(journal_of(parameters, DEAD), "upgrade")
    torn = Path(parameters["run"]["state_dir"]) / f"x.json.tmp.{DEAD}"
    torn.touch()
    stray = connect(database, f"dbrelease-upgrade-{DEAD}")
    result = leftovers.act(parameters, True)
    assert result["changed"] and DEAD in result["notice"]
    assert result["files_removed"] == [str(torn)] and result["sessions_ended"] == 1
    assert torn.exists() and ends(parameters, DEAD) == [("claim", "passed")]
    with stray.cursor() as cursor:
        cursor.execute("SELECT 1")
    stray.close()


def test_its_sessions_end_and_those_of_others_do_not(
    parameters: dict[str, Any], at_revision: None, database: Login
) -> None:
    begin(journal_of(parameters, DEAD), "upgrade")
    stray, other = (connect(database, f"dbrelease-upgrade-{run_id}") for run_id in (DEAD, OTHER))
    assert leftovers.act(parameters, False)["sessions_ended"] == 1
    with pytest.raises(psycopg2.OperationalError), stray.cursor() as cursor:
        cursor.execute("SELECT 1")
    with other.cursor() as cursor:
        cursor.execute("SELECT 1")
    other.close()


def test_a_program_that_has_not_connected_yet_is_ended_too(parameters: dict[str, Any], at_revision: None) -> None:
    begin(journal_of(parameters, DEAD), "upgrade")
    programs = {
        run_id: subprocess.Popen(["sleep", "60"], env={**os.environ, "PGAPPNAME": f"dbrelease-upgrade-{run_id}"})
        for run_id in (DEAD, OTHER)
    }
    try:
        assert leftovers.act(parameters, False)["programs_ended"] == 1
        assert programs[DEAD].wait(5) == -9
        assert programs[OTHER].poll() is None
    finally:
        for program in programs.values():
            program.kill()
            program.wait()


def started(name: str, application_name: str) -> bool:
    """Whether a program of that name works under that name of its sessions."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            of_it = f"PGAPPNAME={application_name}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if of_it and (folder / "comm").read_text().strip() == name:
                return True
    return False


def test_a_script_that_is_ended_does_not_go_on_to_its_next_command(
    parameters: dict[str, Any], at_revision: None, tmp_path: Path
) -> None:
    begin(journal_of(parameters, DEAD), "upgrade")
    script = f"sleep 60; sleep 60; touch {tmp_path}/went_on"
    environment = {**os.environ, "PGAPPNAME": f"dbrelease-upgrade-{DEAD}"}
    with subprocess.Popen(["timeout", "600", "sh", "-c", script], env=environment) as program:
        until(partial(started, "sleep", environment["PGAPPNAME"]), "the script did not begin its first command")
        assert leftovers.act(parameters, False)["settled"]
        assert program.wait(5) in (-9, 137)
    assert not (tmp_path / "went_on").exists()


def test_it_needs_no_folder_of_the_application() -> None:
    """A target whose database is elsewhere may have none."""
    assert "workdir" not in leftovers.OPTIONS


def test_files_of_dead_runs_go_and_all_others_stay(parameters: dict[str, Any], at_revision: None) -> None:
    begin(journal_of(parameters, DEAD), "backup")
    begin(
        journal_of(parameters, VERIFYING, "verify"),
        "report",
        claims=False,
        controller=controller(process_of(os.getpid())),
    )
    folder = Path(parameters["run"]["state_dir"])
    (folder / "runs" / DEAD).mkdir(parents=True)
    stays = [
        f"backup_before_x_20260102_030400.dump.tmp.{VERIFYING}",
        "backup_before_x_20250101_000000.dump",  # made by hand
        "my.tmp.file",
        "pre_migration_state_20260102_030400.json",
    ]
    goes = [
        "backup_before_x_20260102_030400.dump",
        f"backup_before_x_20260102_030400.dump.tmp.{DEAD}",
        f"runs/{DEAD}/report.md.tmp.{DEAD}",
    ]
    begin(journal_of(parameters, OTHER, "restore"), "restore.copy")
    half, whole = folder / "rows_since_backup_20260102_030402", folder / "rows_since_backup_20250101_000000"
    for made in (half, whole):
        made.mkdir()
        (made / "public.orders.csv").touch()
    for name in (*stays, *goes):
        (folder / name).touch()
    result = leftovers.act(parameters, False)
    assert sorted(result["files_removed"]) == sorted([str(half), *(str(folder / name) for name in goes)])
    assert whole.exists() and not half.exists()
    assert all((folder / name).exists() for name in stays) and not any((folder / name).exists() for name in goes)


@pytest.mark.parametrize("step", ["restore", "restore.drop"])
def test_a_dead_restores_own_database_is_dropped(
    parameters: dict[str, Any], at_revision: None, session: psycopg2.extensions.connection, database: Login, step: str
) -> None:
    """So is that of a restore that failed, and could not drop it because the server was gone."""
    begin(journal_of(parameters, DEAD, "restore"), step)
    if step == "restore.drop":
        journal_of(parameters, DEAD, "restore").append("run", "failed", {"outcome": "failed"})
    mine, kept = copy_name(database.database, DEAD), kept_name(database.database, DEAD)
    with session.cursor() as cursor:
        for name in (mine, kept):
            cursor.execute(f'CREATE DATABASE "{name}"')
        try:
            result = leftovers.act(parameters, False)
            assert mine in " ".join((*result["databases_dropped"], *result["restore_repaired"]))
            shown = f"Run {DEAD} had swapped the databases: the one that was live before is kept as {kept} "
            shown += f"(restore with -e restore_swap_back={kept} swaps it back)."
            assert result["notice"].endswith(f"; what it left was cleaned up. {shown}")
            cursor.execute("SELECT datname FROM pg_database WHERE datname IN (%s, %s)", (mine, kept))
            assert cursor.fetchall() == [(kept,)]
        finally:
            for name in (mine, kept):
                cursor.execute(f'DROP DATABASE IF EXISTS "{name}"')


def test_a_closed_database_is_opened_from_where_the_restore_renames(
    parameters: dict[str, Any],
    at_revision: None,
    database: Login,
    server: Login,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cleanup, "MAINTENANCE", "not_there")
    journal = journal_of(parameters, DEAD, "restore")
    begin(journal)
    journal.append("restore.services", "started", {"containers": [], "maintenance_db": server.database})
    with closing(connect(server, "tests")) as session, session.cursor() as cursor:
        cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(database.database)))
        result = leftovers.act(parameters, False)
        assert result["restore_repaired"] == [f"Allowed connections to {database.database} again."]
        assert (result["settled"], result["revisions"]) == (True, [TO])


@pytest.mark.parametrize("saved", [True, False])
def test_a_swap_that_was_done_is_reported_with_what_it_kept(
    parameters: dict[str, Any], database: Login, server: Login, at_revision: None, saved: bool
) -> None:
    begin(journal_of(parameters, DEAD, "restore"), "restore.swap")
    kept, rows = kept_name(database.database, DEAD), Path(parameters["run"]["state_dir"]) / rows_folder(DEAD)
    if saved:
        rows.mkdir()
        (rows / REPLAY).write_text("")
    with closing(connect(server, "tests")) as session, session.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(kept)))
        try:
            result = leftovers.act(parameters, False)
            cursor.execute("SELECT FROM pg_database WHERE datname = %s", (kept,))
            assert cursor.rowcount == 1, "it is kept"
        finally:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(kept)))
    assert f"kept as {kept} (restore with -e restore_swap_back={kept}" in result["notice"]
    assert (f"saved in {rows.name}" in result["notice"]) is saved
    assert result["notice"] in result["proofs"][0]["detail"]
    close_with_evidence(journal_of(parameters, DEAD, "restore"))
    assert "had swapped" not in leftovers.act(parameters, False)["notice"], "reported once"


def test_a_run_that_cannot_be_settled_stays_open(parameters: dict[str, Any]) -> None:
    begin(journal_of(parameters, DEAD), "upgrade")
    result = leftovers.act({**parameters, "login_password": "wrong"}, False)
    assert result["changed"] and not result["settled"] and result["revisions"] is None
    assert "is unknown, because" in result["notice"]
    assert [proof["status"] for proof in result["proofs"]] == ["inconclusive"]
    assert ends(parameters, DEAD) == [("claim", "passed")]


# Pure


def line(run_id: str, step: str, event: str, **other: Any) -> dict[str, Any]:
    return {"run_id": run_id, "step": step, "event": event, "ts": "2026-01-02T03:04:00+00:00", "facts": {},
            "release": "sample", "environment": "test", "playbook": "deploy", **other}  # fmt: skip


START, CLAIM, UPGRADE = (
    line("a", step, event) for step, event in (("run", "started"), ("claim", "passed"), ("upgrade", "started"))
)
CLOSED = line("a", "run", "failed")


@pytest.mark.parametrize(
    ("lines", "controller_dead", "lives"),
    [
        ([START, CLAIM, UPGRADE], False, False),
        ([START, CLAIM, UPGRADE, CLOSED], False, False),
        ([START, UPGRADE], False, True),
        ([START, UPGRADE], True, False),
        ([START, line("a", "claim", "refused")], False, True),
        ([START, CLOSED], False, False),
    ],
)
def test_only_who_never_claimed_may_live(lines: list[dict[str, Any]], controller_dead: bool, lives: bool) -> None:
    assert may_live(lines, "a", lambda _: controller_dead) is lives


@pytest.mark.parametrize(
    ("lines", "steps"),
    [
        ([START, CLAIM, CLOSED], None),
        ([START, CLAIM, UPGRADE, CLOSED], ("upgrade",)),
        ([START, CLAIM], ()),
        ([START, line("a", "backup", "started"), line("a", "baseline", "started")], ("backup", "baseline")),
        ([START, UPGRADE, line("a", "upgrade", "passed")], ()),
        ([{**START, "release": "other"}, {**UPGRADE, "release": "other"}], ("upgrade",)),
    ],
)
def test_what_counts_as_interrupted(lines: list[dict[str, Any]], steps: tuple[str, ...] | None) -> None:
    found = interrupted_runs(lines_of_runs(lines), living=(), state_dir="/s")
    assert [run.steps for run in found] == ([] if steps is None else [steps])
    assert not interrupted_runs(lines_of_runs(lines), living=("a",), state_dir="/s")


@pytest.mark.parametrize(("closed", "asked"), [([], ["deployed"]), ([CLOSED], [])])
def test_only_an_interrupted_run_without_a_report_asks_for_one(closed: list[dict[str, Any]], asked: list[str]) -> None:
    lines = [{**START, "facts": {"asked": ["deployed"]}}, CLAIM, UPGRADE, *closed]
    (found,) = interrupted_runs(lines_of_runs(lines), living=(), state_dir="/s")
    assert found.facts()["asked"] == asked


SETTLED = {"interrupted": True, "settled_by": "b"}
ENDED = [{**UPGRADE, "event": "failed", "facts": SETTLED}, {**CLOSED, "facts": SETTLED}]
REPORTED = {**CLOSED, "facts": {"evidence": "/s/runs/a"}}


@pytest.mark.parametrize(
    ("asked", "end", "unreported"),
    [
        pytest.param(["deployed"], ENDED, True, id="settled"),
        pytest.param(["deployed"], [*ENDED, REPORTED], False, id="settled, then reported"),
        pytest.param(["deployed"], [CLOSED, ENDED[0]], False, id="reported, then settled"),
        pytest.param([], ENDED, False, id="nobody asked for a report"),
    ],
)
def test_who_settled_it_may_not_have_come_to_its_report(
    asked: list[str], end: list[dict[str, Any]], unreported: bool
) -> None:
    lines = [{**START, "facts": {"asked": asked}}, CLAIM, UPGRADE, *end]
    found = interrupted_runs(lines_of_runs(lines), living=(), state_dir="/s")
    seen = [(run.settled, run.where, run.steps, run.facts()["asked"]) for run in found]
    assert seen == ([(True, "at step upgrade", ("upgrade",), asked)] if unreported else [])


def interrupted(playbook: str = "deploy", steps: tuple[str, ...] = ("backup",)) -> Interrupted:
    run = Run(DEAD, "sample", "test", playbook, "/s")
    return Interrupted(run, "2026", "ann", "desk", f"at step {steps[-1]}", steps, False)


@pytest.mark.parametrize(
    ("playbook", "revisions", "says"),
    [
        ("deploy", [TO], "at b2: this run finishes it."),
        ("deploy", [FROM], "at a1, as if it had not begun: this run starts from the beginning."),
        ("rollback", [TO], "at b2; what it left was cleaned up."),
        ("deploy", ["c3"], "at c3; what it left was cleaned up."),
        ("deploy", [], "at no revision; what it left was cleaned up."),
        ("deploy", None, "is unknown, because the database does not answer."),
    ],
)
def test_what_the_operator_reads(playbook: str, revisions: list[str] | None, says: str) -> None:
    shown = notice([interrupted()], playbook=playbook, revisions=revisions, from_revision=FROM, revision=TO)
    assert shown.startswith(f"Run {DEAD} (deploy, begun 2026 by ann on desk) was interrupted at step backup; ")
    assert shown.endswith(says)


@pytest.mark.parametrize(
    ("playbook", "at", "options", "says"),
    [
        ("deploy", TO, {"dry": True}, "at b2: this run would finish it."),
        ("deploy", FROM, {"dry": True}, "as if it had not begun: this run would start from the beginning."),
        ("rollback", TO, {"dry": True}, "; what it left would be cleaned up."),
        ("rollback", TO, {"settled": False}, "; what it left could not all be cleaned up."),
        ("rollback", TO, {"settled": False, "dry": True}, "; what it left would be cleaned up."),
    ],
)
def test_nothing_is_said_to_be_done_that_was_not(playbook: str, at: str, options: dict[str, bool], says: str) -> None:
    shown = notice([interrupted()], playbook=playbook, revisions=[at], from_revision=FROM, revision=TO, **options)
    assert shown.endswith(says)


@pytest.mark.parametrize(
    ("steps", "playbook", "at", "says"),
    [
        (("reconcile",), "deploy", TO, "; if it left a foreign key half done, this run finishes it."),
        (("verify", "checks"), "deploy", TO, "; what it left was cleaned up."),
        (("reconcile",), "rollback", TO, "; what it left was cleaned up."),
        (("reconcile",), "deploy", FROM, "; what it left was cleaned up."),
    ],
)
def test_a_deploy_finishes_a_reconcile(steps: tuple[str, ...], playbook: str, at: str, says: str) -> None:
    run = interrupted("reconcile", steps)
    shown = notice([run], playbook=playbook, revisions=[at], from_revision=FROM, revision=TO)
    assert shown.endswith(says)


def test_names_that_are_nobodys_business() -> None:
    dump = "backup_before_x_20260102_030400.dump"
    assert stray_dumps({dump}, [interrupted()]) == [dump]
    assert stray_dumps({dump, dump.replace(".dump", ".manifest.json")}, [interrupted()]) == []
    assert stray_dumps({dump}, [interrupted(steps=("upgrade",))]) == []
    assert stray_temporaries({"a.tmp", f"a.tmp.{DEAD}", f"a.tmp.{DEAD}.b", f".tmp.{DEAD}"}, ()) == [f"a.tmp.{DEAD}"]
    mine = copy_name("shop", DEAD)
    names = {"shop", mine, copy_name("shop", VERIFYING), "shop_before_restore_20260102_030400"}
    assert stray_databases(names, "shop", [interrupted("restore")]) == [mine]
    assert stray_databases(names, "shop_before", [interrupted("restore")]) == []
    assert stray_databases(names, "shop", [interrupted("deploy")]) == []
