"""What the evidence says of watching: the samples of a run as series, and the window that they were judged in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .journal import Run
from .monitor.memory import Memory
from .stages import Line, Stage


def monitored(lines: Sequence[Line], run: Run, stages: Sequence[Stage]) -> dict[str, Any] | None:
    """The samples of a run, oldest first, and its newest window (null until it ends); None where nobody watched.

    lines: the whole journal; a run that watches or asks how it was shows also what other runs saw since the deployment.
    """
    own = [line["facts"] for line in lines if line["step"] == "sample" and line["run_id"] == run.run_id]
    watches = [stage for stage in stages if stage.step == "monitor" and stage.status != "skipped"]
    asks = watches or any(stage.step == "readiness" for stage in stages)
    earlier = [sample.facts for sample in Memory.of(lines, run).samples if sample.facts not in own] if asks else []
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
