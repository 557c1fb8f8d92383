"""Run a command in a container or on the target itself, and return its exit status."""

from __future__ import annotations

import os
import re
import select
import socket
import struct
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
from docker.context import ContextAPI
from docker.context.config import get_current_context_name

from ..core.errors import ReleaseError

CHUNK = 1 << 20
# The engine prints this instead of the program, with the status of a program that could not be started.
NO_FOLDER = re.compile(r'chdir to cwd \("(?P<path>[^"\n]{1,1024})"\)')
# Printed by runc or crun for the shell, and by the shell for `timeout`.
NO_PROGRAM = re.compile(
    r"""^(?:OCI runtime .*|.*crun: )?(?:exec: |executable file )["`'](?P<sh>sh)["`']:? (?:executable file )?not found"""
    r"""|^(?:/bin/)?sh: (?:[a-z0-9 ]+: )*(?P<timeout>timeout): not found""",
    re.MULTILINE,
)
KEPT_ERROR_BYTES = 64 << 10
# Output that is collected: revisions, a preview's SQL, versions. A container may print endlessly.
OUTPUT_BYTES_AT_MOST = 128 << 20
KILL_GRACE_S = 5
# By default `timeout` signals its whole group, itself included, before the program has ended. The container's first
# process would adopt the orphan; Postgres there takes it for a crashed child of its own, and terminates every session.
# The `timeout` of Busybox has neither that default nor the option.
BOUNDED = """
case $(sed -n 's/^Name:[[:space:]]*//p' /proc/1/status) in post*)
  timeout --foreground 0 true 2>/dev/null && exec timeout --foreground -k "$@"
esac
exec timeout -k "$@"
"""
LATE_S = 20
TIMEOUT_STATUSES = (124, 137)
STDOUT_STREAM = 1
FRAME_HEAD = struct.Struct(">BxxxL")  # which stream, and how many bytes of it follow

Consumer = Callable[[bytes], None]


@dataclass(frozen=True)
class Finished:
    """How a command ended. `stdout` is empty where a consumer received it; `stderr` is its last 64 KiB.

    timed_out: the deadline ended it, not the command itself or another signal.
    """

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
    duration_ms: int
    timed_out: bool = False


class Commands(Protocol):
    """A host or a container that runs commands."""

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
        """Run until the command ends or the deadline passes; never raises for an exit status."""


class _Output:
    """Collects both streams; a consumer, if any, receives stdout instead."""

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
                f"Running {self._what} was stopped (it printed more than {OUTPUT_BYTES_AT_MOST} bytes): check which "
                "program runs there under that name, and rerun the playbook."
            )

    def err(self, data: bytes) -> None:
        self._stderr.extend(data)
        del self._stderr[:-KEPT_ERROR_BYTES]

    def finished(self, argv: Sequence[str], status: int, begun: float, timeout_s: int) -> Finished:
        printed = (self._stderr + self._stdout).decode(errors="replace") if status in (126, 127) else ""
        if folder := NO_FOLDER.search(printed):
            raise no_working_folder(self._what, folder["path"])
        if missing := NO_PROGRAM.search(printed):
            raise no_shell(self._what, missing["sh"] or missing["timeout"])
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
    """Commands inside one running container, by the Docker API: no shell parses them, and they contain no secrets."""

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

        The Docker API cannot end a program that it started, so `timeout` inside the container enforces the deadline,
        also when this process is killed.
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
                for kind, data in _frames(stream):
                    (output.out if kind == STDOUT_STREAM else output.err)(data)
                if feeder is not None:
                    _hang_up(raw)  # the program has ended; the engine would hold back what it did not read
                    feeder.join()
            if hung_up.is_set():
                raise ReleaseError(
                    f"Waiting for {argv[0]} in {self.place} was stopped: it did not end within {timeout_s} s, and it "
                    "may still be running; check with `docker ps` whether the container is paused, and rerun the "
                    "playbook."
                )
            status = _settled_exit_status(api, execution)
        except (docker.errors.DockerException, OSError) as error:
            raise ReleaseError(
                f"Running {argv[0]} in {self.place} failed ({engine_reason(error)}): "
                "check with `docker ps` that the container is running."
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
            # `timeout` forwards SIGTERM; if it were killed, the program would continue.
            process.terminate()
            raise
        finally:
            status = process.wait()
            errors.join()
            stdout.close()
            stderr.close()
        if not ended:
            raise ReleaseError(
                f"Waiting for {argv[0]} on the target was stopped: a program that it started has kept its output open "
                f"for more than {timeout_s} s; find it with `ps`, terminate it, and rerun the playbook."
            )
        return output.finished(argv, status, begun, timeout_s)


class EngineApi(docker.APIClient):
    """The engine's API without a login: `requests` would send one of ~/.netrc to an engine that is reached by TCP."""

    @property
    def auth(self) -> Callable[[Any], Any]:
        """No login; the session would read ~/.netrc at its first request."""
        return lambda request: request

    @auth.setter
    def auth(self, _: Any) -> None:
        pass


class Engine(docker.DockerClient):
    """The client of the SDK, with EngineApi."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take the arguments of docker.DockerClient."""
        self.api = EngineApi(*arguments, **options)


def docker_client() -> docker.DockerClient:
    """Connect to the target's container engine; raises ReleaseError where that fails."""
    name, address = _context()
    environment = {**os.environ, "DOCKER_HOST": address} if name else None
    try:
        return Engine.from_env(timeout=60, environment=environment)
    except docker.errors.DockerException as error:
        by = f" by the Docker context {name}" if name else ""
        raise ReleaseError(
            f"Reaching the container engine on the target{by} failed ({engine_reason(error)}): "
            "start it, or give the deploying user access to its socket."
        ) from error


def _context() -> tuple[str, str]:
    """The deploying user's Docker context and the engine's address there; empty where the variables decide.

    The command `docker` uses the context, and the SDK does not: on a target with two engines, such as a rootless one,
    the SDK would work on the wrong one.
    """
    name = os.environ.get("DOCKER_CONTEXT", "")
    if not name and not os.environ.get("DOCKER_HOST"):
        name = get_current_context_name()
    if name in ("", "default"):
        return "", ""
    try:
        found = ContextAPI.get_context(name)
        address = str(found.Host)
    except Exception as error:  # the SDK raises plain exceptions for a context that it cannot read
        raise ReleaseError(
            f"Reading the Docker context {name} of the deploying user failed ({' '.join(str(error).split())[:200]}): "
            "see `docker context ls`, or set DOCKER_HOST there."
        ) from error
    if not address.startswith("unix://"):
        raise ReleaseError(
            f"The Docker context {name} of the deploying user leads to {address.partition('://')[0]}://, and not to an "
            "engine of the target: make the machine that runs the containers the target, or run `docker context use "
            "default` there.",
            refused=True,
        )
    return name, address


class WithEnvironment:
    """Commands whose programs all have additional environment variables."""

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
    """Return the commands of a container, or of the target where the inventory names no container.

    user: the user in the container; by default that of its program.
    environment: additional variables of each program, which appear in no argument list.
    """
    commands: Commands = (
        ContainerCommands(docker_client(), container, user=user) if container else HostCommands(workdir)
    )
    return WithEnvironment(commands, environment) if environment else commands


def _drain(stream: IO[bytes], consume: Consumer, until: float) -> bool:
    """Read a stream until it ends, or until that moment: a child may keep it open. Returns whether it ended."""
    while select.select([stream], [], [], max(until - time.monotonic(), 0))[0]:
        if not (data := os.read(stream.fileno(), CHUNK)):
            return True
        consume(data)
    return False


def _frames(stream: Any) -> Iterator[tuple[int, bytes]]:
    """Every piece of output with the number of its stream.

    The SDK's own reader takes them from the socket. On a busy machine the first ones arrive together with the head of
    the answer, and are in the buffer of its reader by then: they would be lost (docker-py issue 3332).
    """
    reader = stream._response.raw._fp.fp
    while len(head := reader.read(FRAME_HEAD.size)) == FRAME_HEAD.size:
        kind, left = FRAME_HEAD.unpack(head)
        while left and (data := reader.read(min(left, CHUNK))):
            left -= len(data)
            yield kind, data


@contextmanager
def _hanging_up(raw: Any, after_s: float) -> Iterator[threading.Event]:
    """Hang up after that time, and set the event: in a paused container no deadline is enforced."""
    hung_up = threading.Event()

    def hang_up() -> None:
        hung_up.set()
        _hang_up(raw)

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


def _hang_up(raw: Any) -> None:
    with suppress(OSError):
        raw.shutdown(socket.SHUT_RDWR)


def _half_close(raw: Any) -> None:
    with suppress(OSError):
        raw.shutdown(socket.SHUT_WR)


def _settled_exit_status(api: Any, execution: str) -> int:
    """Wait for the exit status: the engine may report it a moment after the streams close."""
    for _ in range(100):
        code = api.exec_inspect(execution)["ExitCode"]
        if code is not None:
            return int(code)
        time.sleep(0.05)
    raise ReleaseError(
        "The container engine did not report the exit status of a command: restart the container, and rerun the "
        "playbook."
    )


def engine_reason(error: object) -> str:
    """What the engine says of an error, on one line."""
    explanation = getattr(error, "explanation", None)
    return " ".join(str(explanation or error).split())


def no_working_folder(what: str, folder: str) -> ReleaseError:
    """The error of a program that could not be started because its working folder is missing."""
    return ReleaseError(
        f"Running {what} failed (its working folder {folder} does not exist): create or mount it, or correct the "
        "container's working_dir, or app_root of the inventory."
    )


def no_shell(what: str, program: str) -> ReleaseError:
    """The error of a container that has none of the programs by which every command is run there."""
    return ReleaseError(
        f"Running {what} failed (its image has no {program} in its PATH): use an image that has `sh` and `timeout`, as "
        "each command in a container is run by these, or a second container of the same application that has them.",
        refused=True,
    )


def missing_program(finished: Finished) -> bool:
    """True where the program itself was missing or could not be started."""
    return finished.status in (126, 127)
