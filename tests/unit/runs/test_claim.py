"""Of two runs exactly one acts: the decisions as a table, and the same with real processes, locks and sessions."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.core.process import Machine, Process, is_running, process_of, this_machine
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.runs import holder as claiming
from ansible.module_utils.dbrelease.runs.claim import Claim, claimed_later, decide, decode, encode, life_of, progress_of
from ansible.module_utils.dbrelease.runs.claim_file import path_in, peek, try_lock
from ansible.module_utils.dbrelease.runs.database_lock import advisory_lock
from ansible.module_utils.dbrelease.runs.exclusive import acting
from ansible.module_utils.dbrelease.runs.holder import alone, claim, holder_of, present, release
from module_process import module_of
from own_sessions import connect

HERE = Machine("boot-1", "pid:[1]")
REBOOTED = Machine("boot-2", "pid:[1]")
OTHER_CONTAINER = Machine("boot-1", "pid:[2]")
LOCAL = {"user": "ann", "host": "desk", "pid": 10, "started": "5", "boot_id": "boot-1", "pid_namespace": "pid:[1]"}
REMOTE = {**LOCAL, "boot_id": "boot-9"}
ONE = Run("20260102T030405Z-aaaaaa", "sample", "test", "deploy", "/state")
TWO = Run("20260102T030406Z-bbbbbb", "sample", "test", "deploy", "/state")
SESSION = Process(70, "7")


def held(controller: dict[str, Any], *, connection: Process | None = None) -> Claim:
    return Claim.of(ONE, controller, HERE, "2026-01-02T03:04:05+00:00").held_by(None, connection)


@pytest.mark.parametrize(
    ("who", "here", "running", "flock", "life"),
    [
        pytest.param(held(LOCAL), HERE, {10: "5"}, False, "alive", id="its process runs"),
        pytest.param(held(LOCAL), HERE, {}, False, "dead", id="its process is gone"),
        pytest.param(held(LOCAL), HERE, {}, True, "dead", id="its process is gone, its module works on"),
        pytest.param(held(LOCAL), HERE, {10: "6"}, False, "dead", id="another process has its number"),
        pytest.param(held(LOCAL), REBOOTED, {10: "5"}, False, "dead", id="the machine was started anew"),
        pytest.param(held(LOCAL), OTHER_CONTAINER, {}, False, "unknown", id="its numbers are of another namespace"),
        pytest.param(held(REMOTE), HERE, {}, False, "unknown", id="a remote controller, between two tasks"),
        pytest.param(held(REMOTE), HERE, {}, True, "alive", id="a remote controller's module works"),
        pytest.param(held(REMOTE, connection=SESSION), HERE, {70: "7"}, True, "alive", id="over a session that lives"),
        pytest.param(held(REMOTE, connection=SESSION), HERE, {}, True, "dead", id="over a session that is gone"),
        pytest.param(held({}), HERE, {}, False, "unknown", id="nobody said who the controller is"),
    ],
)
def test_how_the_holder_is(who: Claim, here: Machine, running: dict[int, str], flock: bool, life: str) -> None:
    assert life_of(who, here, lambda process: running.get(process.pid) == process.started, held=flock) == life


@pytest.mark.parametrize(
    ("who", "life", "flock", "closed", "decision"),
    [
        (None, "dead", False, False, "take"),
        (None, "dead", True, False, "wait"),
        (held(LOCAL), "alive", False, False, "refuse"),
        (held(LOCAL), "alive", True, False, "refuse"),
        (held(LOCAL), "dead", False, False, "take"),
        (held(LOCAL), "dead", True, False, "end_module"),
        (held(LOCAL), "unknown", False, False, "wait"),
        (held(LOCAL), "unknown", True, False, "wait"),
        (held(LOCAL), "alive", False, True, "take"),
        (held(LOCAL), "alive", True, True, "wait"),
        (replace(held(LOCAL), run_id=TWO.run_id), "alive", False, False, "take"),
    ],
)
def test_what_follows(who: Claim | None, life: Any, flock: bool, closed: bool, decision: str) -> None:
    assert decide(who, TWO.run_id, life, held=flock, closed=closed) == decision


def test_a_claim_reads_back_and_anything_else_is_none() -> None:
    one = held(LOCAL, connection=SESSION)
    assert decode(encode(one)) == one
    for content in (b"", encode(None), b'{"run_id": "x"', b"[1]", b"null", encode(one)[:100]):
        assert decode(content) is None


# With real processes


@pytest.fixture
def one(tmp_path: Path) -> Run:
    return replace(ONE, state_dir=str(tmp_path / "state"))


@pytest.fixture
def two(one: Run) -> Run:
    return replace(TWO, state_dir=one.state_dir)


def controller(process: Process | None, **other: Any) -> dict[str, Any]:
    """What the lookup would say, were that process the controller."""
    here = this_machine()
    assert process
    return {
        "user": "ann",
        "host": "desk",
        "pid": process.pid,
        "started": process.started,
        "boot_id": here.boot_id,
        "pid_namespace": here.pid_namespace,
        **other,
    }


def own() -> dict[str, Any]:
    return controller(process_of(os.getpid()))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def opened(run: Run, who: dict[str, Any]) -> Any:
    """As the module journal opens a run."""
    Journal(run).append("run", "started", {"controller": who})
    came = claim(run, who)
    Journal(run).append("claim", "refused" if came.refused else "passed", {})
    return came


def test_a_living_holder_is_named_at_once(one: Run, two: Run, sleeper: subprocess.Popen[bytes]) -> None:
    assert not opened(one, controller(process_of(sleeper.pid))).refused
    Journal(one).append("upgrade", "started")
    begun = time.monotonic()
    came = opened(two, own())
    assert time.monotonic() - begun < 2
    assert came.refused
    for word in (one.run_id, "ann", "desk", "deploy", "since 20", "at step upgrade"):
        assert word in came.message


def test_a_dead_holder_blocks_no_run(one: Run, two: Run, sleeper: subprocess.Popen[bytes]) -> None:
    opened(one, controller(process_of(sleeper.pid)))
    sleeper.kill()
    sleeper.wait()
    came = opened(two, own())
    assert not came.refused and one.run_id in came.message
    claimed = peek(path_in(two.state_dir))
    assert claimed and claimed.run_id == two.run_id


@pytest.mark.parametrize("other", [{"started": "1"}, {"boot_id": "another"}])
def test_a_process_id_that_was_reused_blocks_no_run(
    one: Run, two: Run, sleeper: subprocess.Popen[bytes], other: dict[str, str]
) -> None:
    opened(one, controller(process_of(sleeper.pid)))
    path = path_in(one.state_dir)
    claimed = peek(path)
    assert claimed
    values: dict[str, Any] = {"controller_started" if key == "started" else key: value for key, value in other.items()}
    if "boot_id" in other:
        values["target_boot_id"] = other["boot_id"]
    path.write_bytes(encode(replace(claimed, **values)))
    assert not opened(two, own()).refused


def test_a_dead_runs_module_is_ended(one: Run, two: Run, sleeper: subprocess.Popen[bytes]) -> None:
    opened(one, controller(process_of(sleeper.pid)))
    with module_of(one) as module:
        sleeper.kill()
        sleeper.wait()
        came = opened(two, own())
        assert not came.refused and came.ended_module == module.pid
        assert module.wait(5) == -signal.SIGTERM


def test_a_module_that_was_started_twice_is_no_refusal(one: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SSH does whose connection broke: the first one works on, and may change what the second would."""
    monkeypatch.setattr("ansible.module_utils.dbrelease.runs.exclusive.WAIT_S", 0.2)
    opened(one, own())
    with (
        module_of(one),
        pytest.raises(ReleaseError, match=r"Another module of run .* still running") as reported,
        acting(one),
    ):
        pass
    assert not reported.value.refused


def test_a_process_that_does_not_hold_the_claim_is_not_ended(
    one: Run, two: Run, sleeper: subprocess.Popen[bytes]
) -> None:
    """A claim that names a wrong process (its number was used again, say) harms nobody."""
    who = controller(Process(2**22 + 1, "1"))
    opened(one, who)
    path = path_in(one.state_dir)
    claimed = peek(path)
    assert claimed
    lock = try_lock(path)
    assert lock
    lock.write(claimed.held_by(process_of(sleeper.pid)))
    assert opened(two, own()).refused
    assert sleeper.poll() is None
    lock.let_go()


def test_a_remote_holder_that_moves_is_alive(one: Run, two: Run) -> None:
    opened(one, controller(process_of(os.getpid()), boot_id="another"))
    over = threading.Event()

    def move() -> None:
        while not over.wait(0.3):
            Journal(one).append("checks", "started")

    moving = threading.Thread(target=move)
    moving.start()
    try:
        came = opened(two, own())
    finally:
        over.set()
        moving.join()
    assert came.refused
    assert one.run_id in came.message


def test_a_remote_holder_without_a_sign_of_life_blocks_no_run(one: Run, two: Run) -> None:
    opened(one, controller(process_of(os.getpid()), boot_id="another"))
    begun = time.monotonic()
    came = opened(two, own())
    assert not came.refused and "which gave no sign of life for 3 s and was last before its first step" in came.message
    assert time.monotonic() - begun < 5


def test_a_remote_holder_whose_module_works_is_alive(one: Run, two: Run) -> None:
    opened(one, controller(process_of(os.getpid()), boot_id="another"))
    with module_of(one):
        assert opened(two, own()).refused


def test_who_was_taken_over_may_not_act_nor_after_the_other_has_ended(one: Run, two: Run) -> None:
    opened(one, controller(process_of(os.getpid()), boot_id="another"))
    opened(two, own())
    with pytest.raises(ReleaseError, match=f"taken over by run {two.run_id}") as refusal, acting(one):
        pass
    assert refusal.value.refused
    with acting(two):
        pass
    release(two)
    Journal(two).append("run", "passed", {})
    with pytest.raises(ReleaseError, match=f"taken over by run {two.run_id} at"), acting(one):
        pass


def test_a_released_target_has_no_file_and_is_free(one: Run, two: Run) -> None:
    opened(one, own())
    release(two)
    assert path_in(one.state_dir).exists(), "only its own run gives it back"
    release(one)
    release(one)
    assert not path_in(one.state_dir).exists()
    assert not opened(two, own()).refused


def test_letting_go_of_a_released_target_leaves_the_next_runs_claim(one: Run, two: Run) -> None:
    opened(one, own())
    with present(one):
        release(one)
        assert not opened(two, own()).refused
    claimed = peek(path_in(two.state_dir))
    assert claimed and claimed.run_id == two.run_id


def test_a_run_that_the_journal_closed_holds_nothing(one: Run, two: Run) -> None:
    opened(one, own())
    Journal(one).append("run", "passed", {"outcome": "deployed"})
    assert not opened(two, own()).refused


def test_looking_claims_nothing(one: Run, two: Run) -> None:
    assert holder_of(one) is None
    assert not Path(one.state_dir).exists()
    opened(one, own())
    seen = holder_of(two)
    assert seen and seen.holder and seen.holder.run_id == one.run_id


def test_a_module_by_itself_leaves_no_file_and_may_nest(one: Run) -> None:
    with acting(one), acting(one):
        assert path_in(one.state_dir).exists()
    assert not path_in(one.state_dir).exists()


def test_in_check_mode_nothing_is_locked(one: Run, database: Login) -> None:
    with acting(one, database, dry=True):
        assert not Path(one.state_dir).exists()


def test_a_reader_of_the_run_signs_too_and_of_another_run_does_not(one: Run, two: Run) -> None:
    opened(one, own())
    with present(one):
        signed = peek(path_in(one.state_dir))
        assert signed and signed.module == process_of(os.getpid())
        with acting(one):
            pass
    unsigned = peek(path_in(one.state_dir))
    assert unsigned and unsigned.module is None
    with present(two):
        assert try_lock(path_in(one.state_dir)), "not held"


@pytest.mark.parametrize("signing", [present, alone])
def test_a_run_that_is_taken_over_while_it_looks_does_not_sign_for_the_next(
    signing: Callable[[Run], AbstractContextManager[None]], one: Run, two: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(one, own())
    path = path_in(one.state_dir)
    looks = [peek(path)]
    Journal(one).append("run", "passed", {})
    assert not opened(two, own()).refused
    monkeypatch.setattr(claiming, "peek", lambda path: looks.pop() if looks else peek(path))
    with signing(one):
        now = peek(path)
        assert now and (now.run_id, now.module) == (two.run_id, None)
        assert try_lock(path), "not held"


at_once: Barrier


def _share(barrier: Barrier) -> None:
    global at_once
    at_once = barrier


def claim_now(run: Run) -> bool:
    at_once.wait()
    refused: bool = opened(run, own()).refused
    at_once.wait()  # a controller that lives on
    return refused


def test_of_six_at_once_exactly_one_proceeds(one: Run) -> None:
    runs = [replace(one, run_id=f"20260102T03040{number}Z-aaaaaa") for number in range(6)]
    fork = multiprocessing.get_context("fork")
    with fork.Pool(6, _share, [fork.Barrier(6, timeout=60)], maxtasksperchild=1) as pool:
        refused = pool.map(claim_now, runs, chunksize=1)
    assert refused.count(False) == 1


def test_a_process_that_ended_does_not_run(sleeper: subprocess.Popen[bytes]) -> None:
    process = process_of(sleeper.pid)
    assert process and is_running(process)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not is_running(process), "a zombie"
    sleeper.wait()
    assert not is_running(process)


# On the database, which runs of two targets may share


def test_another_targets_run_on_the_same_database_is_named(one: Run, two: Run, database: Login, tmp_path: Path) -> None:
    elsewhere = replace(two, state_dir=str(tmp_path / "elsewhere"))
    with acting(one, database):
        begun = time.monotonic()
        with pytest.raises(ReleaseError, match=f"dbrelease-lock-{one.run_id}") as refusal, acting(elsewhere, database):
            pass
        assert refusal.value.refused and time.monotonic() - begun < 5
    with acting(elsewhere, database):
        pass


def test_a_lock_goes_with_its_session(one: Run, two: Run, database: Login) -> None:
    holder = connect(database, "somebody")
    with holder.cursor() as cursor:
        with advisory_lock(database, one):
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'dbrelease-lock%'"
                " AND datname = current_database()"
            )
            with advisory_lock(database, two):
                pass
        cursor.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
    holder.close()


def test_a_dead_runs_program_on_the_database_is_not_joined(one: Run, database: Login) -> None:
    worker = connect(database, f"dbrelease-upgrade-{TWO.run_id}")
    with pytest.raises(ReleaseError, match=f"dbrelease-upgrade-{TWO.run_id}"), advisory_lock(database, one):
        pass
    worker.close()
    with advisory_lock(database, one):
        pass


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "before its first step"),
        ([("run", "started"), ("claim", "passed")], "before its first step"),
        ([("preflight", "started")], "at step preflight"),
        ([("preflight", "started"), ("preflight", "passed")], "after step preflight"),
        ([("backup", "started"), ("baseline", "started")], "at step baseline"),
        ([("backup", "started"), ("baseline", "started"), ("baseline", "passed")], "at step backup"),
    ],
)
def test_how_far_a_run_has_come(lines: list[tuple[str, str]], said: str) -> None:
    assert progress_of([{"run_id": "a", "step": step, "event": event} for step, event in lines], "a") == said


def test_a_claim_after_ones_own_is_seen() -> None:
    def line(run_id: str, event: str = "passed") -> dict[str, str]:
        return {"run_id": run_id, "step": "claim", "event": event}

    assert claimed_later([line("a"), line("b")], "a") == line("b")
    assert claimed_later([line("b"), line("a"), line("c", "refused")], "a") is None
    assert claimed_later([line("b")], "a") is None
