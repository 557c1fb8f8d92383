"""Of two restores of one database one proceeds, the other touches nothing; and no restore drops what is not its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from shutil import copy2
from typing import Any

import database_swap
import leftovers
import pytest
import restore_world
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.core.restore_names import copy_name
from ansible.module_utils.dbrelease.host import lifecycle
from ansible.module_utils.dbrelease.postgres.session import Connection
from ansible.module_utils.dbrelease.restore import copy as restore_copy
from ansible.module_utils.dbrelease.restore.swap import rename, swap
from ansible.module_utils.dbrelease.runs import database_lock
from ansible.module_utils.dbrelease.runs.database_lock import NameLock, advisory_lock
from ansible.module_utils.dbrelease.runs.exclusive import acting
from own_sessions import connect
from restore_world import World
from run_ids import run_id
from waits import until_an_idle_session_is_ended

ROOT = Path(__file__).resolve().parents[3]
OTHER = run_id("20200101T000000Z")


world = restore_world.written_world


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_lock, "WAIT_S", 0.5)


def elsewhere(world: World) -> World:
    """The same database, as another controller knows it that keeps its state elsewhere."""
    run = {**world.run, "state_dir": f"{world.state}_elsewhere"}
    other = World(world.login, world.maintenance, run, world.role, runs=40)
    other.next_run()
    return other


def backup_of(first: World, other: World) -> dict[str, Any]:
    """The backup of one target for another, whose journal does not know it."""
    other.state.mkdir(mode=0o700, exist_ok=True)
    for path in first.state.glob("backup_before_*"):
        copy2(path, other.state)
    (dump,) = first.state.glob("*.dump")
    return {"backup": dump.name, "unknown_backup": True}


def swap_in(world: World, copy: str) -> None:
    """Also where no run of its journal made the copy."""
    database_swap.act({**world.swap_parameters(copy), "unknown_backup": True}, False)


def copy_of(world: World) -> str:
    return copy_name(world.login.database, world.run["run_id"])


def executes(world: World, *statements: str) -> None:
    for statement in statements:
        world.execute(statement, "postgres")


def restores(other: World, first: World) -> None:
    other.restore(state="live", **backup_of(first, other))


def restores_from_elsewhere(other: World, first: World) -> None:
    """Not everyone has the same database to work from while others are renamed."""
    executes(other, f"CREATE DATABASE {first.role}_base TEMPLATE template0")
    try:
        other.restore(state="live", **backup_of(first, other), maintenance_db=f"{first.role}_base")
    finally:
        executes(other, f"DROP DATABASE {first.role}_base")


def makes_a_copy(other: World, first: World) -> None:
    other.restore(**backup_of(first, other))


def swaps_the_copy_in(other: World, first: World) -> None:
    swap_in(other, copy_of(first))


def drops_the_copy(other: World, first: World) -> None:
    other.restore(state="absent", name=copy_of(first))


def deploys(other: World, first: World) -> None:
    with acting(Run(**other.run), other.login):
        pass


def of_the_server(world: World) -> list[tuple[Any, ...]]:
    """Every database of the test, and whether it takes connections; asked from another, since it may take none."""
    with closing(connect(world.maintenance, "tests")) as session, session.cursor() as cursor:
        cursor.execute(
            "SELECT oid, datname, datallowconn FROM pg_database WHERE starts_with(datname, %s) ORDER BY datname",
            (world.login.database,),
        )
        return cursor.fetchall()


COPYING, PREPARING, RENAMING = (restore_copy, "_restore"), (swap, "prepare"), (rename, "_rename")
MEETINGS = [
    pytest.param(restores, *COPYING, id="restores while the copy is made"),
    pytest.param(restores, *PREPARING, id="restores before the swap"),
    pytest.param(restores, *RENAMING, id="restores in the middle of the swap"),
    pytest.param(restores_from_elsewhere, *COPYING, id="restores with another maintenance database"),
    pytest.param(makes_a_copy, *COPYING, id="makes a copy"),
    pytest.param(swaps_the_copy_in, *PREPARING, id="swaps the other's copy in"),
    pytest.param(drops_the_copy, *COPYING, id="drops the other's copy"),
    pytest.param(deploys, *COPYING, id="deploys while the copy is made"),
    pytest.param(deploys, *PREPARING, id="deploys before the swap"),
]


@pytest.mark.parametrize(("acts", "place", "name"), MEETINGS)
def test_while_one_restores_another_is_refused_and_touches_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, acts: Callable[[World, World], None], place: Any, name: str
) -> None:
    other, original = elsewhere(world), getattr(place, name)
    met: list[ReleaseError] = []

    def meet(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(place, name, original)
        before, begun = of_the_server(world), time.monotonic()
        with pytest.raises(ReleaseError) as raised:
            acts(other, world)
        assert time.monotonic() - begun < 3
        assert of_the_server(world) == before
        met.append(raised.value)
        return original(*given, **named)

    monkeypatch.setattr(place, name, meet)
    restored = world.restore(state="live")
    (refusal,) = met
    assert refusal.refused
    assert f'"dbrelease-lock-{world.run["run_id"]}" (pid ' in refusal.message
    assert ", since 20" in refusal.message
    assert world.databases() == {world.login.database: True, restored["swap"]["kept"]: True}
    assert not other.restore(state="live", **backup_of(world, other))["changed"], "it may when the first has ended"


def test_a_recovery_opens_no_database_that_another_restore_has_closed(
    world: World, monkeypatch: pytest.MonkeyPatch, login_parameters: dict[str, Any]
) -> None:
    other, original, said = elsewhere(world), rename._rename, []
    journal = Journal(Run(**{**other.run, "run_id": OTHER, "playbook": "restore"}))
    for step, event in (("run", "started"), ("claim", "passed"), ("restore.swap", "started")):
        journal.append(step, event)  # type: ignore[arg-type]
    asked = {"backend_container": "", "db_container": "", "workdir": None, "from_revision": "a1", "revision": "b2"}
    asked |= {**login_parameters, "bookkeeping_table": "alembic_version"}

    def meet(*given: Any) -> None:
        before = of_the_server(world)
        result = leftovers.act({**asked, "run": other.run}, False)
        assert of_the_server(world) == before
        assert not result["settled"]
        said.append(result["proofs"][0]["detail"])
        original(*given)

    monkeypatch.setattr(rename, "_rename", meet)
    assert world.restore(state="live")["changed"]
    assert f"dbrelease-lock-{world.run['run_id']}" in said[0]
    assert leftovers.act({**asked, "run": other.run}, False)["settled"]


def lock_of(world: World, run: Run) -> NameLock:
    return NameLock(world.maintenance, world.login.database, run)


def end_lock(world: World) -> None:
    world.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE application_name = 'dbrelease-lock-{world.run['run_id']}'",
        "postgres",
    )


def begin_a_deploy(world: World) -> Connection:
    """Of a program that knows no lock of names."""
    return connect(world.login, f"dbrelease-upgrade-{OTHER}")


@pytest.mark.parametrize(
    ("happens", "said"),
    [(end_lock, "lost its lock on the"), (begin_a_deploy, f"dbrelease-upgrade-{OTHER}")],
    ids=["lock", "deploy"],
)
def test_no_session_is_ended_for_a_swap_that_does_not_have_the_database_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, happens: Callable[[World], Any], said: str
) -> None:
    used, stop, begun = connect(world.login, "an application"), lifecycle.stop, []

    def stop_and_meet(*given: Any) -> None:
        stop(*given)
        begun.append(happens(world))

    monkeypatch.setattr(lifecycle, "stop", stop_and_meet)
    with pytest.raises(ReleaseError, match=said):
        world.restore(state="live")
    with used.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert world.databases() == {world.login.database: True}


HOLDER = """
import json, os, sys, time
sys.path[:0] = {paths!r}
import conftest
from ansible.module_utils.dbrelease.runs.database_lock import NameLock
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.core.crash_guard import guarded
from ansible.module_utils.dbrelease.core.journal import Run
lock = NameLock(Login(**{login!r}), {database!r}, Run(**{run!r}))
lock.take()
def repair():
    while not os.path.exists({repaired!r}):
        time.sleep(0.05)
with guarded(repair):
    print("now", flush=True)
    time.sleep(60)
"""


def test_a_killed_holders_lock_lasts_until_its_guardian_has_repaired_and_no_longer(
    world: World, tmp_path: Path
) -> None:
    repaired = tmp_path / "repaired"
    paths = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "library")]
    login = vars(world.maintenance)
    code = HOLDER.format(paths=paths, login=login, database=world.login.database, run=world.run, repaired=str(repaired))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"now\n"
    other = lock_of(world, Run(**elsewhere(world).run))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(ReleaseError, match=f"dbrelease-lock-{world.run['run_id']}"):
        other.take()
    repaired.touch()
    deadline = time.monotonic() + 30
    while True:
        try:
            other.take()
            break
        except ReleaseError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    other.close()


def test_a_lock_that_is_taken_between_the_look_and_ones_own_is_seen(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, deploy = database_lock._others, Run(**elsewhere(world).run)
    with ExitStack() as deploying, closing(lock_of(world, Run(**world.run))) as lock:

        def look(*given: Any) -> list[str]:
            monkeypatch.setattr(database_lock, "_others", looks)
            seen = looks(*given)
            deploying.enter_context(advisory_lock(world.login, deploy))
            return seen

        monkeypatch.setattr(database_lock, "_others", look)
        with pytest.raises(ReleaseError, match=f"dbrelease-lock-{deploy.run_id}"):
            lock.take()


def test_a_lock_outlives_the_time_that_a_session_may_be_idle(world: World) -> None:
    executes(world, f"ALTER DATABASE {world.login.database} SET idle_session_timeout = '100ms'")
    one, two = Run(**world.run), Run(**elsewhere(world).run)
    with advisory_lock(world.login, one):
        until_an_idle_session_is_ended(world.login)
        with pytest.raises(ReleaseError, match=f"dbrelease-lock-{one.run_id}"), advisory_lock(world.login, two):
            pass


def test_a_copy_of_an_unknown_run_stays_and_is_reported(world: World) -> None:
    foreign = copy_name(world.login.database, OTHER)
    executes(world, f"CREATE DATABASE {foreign} TEMPLATE template0")
    proofs = {proof["name"]: proof for proof in world.restore(state="live")["proofs"]}
    assert foreign in world.databases()
    reported = proofs["restore.foreign_copies"]
    assert (reported["status"], reported["observed"]) == ("inconclusive", [foreign])
    assert foreign in reported["detail"]


def test_a_swap_that_is_refused_leaves_its_own_copy(world: World) -> None:
    copy = world.restore()["database"]
    with closing(lock_of(world, Run(**elsewhere(world).run))) as lock:
        lock.take()
        with pytest.raises(ReleaseError, match="may not act on the database"):
            world.swap(copy)
    assert world.swap(copy)["changed"]


def test_a_swap_that_fails_drops_no_copy_of_an_unknown_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = world.restore()["database"]

    def fail(*_: Any) -> None:
        raise ReleaseError("broken on purpose")

    monkeypatch.setattr(swap, "exchange", fail)
    for whose, left in ((elsewhere(world), True), (world, False)):
        with pytest.raises(ReleaseError, match="broken on purpose"):
            swap_in(whose, copy)
        assert (copy in world.databases()) is left
