"""What interrupted runs left for the next one to settle, by the journal and the state directory; changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ..core.errors import ReleaseError
from ..core.journal import Run, utc_now
from ..core.journal_schema import schema_error
from ..core.process import is_running, this_machine
from ..core.restore_names import REPLAY
from .claim import Claim, Life, is_closed, life_of
from .holder import holder_of
from .interrupted import (
    MOST_UNENDED,
    Interrupted,
    interrupted_runs,
    lines_of_runs,
    may_live,
    runs_in,
    stray_dumps,
    stray_folders,
    stray_temporaries,
)

Line = Mapping[str, Any]
# The death of a remote controller cannot be observed. Nothing that claims no target takes so long.
LONGEST = timedelta(days=1)


@dataclass(frozen=True)
class Unsettled:
    """The runs that were interrupted, and the paths of the files and folders that they left unfinished.

    runs: those of the release; others: those of other releases, which no run has settled.
    """

    runs: list[Interrupted]
    others: list[Interrupted]
    files: list[str]

    def __bool__(self) -> bool:
        """Whether there is anything to settle."""
        return bool(self.runs or self.others or self.files)


def scan_target(run: Run, lines: Sequence[Line], *, dry: bool) -> Unsettled:
    """What is left on the target of `run`, which has the claim, or in check mode (dry) only reads.

    Raises ReleaseError for a journal with more runs without an end than are possible.
    """
    by_run = lines_of_runs(lines)
    demand_few_unended(run, by_run)
    living = {run_id for run_id, own in by_run.items() if may_live(own, run_id, controller_is_dead)} | {run.run_id}
    holder = holder_of(run) if dry else None
    if holder and holder.holder:
        living.add(holder.holder.run_id)
    found = interrupted_runs(by_run, living=living, state_dir=run.state_dir)
    runs = [one for one in found if (one.run.release, one.run.environment) == (run.release, run.environment)]
    own = {one.run.run_id for one in runs}
    others = [one for one in found if one.run.run_id not in own and not one.settled]
    return Unsettled(runs, others, _files(Path(run.state_dir), [*runs, *others], living))


def demand_few_unended(run: Run, by_run: Mapping[str, Sequence[Line]]) -> None:
    """Raises ReleaseError for a journal with more runs without an end than can have been interrupted."""
    unended = sum(not is_closed(own, run_id) for run_id, own in by_run.items())
    if unended > MOST_UNENDED:
        raise ReleaseError(
            f"Settling what earlier runs left was refused (the journal of {run.state_dir} has {unended} runs without "
            f"an end, of {MOST_UNENDED} at most): find out what wrote to it, remove their lines, and rerun the "
            "playbook.",
            refused=True,
        )


def controller_is_dead(first: Line) -> bool:
    """Whether the controller of a run that never claimed the target is certainly dead, by the run's first line."""
    life = _life(first)
    if life != "unknown":
        return life == "dead"
    with suppress(ValueError):
        return utc_now() - datetime.fromisoformat(str(first["ts"])) > LONGEST
    return True


def is_at_work(lines: Sequence[Line], run_id: str) -> bool:
    """Whether a run has no end yet and its controller is alive, as far as this machine can determine."""
    return not is_closed(lines, run_id) and _life(runs_in(lines)[run_id]) == "alive"


def _life(first: Line) -> Life:
    """Of the controller that wrote a run's first line."""
    controller = {} if schema_error(first, "run") else first["facts"].get("controller") or {}
    here = this_machine()
    run = Run(first["run_id"], first["release"], first["environment"], first["playbook"], "")
    claim = Claim.of(run, controller, here, str(first["ts"]))
    # The line does not say where it was written: only controllers of this very machine can be checked.
    return life_of(claim, here, is_running, held=False)


def _files(top: Path, runs: Sequence[Interrupted], living: Collection[str]) -> list[str]:
    found = []
    for folder in (top, *top.glob("runs/*/")):
        # The target of a link is not ours to remove.
        real = folder.is_dir() and not folder.is_symlink()
        names = {path.name for path in folder.iterdir() if path.is_file()} if real else set()
        found += [str(folder / name) for name in (*stray_temporaries(names, living), *stray_dumps(names, runs))]
    half = (top / name for name in stray_folders(runs))
    return found + [str(folder) for folder in half if folder.is_dir() and not (folder / REPLAY).exists()]
