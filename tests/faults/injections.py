"""What goes wrong. Each fault is a context: it is there while the block runs, and is taken away in every outcome."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2
from ansible.module_utils.dbrelease.postgres.session import Login
from outside import POSTGRES, ROOT, STATE, docker
from own_sessions import connect
from waits import until as wait_until

from faults.moments import sessions, throwaway_containers
from faults.running import Running, kill_all, programs, server_process, until
from faults.surroundings import wait_until_healthy

Fault = Callable[[Running, Login], AbstractContextManager[None]]


@contextmanager
def controller_killed(run: Running, login: Login) -> Iterator[None]:
    """kill -9 of ansible-playbook alone: its module works on."""
    os.kill(run.pid, signal.SIGKILL)
    yield


@contextmanager
def terminal_closed(run: Running, login: Login) -> Iterator[None]:
    """SIGHUP to everything that the terminal started."""
    os.killpg(os.getpgid(run.pid), signal.SIGHUP)
    yield


@contextmanager
def everything_killed(run: Running, login: Login) -> Iterator[None]:
    """kill -9 of ansible-playbook and all that it started, as by a machine that fails."""
    kill_all(run)
    yield


@dataclass(frozen=True)
class Interrupted:
    """A signal to the playbook, as by Ctrl-C or from a scheduler: the work on the target stops at once."""

    number: signal.Signals

    @contextmanager
    def __call__(self, run: Running, login: Login) -> Iterator[None]:
        """See Fault."""
        module = Path(f"/proc/{until(run.module, run, 'a module that works')}")
        os.kill(run.pid, self.number)
        run.process.wait(60)
        wait_until(lambda: not module.exists(), "the module of the interrupted playbook works on")
        wait_until(lambda: not throwaway_containers(""), "the throwaway server of the interrupted playbook runs on")
        yield


@contextmanager
def module_killed(run: Running, login: Login) -> Iterator[None]:
    """kill -9 of the module that works now."""
    os.kill(until(run.module, run, "a module that works"), signal.SIGKILL)
    yield


@contextmanager
def task_given_up(run: Running, login: Login) -> Iterator[None]:
    """The controller no longer waits for the module, whose result nothing will read."""
    until(lambda: run.has("playbook", "failed"), run, "a task that was given up")
    yield


@contextmanager
def throwaway_server_killed(run: Running, login: Login) -> Iterator[None]:
    """The server of the rehearsal ends, as where its memory is used up."""
    for name in throwaway_containers(""):
        docker("kill", name)
    yield


@dataclass(frozen=True)
class ProgramKilled:
    """kill -9 of a program in a container; with `wrapper` of what the engine's exec began: the program works on."""

    container: str
    word: str
    wrapper: bool = False

    @contextmanager
    def __call__(self, run: Running, login: Login) -> Iterator[None]:
        """See Fault."""
        for pid in until(lambda: programs(self.container, self.word), run, f"{self.word} in {self.container}"):
            with suppress(ProcessLookupError):
                os.kill(parent(pid) if self.wrapper else pid, signal.SIGKILL)
        yield


def parent(pid: int) -> int:
    """The process that started another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@dataclass(frozen=True)
class ServerProcessKilled:
    """kill -9 of a session's process: the server ends every session and recovers from its log."""

    session: str

    @contextmanager
    def __call__(self, run: Running, login: Login) -> Iterator[None]:
        """See Fault."""
        pid = until(lambda: sessions(login, self.session), run, f"session {self.session}")[0]
        os.kill(server_process(POSTGRES, pid), signal.SIGKILL)
        yield


@dataclass(frozen=True)
class ContainerDown:
    """A container is stopped, or killed, and started again when the fault is taken away."""

    container: str
    how: str

    @contextmanager
    def __call__(self, run: Running, login: Login) -> Iterator[None]:
        """See Fault."""
        docker(self.how, self.container)
        try:
            yield
        finally:
            docker("start", self.container)
            wait_until_healthy()


@contextmanager
def engine_restarted(run: Running, login: Login) -> Iterator[None]:
    """The container engine ends, and starts again as it was started."""
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "restart", "docker"], check=True)
    else:
        _restart_own_engine()
    wait_until_healthy()
    yield


def _restart_own_engine() -> None:
    """One that stack/bin/engine has started, for this checkout or another: the same command line again."""
    pid = int(Path("/var/run/docker.pid").read_text())
    command = [word.decode() for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") if word]
    os.kill(pid, signal.SIGTERM)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.1)
    # As stack/bin/engine does it, so that `make clean` finds it.
    again = ["setsid", "--fork", "bash", "-c", 'echo $$ >"$0"; exec "$@"', str(ROOT / ".stack/dockerd.pid"), *command]
    with (ROOT / ".stack/dockerd.log").open("ab") as log:
        subprocess.run(again, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)


@dataclass(frozen=True)
class Transaction:
    """A session that has done something in a transaction, and is idle in it."""

    statement: str

    @contextmanager
    def __call__(self, run: Running, login: Login) -> Iterator[None]:
        """See Fault."""
        with closing(connect(login, "faults holder")) as connection:
            connection.autocommit = False
            with connection.cursor() as cursor:
                cursor.execute(self.statement)
            yield
            with suppress(psycopg2.Error):
                connection.rollback()


@dataclass(frozen=True)
class DiskFull:
    """The place has no byte left; it is a small disk of its own (surroundings.py)."""

    place: Callable[[], Path]

    @contextmanager
    def __call__(self, run: Running, login: Login) -> Iterator[None]:
        """See Fault."""
        ballast = self.place() / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):  # quickly, and then to the last page
                with suppress(OSError):
                    while file.write(bytes(size)):
                        pass
        try:
            yield
        finally:
            ballast.unlink()


@dataclass(frozen=True)
class BackupDamaged:
    """The newest backup's file holds something else."""

    damage: Callable[[bytes], bytes]

    @contextmanager
    def __call__(self, run: Running, login: Login) -> Iterator[None]:
        """See Fault."""
        path = max(STATE.glob("backup_before_*.dump"))
        whole = path.read_bytes()
        path.write_bytes(self.damage(whole))
        try:
            yield
        finally:
            path.write_bytes(whole)


def cut_short(whole: bytes) -> bytes:
    """As by a copy that was broken off."""
    return whole[: len(whole) // 2]


def one_bit_flipped(whole: bytes) -> bytes:
    """As by a bad disk."""
    middle = len(whole) // 2
    return whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]


def of_another_database(whole: bytes) -> bytes:
    """A good dump, of something else."""
    return subprocess.run(
        ["docker", "exec", POSTGRES, "pg_dump", "-U", "user", "-Fc", "postgres"], check=True, capture_output=True
    ).stdout
