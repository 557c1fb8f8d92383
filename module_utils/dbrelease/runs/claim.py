"""Which run may act on a target: what a claim records about its holder, and what follows from the holder's state."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..core.journal import RUN_ID, Run
from ..core.json_shape import Shape, difference
from ..core.process import Machine, Process

Life = Literal["alive", "dead", "unknown"]
Decision = Literal["take", "refuse", "end_module", "wait"]
IsRunning = Callable[[Process], bool]
Line = Mapping[str, Any]

CLAIM_NAME = "run.lock"
CLAIM_STEP = "claim"
_PROCESS: Shape = ({"pid": int, "started": str}, None)
SHAPE: Shape = {
    **dict.fromkeys(("run_id", "playbook", "release", "environment", "since", "user", "controller"), str),
    **{"controller_pid": int, "controller_started": str, "boot_id": str, "pid_namespace": str},
    **{"target_boot_id": str, "target_pid_namespace": str, "module": _PROCESS, "connection": _PROCESS},
}
# Written in one piece: who is killed at it leaves the old content or the new.
SIZE = 2048


@dataclass(frozen=True)
class Claim:
    """Who may act: a run, and how to determine whether it is alive. The claim informs; the kernel's lock excludes.

    module: the process that holds the kernel's lock, None between two tasks. connection: the SSH session it belongs to.
    """

    run_id: str
    playbook: str
    release: str
    environment: str
    since: str
    user: str
    controller: str
    controller_pid: int
    controller_started: str
    boot_id: str
    pid_namespace: str
    target_boot_id: str
    target_pid_namespace: str
    module: Process | None = None
    connection: Process | None = None

    @classmethod
    def of(cls, run: Run, controller: Mapping[str, Any], here: Machine, since: str) -> Claim:
        """The claim of a run; `controller` is what the lookup of that name returns, or empty."""
        return cls(
            run_id=run.run_id,
            playbook=run.playbook,
            release=run.release,
            environment=run.environment,
            since=since,
            user=str(controller.get("user") or "unknown"),
            controller=str(controller.get("host") or "unknown"),
            controller_pid=int(controller.get("pid") or 0),
            controller_started=str(controller.get("started") or ""),
            boot_id=str(controller.get("boot_id") or ""),
            pid_namespace=str(controller.get("pid_namespace") or ""),
            target_boot_id=here.boot_id,
            target_pid_namespace=here.pid_namespace,
        )

    @property
    def is_local(self) -> bool:
        """Whether the controller ran on the target's machine, so that its process can be checked."""
        controller = Machine(self.boot_id, self.pid_namespace)
        return all(
            (self.controller_pid, *asdict(controller).values())
        ) and controller == Machine(self.target_boot_id, self.target_pid_namespace)  # fmt: skip

    @property
    def process(self) -> Process:
        """The controller's."""
        return Process(self.controller_pid, self.controller_started)

    @property
    def words(self) -> str:
        """The holder, for a sentence."""
        return (
            f"run {self.run_id} ({self.playbook} of release {self.release}) by {self.user} on {self.controller}, "
            f"since {self.since}"
        )

    def held_by(self, module: Process | None, connection: Process | None = None) -> Claim:
        """The same claim, with the process that holds the kernel's lock."""
        return replace(self, module=module, connection=connection)


def encode(claim: Claim | None) -> bytes:
    """What is in the file, always of one size."""
    text = json.dumps(asdict(claim)) if claim else ""
    return text.encode()[: SIZE - 1].ljust(SIZE - 1) + b"\n"


def decode(content: bytes) -> Claim | None:
    """The claim in the file; None where there is none, or none that can be read."""
    try:
        values = json.loads(content)
        if difference(values, SHAPE) or not re.fullmatch(RUN_ID, values["run_id"]):
            return None
        processes = {key: _process(values[key]) for key in ("module", "connection")}
        return Claim(**{**values, **processes})
    except (ValueError, TypeError, RecursionError):
        return None


def _process(values: Mapping[str, Any] | None) -> Process | None:
    """Its number is that of one process: 0 and less would mean many."""
    return Process(**values) if values and values["pid"] > 0 else None


def life_of(claim: Claim, here: Machine, running: IsRunning, *, held: bool) -> Life:
    """Whether the holder is alive, as far as this machine can determine; `held`: one of its processes has the lock."""
    if claim.is_local:
        if claim.target_boot_id != here.boot_id:
            return "dead"
        if claim.target_pid_namespace != here.pid_namespace:
            return "unknown"
        return "alive" if running(claim.process) else "dead"
    if not held:
        return "unknown"
    # A remote controller: its module is running, but for which client? The SSH session ends with its client.
    lost = claim.connection is not None and not running(claim.connection)
    return "dead" if lost else "alive"


def decide(claim: Claim | None, run_id: str, life: Life, *, held: bool, closed: bool) -> Decision:
    """What a run that wants the claim does; `wait` means to check again, for signs of life or for the lock."""
    nobody = claim is None or closed or claim.run_id == run_id
    if held:
        if nobody:
            return "wait"
        return {"alive": "refuse", "dead": "end_module", "unknown": "wait"}[life]  # type: ignore[return-value]
    if nobody:
        return "take"
    return {"alive": "refuse", "dead": "take", "unknown": "wait"}[life]  # type: ignore[return-value]


def is_closed(lines: Sequence[Line], run_id: str) -> bool:
    """Whether the journal has the end of a run."""
    # From behind, where it is: a journal may have the lines of many runs.
    return any(
        line["step"] == "run" and line["event"] != "started" and line["run_id"] == run_id for line in reversed(lines)
    )  # fmt: skip


def open_steps(lines: Sequence[Line], run_id: str) -> list[str]:
    """The steps of a run that began and have no end, in the order in which they began."""
    opened: list[str] = []
    for line in lines:
        if line["run_id"] != run_id or line["step"] == "run":
            continue
        if line["event"] == "started":
            opened.append(line["step"])
        elif line["step"] in opened:
            # The last one: a step may be in the journal twice.
            del opened[len(opened) - 1 - opened[::-1].index(line["step"])]
    return opened


def progress_of(lines: Sequence[Line], run_id: str) -> str:
    """How far a run has come, for a sentence."""
    if opened := open_steps(lines, run_id):
        return f"at step {opened[-1]}"
    done = [line["step"] for line in lines if line["run_id"] == run_id and line["step"] not in ("run", CLAIM_STEP)]
    return f"after step {done[-1]}" if done else "before its first step"


def claimed_later(lines: Sequence[Line], run_id: str) -> Line | None:
    """The newest line by which another run claimed the target after this one had, or None."""
    claims = [line for line in lines if line["step"] == CLAIM_STEP and line["event"] == "passed"]
    if any(line["run_id"] == run_id for line in claims) and claims[-1]["run_id"] != run_id:
        return claims[-1]
    return None
