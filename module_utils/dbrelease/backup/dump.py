"""A dump file: streamed from pg_dump to disk with its hash, and decoded in full from what is on disk."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..core.display import last_words
from ..core.errors import ReleaseError
from ..core.files import create_private, write_failure
from ..core.own_files import reading
from ..host.commands import CHUNK, Commands, Finished
from ..postgres import transport
from ..postgres.session import Login, connect
from ..postgres.terminate import end_sessions

FORMAT = "custom"
KILLED_STATUS = 137
LOCK_WAIT_LIMIT_MS = 60_000
# A compromised container may send a dump without end; and the server may need the same disk.
RESERVE_BYTES, LOOK_EVERY_BYTES = 256 << 20, 64 << 20


@dataclass(frozen=True)
class Dumped:
    """A whole file on disk, as it was written."""

    path: Path
    sha256: str
    bytes: int
    duration_ms: int


@dataclass(frozen=True)
class Decoded:
    """The same file, read back: pg_restore understood all of it, and its hash is what was written."""

    sha256: str
    bytes: int
    duration_ms: int


class DumpFile:
    """Writes a stream to disk with its hash; after an error it discards the rest, so that the stream can end.

    It never fills a disk.
    """

    def __init__(self, path: Path) -> None:
        """Create the file; raises ReleaseError where that is not possible."""
        self.path = path
        self.bytes = 0
        self.error: OSError | None = None
        self._hash = hashlib.sha256()
        self._look_at = LOOK_EVERY_BYTES
        self._open = True
        try:
            self._descriptor = create_private(path)
        except OSError as error:
            raise write_failure(path, error) from error

    def write(self, data: bytes) -> None:
        """Append; an error is kept for close()."""
        if self.error is not None or not self._open:
            return
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            self.error = error
            return
        self._hash.update(data)
        self.bytes += len(data)
        if self.bytes >= self._look_at:
            self._look_at = self.bytes + LOOK_EVERY_BYTES
            room = os.fstatvfs(self._descriptor)
            if room.f_bavail * room.f_frsize < RESERVE_BYTES:
                self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> str:
        """Make it durable, and forget it in memory so that the next reader reads the disk; returns the sha256."""
        try:
            if self.error is None:
                os.fsync(self._descriptor)
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            self.error = error
        finally:
            self.release()
        if self.error is not None:
            raise write_failure(self.path, self.error) from self.error
        return self._hash.hexdigest()

    def release(self) -> None:
        """Close the file in any case."""
        if self._open:
            self._open = False
            os.close(self._descriptor)


def tool_environment(login: Login, application_name: str, *, inside: bool) -> dict[str, str]:
    """How pg_dump finds the database: inside its own container by the local socket, elsewhere by the address.

    Through the environment, because every user can read an argument list.
    """
    environment = {
        "PGUSER": login.user,
        "PGDATABASE": login.database,
        "PGAPPNAME": application_name,
    }
    if inside:
        environment["PGPORT"] = _own_port(login)
    else:
        environment |= {"PGHOST": login.host, "PGPORT": str(login.port)}
        environment |= transport.environment(login.ssl_mode, login.ssl_root_cert)
    if login.password is not None:
        environment["PGPASSWORD"] = login.password
    return environment


def _own_port(login: Login) -> str:
    """The port that the server itself uses, also in the name of its socket; from outside it may be another."""
    with closing(connect(login, "dbrelease port", read_only=True)) as session, session.cursor() as cursor:
        cursor.execute("SHOW port")
        ((port,),) = cursor.fetchall()
    return str(port)


def run_pg_dump(
    commands: Commands,
    file: DumpFile,
    snapshot: str,
    environment: dict[str, str],
    timeout_s: int,
    *,
    by_root: bool = False,
) -> Finished:
    """Stream the dump of one exported snapshot into the file, to pg_dump's end or the deadline.

    by_root: each row is loaded through its partitioned table, as a restore may have to move it to another partition.
    """
    argv = [
        "pg_dump",
        f"--format={FORMAT}",
        "--compress=1",
        "--no-password",
        f"--snapshot={snapshot}",
        f"--lock-wait-timeout={LOCK_WAIT_LIMIT_MS}",
        *(["--load-via-partition-root"] if by_root else []),
    ]
    return commands.run(argv, timeout_s=timeout_s, environment=environment, on_stdout=file.write)


def dump_failure(finished: Finished, commands: Commands, login: Login, timeout_s: int) -> ReleaseError | None:
    """The error for a pg_dump that failed, or None."""
    if finished.status == 0:
        return None
    where = f"Dumping the {login.label} in {commands.place} failed"
    if finished.timed_out:
        return ReleaseError(f"{where} (not done in {timeout_s} s): allow more time, or find out what it waits for.")
    silent = "it was killed" if finished.status == KILLED_STATUS else "it printed no error"
    reason = last_words(finished.stderr, 600, login.password) or silent
    return ReleaseError(f"{where} with status {finished.status} ({reason}): remove the cause and rerun the playbook.")


def verify_dump(
    path: Path, sha256: str, commands: Commands, timeout_s: int, on_read: Callable[[int], object] = int
) -> Decoded:
    """Read the file from disk through pg_restore, all of it; raises ReleaseError unless it is whole and unchanged.

    `pg_restore --list` would accept a truncated or a flipped file: only decoding every block finds those, and only the
    hash finds what the decoder skips. on_read: called with the number of bytes that were read so far.
    """
    try:
        file = reading(path)
    except OSError as error:
        raise ReleaseError(f"Reading {path} failed ({error.strerror}): take a new backup.") from error
    with file:
        feed = _Feed(file, on_read)
        try:
            finished = commands.run(["pg_restore", "--file=/dev/null"], timeout_s=timeout_s, stdin=feed.reading_end)
        finally:
            feed.finish()
    _judge_decoding(path, sha256, feed, finished, commands)
    return Decoded(feed.sha256, feed.bytes, finished.duration_ms)


def _judge_decoding(path: Path, sha256: str, feed: _Feed, finished: Finished, commands: Commands) -> None:
    tried = f"Decoding {path} by pg_restore in {commands.place} failed"
    if feed.error is not None:
        raise ReleaseError(f"{tried} ({feed.error.strerror}): repair the disk and take a new backup.")
    if finished.timed_out and not finished.stderr:
        raise ReleaseError(f"{tried} (not done in time): allow more time, and rerun the playbook.")
    if finished.status != 0:
        reason = last_words(finished.stderr, 300) or f"status {finished.status}"
        raise ReleaseError(
            f"{tried} ({reason}): the file is not what pg_dump wrote; check the disk, take a new backup."
        )
    if feed.sha256 != sha256:
        raise ReleaseError(
            f"Reading {path} back gave sha256 {feed.sha256[:12]}..., expected {sha256[:12]}...: "
            "the file on disk is not what pg_dump wrote; check the disk and take a new backup."
        )


class _Feed:
    """A pipe with the file's bytes in it, hashed on the way; hashed to the end also where the reader stops early."""

    def __init__(self, file: BinaryIO, on_read: Callable[[int], object]) -> None:
        self.bytes = 0
        self.error: OSError | None = None
        self._file, self._on_read = file, on_read
        self._hash = hashlib.sha256()
        reading, self._writing = os.pipe()
        self.reading_end = os.fdopen(reading, "rb")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def sha256(self) -> str:
        """Of all that was read."""
        return self._hash.hexdigest()

    def finish(self) -> None:
        """Wait for the last byte of the file."""
        self.reading_end.close()
        self._thread.join()

    def _run(self) -> None:
        taken = True
        try:
            while data := self._file.read(CHUNK):
                self._hash.update(data)
                self.bytes += len(data)
                taken = taken and self._write(data)
                self._on_read(self.bytes)
        except OSError as error:
            self.error = error
        finally:
            os.close(self._writing)

    def _write(self, data: bytes) -> bool:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._writing, rest) :]
        except BrokenPipeError:
            return False
        return True


POLL_S = 0.2
LOST_DUMP_S = 30.0


@dataclass(frozen=True)
class Limits:
    """Who dumps, under which name of its server session, whether inside the database's container, and for how long."""

    login: Login
    application_name: str
    inside: bool
    timeout_s: int
    by_root: bool = False


class Dumping:
    """A running dump."""

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
            limits = self._limits
            self._finished = run_pg_dump(
                self._commands, self._file, snapshot, environment, limits.timeout_s, by_root=limits.by_root
            )
        except Exception as error:  # a thread's error is raised by result()
            self._error = error

    def result(self) -> Dumped:
        """Wait for the end; raises ReleaseError unless pg_dump succeeded and all of its output is on disk."""
        while self._thread.is_alive():
            self._thread.join(POLL_S)
            if self._file.error is not None:
                # The rest of the stream is useless.
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
    """Dump one exported snapshot while the block runs; after an error in it the dump is stopped."""
    try:
        dump = Dumping(commands, file, snapshot, limits)
        try:
            yield dump
        except BaseException:
            dump.end()
            raise
    finally:
        file.release()
