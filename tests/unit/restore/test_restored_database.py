"""restored_database: what is restored is exactly what was backed up, and everything else is refused or undone."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import restore_world
from ansible.module_utils.dbrelease.backup import schema_text
from ansible.module_utils.dbrelease.backup.dump import tool_environment
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.core.restore_names import copied_by, copy_name, is_kept, kept_name
from ansible.module_utils.dbrelease.host.commands import HostCommands
from ansible.module_utils.dbrelease.host.disk import Room
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.restore import copy as restore_copy
from ansible.module_utils.dbrelease.restore import server as restore_server
from ansible.module_utils.dbrelease.restore.cleanup import settle
from ansible.module_utils.dbrelease.restore.compare import read_state
from ansible.module_utils.dbrelease.restore.plan import CopyTarget
from ansible.module_utils.dbrelease.restore.settings import setting
from ansible.module_utils.dbrelease.restore.source import Backup, find_backup, read_backup
from own_sessions import connect
from psycopg2.extras import RealDictCursor
from restore_world import WRITTEN, World
from rewritten_manifest import manifest_of, rewrite
from run_ids import run_id

world = restore_world.world


@pytest.fixture
def saved(world: World) -> Path:
    """The path of a backup; the database was written to since."""
    dump = Path(world.back_up()["dump"])
    world.execute(WRITTEN)
    return dump


def test_the_copy_is_the_database_as_it_was(world: World) -> None:
    before, settings = read_state(world.login, "tests")
    dump = world.back_up()["dump"]
    world.execute(WRITTEN)
    live = world.tables()
    result = world.restore()
    assert result["changed"]
    assert result["dump"] == dump
    after, restored = read_state(replace(world.login, database=result["database"]), "tests")
    assert {key: row["fingerprint"] for key, row in after.items()} == {
        key: row["fingerprint"] for key, row in before.items()
    }
    assert {**restored, "acl": sorted(restored["acl"])} == {**settings, "acl": sorted(settings["acl"])}
    assert restored["role_settings"] == {world.role: ["work_mem=5MB"]}
    assert [proof["status"] for proof in result["proofs"]] == ["pass", "inconclusive", "pass", "pass"]
    analyzed = world.execute("SELECT 1 FROM pg_stats WHERE tablename = 'orders' LIMIT 1", result["database"])
    assert analyzed, "the planner has no statistics"
    assert world.tables() == live, "the live database was changed"
    noted = json.loads(manifest_of(Path(dump)).read_text())["restored"]
    assert (noted["database"], noted["fingerprints_equal"]) == (result["database"], True)


def test_a_restore_of_what_is_there_already_changes_nothing(world: World) -> None:
    world.back_up()
    result = world.restore()
    assert (result["changed"], result["database"]) == (False, "")
    assert list(world.databases()) == [world.login.database]


def test_what_compares_bears_the_runs_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By which the next run finds it, if this one is killed."""
    names: list[str] = []

    def named(login: Login, name: str, **given: bool) -> dict[str, str]:
        names.append(name)
        return tool_environment(login, name, **given)

    monkeypatch.setattr(schema_text, "tool_environment", named)
    world.back_up()
    world.restore()
    assert names == [f"dbrelease-compare-{world.run['run_id']}"]


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM orders WHERE id = 7",
        "DROP INDEX IF EXISTS x; ALTER TABLE orders DROP CONSTRAINT orders_account_id_fkey",
        "ALTER TABLE orders ALTER title SET DEFAULT 'x'",
        "CREATE TABLE more ()",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 777', current_database()); END $$",
        "SELECT setval('orders_id_seq', 1)",
        "ALTER SEQUENCE accounts_id_seq RESTART",
        "SELECT setval('backwards', -1)",
    ],
)
def test_any_difference_is_reason_to_restore(world: World, change: str) -> None:
    world.execute("CREATE SEQUENCE backwards INCREMENT -1; SELECT setval('backwards', -5)")
    world.back_up()
    world.execute(change)
    assert world.restore(check_mode=True)["changed"]


def test_a_sequence_that_moved_on_or_is_in_no_manifest_is_none(world: World) -> None:
    world.execute("CREATE SEQUENCE round MAXVALUE 5 CYCLE; SELECT setval('round', 5)")
    dump = Path(world.back_up()["dump"])
    world.execute("SELECT nextval('orders_id_seq'), nextval('round')")
    assert not world.restore(check_mode=True)["changed"]
    world.execute("SELECT setval('orders_id_seq', 1)")
    rewrite_without(dump, "sequences")
    assert not world.restore(check_mode=True)["changed"]


def gone(world: World, dump: Path) -> None:
    dump.unlink()


def a_folder(world: World, dump: Path) -> None:
    dump.unlink()
    dump.mkdir()


def cut(world: World, dump: Path) -> None:
    os.truncate(dump, dump.stat().st_size // 2)


def cut_with_its_manifest(world: World, dump: Path) -> None:
    cut(world, dump)
    rewrite(dump, sha256=hashlib.sha256(dump.read_bytes()).hexdigest(), bytes=dump.stat().st_size)


def flip(world: World, dump: Path) -> None:
    content = bytearray(dump.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    dump.write_bytes(content)


def plain_format(world: World, dump: Path) -> None:
    dump.write_text("CREATE TABLE x (a int);\n" * 100)
    rewrite(dump, sha256=hashlib.sha256(dump.read_bytes()).hexdigest(), bytes=dump.stat().st_size)


def rewritten(**changes: Any) -> Callable[[World, Path], None]:
    return lambda _, dump: rewrite(dump, **changes)


def changed_settings(world: World, dump: Path) -> None:
    settings = json.loads(manifest_of(dump).read_text())["settings"]
    rewrite(dump, settings={**settings, "owner": "nobody_here"})


REFUSALS: list[tuple[str, Callable[[World, Path], Any], str]] = [
    ("no file", gone, "there is no file"),
    ("a folder", a_folder, "there is no file"),
    ("no manifest", lambda _, dump: manifest_of(dump).unlink(), "has no manifest"),
    ("torn manifest", lambda _, dump: manifest_of(dump).write_text("{"), "Reading the manifest"),
    ("manifest of something else", lambda _, dump: manifest_of(dump).write_text("[]"), "it is not an object"),
    ("manifest that lacks a key", lambda _, dump: rewrite_without(dump, "tables"), "lacks tables"),
    ("manifest with a value of another kind", rewritten(settings=None), "settings is not an object"),
    ("truncated", cut, "it was cut or changed"),
    ("truncated, with its sha256 corrected", cut_with_its_manifest, "knows no backup with the sha256"),
    ("empty", lambda _, dump: os.truncate(dump, 0), "has 0 bytes"),
    ("one bit flipped", flip, "it was changed"),
    ("plain format", plain_format, "no dump in PostgreSQL's custom format"),
    ("another release's", rewritten(release="other"), "is of release other, not sample"),
    ("another label", rewritten(label="9"), "is of label 9, not 2.4"),
    ("another environment's", rewritten(environment="production"), "is of environment production"),
    ("another database's", rewritten(database="other"), "is of database other"),
    ("another version's", rewritten(reading=1), "was made by another version of this program"),
    ("one before versions", lambda _, dump: rewrite_without(dump, "reading"), "was made by another version"),
    ("another file's manifest", rewritten(file="other.dump"), "is of file other.dump"),
    ("a newer server's", rewritten(server_version="99.1"), "is of PostgreSQL 99"),
    ("newer client programs", rewritten(tool_version="pg_dump (PostgreSQL) 99.1"), "the backup was made by"),
    ("a role that is not there", changed_settings, "no role nobody_here"),
]


@contextmanager
def maintaining(world: World) -> Iterator[RealDictCursor]:
    """A cursor in another database of the server, in autocommit."""
    with closing(connect(world.maintenance, "tests")) as session:
        yield session.cursor(cursor_factory=RealDictCursor)


def rewrite_without(dump: Path, key: str) -> None:
    content = json.loads(manifest_of(dump).read_text())
    del content[key]
    manifest_of(dump).write_text(json.dumps(content))


@pytest.mark.parametrize("check_mode", [False, True])
@pytest.mark.parametrize(("broken", "words"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_what_is_no_whole_backup_of_this_database_is_refused(
    world: World, saved: Path, broken: Callable[[World, Path], Any], words: str, check_mode: bool
) -> None:
    broken(world, saved)
    before = (world.databases(), world.tables(), world.files(), len(world.journal()))
    with pytest.raises(ReleaseError) as raised:
        world.restore(check_mode=check_mode)
    assert raised.value.refused
    assert words in raised.value.message
    assert "nothing was touched" in raised.value.message
    lines = 0 if check_mode else 2
    assert (world.databases(), world.tables(), world.files(), len(world.journal()) - lines) == before
    if not check_mode:
        assert [line["event"] for line in world.journal()[-2:]] == ["started", "refused"]


def test_without_any_backup_in_the_journal_it_says_so(world: World) -> None:
    with pytest.raises(ReleaseError, match="knows no backup of release sample in test") as raised:
        world.restore()
    assert raised.value.refused


def test_a_backup_is_found_by_its_name_and_by_its_path(world: World, saved: Path) -> None:
    older = world.state / "older"
    older.mkdir()
    for path in (saved, manifest_of(saved)):
        (older / path.name).write_bytes(path.read_bytes())
    for given in (saved.name, str(saved), f"older/{saved.name}", str(older / saved.name)):
        assert Path(world.restore(check_mode=True, backup=given)["dump"]).name == saved.name


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ("x" * 300, "(File name too long)"),
        ("x/" * 3000, "(File name too long)"),
        ("a\0b", "there is no file"),
        ("../../etc/passwd", "is not in the state directory"),
        (" ", "there is no file"),
        ("%s", "there is no file"),
    ],
    ids=["long name", "long path", "no name", "path of others", "blank", "percent sign"],
)
def test_a_name_that_is_none_of_a_backup_is_refused(tmp_path: Path, given: str, reported: str) -> None:
    run = Run("20260102T030405Z-abcdef", "sample", "test", "restore", str(tmp_path))
    with pytest.raises(ReleaseError, match="nothing was touched") as raised:
        read_backup(find_backup(given, run, []), run, "2.4", "shop")
    assert raised.value.refused
    assert reported in raised.value.message


# Of the data, its log and the dump: where each is mounted and the MiB free there; which one is refused, and for what.
# A database of 100 MiB needs 120 as a copy, its log 30, and a dump of 9 MiB needs 10.
ROOM: dict[str, tuple[list[tuple[str, int]], str]] = {
    "three disks": ([("/data", 120), ("/wal", 1000), ("/", 2000)], ""),
    "the database": ([("/data", 119), ("/wal", 1000), ("/", 2000)], "/data 119 120 the database"),
    "the log": ([("/data", 2000), ("/wal", 29), ("/", 1000)], "/data/pg_wal 29 30 the server's log"),
    "the dump": ([("/data", 2000), ("/data", 2000), ("/", 9)], "/tmp 9 10 the dump"),
    "the log beside the data": ([("/data", 150), ("/data", 150), ("/", 1000)], ""),
    "too little for both": (
        [("/data", 149), ("/data", 149), ("/", 1000)],
        "/data 149 150 the database and the server's log together",
    ),
    "everything on one disk": ([("/", 160), ("/", 160), ("/", 160)], ""),
    "too little for everything": (
        [("/", 159), ("/", 159), ("/", 159)],
        "/data 159 160 the database and the server's log and the dump together",
    ),
    "one disk that others write to": (
        [("/", 159), ("/", 300), ("/", 500)],
        "/data 159 160 the database and the server's log and the dump together",
    ),
    "a volume and its container on one disk": (
        [("/data", 159), ("/data", 159), ("/", 158)],
        "/data 159 160 the database and the server's log and the dump together",
    ),
}


@pytest.mark.parametrize(("mounted", "reported"), ROOM.values(), ids=ROOM.keys())
def test_where_there_is_no_room_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounted: list[tuple[str, int]], reported: str
) -> None:
    rooms = [Room(mount, free << 20) for mount, free in mounted]
    at = dict(zip(("/data", "/data/pg_wal", "/tmp"), rooms, strict=True))
    monkeypatch.setattr(restore_server, "room_at", lambda _, folder: at[folder])
    server = restore_server.Server(15, "/data", None, 30 << 20)
    backup = Backup(tmp_path, {"bytes": 9 << 20, "database_bytes": 100 << 20})
    if not reported:
        proof = restore_server.check_room(server, backup, HostCommands(), inside=True)
        together = mounted[0][1] << 20
        assert (proof.status, proof.expected, proof.observed) == (
            "pass", {"bytes_at_least": together}, {"bytes_free": together},
        )  # fmt: skip
        return
    with pytest.raises(ReleaseError, match="make 1 MiB of room there") as raised:
        restore_server.check_room(server, backup, HostCommands(), inside=True)
    folder, free, needed, what = reported.split(" ", 3)
    assert (
        f"{folder} in the target has {free} MiB free and {needed} MiB are needed, for {what})" in raised.value.message
    )
    assert raised.value.refused


def test_where_the_disk_cannot_be_seen_the_need_is_reported_with_the_log(tmp_path: Path) -> None:
    server = restore_server.Server(15, "/data", None, 30 << 20)
    backup = Backup(tmp_path, {"bytes": 9 << 20, "database_bytes": 100 << 20})
    proof = restore_server.check_room(server, backup, HostCommands(), inside=False)
    assert (proof.status, proof.expected) == ("inconclusive", {"bytes_at_least": 150 << 20})


def test_a_small_database_needs_no_more_of_the_log_than_it_writes(tmp_path: Path) -> None:
    server = restore_server.Server(15, "/data", None, 1 << 30)
    backup = Backup(tmp_path, {"bytes": 1 << 20, "database_bytes": 10 << 20})
    proof = restore_server.check_room(server, backup, HostCommands(), inside=False)
    assert proof.expected == {"bytes_at_least": 24 << 20}


def test_a_log_that_the_server_keeps_needs_room_for_all_that_is_written(tmp_path: Path) -> None:
    why = "The server keeps its log and does not reuse it: nothing reads the replication slots standby."
    server = restore_server.Server(15, "/data", None, 1 << 20, kept_log=why)
    backup = Backup(tmp_path, {"bytes": 1 << 20, "database_bytes": 100 << 20})
    proof = restore_server.check_room(server, backup, HostCommands(), inside=False)
    assert proof.expected == {"bytes_at_least": 240 << 20} and why in proof.detail


def test_the_room_of_the_copy_is_that_of_its_tablespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = {"/data/pg_wal": Room("/data", 500 << 20), "/fast": Room("/fast", 1 << 20), "/tmp": Room("/", 900 << 20)}
    monkeypatch.setattr(restore_server, "room_at", lambda _, folder: at[folder])
    server = restore_server.Server(15, "/data", None, 1 << 20, tables_directory="/fast")
    backup = Backup(tmp_path, {"bytes": 1 << 20, "database_bytes": 100 << 20})
    with pytest.raises(ReleaseError, match="/fast in the target has 1 MiB free and 120 MiB are needed"):
        restore_server.check_room(server, backup, HostCommands(), inside=True)


def test_the_log_may_grow_by_what_is_not_there_yet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def growth(role: str) -> int:
        with closing(connect(world.login, "tests")) as session, session.cursor(cursor_factory=RealDictCursor) as cursor:
            cursor.execute(f"SET ROLE {role}")
            return restore_server.log_growth(cursor)

    ((most, segment),) = world.execute(
        "SELECT pg_size_bytes(current_setting('max_wal_size')), pg_size_bytes(current_setting('wal_segment_size'))"
    )
    assert growth(world.role) == most, "of a role that may not see the log"
    world.execute(f"GRANT pg_monitor TO {world.role}")
    assert 0 <= growth(world.role) <= most - segment
    monkeypatch.setattr(restore_server, "LOG", restore_server.LOG.replace("current_setting('max_wal_size')", "'1 MB'"))
    assert growth(world.role) == 0


def test_check_mode_shows_the_plan_and_writes_nothing(world: World, saved: Path) -> None:
    before = (world.databases(), world.tables(), world.files(), world.journal())
    result = world.restore(check_mode=True)
    assert result["changed"]
    assert saved.name in result["diff"]["after"]
    assert (world.databases(), world.tables(), world.files(), world.journal()) == before


def test_a_copy_that_is_not_what_the_manifest_says_is_dropped(world: World, saved: Path) -> None:
    tables = json.loads(manifest_of(saved).read_text())["tables"]
    tables["public.orders"]["fingerprint"] = "42"
    rewrite(saved, tables=tables)
    live = world.tables()
    with pytest.raises(ReleaseError, match=r"Different: public\.orders\. The copy was dropped") as raised:
        world.restore()
    assert not raised.value.refused
    assert list(world.databases()) == [world.login.database]
    assert world.tables() == live
    assert json.loads(manifest_of(saved).read_text())["restored"] is None


@pytest.mark.parametrize("step", ["_restore", "_read", "_apply_settings"])
def test_after_a_failure_no_copy_is_left(world: World, saved: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ReleaseError("broken on purpose")

    monkeypatch.setattr(restore_copy, step, fail)
    with pytest.raises(ReleaseError, match="broken on purpose"):
        world.restore()
    assert list(world.databases()) == [world.login.database]


def test_a_server_that_is_gone_is_reported_before_the_copy_that_it_keeps(
    world: World, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ReleaseError("the server is gone")

    dropped = restore_copy.drop_database
    monkeypatch.setattr(restore_copy, "_restore", fail)
    monkeypatch.setattr(restore_copy, "drop_database", fail)
    with pytest.raises(ReleaseError) as raised:
        world.restore()
    (copy,) = set(world.databases()) - {world.login.database}
    dropped(world.login, copy)
    assert raised.value.message.startswith("the server is gone (The copy ")
    assert copy in raised.value.message
    assert [(line["step"], line["event"]) for line in world.journal()][-2:] == [
        ("restore.drop", "started"),
        ("restore.copy", "failed"),
    ]


def test_an_error_of_pg_restore_is_fatal(world: World, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created = restore_copy._create

    def create_with_an_obstacle(place: Any, backup: Any, major: int) -> None:
        created(place, backup, major)
        world.execute("CREATE TABLE orders (mine int)", place.login.database)

    monkeypatch.setattr(restore_copy, "_create", create_with_an_obstacle)
    with pytest.raises(ReleaseError, match='relation "orders" already exists'):
        world.restore()
    assert list(world.databases()) == [world.login.database]


def test_what_is_restored_in_a_container_is_the_very_file_for_its_owner_only(database: Login, tmp_path: Path) -> None:
    """By the commands that the container would be given."""
    dump = tmp_path / "x.dump"
    dump.write_bytes(b"a dump")
    place = CopyTarget(database, database, HostCommands(), True, "20260102T030405Z-abcdef", 1, 60)
    whole = Backup(dump, {"sha256": hashlib.sha256(b"a dump").hexdigest()})
    with restore_copy.reachable_dump(place, whole) as path:
        assert [stat.S_IMODE(Path(name).stat().st_mode) for name in (path, Path(path).parent)] == [0o600, 0o700]
    assert not Path(path).parent.exists()
    another = Backup(dump, {"sha256": hashlib.sha256(b"another").hexdigest()})
    with (
        pytest.raises(ReleaseError, match="the copied file differs from the backup"),
        restore_copy.reachable_dump(place, another),
    ):
        pass


def test_what_a_killed_restore_left_is_put_right(world: World, saved: Path) -> None:
    name = world.login.database
    killed = run_id("20200101T000000Z")
    left, kept = copy_name(name, killed), kept_name(name, killed)
    Journal(Run(**{**world.run, "run_id": killed})).append("restore.copy", "started")
    for statement in (
        f"CREATE DATABASE {left}",
        f"CREATE DATABASE {kept}",
        f"ALTER DATABASE {kept} ALLOW_CONNECTIONS false",
        f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
    ):
        world.execute(statement, "postgres")
    result = world.restore()
    assert set(world.databases()) == {name, kept, result["database"]}
    assert all(world.databases().values())
    with maintaining(world) as cursor:
        said = [f"Dropped {result['database']}, a restored copy that was never swapped in."]
        assert settle(cursor, name, {world.run["run_id"]}) == said
        assert settle(cursor, name, {world.run["run_id"]}) == []


def test_absent_drops_only_what_a_restore_made(world: World, saved: Path) -> None:
    name = world.restore()["database"]
    assert world.restore(state="absent", name=name, check_mode=True)["changed"]
    assert name in world.databases()
    assert world.restore(state="absent", name=name)["changed"]
    assert not world.restore(state="absent", name=name)["changed"]
    assert name not in world.databases()
    with pytest.raises(ReleaseError, match="was refused") as raised:
        world.restore(state="absent", name=world.login.database)
    assert raised.value.refused


@pytest.mark.parametrize("database", ["shop", "s" * 63, "ü" * 31, "shop_restore_20200101_000000"])
def test_names_fit_and_are_kept_apart(database: str) -> None:
    run = "20260102T030405Z-abcdef"
    copy, kept = copy_name(database, run), kept_name(database, run)
    assert max(len(copy.encode()), len(kept.encode())) <= 63
    assert (copied_by(copy, database), is_kept(copy, database)) == (run, False)
    assert (copied_by(kept, database), is_kept(kept, database)) == ("", True)
    assert not copied_by(database, database)
    assert not is_kept(database, database)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("work_mem=5MB", "\"work_mem\" = '5MB'"),
        ('search_path="$user", public', "\"search_path\" = '$user', 'public'"),
        ('search_path="a ""b, c", d', "\"search_path\" = 'a \"b, c', 'd'"),
        ('search_path=""', "\"search_path\" = ''"),
        ("app.mode=x=y", '"app"."mode" = \'x=y\''),
        ("DateStyle=ISO, DMY", "\"DateStyle\" = 'ISO, DMY'"),
    ],
)
def test_a_setting_is_worded_as_the_server_wants_it(session: Any, line: str, expected: str) -> None:
    assert setting(line).as_string(session) == expected


def test_a_database_that_is_its_own_maintenance_database_is_refused(world: World) -> None:
    world.back_up()
    world.execute("DELETE FROM orders WHERE id = 7")
    with pytest.raises(ReleaseError, match=r"was refused \(\w+ is also the maintenance database") as caught:
        world.restore(maintenance_db=world.login.database)
    assert caught.value.refused
    assert list(world.databases()) == [world.login.database]
