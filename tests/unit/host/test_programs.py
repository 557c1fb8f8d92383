"""Programs in the server's container end, and the server, which is the first process there, does not notice."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass

import docker
import docker.errors
import psycopg2.extensions
import pytest
import server_in_container
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.host import commands
from ansible.module_utils.dbrelease.host.commands import ContainerCommands, Finished, HostCommands
from ansible.module_utils.dbrelease.host.orphan_programs import end_programs
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect
from run_ids import run_id
from server_in_container import PASSWORD

engine, container = server_in_container.engine, server_in_container.container
own_server = server_in_container.own_server

RUN, OTHER = run_id(), run_id()
DUMP = ("pg_dump", "--username=keeper", "--format=custom", "--file=/tmp/held.dump", "keeper")
RESTORE = ("pg_restore", "--username=keeper", "--data-only", "--jobs=2", "--dbname=keeper", "/tmp/whole.dump")
WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
# Sends a signal to the processes of a name; which tools the container has beside a shell is not known.
SIGNAL = """
for process in /proc/[0-9]*; do
  if [ "$(sed -n 's/^Name:[[:space:]]*//p' "$process/status" 2>/dev/null)" = "$2" ]; then
    kill -"$1" "${process#/proc/}"
  fi
done
"""


@dataclass
class Place:
    """A server with two tables that a session has locked: it ends when the server ends every session."""

    commands: ContainerCommands
    container: str
    login: Login
    holder: psycopg2.extensions.connection

    def begin(self, *argv: str, run: str = RUN, wait_for: int = 0) -> None:
        """As the engine does it; `wait_for` that many sessions to wait for the lock."""
        settings = (f"PGAPPNAME=dbrelease-test-{run}", f"PGPASSWORD={PASSWORD}")
        options = [word for setting in settings for word in ("-e", setting)]
        subprocess.run(["docker", "exec", "-d", *options, self.container, *argv], check=True)
        with closing(connect(self.login, "tests")) as session, session.cursor() as cursor:
            until(lambda: count(cursor) >= wait_for)

    def signal(self, signal: str, name: str) -> None:
        subprocess.run(["docker", "exec", self.container, "sh", "-c", SIGNAL, "sh", signal, name], check=True)

    def programs(self, *names: str) -> list[str]:
        """Those of these names that work in the container."""
        reported = subprocess.run(
            ["docker", "top", self.container, "-eo", "pid,stat,comm"], check=True, capture_output=True
        )
        rows = [line.split() for line in reported.stdout.decode().splitlines()[1:]]
        return sorted(name for _, state, name, *_ in rows if name in names and not state.startswith("Z"))

    def demand_untouched(self) -> None:
        with self.holder.cursor() as cursor:
            cursor.execute("SELECT 1")


def count(cursor: psycopg2.extensions.cursor) -> int:
    cursor.execute(WAITING)
    return cursor.rowcount


def until(answer: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not answer():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def place(engine: docker.DockerClient, container: str, own_server: Login) -> Iterator[Place]:
    inside = ContainerCommands(engine, container)
    with closing(connect(own_server, "tests")) as holder, holder.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS one, two")
        cursor.execute("CREATE TABLE one AS SELECT generate_series(1, 9) n")
        cursor.execute("CREATE TABLE two AS SELECT n FROM one")
        whole = ["pg_dump", "--username=keeper", "--format=custom", "--file=/tmp/whole.dump", "keeper"]
        assert inside.run(whole, timeout_s=60, environment={"PGPASSWORD": PASSWORD}).status == 0
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE one, two IN ACCESS EXCLUSIVE MODE")
        yield Place(inside, container, own_server, holder)


def a_dump(place: Place) -> None:
    place.begin("timeout", "600", *DUMP, wait_for=1)


def a_restore_side_by_side(place: Place) -> None:
    place.begin("timeout", "600", *RESTORE, wait_for=2)
    assert place.programs("pg_restore") == ["pg_restore"] * 3


def no_client_of_the_server(place: Place) -> None:
    place.begin("timeout", "600", "sleep", "600")
    until(lambda: place.programs("sleep") == ["sleep"])


def a_dump_that_stands_still(place: Place) -> None:
    a_dump(place)
    place.signal("STOP", "pg_dump")


def what_bounds_it_stands_still(place: Place) -> None:
    a_dump(place)
    place.signal("STOP", "timeout")


def orphans_side_by_side(place: Place) -> None:
    a_restore_side_by_side(place)
    place.signal("KILL", "timeout")


def an_orphan_that_stands_still(place: Place) -> None:
    a_dump(place)
    place.signal("KILL", "timeout")
    place.signal("STOP", "pg_dump")
    assert place.programs("timeout", "pg_dump") == ["pg_dump"]


@pytest.mark.parametrize(
    "works",
    [
        a_dump,
        a_restore_side_by_side,
        no_client_of_the_server,
        a_dump_that_stands_still,
        what_bounds_it_stands_still,
        orphans_side_by_side,
        an_orphan_that_stands_still,
    ],
)
def test_a_dead_runs_program_is_ended_and_no_session_of_anyone(place: Place, works: Callable[[Place], None]) -> None:
    works(place)
    assert end_programs(place.commands, [OTHER, RUN]) >= 1
    assert place.programs("timeout", "pg_dump", "pg_restore", "sleep") == []
    place.demand_untouched()
    assert end_programs(place.commands, [OTHER, RUN]) == 0


def test_another_runs_program_works_on(place: Place) -> None:
    place.begin("timeout", "600", *DUMP, run=OTHER, wait_for=1)
    assert end_programs(place.commands, [RUN]) == 0
    assert place.programs("timeout", "pg_dump") == ["pg_dump", "timeout"]
    assert end_programs(place.commands, [OTHER]) == 1


def test_an_orphan_whose_end_postgres_would_take_for_its_own_is_reported_and_left(place: Place) -> None:
    place.begin("sh", "-c", "sleep 30 & exit 0")
    with pytest.raises(ReleaseError, match=rf"run {RUN} in container {place.container} failed \(\d+ sleep \(process"):
        end_programs(place.commands, [RUN])
    assert place.programs("sleep") == ["sleep"]
    place.demand_untouched()


@pytest.mark.parametrize(
    ("finished", "said"),
    [
        (Finished((), 137, "ended 7\n", "", 30_000, timed_out=True), "not done within 30 s"),
        (Finished((), 127, "", "sh: not found", 10), "status 127"),
        (Finished((), 0, "\nworks 7 alembic\ndone\n", "", 9000), r"7 alembic \(process, program\) did not end"),
    ],
)
def test_a_program_that_was_not_observed_to_end_is_reported(
    monkeypatch: pytest.MonkeyPatch, finished: Finished, said: str
) -> None:
    monkeypatch.setattr(HostCommands, "run", lambda *_, **__: finished)
    with pytest.raises(ReleaseError, match=rf"run {RUN} in the target failed \({said}"):
        end_programs(HostCommands(), [RUN])


def test_a_program_whose_output_cannot_be_kept_is_ended_with_what_bounds_it() -> None:
    def full(_: bytes) -> None:
        raise OSError("No space left on device")

    begun = time.monotonic()
    with pytest.raises(OSError, match="No space left"):
        HostCommands().run(["sh", "-c", "sleep 0.5; echo begun; exec sleep 60"], timeout_s=60, on_stdout=full)
    assert time.monotonic() - begun < 30


def test_what_a_paused_container_does_not_end_is_given_up(
    place: Place, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "KILL_GRACE_S", 1)
    monkeypatch.setattr(commands, "LATE_S", 1)
    paused = engine.containers.get(place.container)
    script = ["sh", "-c", "echo begun; exec sleep 60"]

    def is_paused() -> bool:
        with suppress(docker.errors.APIError):  # one of its processes had just begun
            paused.pause()
        paused.reload()
        return bool(paused.status == "paused")

    try:
        with pytest.raises(ReleaseError, match=r"was stopped: it did not end within 5 s, .* whether the container is"):
            place.commands.run(script, timeout_s=5, on_stdout=lambda _: until(is_paused))
    finally:
        with suppress(docker.errors.APIError):
            paused.unpause()


@pytest.mark.parametrize(
    "script", ["sleep 4 | sleep 4", "trap '' TERM; sleep 4; sleep 4"], ids=["it ends when asked", "it is killed"]
)
def test_a_deadline_ends_the_program_and_no_session_of_anyone(
    place: Place, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(commands, "KILL_GRACE_S", 1)
    assert place.commands.run(["sh", "-c", script], timeout_s=1).timed_out
    place.demand_untouched()
