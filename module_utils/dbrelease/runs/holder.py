"""Claim a target for a run, show that the run lives, and give the target back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ReleaseError
from ..core.journal import Journal, Run, utc_now
from ..core.process import END_GRACE_S, end, has_open, is_running, this_machine
from .claim import Claim, decide, is_closed, life_of, progress_of
from .claim_file import POLL_S, HeldFile, lock, path_in, peek, try_lock

# A remote holder that gives no sign of life for so long is dead. Within it a refusal is due as well.
WATCH_S = 3.0
WAIT_S = 4.0
PRESENT_S = 0.5
# How long a module may take to put right what it had begun: a restore starts the application, and waits for it.
IN_ORDER_S = 150.0

HELD: dict[Path, HeldFile] = {}


@dataclass(frozen=True)
class Claimed:
    """The result of claiming: refused because of `holder`, or claimed, from `holder` if that one was dead.

    silent: a holder on another machine gave no sign of life. If it is alive, its next module is refused.
    """

    refused: bool
    holder: Claim | None
    step: str = ""
    ended_module: int = 0
    silent: bool = False

    @property
    def message(self) -> str:
        """One sentence, empty where there is nothing to report."""
        if self.holder is None:
            return (
                "Another run is starting on this target: rerun the playbook when it has ended." if self.refused else ""
            )
        if self.refused:
            return (
                f"This target is held by {self.holder.words}, which is {self.step}: "
                "wait until it ends, or end it, and rerun the playbook."
            )
        last = f"gave no sign of life for {WATCH_S:.0f} s and was last" if self.silent else "died"
        return f"The claim on this target was taken over from {self.holder.words}, which {last} {self.step}."


def claim(run: Run, controller: Mapping[str, Any]) -> Claimed:
    """Claim the target for a run, unless another one lives; polled, and never longer than WAIT_S."""
    path, journal = path_in(run.state_dir), Journal(run)
    mine = Claim.of(run, controller, this_machine(), utc_now().isoformat(timespec="seconds"))
    begun = time.monotonic()
    first_sign = sign = None
    ended, silent = 0, False
    while True:
        held = try_lock(path)
        holder = held.read() if held else peek(path)
        try:
            lines = journal.read()
            closed = holder is not None and is_closed(lines, holder.run_id)
            life = life_of(holder, this_machine(), is_running, held=not held) if holder else "dead"
            decision = decide(holder, run.run_id, life, held=not held, closed=closed)
            waited = time.monotonic() - begun
            if holder and decision == "wait" and not held:
                decision = "refuse" if waited > WAIT_S else "wait"
            elif holder and decision == "wait":
                sign = (holder, sum(line["run_id"] == holder.run_id for line in lines))
                first_sign = first_sign or sign
                if sign != first_sign:
                    decision = "refuse"
                elif waited > WATCH_S:
                    decision, silent = "take", True
            elif decision == "wait" and waited > WAIT_S:
                decision = "refuse"
            at = progress_of(lines, holder.run_id) if holder else ""
            if decision == "take" and held:
                held.write(mine)
                lost = holder if holder and not closed and holder.run_id != run.run_id else None
                return Claimed(False, lost, at, ended, silent)
        finally:
            if held:
                held.let_go()
        if decision == "refuse":
            return Claimed(True, holder, at)
        if decision == "end_module" and holder:
            ended = end_module(path, holder) or ended
            if time.monotonic() - begun > WAIT_S:
                return Claimed(True, holder, at)
        time.sleep(POLL_S)


def end_module(path: Path, holder: Claim, grace_s: float = END_GRACE_S) -> int:
    """End what a dead run's controller left working: certainly that process, as it has the claim's file open."""
    module = holder.module
    if module and is_running(module) and has_open(module, path) and end(module, grace_s):
        return module.pid
    return 0


def holder_of(run: Run) -> Claimed | None:
    """The run that holds the target now, if it is another one and not known to be dead; changes nothing."""
    holder = peek(path_in(run.state_dir))
    if holder is None or holder.run_id == run.run_id:
        return None
    lines = Journal(run).read()
    if is_closed(lines, holder.run_id) or life_of(holder, this_machine(), is_running, held=False) == "dead":
        return None
    return Claimed(True, holder, progress_of(lines, holder.run_id))


def release(run: Run) -> None:
    """Give the claim back, if this run has it."""
    path = path_in(run.state_dir)
    held = HELD.get(path) or lock(path, WAIT_S, create=False)
    if held is None:
        return
    if _is_of(run, held.read()):
        held.remove()
    if path not in HELD:
        held.let_go()


@contextmanager
def present(run: Run) -> Iterator[None]:
    """Hold the kernel's lock while a module of the run that has the claim works: it shows that the run is alive."""
    path = path_in(run.state_dir)
    held = _lock_of(run, path, PRESENT_S) if _is_of(run, peek(path)) else None
    with holding(path, held) if held else nullcontext():
        yield


def _lock_of(run: Run, path: Path, wait_s: float) -> HeldFile | None:
    """The lock, unless another run has taken over the claim since it was read; the signer is a module of the holder."""
    held = lock(path, wait_s, create=False)
    if held and not _is_of(run, held.read()):
        held.let_go()
        return None
    return held


def _is_of(run: Run, claimed: Claim | None) -> bool:
    return claimed is not None and claimed.run_id == run.run_id


@contextmanager
def alone(run: Run) -> Iterator[None]:
    """Wait until the run's other module has ended, so that its result is final.

    A module that outlived its connection or the time of its task is ended. Raises ReleaseError where it does not end.
    """
    path = path_in(run.state_dir)
    claimed = peek(path)
    if path in HELD or claimed is None or not _is_of(run, claimed):
        yield
        return
    end_module(path, claimed, IN_ORDER_S)
    # Where it was killed, its guardian has the lock until it has put things right.
    held = _lock_of(run, path, IN_ORDER_S)
    if held is None and _is_of(run, peek(path)):
        number = f", process {claimed.module.pid}" if claimed.module else ""
        raise ReleaseError(
            f"A module of run {run.run_id} is still running on the target{number}, and does not end: "
            "end it there, and rerun the playbook."
        )
    with holding(path, held) if held else nullcontext():
        yield


@contextmanager
def holding(path: Path, held: HeldFile) -> Iterator[None]:
    """Hold the kernel's lock, signed by this process, while the block runs."""
    held.sign()
    HELD[path] = held
    try:
        yield
    finally:
        del HELD[path]
        with suppress(OSError):
            held.let_go()
