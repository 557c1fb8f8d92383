"""The evidence of a run: one model, built from the journal and the release; every report renders it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, TypedDict

from ..core.advice import after_way_back
from ..core.journal import Run
from ..core.outcome import TAKEN_BACK, given_up_at, judge, task_failure
from ..core.plain_text import printable
from ..core.proof import Proof
from ..core.stages import Line, Stage, change_begun, stages_of, upgrade_begun
from .next_actions import ways_back
from .parts import backup_of, baseline_of, cost_of, files_of, migration_of, monitored, progress_of_stages, rehearsal_of

SCHEMA_VERSION = 1
EVIDENCE_PROOF = "report.evidence"
NO_PROOF = Proof("", "", "inconclusive").as_dict()


class StageRecord(TypedDict):
    """A stage in the evidence."""

    step: str
    status: str
    started_at: str | None
    duration_ms: int | None
    message: str


class ChecklistItem(TypedDict):
    """An item of the release's checklist; `patterns` name the required proofs, `proofs` those that were found."""

    section: str
    item: str
    status: str
    patterns: list[str]
    proofs: list[str]


class Model(TypedDict):
    """Everything that a run proved; schemas/evidence.schema.json describes each key."""

    schema_version: int
    run: dict[str, Any]
    release: dict[str, Any]
    outcome: str
    asked: list[str]
    succeeded: bool
    headline: str
    cause: dict[str, str | None] | None
    upgrade_begun: bool
    change_begun: bool
    deployed_earlier: dict[str, str] | None
    started_at: str | None
    ended_at: str | None
    duration_ms: int | None
    counts: dict[str, int]
    checklist: list[ChecklistItem]
    stages: list[StageRecord]
    proofs: list[dict[str, Any]]
    baseline: dict[str, Any] | None
    api: dict[str, Any]
    backup: dict[str, Any] | None
    rehearsal: dict[str, Any] | None
    cost: dict[str, Any] | None
    migration: dict[str, Any] | None
    monitoring: dict[str, Any] | None
    progress: list[dict[str, Any]]
    ways_back: list[dict[str, str]]
    files: list[dict[str, str]]


def build(
    run: Run,
    release: Mapping[str, Any],
    lines: Sequence[Line],
    *,
    asked: Sequence[str],
    check_mode: bool = False,
    failure: Mapping[str, Any] | None = None,
    written: Sequence[str] = (),
) -> Model:
    """The model of a run; `lines` is the whole journal (other runs only show when the release was deployed).

    written: the names of the files that are being written, for the claim that the evidence was written.
    """
    own = [line for line in lines if line["run_id"] == run.run_id]
    stages = stages_of(own)
    verdict = judge(
        stages,
        task_failure(own, failure),
        given_up_at(own),
        check_mode=check_mode,
        title=release["title"],
        environment=run.environment,
    )
    started_at, ended_at = _span(own)
    proofs = _proofs(stages)
    if verdict.outcome in TAKEN_BACK:
        proofs = [after_way_back(proof) for proof in proofs]
    records = [_record(stage) for stage in stages]
    if written:
        records.append(StageRecord(step="report", status="passed", started_at=ended_at, duration_ms=None, message=""))
        proofs.append({**evidence_proof(run, written).as_dict(), "step": "report"})
    succeeded = verdict.outcome in asked or (check_mode and verdict.outcome == "planned")
    migration = release.get("migration") or {}
    facts = {stage.step: stage.facts for stage in stages if stage.status == "passed"}
    model = Model(
        schema_version=SCHEMA_VERSION,
        run={**asdict(run), "check_mode": check_mode},
        release={
            "name": run.release,
            "title": release["title"],
            "from_revision": migration.get("from_revision"),
            "to_revision": migration.get("to_revision"),
        },
        outcome=verdict.outcome,
        asked=list(asked),
        succeeded=succeeded,
        headline=verdict.headline,
        cause=asdict(verdict.cause) if verdict.cause else None,
        upgrade_begun=upgrade_begun(stages),
        change_begun=change_begun(stages, check_mode=check_mode),
        deployed_earlier=_deployed_earlier(lines, run),
        started_at=started_at,
        ended_at=ended_at,
        duration_ms=_between(started_at, ended_at),
        counts=_counts(proofs),
        checklist=_checklist(release.get("checklist") or (), proofs),
        stages=records,
        proofs=proofs,
        baseline=baseline_of(facts.get("baseline")),
        api={
            "before": (facts.get("api_baseline") or {}).get("endpoints"),
            "after": next((stage.facts.get("endpoints") for stage in reversed(stages) if stage.step == "api"), None),
        },
        backup=backup_of(facts.get("backup")),
        rehearsal=rehearsal_of(stages),
        cost=cost_of(stages),
        migration=migration_of(stages),
        monitoring=monitored(lines, run, stages),
        progress=progress_of_stages(stages),
        ways_back=ways_back(release, run, stages, verdict, lines, check_mode=check_mode),
        files=files_of(run, written, facts, stages),
    )
    clean: Model = plain(model)
    return clean


def evidence_proof(run: Run, names: Sequence[str]) -> Proof:
    """The report's own claim; it is made before the files are in place, and they get there only if it is true."""
    detail = f"{', '.join(names)} in {run.directory}, each read back before it got its final name."
    return Proof(EVIDENCE_PROOF, "The evidence of this run is written", "pass", observed=list(names), detail=detail)


def plain(value: Any) -> Any:
    """The value as JSON data, without NaN and infinity, in visible characters."""
    if isinstance(value, Mapping):
        return {printable(str(key), lines=True): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (int, float)):
        return value
    return printable(str(value), lines=True)


def _span(lines: Sequence[Line]) -> tuple[str | None, str | None]:
    """The time of the first line of the run, and of its last line before those of the report."""
    started = [line["ts"] for line in lines if line.get("ts")]
    ended = [line["ts"] for line in lines if line.get("ts") and (line["step"], line["event"]) not in _CLOSING]
    return (started[0] if started else None), (ended[-1] if ended else None)


_CLOSING = {(step, event) for step in ("run", "report") for event in ("passed", "failed", "refused", "skipped")}
_CLOSING.add(("report", "started"))


def _between(start: str | None, end: str | None) -> int | None:
    try:
        seconds = (datetime.fromisoformat(end or "") - datetime.fromisoformat(start or "")).total_seconds()
    except (ValueError, TypeError):
        return None
    return round(seconds * 1000)


def _record(stage: Stage) -> StageRecord:
    return StageRecord(
        step=stage.step,
        status=stage.status,
        started_at=stage.started_at,
        duration_ms=_between(stage.started_at, stage.ended_at),
        message=stage.message,
    )


def _proofs(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Every claim with its step; one that a later step repeats is listed once."""
    found: dict[str, dict[str, Any]] = {}
    for stage in stages:
        for raw in stage.facts.get("proofs") or ():
            proof = {key: raw.get(key, default) for key, default in NO_PROOF.items()}
            found.setdefault(json.dumps(proof, sort_keys=True, default=str), {**proof, "step": stage.step})
    return list(found.values())


def _counts(proofs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counted = Counter(proof["status"] for proof in proofs)
    return {status: counted[status] for status in ("pass", "fail", "inconclusive", "skipped")}


def _checklist(sections: Sequence[Mapping[str, Any]], proofs: Sequence[Mapping[str, Any]]) -> list[ChecklistItem]:
    return [_item(section["section"], item, proofs) for section in sections for item in section["items"]]


def _item(section: str, declared: Mapping[str, Any], proofs: Sequence[Mapping[str, Any]]) -> ChecklistItem:
    """Proved only if each pattern has a claim that passed, and none that failed."""
    patterns = list(declared["proofs"])
    groups = [[proof for proof in proofs if fnmatchcase(proof["name"], pattern)] for pattern in patterns]
    statuses = [{proof["status"] for proof in group} for group in groups]
    if any("fail" in group for group in statuses):
        status = "failed"
    elif not any(statuses):
        status = "not_seen"
    else:
        status = "proved" if all("pass" in group for group in statuses) else "inconclusive"
    names = list(dict.fromkeys(proof["name"] for group in groups for proof in group))
    return ChecklistItem(section=section, item=declared["item"], status=status, patterns=patterns, proofs=names)


def _deployed_earlier(lines: Sequence[Line], run: Run) -> dict[str, str] | None:
    for line in reversed(lines):
        here = (line["release"], line["environment"]) == (run.release, run.environment)
        ended = line["step"] == "run" and line["facts"].get("outcome") == "deployed"
        if here and ended and line["run_id"] != run.run_id:
            return {"run_id": line["run_id"], "at": line["ts"]}
    return None
