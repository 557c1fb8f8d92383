"""Files that somebody else put on the target, or could: each is refused before anything is read, written or run."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import leftovers
import psycopg2.extensions
import pytest
import restore_world
from ansible.module_utils.dbrelease.backup.dump import DumpFile
from ansible.module_utils.dbrelease.backup.manifest import hash_file
from ansible.module_utils.dbrelease.backup.manifest import read as read_manifest
from ansible.module_utils.dbrelease.core import own_files
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.files import (
    create_private,
    put_command,
    replace_private,
    unused,
    write_private,
)
from ansible.module_utils.dbrelease.core.journal import MOST_BYTES, MOST_LINES, Journal, Run
from ansible.module_utils.dbrelease.core.own_files import finding_on, open_own, reading
from ansible.module_utils.dbrelease.core.process import Process, process_of, this_machine
from ansible.module_utils.dbrelease.migrate.log import MigrationLog
from ansible.module_utils.dbrelease.monitor.readiness.backup import kept
from ansible.module_utils.dbrelease.report import files
from ansible.module_utils.dbrelease.restore.copy import ONLY_OURS
from ansible.module_utils.dbrelease.restore.source import find_backup, read_backup
from ansible.module_utils.dbrelease.rollback.lost_rows import save_rows
from ansible.module_utils.dbrelease.runs.claim import Claim, decode, encode
from ansible.module_utils.dbrelease.runs.claim_file import path_in, peek, try_lock
from ansible.module_utils.dbrelease.runs.holder import claim, end_module
from ansible.module_utils.dbrelease.runs.scan import scan_target
from psycopg2.extras import RealDictCursor
from restore_world import World
from run import act as open_run

world = restore_world.world
RUN = "20260102T030405Z-abcdef"
ANOTHER = 54321
VICTIM = "what nobody may touch"


@pytest.fixture
def run(run_parameters: dict[str, Any]) -> Run:
    return Run(**run_parameters)


@pytest.fixture
def state(run: Run) -> Path:
    """An empty state directory, as a run makes it."""
    folder = Path(run.state_dir)
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that an attacker would have us read, fill or empty."""
    path = tmp_path / "victim"
    path.write_text(VICTIM)
    return path


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Another user's from now on: truly so where the tests run as root, else as the owner is asked for."""
    given: set[tuple[int, int]] = set()
    real = own_files.owner_of

    def owner(status: os.stat_result) -> int:
        return ANOTHER if (status.st_dev, status.st_ino) in given else real(status)

    def give(path: Path) -> None:
        status = path.lstat()
        given.add((status.st_dev, status.st_ino))
        with suppress(PermissionError):
            os.lchown(path, ANOTHER, ANOTHER)

    monkeypatch.setattr(own_files, "owner_of", owner)
    yield give


GiveAway = Callable[[Path], None]

# The folder: what is done to it, or above it, and what is said.


def linked(state: Path, _: GiveAway) -> Path:
    state.rename(state.with_name("real"))
    state.symlink_to(state.with_name("real"))
    return state


def linked_above(state: Path, give: GiveAway) -> Path:
    above = state.with_name("above")
    above.symlink_to(state.parent)
    give(above)
    return above / state.name


def linked_above_by_root_where_others_write(state: Path, _: GiveAway) -> Path:
    shared = state.with_name("shared")
    shared.mkdir()
    (shared / "above").symlink_to(state.parent)
    shared.chmod(0o1777)
    return shared / "above" / state.name


def of_another(state: Path, give: GiveAway) -> Path:
    give(state)
    return state


def above_of_another(state: Path, give: GiveAway) -> Path:
    (state / "deep").mkdir()
    give(state)
    return state / "deep"


def mode(number: int, deep: str = "") -> Callable[[Path, GiveAway], Path]:
    def change(state: Path, _: GiveAway) -> Path:
        (state / deep).mkdir(exist_ok=True)
        state.chmod(number)
        return state / deep

    return change


def missing_where_others_write(state: Path, _: GiveAway) -> Path:
    state.chmod(0o777)
    return state / "to" / "be" / "made"


def named_by_its_child(state: Path, _: GiveAway) -> Path:
    (state / "child").mkdir()
    state.chmod(0o1777)
    return state / "child" / ".."


FOLDERS: list[tuple[str, Callable[[Path, GiveAway], Path], str]] = [
    ("a link", linked, "is a link"),
    ("a link above", linked_above, "above is a link"),
    ("root's link, where others write", linked_above_by_root_where_others_write, "above is a link"),
    ("of another user", of_another, "belongs to user id 54321"),
    ("above of another user", above_of_another, "belongs to user id 54321"),
    ("writable by its group", mode(0o770), "is writable by its group,"),
    ("writable by others", mode(0o707), "is writable by others,"),
    ("sticky, writable by all", mode(0o1777), "is writable by its group and others"),
    ("above writable by its group", mode(0o770, "deep"), "state is writable by its group,"),
    ("above writable by others", mode(0o707, "deep"), "state is writable by others,"),
    ("missing, where others write", missing_where_others_write, "state is writable by its group and others"),
    ("sticky, named by its child", named_by_its_child, "is writable by its group and others"),
]
EVERY_FOLDER = pytest.mark.parametrize(
    ("spoil", "words"), [row[1:] for row in FOLDERS], ids=[row[0] for row in FOLDERS]
)


def opening(state_dir: Path, *, exclusive: bool = True) -> dict[str, Any]:
    """The options of the module that opens runs."""
    return {
        **{"release": "sample", "environment": "test", "playbook": "deploy", "state_dir": str(state_dir)},
        **{"exclusive": exclusive, "controller": {}, "asked": ["deployed"]},
        # Were it looked at before, this would fail.
        **{"containers": {"db": "no_such_container"}, "db_host": None, "db_port": None},
    }


def everything_in(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("check_mode", [False, True])
@EVERY_FOLDER
def test_a_run_is_not_opened_where_others_may_exchange_files(
    state: Path,
    give_away: GiveAway,
    spoil: Callable[[Path, GiveAway], Path],
    words: str,
    check_mode: bool,
) -> None:
    folder = spoil(state, give_away)
    before = everything_in(state.parent)
    with pytest.raises(ReleaseError) as raised:
        open_run(opening(folder), check_mode)
    assert raised.value.refused
    assert words in raised.value.message and "nothing was written" in raised.value.message
    assert everything_in(state.parent) == before


# Whatever opens a file of ours: what it does with `name` in a folder, and whether it makes the file.
Opening = Callable[[Path], object]
WRITERS: dict[str, Opening] = {
    "the journal": lambda path: Journal(Run(RUN, "r", "e", "p", str(path.parent))).append("backup", "started"),
    "the claim": lambda path: try_lock(path_in(str(path.parent))),
    "a new file": create_private,
    "a whole file": lambda path: write_private(path, "ours", RUN),
    "a file in its place": lambda path: replace_private(path, b"ours", RUN),
    "a log": lambda path: MigrationLog(path, None),
    "the evidence": lambda path: files._write(path, b"ours"),
    "a dump": DumpFile,
}
READERS: dict[str, Opening] = {
    "the journal": lambda path: Journal(Run(RUN, "r", "e", "p", str(path.parent))).read(),
    "the claim": lambda path: peek(path_in(str(path.parent))),
    "a manifest": read_manifest,
    "a dump": hash_file,
    "any other": reading,
}


@pytest.mark.parametrize("act", WRITERS.values(), ids=WRITERS.keys())
@EVERY_FOLDER
def test_nothing_is_written_there_by_whatever_comes_later(
    state: Path, give_away: GiveAway, spoil: Callable[[Path, GiveAway], Path], words: str, act: Opening
) -> None:
    folder = spoil(state, give_away)
    with pytest.raises(ReleaseError, match="was refused"):
        act(folder / "file")
    assert everything_in(state.parent) == {}


@pytest.mark.parametrize("act", READERS.values(), ids=READERS.keys())
@EVERY_FOLDER
def test_nothing_is_believed_that_lies_there(
    state: Path, give_away: GiveAway, spoil: Callable[[Path, GiveAway], Path], words: str, act: Opening
) -> None:
    for name in ("file", "journal.jsonl", "run.lock"):
        (state / name).write_text("{}")
    folder = spoil(state, give_away)
    with pytest.raises(ReleaseError, match="was refused"):
        act(folder / "file")


def test_rows_are_not_saved_where_others_may_exchange_them(
    state: Path, session: psycopg2.extensions.connection
) -> None:
    state.chmod(0o777)
    with session.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute("CREATE TABLE items (id int)")
        with pytest.raises(ReleaseError, match="was refused"):
            save_rows(cursor, "SELECT 1 AS id", "items", state, RUN, "lost_rows")
    assert everything_in(state) == {}


ACCEPTED: list[tuple[str, Callable[[Path, GiveAway], Path]]] = [
    ("ours", lambda state, _: state),
    ("readable by all, as older versions left it", mode(0o755)),
    ("yet to be made", lambda state, _: state / "a" / "b"),
    ("below a folder like /tmp", mode(0o1777, "deep")),
    ("yet to be made below one like /tmp", lambda state, give: mode(0o1777)(state, give) / "deep"),
]


@pytest.mark.parametrize("accepted", [row[1] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED])
def test_a_folder_that_is_ours_alone_is_used(
    state: Path, give_away: GiveAway, accepted: Callable[[Path, GiveAway], Path]
) -> None:
    folder = accepted(state, give_away)
    write_private(folder / "file", "ours", RUN)
    assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o600


def test_a_link_that_only_root_can_have_made_is_followed(
    state: Path, give_away: GiveAway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /var/run is one; what it leads to is looked at as anything else."""
    monkeypatch.setattr(own_files, "owner_of", lambda _: 0)
    (state.parent / "above").symlink_to(state.parent)
    assert finding_on(state.parent / "above" / "state") is None
    state.chmod(0o777)
    assert finding_on(state.parent / "above" / "state")


def test_a_ring_of_links_is_refused(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_files, "owner_of", lambda _: 0)
    (state / "ring").symlink_to("ring")
    found = finding_on(state / "ring" / "x")
    assert found and "ring is a link" in found.what


# The files in it: what somebody put in the place of one, and what is said.


def a_link(path: Path, victim: Path, _: GiveAway) -> None:
    path.symlink_to(victim)


def a_hard_link(path: Path, victim: Path, _: GiveAway) -> None:
    path.hardlink_to(victim)


def a_pipe(path: Path, _: Path, __: GiveAway) -> None:
    os.mkfifo(path)


def anothers(path: Path, _: Path, give: GiveAway) -> None:
    path.write_text("{}")
    give(path)


def open_to_its_group(path: Path, _: Path, __: GiveAway) -> None:
    path.write_text("{}")
    path.chmod(0o620)


def open_to_all(path: Path, _: Path, __: GiveAway) -> None:
    path.write_text("{}")
    path.chmod(0o602)


FILES: list[tuple[str, Callable[[Path, Path, GiveAway], None], str]] = [
    ("a link", a_link, "it is a link"),
    ("a hard link", a_hard_link, "it has 2 names"),
    ("a pipe", a_pipe, "it is no regular file"),
    ("another user's", anothers, "it belongs to user id 54321"),
    ("writable by its group", open_to_its_group, "it is writable by its group"),
    ("writable by others", open_to_all, "it is writable by others"),
]
EVERY_FILE = pytest.mark.parametrize(("plant", "words"), [row[1:] for row in FILES], ids=[row[0] for row in FILES])
IN_PLACE: dict[str, tuple[str, Opening]] = {
    **{f"reads {name}": ("file", act) for name, act in READERS.items()},
    "reads the journal": ("journal.jsonl", READERS["the journal"]),
    "reads the claim": ("run.lock", READERS["the claim"]),
    "appends to the journal": ("journal.jsonl", WRITERS["the journal"]),
    "locks the claim": ("run.lock", WRITERS["the claim"]),
}


@pytest.mark.parametrize(("name", "act"), IN_PLACE.values(), ids=IN_PLACE.keys())
@EVERY_FILE
def test_a_planted_file_is_neither_read_nor_written(
    state: Path,
    victim: Path,
    give_away: GiveAway,
    plant: Callable[[Path, Path, GiveAway], None],
    words: str,
    name: str,
    act: Opening,
) -> None:
    plant(state / name, victim, give_away)
    with pytest.raises(ReleaseError) as raised:
        act(state / "file")
    assert raised.value.refused and words in raised.value.message
    assert victim.read_text() == VICTIM


@pytest.mark.parametrize("exists", [True, False], ids=["to a file", "to nowhere"])
@pytest.mark.parametrize("make", ["a new file", "a whole file", "a file in its place", "a log"])
def test_a_link_in_the_place_of_a_new_file_is_never_followed(
    state: Path, victim: Path, make: str, exists: bool
) -> None:
    if not exists:
        victim.unlink()
    for name in ("file", f"file.tmp.{RUN}"):
        (state / name).symlink_to(victim)
    with suppress(OSError, ReleaseError):
        WRITERS[make](state / "file")
    assert (victim.read_text() if exists else victim.exists()) == (VICTIM if exists else False)


def test_a_name_that_a_link_to_nowhere_has_is_not_free(state: Path) -> None:
    (state / "file.log").symlink_to(state / "nowhere")
    assert unused(state / "file.log", RUN).name == "file_abcdef.log"


def test_the_journal_is_not_written_through_a_link_that_comes_later(run: Run, state: Path, victim: Path) -> None:
    """As in the attack: between two tasks the folder was exchanged."""
    Journal(run).append("run", "started")
    (state / "journal.jsonl").unlink()
    (state / "journal.jsonl").symlink_to(victim)
    with pytest.raises(ReleaseError, match="it is a link"):
        Journal(run).append("run", "failed")
    assert victim.read_text() == VICTIM


@pytest.mark.parametrize("planted", ["report.html", f"report.html.tmp.{RUN}"])
def test_the_page_is_not_written_through_a_link(state: Path, victim: Path, planted: str) -> None:
    """It is put beside the evidence by a shell's command."""
    (state / planted).symlink_to(victim)
    command = put_command(str(state / "report.html"), RUN)
    subprocess.run(["sh", "-c", command], input=b"<html>", check=True)
    page = state / "report.html"
    assert (page.read_text(), page.is_symlink(), stat.S_IMODE(page.stat().st_mode)) == ("<html>", False, 0o600)
    assert victim.read_text() == VICTIM and list(state.iterdir()) == [page]


def test_leftovers_of_a_linked_folder_stay(run: Run, state: Path, tmp_path: Path) -> None:
    """Its files would be removed, as they are named like ours."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f"x.tmp.{RUN}").touch()
    (state / "runs").mkdir()
    (state / "runs" / "20260102T030405Z-fedcba").symlink_to(elsewhere)
    assert scan_target(replace(run, run_id="20260103T030405Z-aaaaaa"), [], dry=True).files == []


@pytest.mark.parametrize(("modes", "status"), [(0o777, 1), (0o1777, 0), (0o700, 0)])
def test_a_dump_is_not_copied_where_others_may_exchange_it(tmp_path: Path, modes: int, status: int) -> None:
    """The script that a container runs before it makes the folder in its /tmp."""
    top = tmp_path / "top"
    top.mkdir()
    top.chmod(modes)
    done = subprocess.run(["sh", "-c", ONLY_OURS, "sh", f"{top}/made"], capture_output=True, text=True, check=False)
    assert done.returncode == status and ("not sticky" in done.stderr) is bool(status)


# A dump that somebody else made


def manifest_of(dump: Path) -> Path:
    return dump.with_name(dump.name.replace(".dump", ".manifest.json"))


CODE = """
CREATE TABLE loot AS SELECT current_user AS who;
CREATE FUNCTION run_me() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
"""


@pytest.fixture
def foreign(world: World) -> Path:
    """A dump of another database with a manifest that fits it in all, in the state directory and ours."""
    dump = Path(world.back_up()["dump"])
    own = dump.read_bytes(), manifest_of(dump).read_text()
    world.execute(CODE)
    made = Path(world.back_up()["dump"])
    for path in (made, manifest_of(made)):
        path.rename(path.with_name(f"x_{path.name}"))
    made = made.with_name(f"x_{made.name}")
    content = {**json.loads(manifest_of(made).read_text()), "file": made.name}
    manifest_of(made).write_text(json.dumps(content))
    # The journal of this target has never heard of it.
    lines = [line for line in world.journal() if line["facts"].get("sha256") != content["sha256"]]
    (world.state / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert own[0] == dump.read_bytes()
    world.execute("DROP TABLE loot; DROP FUNCTION run_me()")
    return made


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_dump_that_the_journal_does_not_know_is_not_restored(
    world: World, foreign: Path, monkeypatch: pytest.MonkeyPatch, check_mode: bool
) -> None:
    before = world.databases()
    monkeypatch.setenv("PATH", "/nowhere")  # no program may even read it
    with pytest.raises(ReleaseError) as raised:
        world.restore(check_mode=check_mode, backup=foreign.name)
    sentence = raised.value.message
    assert raised.value.refused and "nothing was touched" in sentence
    assert "knows no backup with the sha256" in sentence and "-e restore_unknown_backup=true" in sentence
    assert f"runs the code in it as the database role {world.login.user}" in sentence
    assert world.databases() == before


def test_whoever_says_so_restores_it_and_the_proof_reports_it(world: World, foreign: Path) -> None:
    made = world.restore(backup=foreign.name, unknown_backup=True)
    assert made["changed"] and world.execute("SELECT count(*) FROM loot", made["database"]) == [(1,)]
    assert "The journal does not know it: restore_unknown_backup allowed it." in made["proofs"][0]["detail"]


def test_a_known_dump_in_which_both_files_were_changed_is_refused(world: World) -> None:
    """What the manifest says proves nothing: whoever changes the dump changes that too."""
    dump = Path(world.back_up()["dump"])
    data = bytearray(dump.read_bytes())
    data[-1] ^= 1
    dump.write_bytes(data)
    content = json.loads(manifest_of(dump).read_text())
    sha256 = hashlib.sha256(data).hexdigest()
    manifest_of(dump).write_text(json.dumps({**content, "sha256": sha256, "decoded": {"sha256": sha256}}))
    for given in ("", dump.name):
        with pytest.raises(ReleaseError, match="knows no backup with the sha256"):
            world.restore(check_mode=True, backup=given)


@EVERY_FILE
@pytest.mark.parametrize("which", ["dump", "manifest"])
def test_a_backup_that_others_made_or_may_change_is_refused(
    run: Run,
    state: Path,
    victim: Path,
    give_away: GiveAway,
    plant: Callable[[Path, Path, GiveAway], None],
    words: str,
    which: str,
) -> None:
    """Also where it is said to be trusted: its files are not looked at."""
    plant(state / ("x.dump" if which == "dump" else "x.manifest.json"), victim, give_away)
    if which == "manifest":
        (state / "x.dump").touch()
        with pytest.raises(ReleaseError, match="nothing was touched") as raised:
            read_backup(find_backup("x.dump", run, []), run, "2.4", "shop")
    else:
        with pytest.raises(ReleaseError, match=r"was refused|there is no file") as raised:
            read_backup(find_backup("x.dump", run, []), run, "2.4", "shop")
            hash_file(state / "x.dump")
    assert raised.value.refused


@pytest.mark.parametrize(
    "given", ["/etc/passwd", "../x.dump", "old/../../x.dump", "{state}/../x.dump", "{state}x/x.dump", "//x.dump"]
)
def test_a_backup_elsewhere_is_refused(run: Run, state: Path, given: str) -> None:
    with pytest.raises(ReleaseError, match="is not in the state directory") as raised:
        find_backup(given.format(state=state), run, [])
    assert raised.value.refused


def test_a_path_in_the_journal_leads_to_no_file_elsewhere(run: Run, state: Path, victim: Path) -> None:
    """Whoever wrote it, and where a state directory was moved with all that is in it, its own files are found."""
    facts = {"path": str(victim), "manifest": "/etc/passwd", "sha256": "0", "bytes": 1}
    Journal(run).append("backup", "passed", facts)
    assert find_backup("", run, Journal(run).read()) == state / "victim"
    (proof, manifest) = kept(facts, run.state_dir)
    assert (proof.status, manifest) == ("fail", None) and str(state) in proof.detail


def test_a_database_that_no_run_here_put_aside_is_not_swapped_in(world: World) -> None:
    world.next_run()
    name = f"{world.login.database}_before_restore_20200101_000000"
    world.execute(f"CREATE DATABASE {name}")
    with pytest.raises(ReleaseError, match=f"no run in the journal of .* made {name}") as raised:
        world.swap(name, check_mode=True)
    assert raised.value.refused and "restore_unknown_backup=true" in raised.value.message


# Journals and claims that no run has written


def journal_line(run_id: str, step: str = "run", event: str = "started", **facts: Any) -> dict[str, Any]:
    names = {"release": "sample", "environment": "test", "playbook": "deploy"}
    return {"ts": "2026-01-02T03:04:05+00:00", "run_id": run_id, **names, "step": step, "event": event, "facts": facts}


def invented(count: int) -> list[dict[str, Any]]:
    """Dead runs that ask for a report each."""
    return [journal_line(f"20250102T030405Z-{number:06x}", asked=["deployed"]) for number in range(count)]


def write_journal(state: Path, lines: list[dict[str, Any]]) -> None:
    (state / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def parameters(run_parameters: dict[str, Any], login_parameters: dict[str, Any]) -> dict[str, Any]:
    """Of the module that settles what was left."""
    options = {"backend_container": "", "db_container": "", "from_revision": "a", "revision": "b"}
    return {**login_parameters, **options, "run": run_parameters, "bookkeeping_table": "alembic_version"}


def test_of_three_hundred_invented_runs_twenty_are_reported_and_all_are_settled_at_once(
    parameters: dict[str, Any], state: Path, session: psycopg2.extensions.connection
) -> None:
    with session.cursor() as cursor:
        cursor.execute("CREATE TABLE alembic_version (version_num text)")
    write_journal(state, invented(300))
    first = leftovers.act(parameters, False)
    assert (len(first["interrupted"]), first["more_interrupted"], first["settled"]) == (20, 280, True)
    assert first["interrupted"][-1]["run_id"].endswith("00012b"), "the newest ones"
    assert first["notice"].startswith("280 earlier runs were interrupted, too, and get no report.")
    assert first["notice"].count("was interrupted") == 20
    again = leftovers.act(parameters, False)
    assert (len(again["interrupted"]), again["more_interrupted"]) == (20, 0), "until those have their reports"


def test_runs_that_were_settled_and_never_reported_come_to_an_end_too(
    parameters: dict[str, Any], state: Path, session: psycopg2.extensions.connection
) -> None:
    with session.cursor() as cursor:
        cursor.execute("CREATE TABLE alembic_version (version_num text)")
    ended = [{**line, "event": "failed", "facts": {"settled_by": RUN}} for line in invented(50)]
    write_journal(state, [*invented(50), *ended])
    assert leftovers.act(parameters, False)["more_interrupted"] == 30
    assert leftovers.act(parameters, False)["more_interrupted"] == 0


def test_more_dead_runs_than_can_be_are_refused_and_nothing_is_added(state: Path) -> None:
    write_journal(state, invented(1001))
    before = everything_in(state)
    for check_mode in (False, True):
        with pytest.raises(ReleaseError, match="has 1001 runs without an end, of 1000 at most") as raised:
            open_run({**opening(state), "containers": {}, "db_host": "db.example.com"}, check_mode)
        assert raised.value.refused
    assert everything_in(state) == before


def test_an_outcome_that_nobody_can_ask_for_stops_no_report(run: Run, state: Path) -> None:
    lines = [journal_line("20250102T030405Z-abcdef", asked=["deployed", "owned", "x" * 10_000])]
    (found,) = scan_target(replace(run, release="sample"), lines, dry=True).runs
    assert found.asked == ("deployed",)


def test_a_name_without_bound_is_cut(run: Run, state: Path) -> None:
    lines = [journal_line("20250102T030405Z-abcdef", controller={"user": "u" * 9999, "host": "h" * 9999})]
    (found,) = scan_target(run, lines, dry=True).runs
    assert (len(found.user), len(found.controller)) == (100, 100)
    write_journal(state, [{**lines[0], "step": "s" * 201}, lines[0]])
    assert len(Journal(run).read()) == 1, "no run has such a step"


def test_a_journal_of_any_size_is_refused_before_it_is_read(run: Run, state: Path) -> None:
    path = state / "journal.jsonl"
    path.touch()
    os.truncate(path, MOST_BYTES + 1)  # a sparse file: nothing is on the disk
    begun = time.monotonic()
    for check_mode in (False, True):
        with pytest.raises(ReleaseError, match=f"it has {MOST_BYTES + 1} bytes, of {MOST_BYTES} at most") as raised:
            open_run({**opening(state), "containers": {}, "db_host": "db.example.com"}, check_mode)
        assert raised.value.refused
    assert time.monotonic() - begun < 5
    assert path.stat().st_size == MOST_BYTES + 1


def test_a_journal_of_any_number_of_lines_is_refused(run: Run, state: Path) -> None:
    (state / "journal.jsonl").write_bytes(b"\n" * (MOST_LINES + 1))
    with pytest.raises(ReleaseError, match=f"it has more than {MOST_LINES} lines"):
        Journal(run).read()


def test_many_runs_that_ended_are_read_in_a_moment(run: Run, state: Path) -> None:
    """Each of them was held against every line: minutes, with so many."""
    begun = invented(20_000)
    lines = [line for one in begun for line in (one, {**one, "event": "passed"})]
    started = time.monotonic()
    assert not scan_target(run, lines, dry=True)
    assert time.monotonic() - started < 15


@pytest.fixture
def claimed(run: Run, state: Path) -> Claim:
    """By a run whose controller is dead."""
    here = this_machine()
    dead = {"pid": 2**22 + 1, "started": "1", "boot_id": here.boot_id, "pid_namespace": here.pid_namespace}
    return Claim.of(run, dead, here, "2026-01-02T03:04:05+00:00")


@pytest.mark.parametrize(
    "changes",
    [
        *({"module": {"pid": pid, "started": ""}} for pid in (0, -1, -4242)),
        *({"module": {"pid": pid, "started": ""}} for pid in ("self", True, None, 1.5, [1])),
        {"controller_pid": "self"},
        {"run_id": "../../x"},
        {"user": {"a": 1}},
        {"since": None},
    ],
    ids=str,
)
def test_a_claim_names_one_process_or_none(claimed: Claim, changes: dict[str, Any]) -> None:
    content = json.dumps({**asdict(claimed), **changes}).encode()
    read = decode(content)
    assert read is None or read.module is None


HOLDING = "import sys, time; file = open(sys.argv[1], 'r+'); print('open', flush=True); time.sleep(60)"


@pytest.mark.parametrize("own", [True, False])
def test_a_claim_ends_no_process_of_another_user(
    claimed: Claim, run: Run, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one that has the file open."""
    path = path_in(run.state_dir)
    path.write_bytes(encode(claimed))
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(path)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout and process.stdout.readline()
            holder = claimed.held_by(process_of(process.pid))
            if not own:
                monkeypatch.setattr(os, "geteuid", lambda: ANOTHER)
            assert end_module(path, holder, 5) == (process.pid if own else 0)
            assert (process.poll() is not None) is own
        finally:
            process.kill()


def test_a_claim_ends_no_process_that_has_nothing_to_do_with_it(claimed: Claim, run: Run) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            path_in(run.state_dir).write_bytes(encode(claimed.held_by(Process(process.pid, ""))))
            assert not claim(replace(run, run_id="20260103T030405Z-aaaaaa"), {}).refused
            assert process.poll() is None
        finally:
            process.kill()


def test_what_it_opened_is_closed_where_it_is_refused(state: Path, victim: Path) -> None:
    (state / "file").hardlink_to(victim)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ReleaseError):
        open_own(state / "file")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
