"""Run a command where it belongs, in a container or on the target itself, with its exit status believed."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

import docker
import docker.errors
from docker.utils.socket import frames_iter

from ..core.errors import ReleaseError

CHUNK = 1 << 20
# As the engine says it in the program's place, with the status of one that could not be started.
NO_FOLDER = re.compile(r'chdir to cwd \("(?P<path>[^"\n]{1,1024})"\)')
KEPT_ERROR_BYTES = 64 << 10
# What is read whole: revisions, a preview's SQL, versions. A container may answer without an end.
OUTPUT_BYTES_AT_MOST = 128 << 20
KILL_GRACE_S = 5
# By default `timeout` ends its whole group, itself included, before it has seen the program's end. The orphan would go
# to the container's first process; Postgres there takes it for one of its own that crashed, and ends every session.
# Busybox' `timeout` has no such option, and no such default.
BOUNDED = """
case $(sed -n 's/^Name:[[:space:]]*//p' /proc/1/status) in post*)
  timeout --foreground 0 true 2>/dev/null && exec timeout --foreground -k "$@"
esac
exec timeout -k "$@"
"""
LATE_S = 20
TIMEOUT_STATUSES = (124, 137)
STDOUT_STREAM = 1

Consumer = Callable[[bytes], None]


@dataclass(frozen=True)
class Finished:
    """How a command ended. `stdout` is empty where a consumer took it; `stderr` is its last 64 KiB.

    timed_out: the deadline, not the command or whoever killed it, ended it.
    """

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
    duration_ms: int
    timed_out: bool = False


class Commands(Protocol):
    """A place that runs commands."""

    @property
    def place(self) -> str:
        """For messages: `container shop_postgres`, `the target`."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: int,
        environment: Mapping[str, str] | None = None,
        stdin: IO[bytes] | None = None,
        on_stdout: Consumer | None = None,
        workdir: str | None = None,
    ) -> Finished:
        """Run to the end or to the deadline; never raises for an exit status."""


class _Output:
    """Collects both streams; stdout goes to a consumer instead where there is one."""

    def __init__(self, what: str, on_stdout: Consumer | None) -> None:
        self._what = what
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._consume = on_stdout or self._collect

    def out(self, data: bytes) -> None:
        self._consume(data)

    def _collect(self, data: bytes) -> None:
        self._stdout.extend(data)
        if len(self._stdout) > OUTPUT_BYTES_AT_MOST:
            raise ReleaseError(
                f"Running {self._what} was given up (it wrote more than {OUTPUT_BYTES_AT_MOST} bytes): see what runs "
                "there in its place, and run again."
            )

    def err(self, data: bytes) -> None:
        self._stderr.extend(data)
        del self._stderr[:-KEPT_ERROR_BYTES]

    def finished(self, argv: Sequence[str], status: int, begun: float, timeout_s: int) -> Finished:
        if status in (126, 127) and (
            folder := NO_FOLDER.search((self._stderr + self._stdout).decode(errors="replace"))
        ):
            raise no_working_folder(self._what, folder["path"])
        duration_s = time.monotonic() - begun
        return Finished(
            argv=tuple(argv),
            status=status,
            stdout=self._stdout.decode(errors="replace"),
            stderr=self._stderr.decode(errors="replace"),
            duration_ms=round(duration_s * 1000),
            # A killed container gives the same status much earlier.
            timed_out=status in TIMEOUT_STATUSES and duration_s >= timeout_s,
        )


class ContainerCommands:
    """Commands inside one running container, by the Docker API: no shell reads them, and nothing secret is in them."""

    def __init__(self, client: docker.DockerClient, name: str, *, user: str = "") -> None:
        self._client = client
        self._name = name
        self._user = user

    @property
    def place(self) -> str:
        """See Commands.place."""
        return f"container {self._name}"

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: int,
        environment: Mapping[str, str] | None = None,
        stdin: IO[bytes] | None = None,
        on_stdout: Consumer | None = None,
        workdir: str | None = None,
    ) -> Finished:
        """See Commands.run.

        The Docker API cannot end what it started, so `timeout` inside the container keeps the deadline, also when this
        process is killed.
        """
        begun = time.monotonic()
        bounded = ["sh", "-c", BOUNDED, "sh", str(KILL_GRACE_S), str(timeout_s), *argv]
        output = _Output(f"{argv[0]} in {self.place}", on_stdout)
        api = self._client.api
        try:
            execution = api.exec_create(
                self._name,
                bounded,
                stdin=stdin is not None,
                environment=dict(environment or {}),
                workdir=workdir,
                user=self._user,
            )["Id"]
            stream = api.exec_start(execution, socket=True)
            raw: Any = getattr(stream, "_sock", stream)
            raw.settimeout(None)
            with _hanging_up(raw, timeout_s + KILL_GRACE_S + LATE_S) as hung_up:
                feeder = _feed_in_background(raw, stdin) if stdin is not None else None
                for kind, data in frames_iter(stream, tty=False):  # type: ignore[no-untyped-call]
                    (output.out if kind == STDOUT_STREAM else output.err)(data)
                if feeder is not None:
                    feeder.join()
            if hung_up.is_set():
                raise ReleaseError(
                    f"Running {argv[0]} in {self.place} was given up: it did not end within {timeout_s} s, nor was it "
                    "seen to end; see with `docker ps` whether the container is paused, and run again."
                )
            status = _settled_exit_status(api, execution)
        except (docker.errors.DockerException, OSError) as error:
            raise ReleaseError(
                f"Running {argv[0]} in {self.place} failed ({_docker_reason(error)}): "
                "check with `docker ps` that the container runs."
            ) from error
        return output.finished(argv, status, begun, timeout_s)


class HostCommands:
    """Commands on the target itself, for a target without the container."""

    place = "the target"

    def __init__(self, workdir: str | None = None) -> None:
        self._workdir = workdir

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: int,
        environment: Mapping[str, str] | None = None,
        stdin: IO[bytes] | None = None,
        on_stdout: Consumer | None = None,
        workdir: str | None = None,
    ) -> Finished:
        """See Commands.run."""
        begun = time.monotonic()
        output = _Output(f"{argv[0]} on the target", on_stdout)
        try:
            process = subprocess.Popen(
                ["timeout", "-k", str(KILL_GRACE_S), str(timeout_s), *argv],
                stdin=stdin or subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **(environment or {})},
                cwd=workdir or self._workdir,
            )
        except OSError as error:
            folder = workdir or self._workdir
            if folder and not Path(folder).is_dir():
                raise no_working_folder(f"{argv[0]} on the target", folder) from error
            raise ReleaseError(
                f"Running {argv[0]} on the target failed ({error.strerror}): install it there."
            ) from error
        stdout, stderr = cast(IO[bytes], process.stdout), cast(IO[bytes], process.stderr)
        until = begun + timeout_s + KILL_GRACE_S + LATE_S
        errors = threading.Thread(target=_drain, args=(stderr, output.err, until), daemon=True)
        errors.start()
        try:
            ended = _drain(stdout, output.out, until)
        except BaseException:
            # `timeout` hands it on; killed itself, it would leave the program working.
            process.terminate()
            raise
        finally:
            status = process.wait()
            errors.join()
            stdout.close()
            stderr.close()
        if not ended:
            raise ReleaseError(
                f"Running {argv[0]} on the target was given up: a program that it left behind holds its output for "
                f"longer than {timeout_s} s; see with `ps` what still works there, end it, and run again."
            )
        return output.finished(argv, status, begun, timeout_s)


class EngineApi(docker.APIClient):
    """What asks the engine, without a login: one of ~/.netrc would go to an engine that is reached by TCP."""

    @property
    def auth(self) -> Callable[[Any], Any]:
        """Not that of the session, which has none until its first request."""
        return lambda request: request

    @auth.setter
    def auth(self, _: Any) -> None:
        pass


class Engine(docker.DockerClient):
    """The client of the SDK, with that."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As there."""
        self.api = EngineApi(*arguments, **options)


def docker_client() -> docker.DockerClient:
    """The target's container engine; raises ReleaseError when there is none."""
    try:
        return Engine.from_env(timeout=60)
    except docker.errors.DockerException as error:
        raise ReleaseError(
            f"Reaching the container engine on the target failed ({_docker_reason(error)}): "
            "start it, or let the deploying user use its socket."
        ) from error


class WithEnvironment:
    """Commands whose programs all have some more variables."""

    def __init__(self, commands: Commands, environment: Mapping[str, str]) -> None:
        self._commands, self._environment, self.place = commands, dict(environment), commands.place

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: int,
        environment: Mapping[str, str] | None = None,
        stdin: IO[bytes] | None = None,
        on_stdout: Consumer | None = None,
        workdir: str | None = None,
    ) -> Finished:
        """See Commands.run."""
        given = {**self._environment, **(environment or {})}
        return self._commands.run(
            argv, timeout_s=timeout_s, environment=given, stdin=stdin, on_stdout=on_stdout, workdir=workdir
        )


def commands_in(
    container: str | None,
    *,
    workdir: str | None = None,
    user: str = "",
    environment: Mapping[str, str] | None = None,
) -> Commands:
    """Where the commands of a container's program run: in it, or on the target when the inventory names none.

    user: whose commands they are in the container; by default those of the program in it.
    environment: further variables of each program, which stand in no argument list.
    """
    commands: Commands = (
        ContainerCommands(docker_client(), container, user=user) if container else HostCommands(workdir)
    )
    return WithEnvironment(commands, environment) if environment else commands


def _drain(stream: IO[bytes], consume: Consumer, until: float) -> bool:
    """Up to its end, or that moment: what a program leaves behind may hold a stream for ever. Says whether it ended."""
    while select.select([stream], [], [], max(until - time.monotonic(), 0))[0]:
        if not (data := os.read(stream.fileno(), CHUNK)):
            return True
        consume(data)
    return False


@contextmanager
def _hanging_up(raw: Any, after_s: float) -> Iterator[threading.Event]:
    """Hang up after that time, and set the event: a container that is paused keeps no deadline."""
    hung_up = threading.Event()

    def hang_up() -> None:
        hung_up.set()
        with suppress(OSError):
            raw.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(after_s, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield hung_up
    finally:
        timer.cancel()


def _feed_in_background(raw: Any, stdin: IO[bytes]) -> threading.Thread:
    def feed() -> None:
        try:
            while data := stdin.read(CHUNK):
                raw.sendall(data)
        except OSError:
            return  # The command ended before it read everything; its exit status says why.
        finally:
            _half_close(raw)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    return thread


def _half_close(raw: Any) -> None:
    with suppress(OSError):
        raw.shutdown(socket.SHUT_WR)


def _settled_exit_status(api: Any, execution: str) -> int:
    """The engine may report an exit a moment after the streams close."""
    for _ in range(100):
        code = api.exec_inspect(execution)["ExitCode"]
        if code is not None:
            return int(code)
        time.sleep(0.05)
    raise ReleaseError("The container engine never reported how a command ended: restart the container and run again.")


def _docker_reason(error: Exception) -> str:
    explanation = getattr(error, "explanation", None)
    return " ".join(str(explanation or error).split())


def no_working_folder(what: str, folder: str) -> ReleaseError:
    """The sentence where a program could not be started for want of the folder to start it in."""
    return ReleaseError(
        f"Running {what} failed (its working folder {folder} is not there): create or mount it, or correct the "
        "container's working_dir, or app_root of the inventory."
    )


def missing_program(finished: Finished) -> bool:
    """True when the command itself, not what it did, was missing or could not be started."""
    return finished.status in (126, 127)
