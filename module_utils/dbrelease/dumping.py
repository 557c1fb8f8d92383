"""pg_dump in a thread of its own, because the baseline is read meanwhile; ended for certain where it is not wanted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .commands import Commands, Finished
from .database import Login
from .dump import Dumped, DumpFile, dump_failure, run_pg_dump, tool_environment
from .sessions import end_sessions

POLL_S = 0.2
LOST_DUMP_S = 30.0


@dataclass(frozen=True)
class Limits:
    """Who dumps, under which name of its server session, whether inside the database's container, and for how long."""

    login: Login
    application_name: str
    inside: bool
    timeout_s: int


class Dumping:
    """A dump under way."""

    def __init__(self, commands: Commands, file: DumpFile, snapshot: str, limits: Limits) -> None:
        """Start it."""
        self._commands, self._file, self._limits = commands, file, limits
        self._finished: Finished | None = None
        self._error: Exception | None = None
        environment = tool_environment(limits.login, limits.application_name, inside=limits.inside)
        self._thread = threading.Thread(target=self._run, args=(snapshot, environment), daemon=True)
        self._thread.start()

    def _run(self, snapshot: str, environment: dict[str, str]) -> None:
        try:
            self._finished = run_pg_dump(self._commands, self._file, snapshot, environment, self._limits.timeout_s)
        except Exception as error:  # a thread's error is raised by result()
            self._error = error

    def result(self) -> Dumped:
        """Wait for the end; raises ReleaseError unless pg_dump succeeded and all of its output is on disk."""
        while self._thread.is_alive():
            self._thread.join(POLL_S)
            if self._file.error is not None:
                # The rest of the stream is worth nothing.
                self.end()
        if self._file.error is None:
            self._raise_failure()
        sha256 = self._file.close()
        duration_ms = self._finished.duration_ms if self._finished else 0
        return Dumped(self._file.path, sha256, self._file.bytes, duration_ms)

    def _raise_failure(self) -> None:
        if self._error is not None:
            raise self._error
        if self._finished is None:
            return
        failure = dump_failure(self._finished, self._commands, self._limits.login, self._limits.timeout_s)
        if failure is not None:
            raise failure

    def end(self) -> None:
        """End pg_dump by ending its server session, wherever the program itself runs."""
        deadline = time.monotonic() + LOST_DUMP_S
        while True:
            end_sessions(self._limits.login, self._limits.application_name)
            self._thread.join(POLL_S)
            if not self._thread.is_alive() or time.monotonic() > deadline:
                return


@contextmanager
def dumping(commands: Commands, file: DumpFile, snapshot: str, limits: Limits) -> Iterator[Dumping]:
    """Dump one exported snapshot while the block runs; after an error in it nothing of the dump goes on."""
    try:
        dump = Dumping(commands, file, snapshot, limits)
        try:
            yield dump
        except BaseException:
            dump.end()
            raise
    finally:
        file.release()
