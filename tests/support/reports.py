"""Evidence of every kind of run, and its report: what the tests of the report look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.dbrelease.core.journal import Run
from ansible.module_utils.dbrelease.report.files import RENDERERS
from ansible.module_utils.dbrelease.report.html import as_html
from ansible.module_utils.dbrelease.report.model import Model, build
from evidence_lines import (
    API,
    BASELINE,
    DEPLOYED,
    FULL,
    READY,
    REFUSAL,
    RELEASE,
    RUN,
    UNVERIFIED,
    VERIFIED,
    Event,
    closed,
    hostile,
    lines_of,
    proof,
)

TEMPLATES = Path(__file__).parents[2] / "roles" / "report" / "templates"
LONG = "word" * 600 + " 🧾" * 200
MEASURED = closed(
    "api_baseline", endpoints={"orders": {"latency_ms": {"p50": 1.0, "p95": 90.0, "max": 95.5}, "count": 3}}
)
UNTOUCHED = closed(
    "untouched",
    proofs=[
        proof(
            "untouched.public.orders",
            expected={"rows": 3, "fingerprint": "f00"},
            observed={"rows": 3, "fingerprint": "f00"},
            duration_ms=3,
        )
    ],
)
CONTENDED = closed(
    "upgrade",
    "failed",
    message="Alembic's upgrade gave up after 3 attempts.",
    started_at="2026-01-02T03:04:05+00:00",
    duration_ms=9000,
    attempts=3,
    lock_waits=[{"pid": 7, "user": "app", "application": "batch", "since": "2026-01-02T03:00:00+00:00", "query": "?"}],
)
SITUATIONS: dict[str, list[Event]] = {
    "deployed": [*FULL[:3], *MEASURED, *FULL[3:], *UNTOUCHED],
    "already_deployed": [*RUN, *DEPLOYED, *VERIFIED],
    "planned": [*RUN, *READY],
    "refused": [*RUN, *REFUSAL],
    "failed_verification": [*FULL[:11], *UNVERIFIED],
    "contended": [*RUN, *READY, *BASELINE, *CONTENDED],
    "interrupted": [*RUN, *READY, *BASELINE, ("upgrade", "started", {})],
    "rolled_back": [*FULL[:11], *UNVERIFIED, *closed("rolled_back")],
    "failed_rollback": [
        *RUN,
        *closed("guards", state="allowed"),
        *closed("downgrade", "failed", message="It was killed."),
    ],
    "failed_restore": [
        *RUN,
        *closed(
            "restore.swap", kept="app_old_1", swap_back="ansible-playbook restore.yml -e restore_swap_back=app_old_1"
        ),
        *closed("restore.services", "failed", message="web is not healthy."),
    ],
    "nothing_began": RUN,
    "no_journal": [],
    "hostile": [],
    "long": [
        *RUN,
        *closed(LONG, "failed", message=LONG, proofs=[proof(LONG, "fail", detail=LONG, observed=LONG)]),
        *API,
    ],
}
SAMPLES: list[dict[str, Any]] = [
    {
        "taken_at": f"2026-01-02T03:{minute:02}:00+00:00",
        "latency_ms": {"orders": {"p50": 5 + minute % 3, "p95": 9 + minute % 5, "max": 20}, "items": None},
        "errors": {"backend": minute % 2, "worker": 0},
        "statuses": {"orders": 200, "items": None},
        "connections": {"by_state": {"active": 2, "idle": minute % 4}, "total": 2 + minute % 4, "maximum": 100},
        "growth": {"total": 9000 + minute},
        "drift": {"missing": 0, "stale": 0},
        "queue_depth": None,
        "replication": {"standbys": 1, "lag_seconds": 0.5, "lag_bytes": 900} if minute else None,
        "dead_rows": {},
        "bloat_bytes": {},
        "verdict": "fail" if minute == 7 else "pass",
        "findings": ["3 errors in backend, and 0 are allowed."] if minute == 7 else [],
    }
    for minute in range(40)
]
WATCHED = {
    "earlier": [],
    "samples": SAMPLES,
    "window": {
        "started_at": "2026-01-02T03:00:00+00:00",
        "seconds": 2400,
        "interval_seconds": 60,
        "watched_seconds": 2340,
        "samples": 40,
        "longest_gap_seconds": 61,
    },
}


def model_of(situation: str, run: Run) -> Model:
    """The evidence of a run that went this way."""
    events, release = SITUATIONS[situation], RELEASE
    if situation == "hostile":
        events, release = hostile()
    if situation == "long":
        release = {**RELEASE, "title": LONG, "ways_back": [{"title": LONG, "command": LONG}]}
    dry = situation == "planned"
    written = () if dry else tuple(RENDERERS)
    return build(run, release, lines_of(events, run), asked=["deployed"], check_mode=dry, written=written)


def report_of(situation: str, run: Run, **more: Any) -> str:
    """Its page."""
    return as_html({**model_of(situation, run), **more}, TEMPLATES)
