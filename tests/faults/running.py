"""A playbook that runs beside the test, and everything that belongs to it: processes, journal lines, sessions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ansible.module_utils.dbrelease.core.journal import Journal, Run
from outside import ARTIFACTS, ROOT, STATE, UNREHEARSED, descendants, docker, patient

LONGEST_RUN_S = 400
USER_INTERRUPTED = 99  # the exit status of ansible-playbook after Ctrl-C

Value = TypeVar("Value")


def lines() -> list[dict[str, Any]]:
    """The target's journal, also before there is one; without a line of which a full disk took only a part."""
    return Journal(Run("", "", "", "", str(STATE))).read()


@dataclass
class Running:
    """One ansible-playbook."""

    playbook: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    before: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.before = len(lines())
        name = f"{self.playbook}_8_1a.yml"
        given = [*UNREHEARSED.get(name, ()), *patient(), *self.arguments]
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read when the run has ended
        self.process = subprocess.Popen(
            ["ansible-playbook", name, "-i", "staging", *given],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Whoever began the tests with nohup ignores it, and so would every process that comes of them.
            preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),
        )

    @property
    def pid(self) -> int:
        """The controller's process."""
        return self.process.pid

    def over(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def lines(self) -> list[dict[str, Any]]:
        """What it has written into the journal; a module of a dead run may be writing there too."""
        new = lines()[self.before :]
        begun = [line["run_id"] for line in new if line["facts"].get("controller", {}).get("pid") == self.pid]
        return [line for line in new if line["run_id"] in begun]

    def has(self, step: str, event: str) -> bool:
        """Whether the journal has this line of it."""
        return any((line["step"], line["event"]) == (step, event) for line in self.lines())

    def module(self) -> int:
        """The process of the module that works for it now, as the claim on the target says; 0 between two."""
        try:
            signed = json.loads((STATE / "run.lock").read_bytes())["module"]
        except (OSError, ValueError, TypeError, KeyError):
            return 0
        return int(signed["pid"]) if signed else 0

    def wait(self) -> Ended:
        """Its end."""
        status = self.process.wait(timeout=LONGEST_RUN_S)
        self.output.seek(0)
        reported = " ".join(self.output.read().split())
        own = self.lines()
        run_id = str(own[0]["run_id"]) if own else ""
        path = ARTIFACTS / run_id / "evidence.json"
        evidence = json.loads(path.read_text()) if run_id and path.exists() else {}
        # On the terminal the cause is a problem of the verdict; in the headline it follows what it led to.
        reported = f"{reported} {evidence.get('headline', '')}"
        killed = status < 0 or status == USER_INTERRUPTED
        return Ended(
            run_id, status, reported, "killed" if killed else str(evidence.get("outcome", "no report")), evidence
        )


@dataclass(frozen=True)
class Ended:
    """How a run ended: killed, without a report, or with an outcome."""

    run_id: str
    status: int
    reported: str
    outcome: str
    evidence: dict[str, Any]


def kill_all(run: Running) -> None:
    """kill -9 of a run's controller and all that it started, as by a machine that fails."""
    for pid in [run.pid, *descendants(run.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def inside(container: str) -> Iterator[Path]:
    """The /proc folders of a container's processes, with this machine's numbers: signals to them need no engine."""
    identity = docker("inspect", "--format", "{{.Id}}", container).strip()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if identity in (folder / "cgroup").read_text():
                yield folder


def programs(container: str, *demanded: str) -> list[int]:
    """A container's processes that have these words in their command line, and have no child: not what wraps them."""
    found = []
    for folder in inside(container):
        with suppress(OSError):
            words = [part.rpartition(b"/")[2].decode() for part in (folder / "cmdline").read_bytes().split(b"\0")]
            if {*demanded} <= {*words} and not list(descendants(int(folder.name))):
                found.append(int(folder.name))
    return found


def server_process(container: str, pid: int) -> int:
    """This machine's number of the process that has a number of its own in a container."""
    for folder in inside(container):
        with suppress(OSError, IndexError):
            status = (folder / "status").read_text()
            if int(status.split("NSpid:")[1].split("\n")[0].split()[-1]) == pid:
                return int(folder.name)
    raise AssertionError(f"{container} has no process {pid}")


def until(condition: Callable[[], Value], run: Running, what: str, timeout_s: float = 240) -> Value:
    """Wait for it, for as long as the run goes on: a moment that never came is a failed test."""
    deadline = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        if run.over() or time.monotonic() > deadline:
            raise AssertionError(f"the moment never came: {what}\n{run.wait().reported[-3000:] if run.over() else ''}")
        time.sleep(0.01)
