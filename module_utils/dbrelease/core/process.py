"""This machine and its processes, from /proc: whether a recorded process is still the same, and running."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

END_GRACE_S = 1.0
POLL_S = 0.05


@dataclass(frozen=True)
class Process:
    """A process that cannot be confused with a later one of the same number; `started` is in clock ticks since boot."""

    pid: int
    started: str


@dataclass(frozen=True)
class Machine:
    """What numbers of processes belong to: one start of one machine, and there one namespace."""

    boot_id: str
    pid_namespace: str


def this_machine() -> Machine:
    """The machine that this runs on; parts that it does not report are empty."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return Machine(_read("/proc/sys/kernel/random/boot_id").strip(), namespace)


def process_of(pid: int) -> Process | None:
    """The process that has this number now."""
    fields = _fields(pid)
    return Process(pid, fields[19]) if fields else None


def is_running(process: Process) -> bool:
    """Whether that very process is still running; one whose start is hidden from this user counts as running."""
    fields = _fields(process.pid)
    if fields:
        dead = fields[0] in ("Z", "X")
        return not dead and process.started in ("", fields[19])
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # It could not be read before, and exists now: another process, which has just started.
    return not Path("/proc/self/stat").exists()


def connection_of(pid: int) -> Process | None:
    """The nearest ancestor that is an SSH server's session: it ends with its client. None where there is none."""
    for ancestor in ancestors(pid):
        if _read(f"/proc/{ancestor}/comm").startswith("sshd"):
            return process_of(ancestor)
    return None


def ancestors(pid: int) -> Iterator[int]:
    """The parent of a process, its parent, and so on."""
    while fields := _fields(pid):
        pid = int(fields[1])
        if pid <= 0:
            return
        yield pid


def has_open(process: Process, path: Path) -> bool:
    """Whether that process, of this user, has that file open, which none that has nothing to do with it does."""
    try:
        proc = Path(f"/proc/{process.pid}")
        return proc.stat().st_uid == os.geteuid() and any(_same(one, path) for one in (proc / "fd").iterdir())
    except OSError:
        return False


def end(process: Process, grace_s: float = END_GRACE_S) -> bool:
    """End a process for certain, after this long to end in order; returns whether it has ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not is_running(process):
            return True
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        deadline = time.monotonic() + grace_s
        while is_running(process) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    return not is_running(process)


def _same(descriptor: Path, path: Path) -> bool:
    try:
        return descriptor.samefile(path)
    except OSError:
        return False


def _fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third, the state: the second, the program's name, may contain anything."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
