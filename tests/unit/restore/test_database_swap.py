"""database_swap: the names change together or not at all, nothing stays closed or stopped, and no row is lost."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import database_swap
import docker
import psycopg2
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal, Run, utc_now
from ansible.module_utils.dbrelease.host import lifecycle
from ansible.module_utils.dbrelease.postgres import commit_wait
from ansible.module_utils.dbrelease.postgres.session import Login, select, transaction
from ansible.module_utils.dbrelease.postgres.table_shape import Table, parents_first
from ansible.module_utils.dbrelease.restore import copy as restore_copy
from ansible.module_utils.dbrelease.restore import server as restore_server
from ansible.module_utils.dbrelease.restore.swap import archive, live_compare, live_scan, swap
from ansible.module_utils.dbrelease.restore.swap import rename as swap_rename
from ansible.module_utils.dbrelease.restore.swap.outage import AppOutage
from ansible.module_utils.dbrelease.restore.swap.row_diff import differences
from lost_standby import find_it, found_again, lose_it
from own_sessions import connect
from restore_world import SWAP_DEFAULTS, WRITTEN, World, world_of
from waits import until

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def world(database: Login, server: Login, run_parameters: dict[str, Any]) -> Iterator[World]:
    with world_of(database, server, run_parameters) as made:
        made.back_up()
        yield made


@pytest.fixture
def copy(world: World) -> str:
    """The restored copy; the live database was written to before it was made."""
    world.execute(WRITTEN)
    name: str = world.restore()["database"]
    return name


# It takes a while to stop, as a worker does that ends its task first: until the file is there.
STOP_LATE = "echo stopping; until [ -e /tmp/done ]; do sleep 0.1; done; exit"
SLOW = ["sh", "-c", f"trap '{STOP_LATE}' TERM; while :; do sleep 0.1; done"]


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """A container that stands for the application: it runs, and has no health check, so that it is watched a while."""
    monkeypatch.setattr(lifecycle, "STEADY_S", 0.2)
    client = docker.from_env()
    image = client.images.list(filters={"reference": "drawing-redis*"})[0]
    name, command = f"test_swap_{secrets.token_hex(4)}", getattr(request, "param", ["sleep", "600"])
    made = client.containers.run(image, command, entrypoint=[], name=name, detach=True, init=True)
    yield name
    made.remove(force=True, v=True)
    client.close()


def status(container: str) -> str:
    client = docker.from_env()
    try:
        found: str = client.containers.get(container).status
        return found
    finally:
        client.close()


def rows_of(result: dict[str, Any], table: str) -> list[dict[str, Any]]:
    path = Path(result["rows"]["directory"]) / f"{table}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_the_copy_is_live_and_what_was_live_is_kept(world: World, copy: str) -> None:
    live, restored, oids = world.tables(), world.tables(copy), (world.oid(), world.oid(copy))
    result = world.swap(copy)
    assert result["changed"]
    assert world.databases() == {world.login.database: True, result["kept"]: True}
    assert (world.oid(result["kept"]), world.oid()) == oids
    assert (world.tables(), world.tables(result["kept"])) == (restored, live)
    assert [proof["status"] for proof in result["proofs"]] == ["pass", "pass", "skipped"]
    (comment,) = world.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"
    )
    assert comment == ("The shop's",)


def payload_in(folder: Path) -> list[dict[str, Any]]:
    """A file of the release where the backend has it: on the target itself."""
    path = folder / "new.py"
    path.write_text("revision = 'b2'\n", encoding="utf-8")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return [{"source": "new.py", "destination": str(path), "sha256": sha256}]


def test_the_files_of_the_release_are_removed_and_what_was_swapped_in_is_recorded(
    world: World, copy: str, tmp_path: Path
) -> None:
    files = payload_in(tmp_path)
    world.swap(copy, check_mode=True, remove_payload=files)
    assert Path(files[0]["destination"]).exists()
    world.swap(copy, remove_payload=files)
    assert not Path(files[0]["destination"]).exists()
    (facts,) = [
        line["facts"] for line in world.journal() if (line["step"], line["event"]) == ("restore.swap", "passed")
    ]
    assert facts["left"]["revisions"] == ["1a2b3c4d5e6f"]
    assert facts["removed"] == [files[0]["destination"]]


def test_the_files_of_the_release_are_put_back_before_the_application_starts_where_the_swap_fails(
    world: World, copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = payload_in(tmp_path)
    there: list[bool] = []
    monkeypatch.setattr(swap, "exchange", fail)
    monkeypatch.setattr(lifecycle, "start", lambda _: there.append(Path(files[0]["destination"]).exists()))
    with pytest.raises((ReleaseError, ZeroDivisionError)):
        world.swap(copy, remove_payload=files)
    assert there == [True]


def test_check_mode_swaps_nothing(world: World, copy: str) -> None:
    before = (world.databases(), world.oid(), world.files(), world.journal())
    result = world.swap(copy, check_mode=True)
    assert result["changed"]
    assert f"(was {copy})" in result["diff"]["after"]
    assert (world.databases(), world.oid(), world.files(), world.journal()) == before


def test_rows_written_since_are_counted_and_saved(world: World, copy: str) -> None:
    result = world.swap(copy)
    tables = result["rows"]["tables"]
    assert {key: (row["new"], row["changed"], row["deleted"], row["known"]) for key, row in tables.items()} == {
        "public.accounts": (1, 0, 1, True),
        "public.orders": (700, 64, 1, True),
        'public."Odd ""name"': (1, 0, 0, True),
        "public.alembic_version": (1, 0, 1, True),
        "public.order_items": (2, 0, 0, False),
    }
    lines = rows_of(result, "public.orders")
    assert len(lines) == 765
    assert {"change": "deleted", "key": {"id": "3000"}} in lines
    with (Path(result["rows"]["directory"]) / "public.order_items.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["id", "what"], ["1", "tab\there"], ["2", ""]]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in Path(result["rows"]["directory"]).iterdir())


def replay(world: World, result: dict[str, Any]) -> None:
    """Run the script of a swap's saved rows in the live database."""
    script = Path(result["rows"]["directory"]) / "replay.sql"
    environment = {**os.environ, "PGPASSWORD": world.login.password or ""}
    where = [f"--host={world.login.host}", f"--port={world.login.port}", f"--username={world.login.user}"]
    command = ["psql", "-X", *where, f"--dbname={world.login.database}", f"--file={script}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_replay_script_brings_every_row_back(world: World, copy: str) -> None:
    live = world.tables()
    replay(world, world.swap(copy))
    now = world.tables()
    not_replayed = {"public.order_items", "public.alembic_version"}
    assert {key: now[key] for key in now.keys() - not_replayed} == {
        key: live[key] for key in live.keys() - not_replayed
    }
    assert world.execute("SELECT version_num FROM alembic_version") == [("1a2b3c4d5e6f",)]
    world.execute("INSERT INTO orders (title) VALUES ('the sequence was moved on')")


# What was written, of which one row must come before another one.
IN_ORDER = {
    "a unique value that a changed row gave up is a new row's": [
        "CREATE TABLE codes (id serial PRIMARY KEY, code text UNIQUE)",
        "INSERT INTO codes (code) SELECT 'code ' || n FROM generate_series(1, 9) n",
        "UPDATE codes SET code = 'freed' || id WHERE id < 8",
        "INSERT INTO codes (code) SELECT 'code ' || n FROM generate_series(1, 7) n",
    ],
    "a unique value that a row gave up that is gone is a changed row's": [
        "CREATE TABLE codes (id serial PRIMARY KEY, code text UNIQUE)",
        "INSERT INTO codes (code) SELECT 'code ' || n FROM generate_series(1, 9) n",
        "DELETE FROM codes WHERE id = 3",
        "UPDATE codes SET code = 'code 3' WHERE id = 1",
    ],
    "a changed row refers to a new one of its table": [
        "CREATE TABLE parts (id serial PRIMARY KEY, within int REFERENCES parts)",
        "INSERT INTO parts (within) VALUES (NULL), (1)",
        "INSERT INTO parts (within) VALUES (1), (3)",
        "UPDATE parts SET within = 4 WHERE id = 2",
    ],
}


@pytest.mark.parametrize(("create", "fill", "first", "then"), IN_ORDER.values(), ids=IN_ORDER)
def test_rows_are_replayed_in_an_order_that_is_possible(
    world: World, create: str, fill: str, first: str, then: str
) -> None:
    world.execute(f"{create}; {fill}")
    world.back_up()
    world.execute(f"{first}; {then}")
    live = world.tables()
    replay(world, world.swap(world.restore()["database"]))
    assert world.tables() == live


def test_a_table_that_the_copy_lacks_comes_back_by_the_command_that_is_reported(
    world: World, copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.execute("INSERT INTO order_items VALUES (3, 'ü')")
    result = world.swap(copy)
    world.execute("CREATE TABLE order_items (id int PRIMARY KEY, what text)")
    lines = (Path(result["rows"]["directory"]) / "replay.sql").read_text().splitlines()
    (command,) = [line.removeprefix("-- ") for line in lines if "\\copy" in line]
    script = tmp_path / "reported.sql"
    script.write_text(f"{command}\n")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    done = world.replay(script=script)
    assert done.returncode == 0, done.stderr
    assert world.execute("SELECT * FROM order_items ORDER BY id") == [(1, "tab\there"), (2, None), (3, "ü")]


def test_where_nothing_was_written_nothing_is_saved(world: World) -> None:
    world.execute("ALTER TABLE orders ADD COLUMN more int")
    result = world.swap(world.restore()["database"])
    assert (result["rows"]["rows"], result["rows"]["directory"]) == (0, "")
    assert not list(world.state.glob("rows_since*"))


def test_it_is_swapped_back_with_the_same_care(world: World, copy: str) -> None:
    live, restored = world.tables(), world.tables(copy)
    kept = world.swap(copy)["kept"]
    world.execute("INSERT INTO accounts (name) VALUES ('written after the restore')")
    world.next_run()
    result = world.swap(kept)
    assert world.tables() == live
    assert set(world.databases()) == {world.login.database, result["kept"]}
    counted = result["rows"]["tables"]["public.accounts"]
    # The deleted one, and the last, whose number is not that of the first that was written since the backup.
    assert (counted["new"], counted["changed"], counted["deleted"]) == (2, 0, 1)
    assert "written after the restore" in json.dumps(rows_of(result, "public.accounts"))
    assert world.tables(result["kept"])["public.orders"] == restored["public.orders"]


def test_it_swaps_in_where_there_is_no_live_database(world: World, copy: str) -> None:
    restored = world.tables(copy)
    world.execute(f"DROP DATABASE {world.login.database} WITH (FORCE)", "postgres")
    result = world.swap(copy)
    assert (result["kept"], result["swap_back_command"]) == ("", "")
    assert world.tables() == restored


def test_sessions_that_come_again_and_again_do_not_keep_it_from_swapping(world: World, copy: str) -> None:
    stop = threading.Event()
    errors: list[str] = []
    rounds: list[object] = []

    def knock() -> None:
        while not stop.is_set():
            try:
                session = connect(world.login, "knocking")
            except ReleaseError as error:
                errors.append(error.message)
                continue
            with suppress(psycopg2.Error), session.cursor() as cursor:
                cursor.execute("BEGIN; UPDATE accounts SET name = name; SELECT pg_sleep(0.2); COMMIT")
            session.close()
            rounds.append(session)

    threads = [threading.Thread(target=knock, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: rounds, "no session came and ended")
        result = world.swap(copy)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert world.databases() == {world.login.database: True, result["kept"]: True}


def test_a_row_that_is_written_to_the_very_last_is_saved(
    world: World, copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One writer commits after the comparison was prepared; another is still at it when the tables are locked."""
    stopped = lifecycle.stop

    def stop_and_write(*arguments: Any) -> None:
        stopped(*arguments)
        world.execute("INSERT INTO accounts (name) VALUES ('at the last moment')")

    monkeypatch.setattr(lifecycle, "stop", stop_and_write)
    idle = connect(world.login, "idle in transaction")
    with idle.cursor() as cursor:
        cursor.execute("BEGIN; INSERT INTO accounts (name) VALUES ('never committed')")
    result = world.swap(copy)
    idle.close()
    said = json.dumps(rows_of(result, "public.accounts"))
    assert "at the last moment" in said
    assert "never committed" not in said


def test_nobody_writes_while_the_rows_are_saved(world: World, copy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def compare_while_another_writes(*arguments: Any) -> Any:
        session = connect(world.login, "late writer")
        with session.cursor() as cursor:
            cursor.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg2.OperationalError) as error:
                cursor.execute("INSERT INTO accounts (name) VALUES ('too late')")
        session.close()
        refused.append(error.value.pgcode)
        return differences(*arguments)

    monkeypatch.setattr(live_compare, "differences", compare_while_another_writes)
    world.swap(copy)
    assert set(refused) == {"55P03"}


def test_no_session_begins_in_a_database_that_is_being_renamed(
    world: World, copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = swap_rename._rename

    def rename_while_others_knock(cursor: Any, names: Any) -> None:
        for name in (names.live, names.incoming):
            with pytest.raises(ReleaseError, match="not currently accepting connections"):
                connect(replace(world.login, database=name), "knocking")
        rename(cursor, names)

    monkeypatch.setattr(swap_rename, "_rename", rename_while_others_knock)
    assert world.swap(copy)["changed"]


def test_a_prepared_transaction_is_found_before_the_application_is_stopped(
    world: World, copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests' server takes none, so its answer is made."""

    def selected(cursor: Any, sql: str, *rest: Any) -> Any:
        return [{"gid": "left"}] if "pg_prepared_xacts" in sql else select(cursor, sql, *rest)

    monkeypatch.setattr(swap, "select", selected)
    with pytest.raises(ReleaseError, match=r'a prepared transaction \("left"\) keeps the database') as raised:
        world.swap(copy)
    assert raised.value.refused
    assert list(world.databases()) == [world.login.database]


def subscribed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.execute(
        "CREATE SUBSCRIPTION feed CONNECTION 'dbname=none' PUBLICATION news WITH (connect = false, slot_name = NONE)"
    )


def published(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' server has no logical slots, so its answer is made."""

    def selected(cursor: Any, sql: str, *rest: Any) -> Any:
        rows = select(cursor, sql, *rest)
        return [{**row, "slots": 2} if "slots" in row else row for row in rows]

    monkeypatch.setattr(restore_server, "select", selected)


@pytest.mark.parametrize(
    ("used", "said"),
    [
        (subscribed, "has 0 prepared transactions and 1 subscriptions, which keep it from being renamed"),
        (published, "has 2 logical replication slots, which would stay with the database that is put aside"),
    ],
)
def test_what_keeps_the_live_database_is_found_before_it_is_swapped_back(
    world: World, copy: str, monkeypatch: pytest.MonkeyPatch, used: Callable[..., None], said: str
) -> None:
    kept = world.swap(copy)["kept"]
    world.next_run()
    used(world, monkeypatch)
    before = (world.databases(), world.oid(), world.files())
    with pytest.raises(ReleaseError, match=said) as raised:
        world.swap(kept)
    assert raised.value.refused
    assert (world.databases(), world.oid(), world.files()) == before
    if used is subscribed:
        world.execute("DROP SUBSCRIPTION feed")


def fail(*_: Any, **__: Any) -> Any:
    raise ReleaseError("broken on purpose")


def fail_sql(*_: Any, **__: Any) -> Any:
    raise psycopg2.OperationalError("broken on purpose")


def rename_one_and_fail(cursor: Any, names: Any) -> None:
    cursor.execute(f'ALTER DATABASE "{names.live}" RENAME TO "{names.kept}"')
    raise psycopg2.OperationalError("broken on purpose")


FAILURES: list[tuple[str, Any, str, Callable[..., Any]]] = [
    ("comparing beforehand", swap, "prepare", fail),
    ("looking which containers run", lifecycle, "running", fail),
    ("stopping", lifecycle, "stop", fail),
    ("locking the tables", live_compare.Comparison, "_hold_still", fail_sql),
    ("comparing", live_compare, "differences", fail),
    ("writing the rows", archive, "_write", fail),
    ("closing the script", archive.RowArchive, "finish", fail),
    ("beginning the swap", swap, "exchange", fail),
    ("ending the sessions", swap_rename, "end_sessions_in", fail),
    ("renaming", swap_rename, "_rename", fail_sql),
    ("renaming the second", swap_rename, "_rename", rename_one_and_fail),
    ("anything else", swap_rename, "_rename", lambda *_: 1 // 0),
]


@pytest.mark.parametrize(("place", "name", "broken"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
def test_after_a_failure_anywhere_all_is_as_it_was(
    world: World, copy: str, container: str, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, broken: Any
) -> None:
    live, oid = world.tables(), world.oid()
    monkeypatch.setattr(place, name, broken)
    with pytest.raises((ReleaseError, ZeroDivisionError)):
        world.swap(copy, containers=[container], stop_seconds=1)
    assert (world.tables(), world.oid()) == (live, oid)
    assert world.databases() == {world.login.database: True}
    assert status(container) == "running"
    begun = [line for line in world.journal() if line["step"].startswith("restore.")]
    assert sum(line["event"] == "started" for line in begun) == sum(line["event"] != "started" for line in begun)


def test_containers_that_do_not_come_up_are_reported_and_the_swap_stands(
    world: World, copy: str, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "start", lambda _: None)
    with pytest.raises(ReleaseError, match=f"Container {container} .* is exited") as raised:
        world.swap(copy, containers=[container], stop_seconds=1, healthy_seconds=1)
    assert raised.value.facts["kept"] in world.databases()
    assert raised.value.facts["changed"]


def test_a_container_that_a_swap_could_not_start_is_started_by_the_next(
    world: World, copy: str, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(lifecycle, "start", lambda _: None)
        with pytest.raises(ReleaseError) as raised:
            world.swap(copy, containers=[container], stop_seconds=1, healthy_seconds=1)
    world.next_run()
    world.swap(raised.value.facts["kept"], containers=[container], stop_seconds=1)
    assert status(container) == "running"


def test_a_container_that_a_swap_could_not_start_is_started_where_nothing_is_left_to_restore(
    world: World, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {
        "state": "live",
        "swap": {**SWAP_DEFAULTS, "containers": [container], "stop_seconds": 1},
    }
    world.execute(WRITTEN)
    with monkeypatch.context() as patched:
        patched.setattr(lifecycle, "start", lambda _: None)
        patched.setitem(asked["swap"], "healthy_seconds", 1)
        with pytest.raises(ReleaseError, match="is exited"):
            world.restore(**asked)
    planned = world.restore(check_mode=True, **asked)
    assert (planned["changed"], planned["database"], status(container)) == (True, "", "exited")
    result = world.restore(**asked)
    assert (result["started"], result["database"], status(container)) == ([container], "", "running")
    (proof,) = [proof for proof in result["proofs"] if proof["name"] == "restore.services"]
    assert (proof["status"], "stopped since an earlier swap" in proof["detail"]) == ("pass", True)
    reported = [line["event"] for line in world.journal() if line["step"] == "restore.services"]
    assert reported == ["started", "failed", "started", "passed"]
    again = world.restore(**asked)
    assert (again["changed"], again["started"]) == (False, [])


@pytest.mark.parametrize("container", [SLOW], ids=["slow"], indirect=True)
@pytest.mark.parametrize(
    ("asked_ago_s", "stops", "at_once"),
    [(0.0, True, False), (0.0, False, False), (60.0, False, True)],
    ids=["it is stopping", "it was never asked to", "that was long ago"],
)
def test_a_container_that_is_still_stopping_is_started_when_it_has(
    container: str, monkeypatch: pytest.MonkeyPatch, asked_ago_s: float, stops: bool, at_once: bool
) -> None:
    monkeypatch.setattr(lifecycle, "KILLED_WITHIN", timedelta(seconds=0.5))
    client = docker.from_env()
    slow = client.containers.get(container)
    waited: list[float] = []

    def wait(seconds: float) -> None:
        if not waited:
            slow.exec_run(["touch", "/tmp/done"])
        waited.append(seconds)
        time.sleep(seconds)  # plays: the time of the code under test

    monkeypatch.setattr(lifecycle, "time", SimpleNamespace(monotonic=time.monotonic, sleep=wait))
    since = utc_now() - timedelta(seconds=asked_ago_s)
    limits = lifecycle.Limits(stop_s=60 if stops else 1, healthy_s=1)
    stopper = threading.Thread(target=lifecycle.stop, args=([container], limits))
    if stops:
        stopper.start()
        deadline = time.monotonic() + 30
        while b"stopping" not in slow.logs():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert status(container) == "running"
    lifecycle.start(lifecycle.Stopping([container], since, limits.stop_s))
    assert (waited == []) is at_once
    if stops:
        stopper.join()
    assert status(container) == "running"
    client.close()


def test_a_commit_whose_answer_was_lost_is_a_swap_all_the_same(
    world: World, copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def lost(connection: Any) -> Iterator[Any]:
        with transaction(connection) as cursor:
            yield cursor
        raise psycopg2.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(swap_rename, "transaction", lost)
    result = world.swap(copy)
    assert result["kept"] in world.databases() and (Path(result["rows"]["directory"]) / "replay.sql").is_file()


def test_a_commit_that_waits_for_a_lost_standby_is_ended_and_is_a_swap(
    world: World, copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []

    @contextmanager
    def lost(connection: Any) -> Iterator[Any]:
        with closing(connect(world.maintenance, "standby")) as other, other.cursor() as losing:
            try:
                with transaction(connection) as cursor:
                    yield cursor
                    lose_it(losing)
            except psycopg2.OperationalError:
                ended.append(True)
                raise
            finally:
                find_it(losing)

    monkeypatch.setattr(commit_wait, "LONGEST_WAIT_S", 0.2)
    monkeypatch.setattr(swap_rename, "transaction", lost)
    with found_again(world.maintenance):
        result = world.swap(copy)
    assert ended and result["kept"] in world.databases()


def test_saved_rows_and_the_way_back_stay_where_something_breaks_after_the_swap(
    world: World, copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchange(*asked: Any) -> None:
        swap_rename.exchange(*asked)
        raise KeyboardInterrupt

    monkeypatch.setattr(swap, "exchange", exchange)
    with pytest.raises(KeyboardInterrupt):
        world.swap(copy, swap_back_command="back to {database}")
    assert list(world.state.glob("rows_since_backup_*/replay.sql"))
    (facts,) = [
        line["facts"] for line in world.journal() if (line["step"], line["event"]) == ("restore.swap", "failed")
    ]
    assert facts["kept"] in world.databases() and facts["swap_back"] == f"back to {facts['kept']}"


def test_where_nobody_can_say_whether_it_swapped_the_saved_rows_stay(
    world: World, copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchange(*asked: Any) -> None:
        swap_rename.exchange(*asked)
        raise ReleaseError("The server is gone.")

    gone = replace(world.maintenance, port=9)
    monkeypatch.setattr(swap, "exchange", exchange)
    monkeypatch.setattr(swap, "is_exchanged", lambda _, names: swap_rename.is_exchanged(gone, names))
    with pytest.raises(ReleaseError, match=r"is gone\. It is unknown whether the databases were swapped") as raised:
        world.swap(copy)
    assert list(world.state.glob("rows_since_backup_*/replay.sql"))
    assert "still there" not in raised.value.message
    assert raised.value.facts["changed"]


def test_where_the_swap_failed_nothing_is_there_to_swap_back(
    world: World, copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swap, "exchange", fail)
    with pytest.raises((ReleaseError, ZeroDivisionError)):
        world.swap(copy)
    (facts,) = [
        line["facts"] for line in world.journal() if (line["step"], line["event"]) == ("restore.swap", "failed")
    ]
    assert "swap_back" not in facts


def test_only_containers_that_ran_are_started(world: World, copy: str, container: str) -> None:
    client = docker.from_env()
    client.containers.get(container).stop(timeout=1)
    result = world.swap(copy, containers=[container, ""])
    assert status(container) == "exited"
    (proof,) = [proof for proof in result["proofs"] if proof["name"] == "restore.services"]
    assert (proof["status"], f"docker start {container}" in proof["remedy"]) == ("inconclusive", True)


@pytest.mark.parametrize(
    ("grace", "stop_s", "is_killed"),
    [(30, 1, False), (None, 30, False), (None, 1, True)],
    ids=["own", "given", "short"],
)
def test_a_container_has_its_own_time_to_stop_and_one_that_is_killed_is_named(
    world: World, grace: int | None, stop_s: int, is_killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "STEADY_S", 0.2)
    client = docker.from_env()
    image = client.images.list(filters={"reference": "drawing-redis*"})[0]
    command = ["sh", "-c", "trap 'sleep 2.5; exit' TERM; touch /tmp/ready; while :; do sleep 0.1; done"]
    name = f"test_swap_{secrets.token_hex(4)}"
    host = client.api.create_host_config()
    # The SDK's `run` knows no time to stop.
    client.api.create_container(image.id, command, entrypoint=[], name=name, stop_timeout=grace, host_config=host)
    made = client.containers.get(name)
    try:
        made.start()
        while made.exec_run(["test", "-e", "/tmp/ready"]).exit_code:
            time.sleep(0.05)
        journal = Journal(Run(**world.run))
        away = AppOutage(journal, [name], lifecycle.Limits(stop_s, 10), "postgres")
        away.stop()
        proof = away.end(None)
    finally:
        made.remove(force=True, v=True)
        client.close()
    assert proof is not None
    status = "inconclusive" if is_killed else "pass"
    assert (proof.status, f"{name} did not stop in time" in proof.detail) == (status, is_killed), proof
    (begun, _) = [line for line in journal.read() if line["step"] == "restore.services"]
    assert begun["facts"]["stop_seconds"] == max(stop_s, grace or 0)


def test_each_container_of_a_service_is_stopped_and_one_that_something_else_starts_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "STEADY_S", 0.2)
    client, project = docker.from_env(), f"test_swap_{secrets.token_hex(4)}"
    image = client.images.list(filters={"reference": "drawing-redis*"})[0]
    labels = {"com.docker.compose.project": project, "com.docker.compose.service": "web"}
    made = [
        client.containers.run(
            image, ["sleep", "60"], entrypoint=[], init=True, detach=True, name=f"{project}_{number}", labels=labels
        )
        for number in (1, 2)
    ]
    names = [f"{project}_1", f"{project}_2"]
    try:
        away = AppOutage(Journal(Run(**world.run)), names[:1], lifecycle.Limits(5, 10), "postgres")
        away.stop()
        assert [status(name) for name in names] == ["exited", "exited"]
        quiet = away.end(None)
        assert [status(name) for name in names] == ["running", "running"]
        away = AppOutage(Journal(Run(**world.run)), names[:1], lifecycle.Limits(5, 10), "postgres")
        away.stop()
        made[1].start()
        meddled = away.end(None)
    finally:
        for one in made:
            one.remove(force=True, v=True)
        client.close()
    assert quiet is not None and quiet.status == "pass", quiet
    assert meddled is not None
    assert (meddled.status, f"{names[1]} did not stay stopped" in meddled.detail) == ("inconclusive", True), meddled


def test_the_application_is_away_and_comes_back(world: World, copy: str, container: str) -> None:
    result = world.swap(copy, containers=[container], stop_seconds=1)
    assert status(container) == "running"
    assert 0 < result["away_ms"] < 30_000
    last = [line for line in world.journal() if line["step"] == "restore.services"]
    assert [line["event"] for line in last] == ["started", "passed"]
    whence = {"stop_seconds": 1, "maintenance_db": world.maintenance.database}
    assert last[0]["facts"] == {"containers": [container], **whence}


@pytest.fixture
def looked(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Restore and swap in one; the SQL is run in the live database after it was looked at."""

    def restore_after(sql: str) -> dict[str, Any]:
        finish = live_scan.LiveScan.finish

        def finish_and_write(looking: live_scan.LiveScan) -> None:
            finish(looking)
            world.execute(sql)

        monkeypatch.setattr(live_scan.LiveScan, "finish", finish_and_write)
        world.execute("UPDATE accounts SET name = 'changed' WHERE id = 1")
        world.execute("CREATE TABLE notes (id int, doubled int GENERATED ALWAYS AS (id * 2) STORED, said text)")
        world.execute("INSERT INTO notes (id, said) SELECT n, 'note ' || n FROM generate_series(1, 9) n")
        return world.restore(state="live")

    return restore_after


# What is written after the look, and what is then saved otherwise than without it.
WRITTEN_AFTER_THE_LOOK: list[tuple[str, str, dict[str, tuple[int, int, int]]]] = [
    ("nothing", "SELECT 1", {}),
    ("a row of an equal table", "INSERT INTO orders (title) VALUES ('late')", {"public.orders": (1, 0, 0)}),
    ("a changed row there", "UPDATE orders SET title = 'late' WHERE id = 7", {"public.orders": (0, 1, 0)}),
    ("a deleted row there", "DELETE FROM orders WHERE id = 7", {"public.orders": (0, 0, 1)}),
    ("a row of a differing table", "INSERT INTO accounts (name) VALUES ('late')", {"public.accounts": (1, 1, 0)}),
    (
        "a row of a table that the other lacks",
        "INSERT INTO notes VALUES (10, DEFAULT, 'late')",
        {"public.notes": (10, 0, 0)},
    ),
    ("a deleted row of that", "DELETE FROM notes WHERE id = 1", {"public.notes": (8, 0, 0)}),
    ("a changed row of that", "UPDATE notes SET said = 'late' WHERE id = 1", {}),
    (
        "one deleted, one new",
        "DELETE FROM notes WHERE id = 1; INSERT INTO notes (id, said) VALUES (10, 'late')",
        {},
    ),
    ("a new table", "CREATE TABLE late AS SELECT 'late' AS said", {"public.late": (1, 0, 0)}),
    (
        "a new column",
        "ALTER TABLE notes ADD COLUMN late text DEFAULT 'late'",
        {},
    ),
]


@pytest.mark.parametrize(
    ("sql", "otherwise"), [row[1:] for row in WRITTEN_AFTER_THE_LOOK], ids=[row[0] for row in WRITTEN_AFTER_THE_LOOK]
)
def test_what_is_written_after_the_first_look_is_saved_too(
    world: World, looked: Callable[[str], dict[str, Any]], sql: str, otherwise: dict[str, tuple[int, int, int]]
) -> None:
    result = looked(sql)["swap"]
    tables = result["rows"]["tables"]
    assert {key: (row["new"], row["changed"], row["deleted"]) for key, row in tables.items()} == {
        "public.accounts": (0, 1, 0),
        "public.notes": (9, 0, 0),
        **otherwise,
    }
    folder = Path(result["rows"]["directory"])
    assert ("late" in sql) == any("late" in path.read_text() for path in folder.iterdir() if path.suffix != ".sql")
    with (
        closing(connect(replace(world.login, database=result["kept"]), "tests")) as session,
        session.cursor() as cursor,
        (folder / "public.notes.csv").open() as file,
    ):
        cursor.execute("CREATE TEMP TABLE again (LIKE notes INCLUDING GENERATED)")
        columns = next(file).strip()
        cursor.copy_expert(f"COPY again ({columns}) FROM STDIN WITH (FORMAT csv)", file)
        cursor.execute("SELECT count(*) FROM (TABLE notes EXCEPT ALL TABLE again) AS missing")
        assert cursor.fetchall() == [(0,)]
        cursor.execute("SELECT (SELECT count(*) FROM notes) = (SELECT count(*) FROM again)")
        assert cursor.fetchall() == [(True,)]
    assert "COPY" not in (folder / "replay.sql").read_text()
    assert f"FROM '{folder}/public.notes.csv'" in (folder / "replay.sql").read_text()


@pytest.mark.parametrize(
    ("place", "name"),
    [(restore_copy, "_restore"), (restore_copy, "_read"), (live_scan, "take_look"), (swap, "exchange")],
)
def test_a_failure_leaves_no_saved_rows(world: World, monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> None:
    world.execute(WRITTEN)
    before = world.files()
    monkeypatch.setattr(place, name, fail)
    with pytest.raises(ReleaseError, match="broken on purpose"):
        world.restore(state="live")
    assert {path for path in world.files() if not path.endswith(".manifest.json")} == {
        path for path in before if not path.endswith(".manifest.json")
    }
    assert world.databases() == {world.login.database: True}


REFUSED = [
    ("orders", "is no database that a restore of"),
    ("{name}", "is no database that a restore of"),
    ("{name}_before_restore_20200101_000000", "has no database"),
]


@pytest.mark.parametrize(("asked", "words"), REFUSED)
def test_other_names_are_refused(world: World, asked: str, words: str) -> None:
    before = (world.databases(), world.oid())
    with pytest.raises(ReleaseError, match=words) as raised:
        world.swap(asked.replace("{name}", world.login.database))
    assert raised.value.refused
    assert (world.databases(), world.oid()) == before


@pytest.mark.parametrize("which", ["live", "incoming"])
def test_neither_database_may_be_the_one_that_is_worked_from(world: World, copy: str, which: str) -> None:
    kept = world.swap(copy)["kept"]
    world.next_run()
    before = (world.databases(), world.oid())
    asked = world.swap_parameters(kept) | {"maintenance_db": world.login.database if which == "live" else kept}
    with pytest.raises(ReleaseError, match="is also the maintenance database") as raised:
        database_swap.act(asked, False)
    assert raised.value.refused
    assert (world.databases(), world.oid()) == before


KILLED = """
import json, os, sys, time
sys.path[:0] = {paths!r}
import conftest
import database_swap
from ansible.module_utils.dbrelease.restore.swap import rename as swap_rename
rename = swap_rename._rename

def wait(cursor, names):
    print("now", flush=True)
    time.sleep(60)

if {where!r} == "before":
    swap_rename._rename = wait
else:
    def rename_and_wait(cursor, names):
        rename(cursor, names)
        cursor.execute("COMMIT")
        wait(cursor, names)
    swap_rename._rename = rename_and_wait
database_swap.act(json.loads(sys.stdin.read()), False)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("where", ["before", "after"])
def test_after_a_kill_connections_are_allowed_and_the_application_runs(
    world: World, copy: str, container: str, number: signal.Signals, where: str
) -> None:
    parameters = world.swap_parameters(copy, containers=[container], stop_seconds=1)
    paths = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "library")]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(paths=paths, where=where)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        # Whoever began the tests with nohup ignores it, and so would the module.
        preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),
    )
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps(parameters).encode())
    process.stdin.close()
    assert process.stdout.readline() == b"now\n"
    assert status(container) == "exited"
    os.killpg(process.pid, number)
    process.wait()
    deadline = time.monotonic() + 20
    server = World(replace(world.login, database="postgres"), world.maintenance, world.run, world.role)
    while True:
        rows = server.execute(f"SELECT datallowconn FROM pg_database WHERE datname = '{world.login.database}'")
        (last,) = [line["event"] for line in world.journal() if line["step"] == "restore.services"][-1:]
        if rows == [(True,)] and status(container) == "running" and last in ("passed", "failed"):
            break
        assert time.monotonic() < deadline, (rows, status(container), last)
        time.sleep(0.2)
    assert world.execute("SELECT 1") == [(1,)]


def test_tables_are_inserted_after_those_they_refer_to() -> None:
    def table(name: str, *parents: str) -> Table:
        referred = frozenset(f"public.{parent}" for parent in parents)
        return Table("public", name, ("id",), ("integer",), frozenset(), ("id",), referred)

    tables = {
        table.key: table
        for table in (table("a", "b"), table("b", "c"), table("c", "c"), table("d", "e"), table("e", "d"))
    }
    order = parents_first(tables, tables)
    assert [key for key in order if key[-1] in "abc"] == ["public.c", "public.b", "public.a"]
    assert sorted(order) == sorted(tables)
