"""The outcome of a run, and the first cause of what went wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .proof import failure_of
from .stages import BAD, RECONCILED, Line, Stage, change_begun, has_effect, one_line, upgrade_begun

# What Ansible itself reports where a module did not end properly.
NO_RESULT = ("Module result deserialization failed", "MODULE FAILURE")
TAKEN_BACK = {"rolled_back", "restored"}  # a step of this name that passed is the outcome
# The step that compares with the baseline, and its one proof where there is none.
AS_BEFORE, BASELINE_PROOF = "as_before", "restored.baseline"
# Of what check mode has started: whether it changed anything.
READS_PROOF, PREVIEW_READS_PROOF = "preflight.reads_only", "migrate.preview_reads_only"
# In the facts of a move: what appeared while Alembic was started without migrating, in the words of pg_dump.
MADE_WHEN_STARTED = "made_when_started"
# Steps that a playbook runs alone, on a release that is deployed; their run changes nothing.
READ_ONLY = (
    ("readiness", "Ready: {place} meets every criterion."),
    ("monitor", "{place} was watched, and kept its limits."),
    ("schedule", "The schedule of {place} was brought in line."),
)
LOOKED_AT = {"verify", "structure", "checks", "scenario", "plans", "api", "untouched", "monitor"}


@dataclass(frozen=True)
class Cause:
    """The first failure: in a step that the journal knows, or in a task that only Ansible knows."""

    message: str
    step: str | None = None
    task: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The outcome, and its first cause if it is a bad one."""

    outcome: str
    headline: str
    cause: Cause | None = None


def task_failure(lines: Iterable[Line], given: Mapping[str, Any] | None) -> Cause | None:
    """The failure that Ansible saw: as it was handed over, else as the playbook journaled it."""
    found = [line["facts"] for line in lines if line["step"] == "playbook" and line["event"] in ("failed", "refused")]
    for facts in (given or {}, *found):
        task, message = one_line(str(facts.get("task") or "")), one_line(str(facts.get("message") or ""))
        if message.startswith(NO_RESULT):
            message = "its module ended without a result, as a killed process does"
        if task or message:
            return Cause(message or "it gave no reason.", task=task or None)
    return None


def given_up_at(lines: Iterable[Line]) -> int | None:
    """The place of the line by which the playbook reports a failed task; a later failure is not the cause."""
    places = (place for place, line in enumerate(lines) if line["step"] == "playbook" and line["event"] in BAD)
    return next(places, None)


def first_cause(
    stages: Sequence[Stage], failure: Cause | None, given_up: int | None
) -> tuple[Stage | None, Cause | None]:
    """The first failure. Of stages that never ended it is the innermost one, which began last.

    A stage that began after the playbook's failure, to roll the release back, is the cause only if there is no other.
    """
    ended = sorted((s for s in stages if s.status in BAD and s.closed is not None), key=lambda s: s.closed or 0)
    endless = [stage for stage in stages if stage.closed is None]
    if endless and given_up is not None:
        ended = [stage for stage in ended if (stage.closed or 0) < given_up]
        endless = [stage for stage in endless if not _began_after(stage, given_up)] or endless
    if ended:
        stage = ended[0]
        return stage, Cause(_why(stage) or (failure.message if failure else "it gave no reason."), step=stage.step)
    if endless:
        stage = endless[-1]
        began = f"it began at {stage.started_at} and never ended" if stage.started_at else "it began and never ended"
        seen = f" ({failure.message})" if failure else ""
        return stage, Cause(f"{began}{seen}: rerun the playbook, which settles what it left.", step=stage.step)
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
    stage, cause = first_cause(stages, failure, given_up)
    place = f"{title} on {environment}"
    taken_back = _taken_back(stages)
    if taken_back and not failure_after(stages, taken_back):
        return Verdict(taken_back.step, _gone(stages, taken_back, place, cause, given_up), cause)
    if stage and stage.step == "readiness" and stage.status == "refused":
        return Verdict("refused", f"Not ready to go on from {place}: {stage.message}", cause)
    if stage and cause and _is_refusal(stage) and not change_begun(stages, check_mode=check_mode):
        return Verdict("refused", f"Refused, and the database was not changed: {cause.message}", cause)
    if stage and cause:
        word = "was interrupted" if stage.status == "interrupted" else "failed"
        return Verdict(
            "failed", f"The step {stage.step} {word}: {cause.message}{_besides(stages, stage, given_up)}", cause
        )
    if cause:
        where = f"The task “{cause.task}” failed" if cause.task else "The run failed"
        return Verdict("failed", f"{where}: {cause.message}{_besides(stages, stage, given_up)}", cause)
    return _good(stages, check_mode, place)


def _gone(stages: Sequence[Stage], taken_back: Stage, place: str, cause: Cause | None, given_up: int | None) -> str:
    """The headline of a release that was rolled back or restored: why, or what failed after it."""
    back = taken_back.step == "rolled_back"
    if back and not _passed(stages, "downgrade") and not cause:
        compared = "was compared with its baseline, and not changed."
        if not _compared(stages):
            compared = "was not changed. There is no baseline here to compare it with."
        return f"{place} is not deployed: there was nothing to roll back; the database {compared}"
    if not back and not _passed(stages, "restore.swap") and not cause:
        return f"{place} holds exactly what was backed up: there was nothing to restore, and it was not changed."
    source = taken_back.facts.get("source") or "the backup"
    done = f"{place} was {'rolled back' if back else 'restored from ' + source}"
    if cause and given_up is not None and given_up > (taken_back.closed or 0):
        return f"{done}. After that something failed: {cause.message}"
    return f"{done}: {cause.message}" if cause else f"{done}."


def _besides(stages: Sequence[Stage], cause: Stage | None, given_up: int | None) -> str:
    """What a reader of a failure must also know: what was repaired nevertheless, and the result of the rollback."""
    text = ""
    if repaired := next((_repairs(one) for one in stages if one.step == RECONCILED and has_effect(one)), ""):
        text += f" Done before that, and kept: {repaired}."
    for one in stages:
        if one.step == "hold":
            text += f" Held: {one.message}"
        elif (one.step, one.status) == ("downgrade", "refused") and one.red:  # it was tried, and refused on its own
            text += f" Held: the release is not rolled back. {_why(one)}"
        elif one is not cause and one.status in BAD and not _is_held(one) and _began_after(one, given_up):
            return f"{text} The rollback failed, too, in the step {one.step}: {_why(one) or 'it never ended.'}"
    return text


def _is_held(stage: Stage) -> bool:
    """Whether guards refused to roll the release back, which `hold` reports."""
    return (stage.step, stage.status) == ("guards", "refused")


def _began_after(stage: Stage, given_up: int | None) -> bool:
    """Whether a step began after the playbook had reported its failure."""
    began = stage.closed if stage.began is None else stage.began
    return given_up is not None and began is not None and began > given_up


def _good(stages: Sequence[Stage], check_mode: bool, place: str) -> Verdict:
    begun = upgrade_begun(stages)
    passed = {stage.step for stage in stages if stage.status == "passed"}
    if check_mode:
        return Verdict("planned", f"Planned: {place}; {_seen_in_check_mode(stages)}")
    drift = _drift(stages)
    reconciled = next((s for s in reversed(stages) if s.step == RECONCILED and s.status == "passed"), None)
    if reconciled and reconciled.facts.get("state") == "before":
        return Verdict("rolled_back", f"{place} is not deployed: {_repairs(reconciled)}.")
    if reconciled and "verify" in passed:
        verified = f"{_repairs(reconciled)}, and it was verified{drift}"
        return Verdict("already_deployed", f"{place} is deployed: {verified}.")
    if "verify" in passed and begun:
        return Verdict("deployed", f"{place} was deployed and verified{drift}.")
    if "verify" in passed:
        verified = f"it was verified, and not changed{drift}"
        return Verdict("already_deployed", f"{place} is deployed already; {verified}.")
    if rehearsed := _rehearsed(stages) if not begun else "":
        return Verdict("planned", f"{place} was rehearsed: {rehearsed}. The live database was only read.")
    for step, headline in READ_ONLY:
        if step in passed:
            return Verdict("already_deployed", headline.format(place=place))
    what = "the upgrade passed, and was not verified" if begun else "no step of this run verified the release"
    unseen = [stage.message for stage in stages if stage.step in LOOKED_AT and stage.status == "skipped"]
    cause = Cause(" ".join(filter(None, unseen)) or f"{what}; run the verification.")
    return Verdict("failed", f"Nothing was proved of {place}: {cause.message}", cause)


def _seen_in_check_mode(stages: Sequence[Stage]) -> str:
    """What is known of a run that only reads: whether the programs that it started changed anything, if observed."""
    proofs = [proof for stage in stages for proof in stage.facts.get("proofs") or ()]
    seen = [proof for proof in proofs if proof["name"] in (READS_PROOF, PREVIEW_READS_PROOF)]
    unsure = [proof["detail"] for proof in seen if proof["status"] != "pass"]
    if unsure:
        return f"check mode reads only, but {' '.join(unsure)}"
    if seen:
        return "check mode reads only, and nothing was changed."
    return "check mode reads only."


def _drift(stages: Sequence[Stage]) -> str:
    """How many of the checks were left open, for the end of a headline."""
    checks = next((stage for stage in reversed(stages) if stage.step == "checks"), None)
    proofs = (checks.facts.get("proofs") or ()) if checks else ()
    left_open = sum(proof["status"] == "inconclusive" for proof in proofs)
    verb = "shows" if left_open == 1 else "show"
    return f"; {left_open} of its checks {verb} drift, which reconcile repairs" if left_open else ""


def _rehearsed(stages: Sequence[Stage]) -> str:
    """What a rehearsal that passed has proved, in words; empty where there was none."""
    found = next((stage for stage in stages if stage.step == "rehearse" and stage.status == "passed"), None)
    return ", ".join(found.facts.get("rehearsed") or ()) if found else ""


def _repairs(reconciled: Stage) -> str:
    """What reconcile repaired, in words."""
    return ", ".join(reconciled.facts.get("repaired") or ()) or "nothing was left to repair"


def failure_after(stages: Sequence[Stage], taken_back: Stage) -> bool:
    """Whether anything failed after the release had been rolled back, or has begun since and has no end."""
    since = stages.index(taken_back)
    return any(
        place > since if stage.closed is None else stage.status in BAD and stage.closed > (taken_back.closed or 0)
        for place, stage in enumerate(stages)
    )


def _taken_back(stages: Sequence[Stage]) -> Stage | None:
    found = [stage for stage in stages if stage.step in TAKEN_BACK and stage.status == "passed"]
    return found[-1] if found else None


def _compared(stages: Sequence[Stage]) -> bool:
    """Whether the database was compared with its baseline: without one that claim stays inconclusive."""
    proofs = [proof for stage in stages if stage.step == AS_BEFORE for proof in stage.facts.get("proofs") or ()]
    return any(proof["name"] != BASELINE_PROOF for proof in proofs)


def _passed(stages: Sequence[Stage], step: str) -> bool:
    return any(stage.step == step and stage.status == "passed" for stage in stages)


def _is_refusal(stage: Stage) -> bool:
    """A step that refused, or a preflight with a red claim: nothing had begun."""
    red_preflight = stage.red or stage.facts.get("red") or stage.facts.get("state") == "refused"
    return stage.status == "refused" or (stage.step == "preflight" and bool(red_preflight))


def _why(stage: Stage) -> str:
    """The first failed claim and the number of the others, else the step's own message."""
    if not stage.red or stage.step == "guards":  # a refusal by guards is complete
        return stage.message
    first, more = stage.red[0], len(stage.red) - 1
    text = one_line(f"{failure_of(first)} {first['remedy']}")
    return f"{text} ({more} more {'claim' if more == 1 else 'claims'} failed.)" if more else text
