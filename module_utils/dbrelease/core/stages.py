"""The stages of a run out of the journal's lines, and which of them began to change the database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .plain_text import printable
from .proof import failures, sentence

Line = Mapping[str, Any]
NO_STAGES = {"run", "report", "playbook", "sample"}  # lines about the run as a whole, and what `monitor` judges
BAD = {"failed", "refused", "interrupted"}
RECONCILED = "reconcile"  # passed with the state `before`: the database is as before the release, so `rolled_back`
# Steps that change the database; every other one reads, or writes beside it.
CHANGES = {"upgrade", "finalize", "downgrade", "restore.swap", "reconcile"}


@dataclass
class Stage:
    """A step of the run; `closed` is the place of its last line in the run, None while it has no end.

    began: the place of the line that began it, None for one that could not check anything or was not needed.
    """

    step: str
    status: str = "interrupted"
    started_at: str | None = None
    ended_at: str | None = None
    began: int | None = None
    closed: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def red(self) -> list[Mapping[str, Any]]:
        """Its failed claims."""
        return failures(self.facts.get("proofs") or ())

    @property
    def message(self) -> str:
        """Why it did not pass, or its message."""
        return one_line(str(self.facts.get("message") or "") or sentence(self.red))


def one_line(text: str) -> str:
    """The text with each run of white space as one blank, and invisible characters written out."""
    return " ".join(printable(text).split())


def stages_of(lines: Iterable[Line]) -> list[Stage]:
    """The stages in the order in which they began; a failed claim makes a stage red whatever its line reports."""
    stages: list[Stage] = []
    for place, line in enumerate(lines):
        if line["step"] in NO_STAGES:
            continue
        if line["event"] == "started":
            stages.append(Stage(line["step"], started_at=line.get("ts"), began=place))
            continue
        opened = [stage for stage in stages if stage.step == line["step"] and stage.closed is None]
        stage = opened[-1] if opened else Stage(line["step"], started_at=line.get("ts"))
        if not opened:
            stages.append(stage)
        stage.facts = dict(line.get("facts") or {})
        stage.status = "failed" if stage.red and line["event"] == "passed" else line["event"]
        stage.ended_at, stage.closed = line.get("ts"), place
    return stages


def upgrade_begun(stages: Sequence[Stage]) -> bool:
    """Whether an upgrade was tried, also by an interrupted run that this one finishes."""
    unfinished = any(stage.step == "preflight" and stage.facts.get("state") == "unfinished" for stage in stages)
    return unfinished or any(stage.step == "upgrade" and _begins_to_change(stage) for stage in stages)


def change_begun(stages: Sequence[Stage], *, check_mode: bool) -> bool:
    """Whether this run, or an interrupted one that it finishes, began to change the database; check mode only plans."""
    return upgrade_begun(stages) or (not check_mode and any(map(_begins_to_change, stages)))


def _begins_to_change(stage: Stage) -> bool:
    """Whether a step tried to change the database; one that was refused, or found nothing to do, did not.

    One that has no end may have done anything.
    """
    if stage.step not in CHANGES or stage.status == "skipped" or stage.began is None:
        return False
    if stage.closed is None or stage.facts.get("interrupted") or has_effect(stage):
        return True
    if stage.step == RECONCILED:
        return False  # it diagnoses first, and lists every repair
    return stage.status == "failed" or (stage.status == "passed" and not _found_nothing_to_do(stage))


def has_effect(stage: Stage) -> bool:
    """Whether a step reports what it has changed, whatever its outcome."""
    done = [step for step in stage.facts.get("steps") or () if step.get("changed")]
    return bool(stage.facts.get("repaired") or (stage.step == "finalize" and done))


def _found_nothing_to_do(stage: Stage) -> bool:
    return stage.facts.get("attempts") == 0 or stage.step == "finalize"
