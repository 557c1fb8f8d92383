"""The ways back from the state in which a run left the target, and the reason where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ..core.history import Memory
from ..core.journal import Run
from ..core.outcome import LOOKED_AT, TAKEN_BACK, Verdict
from ..core.stages import Line, Stage, change_begun

Way = dict[str, str]
GONE = "The release was already rolled back or restored. Remove the cause before you deploy it again."
NONE_NAMED = "The release declares no way back for this outcome. The timeline shows how far the run got."
NOTHING_BEGUN = "Nothing to roll back: this run did not start to change the database."


def ways_back(
    release: Mapping[str, Any],
    run: Run,
    stages: Sequence[Stage],
    verdict: Verdict,
    lines: Sequence[Line],
    *,
    check_mode: bool,
) -> list[Way]:
    """The release's commands, where a rollback may be necessary; before them the command that undoes this run's swap.

    lines: the whole journal, which may record a release that this run could not check.
    """
    if verdict.outcome == "planned":
        return []
    swapped = _swap_back(stages)
    declared = [
        {"title": way["title"], "command": way["command"].replace("{environment}", run.environment)}
        for way in release.get("ways_back") or ()
    ]
    gone = verdict.outcome in TAKEN_BACK or any(_is_taken_back(stage.step, stage.status) for stage in stages)
    if gone or not (change_begun(stages, check_mode=check_mode) or _is_there(release, run, stages, verdict, lines)):
        return swapped
    # A refused playbook would be refused again; the headline says what would change that.
    refused = verdict.outcome == "refused"
    return swapped + [way for way in declared if not (refused and is_of(run.playbook, way["command"]))]


def is_of(playbook: str, command: str) -> bool:
    """Whether a command runs this playbook, under its own name or a release's (`playbook_release.yml`)."""
    names = [PurePath(word) for word in command.split()]
    stems = [name.stem for name in names if name.suffix in (".yml", ".yaml")]
    return any(stem == playbook or stem.startswith(f"{playbook}_") for stem in stems)


def no_way_back(model: Mapping[str, Any]) -> str:
    """Why a run that did not end as requested has no way back."""
    if model["outcome"] in TAKEN_BACK or any(_is_taken_back(one["step"], one["status"]) for one in model["stages"]):
        return GONE
    return NONE_NAMED if model["change_begun"] else NOTHING_BEGUN


def _is_taken_back(step: str, status: str) -> bool:
    return step in TAKEN_BACK and status == "passed"


def _swap_back(stages: Sequence[Stage]) -> list[Way]:
    """The command that undoes the run's own swap; none where no database was kept."""
    swap = next((stage.facts for stage in reversed(stages) if stage.step == "restore.swap"), {})
    if not (swap.get("kept") and swap.get("swap_back")):
        return []
    title = f"Swap back the database that was live before this restore (kept as {swap['kept']})"
    return [{"title": title, "command": str(swap["swap_back"])}]


def _is_there(
    release: Mapping[str, Any], run: Run, stages: Sequence[Stage], verdict: Verdict, lines: Sequence[Line]
) -> bool:
    """Whether the release is deployed: this run observed it, or could not check and the journal records it."""
    before = (release.get("migration") or {}).get("from_revision")
    if any(_shows(stage, before) for stage in stages):
        return True
    goes_back = any(is_of(run.playbook, way["command"]) for way in release.get("ways_back") or ())
    asks = any(stage.step == "readiness" for stage in stages) or (verdict.outcome == "failed" and goes_back)
    return asks and Memory.of(lines, run).deployed_ns is not None


def _shows(stage: Stage, before: str | None) -> bool:
    """Whether a step found the release deployed, or the database different from the one before it."""
    if stage.step in LOOKED_AT:
        return stage.status not in ("skipped", "refused")
    state = stage.facts.get("state")
    if stage.step == "guards":
        return state == "allowed" or (state == "refused" and stage.facts.get("revisions") != [before])
    if stage.step == "as_before":
        return stage.status == "failed"
    return stage.step in ("preflight", "reconcile") and state in ("deployed", "unfinished")
