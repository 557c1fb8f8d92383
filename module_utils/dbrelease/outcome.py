"""What a run came to: its stages out of the journal's lines, the first cause of what went wrong, and the outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .proof import failures, sentence

Line = Mapping[str, Any]
NO_STAGES = {"run", "report", "playbook", "sample"}  # lines about the run as a whole, and what `monitor` judges
BAD = {"failed", "refused", "interrupted"}
# What Ansible itself says where a module did not come to its end.
NO_RESULT = ("Module result deserialization failed", "MODULE FAILURE")
RECONCILED = "reconcile"  # passed with the state `before`: the database is as before the release, so `rolled_back`
TAKEN_BACK = {"rolled_back", "restored"}  # a step of this name that passed is the outcome
# Steps that are asked for alone, of a release that is deployed; their run changes nothing.
LOOKED_ON = (
    ("readiness", "Ready: {place} meets every criterion."),
    ("monitor", "{place} was watched, and kept its limits."),
    ("schedule", "The schedule of {place} was brought in line."),
)
LOOKED_AT = {"verify", "structure", "checks", "scenario", "plans", "api", "untouched", "monitor"}


@dataclass
class Stage:
    """A step of the run; `closed` is the place of its last line in the run, None while it has no end."""

    step: str
    status: str = "interrupted"
    started_at: str | None = None
    ended_at: str | None = None
    closed: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def red(self) -> list[Mapping[str, Any]]:
        """Its claims that do not hold."""
        return failures(self.facts.get("proofs") or ())

    @property
    def message(self) -> str:
        """Why it did not pass, or what it had to say."""
        return one_line(str(self.facts.get("message") or "") or sentence(self.red))


@dataclass(frozen=True)
class Cause:
    """What went wrong first: in a step that the journal knows, or in a task that only Ansible knows."""

    message: str
    step: str | None = None
    task: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The outcome, its first cause if it is a bad one, and whether this run began to change the database."""

    outcome: str
    headline: str
    upgrade_begun: bool
    cause: Cause | None = None


def one_line(text: str) -> str:
    """The text with every run of white space as one blank."""
    return " ".join(text.split())


def stages_of(lines: Iterable[Line]) -> list[Stage]:
    """The stages in the order in which they began; a red claim makes a stage red whatever its line says."""
    stages: list[Stage] = []
    for place, line in enumerate(lines):
        if line["step"] in NO_STAGES:
            continue
        if line["event"] == "started":
            stages.append(Stage(line["step"], started_at=line.get("ts")))
            continue
        opened = [stage for stage in stages if stage.step == line["step"] and stage.closed is None]
        stage = opened[-1] if opened else Stage(line["step"], started_at=line.get("ts"))
        if not opened:
            stages.append(stage)
        stage.facts = dict(line.get("facts") or {})
        stage.status = "failed" if stage.red and line["event"] == "passed" else line["event"]
        stage.ended_at, stage.closed = line.get("ts"), place
    return stages


def task_failure(lines: Iterable[Line], given: Mapping[str, Any] | None) -> Cause | None:
    """The failure that Ansible saw: as it was handed over, else as the playbook journaled it."""
    found = [line["facts"] for line in lines if line["step"] == "playbook" and line["event"] in ("failed", "refused")]
    for facts in (given or {}, *found):
        task, message = one_line(str(facts.get("task") or "")), one_line(str(facts.get("message") or ""))
        if message.startswith(NO_RESULT):
            message = "its module ended without a result, as one does that is killed"
        if task or message:
            return Cause(message or "it gave no reason.", task=task or None)
    return None


def given_up_at(lines: Iterable[Line]) -> int | None:
    """The place of the line by which the playbook says that a task failed; whatever fails later is not the cause."""
    places = (place for place, line in enumerate(lines) if line["step"] == "playbook" and line["event"] in BAD)
    return next(places, None)


def first_cause(
    stages: Sequence[Stage], failure: Cause | None, given_up: int | None
) -> tuple[Stage | None, Cause | None]:
    """What went wrong first. Of stages that never ended it is the innermost one, which began last."""
    ended = sorted((s for s in stages if s.status in BAD and s.closed is not None), key=lambda s: s.closed or 0)
    endless = [stage for stage in stages if stage.closed is None]
    if endless and given_up is not None:
        ended = [stage for stage in ended if (stage.closed or 0) < given_up]
    if ended:
        stage = ended[0]
        return stage, Cause(_why(stage) or (failure.message if failure else "it gave no reason."), step=stage.step)
    if endless:
        stage = endless[-1]
        began = f"it began at {stage.started_at} and never ended" if stage.started_at else "it began and never ended"
        seen = f" ({failure.message})" if failure else ""
        return stage, Cause(f"{began}{seen}: run again, which settles what it left.", step=stage.step)
    return None, failure


def judge(
    stages: Sequence[Stage],
    failure: Cause | None,
    given_up: int | None,
    *,
    check_mode: bool,
    title: str,
    environment: str,
) -> Verdict:
    """The outcome of a run and its headline: what happened, the first cause first."""
    begun = _upgrade_begun(stages)
    stage, cause = first_cause(stages, failure, given_up)
    place = f"{title} on {environment}"
    taken_back = _taken_back(stages)
    if taken_back and not failure_after(stages, taken_back):
        why = f": {cause.message}" if cause else "."
        if taken_back.step == "rolled_back" and not _passed(stages, "downgrade") and not cause:
            same = "nothing to roll back; the database was compared with its baseline, and not changed."
            return Verdict(taken_back.step, f"{place} is not deployed: there was {same}", begun)
        source = taken_back.facts.get("source") or "the backup"
        word = "rolled back" if taken_back.step == "rolled_back" else f"restored from {source}"
        return Verdict(taken_back.step, f"{place} was {word}{why}", begun, cause)
    if stage and stage.step == "readiness" and stage.status == "refused":
        return Verdict("refused", f"Not ready to go on from {place}: {stage.message}", begun, cause)
    if stage and cause and _is_refusal(stage) and not begun:
        return Verdict("refused", f"Refused, and the database was not changed: {cause.message}", begun, cause)
    if stage and cause:
        word = "was interrupted" if stage.status == "interrupted" else "failed"
        held = next((f" Held: {one.message}" for one in stages if one.step == "hold"), "")
        return Verdict("failed", f"The step {stage.step} {word}: {cause.message}{held}", begun, cause)
    if cause:
        where = f"The task “{cause.task}” failed" if cause.task else "The run failed"
        return Verdict("failed", f"{where}: {cause.message}", begun, cause)
    return _good(stages, begun, check_mode, place)


def _good(stages: Sequence[Stage], begun: bool, check_mode: bool, place: str) -> Verdict:
    passed = {stage.step for stage in stages if stage.status == "passed"}
    if check_mode:
        return Verdict("planned", f"Planned: {place}; check mode reads only, and nothing was changed.", begun)
    drift = _drift(stages)
    reconciled = next((s for s in reversed(stages) if s.step == RECONCILED and s.status == "passed"), None)
    if reconciled and reconciled.facts.get("state") == "before":
        return Verdict("rolled_back", f"{place} is not deployed: {_repairs(reconciled)}.", begun)
    if reconciled and "verify" in passed:
        verified = f"{_repairs(reconciled)}, and it was verified{drift}"
        return Verdict("already_deployed", f"{place} is deployed: {verified}.", begun)
    if "verify" in passed and begun:
        return Verdict("deployed", f"{place} was deployed and verified{drift}.", begun)
    if "verify" in passed:
        verified = f"it was verified, and not changed{drift}"
        return Verdict("already_deployed", f"{place} is deployed already; {verified}.", begun)
    for step, told in LOOKED_ON:
        if step in passed:
            return Verdict("already_deployed", told.format(place=place), begun)
    what = "the upgrade passed, and was not verified" if begun else "no step of this run verified the release"
    unseen = [stage.message for stage in stages if stage.step in LOOKED_AT and stage.status == "skipped"]
    cause = Cause(" ".join(filter(None, unseen)) or f"{what}; run the verification.")
    return Verdict("failed", f"Nothing was proved of {place}: {cause.message}", begun, cause)


def _drift(stages: Sequence[Stage]) -> str:
    """How many of the checks were left open, for the end of a headline."""
    checks = next((stage for stage in reversed(stages) if stage.step == "checks"), None)
    proofs = (checks.facts.get("proofs") or ()) if checks else ()
    left_open = sum(proof["status"] == "inconclusive" for proof in proofs)
    verb = "shows" if left_open == 1 else "show"
    return f"; {left_open} of its checks {verb} drift, which reconcile brings in line" if left_open else ""


def _repairs(reconciled: Stage) -> str:
    """What reconcile did, in words."""
    return ", ".join(reconciled.facts.get("repaired") or ()) or "nothing was left to repair"


def failure_after(stages: Sequence[Stage], taken_back: Stage) -> bool:
    """Whether anything went wrong after the release had been taken back, or has begun since and has no end."""
    since = stages.index(taken_back)
    return any(
        place > since if stage.closed is None else stage.status in BAD and stage.closed > (taken_back.closed or 0)
        for place, stage in enumerate(stages)
    )


def _taken_back(stages: Sequence[Stage]) -> Stage | None:
    found = [stage for stage in stages if stage.step in TAKEN_BACK and stage.status == "passed"]
    return found[-1] if found else None


def _passed(stages: Sequence[Stage], step: str) -> bool:
    return any(stage.step == step and stage.status == "passed" for stage in stages)


def _upgrade_begun(stages: Sequence[Stage]) -> bool:
    """Whether an upgrade was tried, also by an interrupted run that this one finishes.

    One that found the database at its revision (no attempts) was not.
    """
    if any(stage.step == "preflight" and stage.facts.get("state") == "unfinished" for stage in stages):
        return True
    return any(
        stage.step == "upgrade"
        and stage.status not in ("refused", "skipped")
        and not (stage.status == "passed" and stage.facts.get("attempts") == 0)
        for stage in stages
    )


def _is_refusal(stage: Stage) -> bool:
    """A step that refused, or a preflight with a red claim: nothing had begun."""
    red_preflight = stage.red or stage.facts.get("red") or stage.facts.get("state") == "refused"
    return stage.status == "refused" or (stage.step == "preflight" and bool(red_preflight))


def _why(stage: Stage) -> str:
    """The first claim that does not hold and the number of the others, else what the step said itself."""
    if not stage.red or stage.step == "guards":  # a refusal by guards has said all of it
        return stage.message
    first, more = stage.red[0], len(stage.red) - 1
    text = one_line(f"{first['title']}: {first['detail']} {first['remedy']}")
    return f"{text} ({more} more {'claim does' if more == 1 else 'claims do'} not hold.)" if more else text
