"""Of all runs on a target one acts: every module that changes something proves first that its run has the claim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from ..core.errors import ReleaseError
from ..core.journal import Journal, Run
from ..postgres.session import Login
from .claim import Claim, Line, claimed_later, is_closed
from .claim_file import HeldFile, lock, path_in, peek
from .database_lock import advisory_lock
from .holder import HELD, WAIT_S, holding


@contextmanager
def acting(run: Run, login: Login | None = None, *, dry: bool = False) -> Iterator[None]:
    """Act on the target, and with `login` on its database, alone; raises ReleaseError where another run may.

    A module that changes anything works inside, within its journal's step. May be nested. In check mode (dry) it does
    nothing.
    """
    if dry:
        yield
        return
    path = path_in(run.state_dir)
    with nullcontext() if path in HELD else holding(path, _lock_or_refuse(path, run)):
        _demand_claim(HELD[path].read(), run)
        with advisory_lock(login, run) if login else nullcontext() as shown:
            if shown:
                Journal(run).append("database_lock", "passed", {"proofs": [proof.as_dict() for proof in shown]})
            yield


def _lock_or_refuse(path: Path, run: Run) -> HeldFile:
    held = lock(path, WAIT_S)
    if held:
        return held
    holder = peek(path)
    if holder and holder.run_id == run.run_id:
        raise ReleaseError(
            f"Another module of run {run.run_id} is still running, as after a lost connection: this run stops, and "
            "ends that module; rerun the playbook, which finishes or cleans up."
        )
    whose = holder.words if holder else "another run"
    raise ReleaseError(
        f"Run {run.run_id} may not act: the target is held by {whose}; wait until it ends, and rerun the playbook.",
        refused=True,
    )


def demand_not_taken_over(run: Run, lines: Sequence[Line]) -> None:
    """Raises ReleaseError where another run has claimed the target since this one had."""
    if later := claimed_later(lines, run.run_id):
        raise _taken_over(run, f"run {later['run_id']} at {later['ts']}")


def _demand_claim(claimed: Claim | None, run: Run) -> None:
    """The claim is this run's; without any (a module used alone) no other run may have claimed the target since."""
    if claimed and claimed.run_id == run.run_id:
        return
    lines = Journal(run).read()
    if claimed and not is_closed(lines, claimed.run_id):
        raise _taken_over(run, claimed.words)
    demand_not_taken_over(run, lines)


def _taken_over(run: Run, by: str) -> ReleaseError:
    return ReleaseError(
        f"Run {run.run_id} may no longer act: it was taken over by {by}; start a new run when that one has ended.",
        refused=True,
    )
