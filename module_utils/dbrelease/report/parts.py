"""The parts of the evidence on the backup, the change and the files, each from the facts of its stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from ..core.history import Memory
from ..core.journal import Run
from ..core.progress import POINTS_AT_MOST, SERIES_AT_MOST
from ..core.stages import Line, Stage
from ..observe.cost import Cost
from ..observe.observation import joined, observation_of


def _pick(facts: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: facts.get(key) for key in keys}


def baseline_of(facts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The baseline; None for a run that took none."""
    if facts is None:
        return None
    tables = (facts.get("tables") or {}).items()
    return {
        **_pick(facts, "taken_at", "server_version", "revision"),
        "tables": [{"table": name, **_pick(table, "rows", "fingerprint")} for name, table in tables],
        "observations": [
            _pick(one, "name", "title", "sql", "rows", "duration_ms") for one in facts.get("observations") or ()
        ],
    }


def backup_of(facts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The backup; None for a run that took none."""
    if facts is None:
        return None
    names = ("path", "manifest", "sha256", "bytes", "duration_ms", "tool_version", "server_version", "decoded")
    return _pick(facts, *names)


def rehearsal_of(stages: Sequence[Stage]) -> dict[str, Any] | None:
    """What is shown of a rehearsal beside its claims; None where no release was rehearsed."""
    facts = next((stage.facts for stage in reversed(stages) if stage.step == "rehearse"), {})
    return {"advice": list(facts["advice"])} if facts.get("advice") else None


def cost_of(stages: Sequence[Stage]) -> dict[str, Any] | None:
    """What a rehearsal forecast, and what the live migration cost; None where neither was observed."""
    facts = {stage.step: stage.facts for stage in stages}
    rehearsed, *live = (observation_of(facts.get(step, {})) for step in ("rehearse", "upgrade", "finalize"))
    observed = [one for one in live if one]
    if not (rehearsed or observed):
        return None
    return {
        "forecast": Cost.of(rehearsed).as_dict() if rehearsed else None,
        "actual": Cost.of(reduce(joined, observed)).as_dict() if observed else None,
        "sentences": [str(line) for line in facts.get("rehearse", {}).get("forecast") or ()],
    }


def migration_of(stages: Sequence[Stage]) -> dict[str, Any] | None:
    """The result of the upgrade, its preview and its last steps, or else of the downgrade; also where they failed."""
    facts = {stage.step: stage.facts for stage in stages}
    if not {"preview", "upgrade", "downgrade", "finalize"} & facts.keys():
        return None
    moved = facts.get("upgrade", facts.get("downgrade", {}))
    return {
        **_pick(moved, "from_revision", "to_revision", "started_at", "duration_ms", "attempts", "log"),
        "lock_waits": list(moved.get("lock_waits") or ()),
        "ended_sessions": [
            *(moved.get("ended_sessions") or ()),
            *(facts.get("finalize", {}).get("ended_sessions") or ()),
        ],
        "preview": facts.get("preview", {}).get("path"),
        "finalize": [
            _pick(step, "name", "changed", "rows", "duration_ms")
            for step in facts.get("finalize", {}).get("steps") or ()
        ],
    }


def progress_of_stages(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """How far each long step was at which second of it, as its counters reported."""
    found = []
    for stage in stages:
        given = stage.facts.get("progress")
        for series in (given if isinstance(given, list) else [])[:SERIES_AT_MOST]:
            if isinstance(series, Mapping):
                points = series.get("points")
                found.append(
                    {
                        "stage": stage.step,
                        **{key: str(series.get(key) or "") for key in ("step", "what", "unit")},
                        "total": _number(series.get("total")),
                        "points": [
                            {"second": _number(second), "done": _number(done)}
                            for second, done in filter(_is_point, points if isinstance(points, list) else [])
                        ][:POINTS_AT_MOST],
                    }
                )
    return found


def _is_point(point: object) -> bool:
    return isinstance(point, list) and len(point) == 2 and None not in map(_number, point)


def _number(value: object) -> float | int | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None


def files_of(
    run: Run, written: Sequence[str], facts: Mapping[str, Mapping[str, Any]], stages: Sequence[Stage]
) -> list[dict[str, str]]:
    """The files that the run left on the target."""
    newest = {stage.step: stage.facts for stage in stages}  # a step that failed may have left files, too
    baseline = (facts.get("baseline") or {}).get("files") or {}
    backup = facts.get("backup") or {}
    known = {
        "backup": backup.get("path"),
        "backup manifest": backup.get("manifest"),
        "baseline": baseline.get("json"),
        "baseline, as text": baseline.get("txt"),
        "preview of the SQL": (facts.get("preview") or {}).get("path"),
        "log of the upgrade": newest.get("upgrade", {}).get("log"),
        "log of the rollback": newest.get("downgrade", {}).get("log"),
        "rows that only the replaced database has": newest.get("restore.rows", {}).get("directory"),
        **{
            f"{what} of {saved['rows']} lost rows": saved[key]
            for saved in [
                *(newest.get("lost_rows", {}).get("files") or ()),
                *(newest.get("reconcile", {}).get("saved") or ()),
            ]
            for what, key in (("file", "path"), ("replay script", "replay"))
        },
        **{name: str(run.directory / name) for name in written},
    }
    return [{"what": what, "path": path} for what, path in known.items() if path]


def monitored(lines: Sequence[Line], run: Run, stages: Sequence[Stage]) -> dict[str, Any] | None:
    """The samples of a run, oldest first, and its newest window (null until it ends); None where no run watched.

    lines: the whole journal; a run of monitor or readiness also shows the samples of other runs since the deployment.
    """
    own = [line["facts"] for line in lines if line["step"] == "sample" and line["run_id"] == run.run_id]
    mine = {id(facts) for facts in own}
    watches = [stage for stage in stages if stage.step == "monitor" and stage.status != "skipped"]
    asks = watches or any(stage.step == "readiness" for stage in stages)
    earlier = [sample.facts for sample in Memory.of(lines, run).samples if id(sample.facts) not in mine] if asks else []
    if not (own or earlier or watches):
        return None
    return {
        "earlier": [_sample(facts) for facts in earlier],
        "samples": [_sample(facts) for facts in own],
        "window": watches[-1].facts.get("window") if watches else None,
    }


def _sample(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "taken_at": facts.get("taken_at"),
        "verdict": facts.get("verdict"),
        "findings": [claim["detail"] for claim in facts.get("claims") or () if claim.get("detail")],
        "errors": {name: log.get("errors") for name, log in (facts.get("logs") or {}).items()},
        "latency_ms": {name: endpoint.get("latency_ms") for name, endpoint in (facts.get("api") or {}).items()},
        "statuses": {name: endpoint.get("status") for name, endpoint in (facts.get("api") or {}).items()},
        "connections": facts.get("connections"),
        "growth": facts.get("growth"),
        "drift": facts.get("drift"),
        "queue_depth": (facts.get("queue") or {}).get("depth"),
        "replication": facts.get("replication"),
        "dead_rows": {table: rows.get("dead") for table, rows in (facts.get("dead_rows") or {}).items()},
        "bloat_bytes": {table: rows.get("bloat_bytes") for table, rows in (facts.get("dead_rows") or {}).items()},
    }
