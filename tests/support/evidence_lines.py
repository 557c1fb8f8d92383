"""Journal lines of whole runs, and what the evidence makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from ansible.module_utils.dbrelease.core.journal import Run
from ansible.module_utils.dbrelease.core.proof import Proof

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "evidence.schema.json").read_text())

VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

Event = tuple[str, str, dict[str, Any]]

HOSTILE = (
    'O\'Brien "x" | `y` ``` 🧾\n# <script>alert(1)</script> &lt; \x00\x1b[31m \u202e *b* [l](http://h) ]]> --> \ud800'
)

RELEASE: dict[str, Any] = {
    "title": "Items of orders",
    "migration": {"from_revision": "aaa", "to_revision": "bbb"},
    "checklist": [
        {
            "section": "Before",
            "items": [
                {"item": "Services running", "proofs": ["preflight.services"]},
                {"item": "Backup saved", "proofs": ["backup.saved", "backup.decoded"]},
            ],
        },
        {
            "section": "After",
            "items": [
                {"item": "Counts match", "proofs": ["checks.counts"]},
                {"item": "API works", "proofs": ["api.*"]},
                {"item": "Logs quiet", "proofs": ["monitor.*"]},
                {"item": "Notes recorded", "proofs": ["report.evidence"]},
            ],
        },
    ],
    "ways_back": [
        {"title": "Roll back", "command": "ansible-playbook rollback.yml -i {environment} -e '{\"a\": {}}'"},
        {"title": "Restore", "command": "ansible-playbook restore.yml -i {environment}"},
    ],
}


def proof(name: str, status: Any = "pass", **values: Any) -> dict[str, Any]:
    return Proof(name, f"Claim {name}", status, **values).as_dict()


def closed(step: str, event: str = "passed", **facts: Any) -> list[Event]:
    return [(step, "started", {}), (step, event, facts)]


WINDOW = {
    "started_at": "2026-01-02T03:04:05.000000000Z",
    "seconds": 60,
    "interval_seconds": 30,
    "watched_seconds": 61,
    "samples": 3,
    "longest_gap_seconds": 31,
    "deployed_at": None,
}

SAMPLE = {
    "taken_at": "2026-01-02T03:04:05.000000000Z",
    "verdict": "fail",
    "claims": [{"name": "app_log", "verdict": "fail", "detail": "1 error.", "grave": False}],
    "logs": {"app_log": {"errors": 1}},
    "api": {"orders": {"status": 500, "latency_ms": {"p50": None, "p95": None, "max": None}}},
    "connections": {"by_state": {"idle": 3}, "total": 3, "maximum": 100},
    "growth": {"items": 5},
    "drift": {"all_items_there": 2},
    "queue": {"depth": 4},
    "dead_rows": {"items": {"live": 5, "dead": 1, "bytes": 8192, "bloat_bytes": 96}},
}

RUN: list[Event] = [("run", "started", {})]

READY = closed("preflight", state="ready", proofs=[proof("preflight.services")])

DEPLOYED = closed("preflight", state="deployed", proofs=[proof("preflight.services")])

SAVED = closed(
    "backup",
    path="/srv/a.dump",
    manifest="/srv/a.manifest.json",
    sha256="0" * 64,
    bytes=10,
    duration_ms=5,
    tool_version="15.4",
    server_version="15.4",
    decoded=True,
    proofs=[proof("backup.saved"), proof("backup.decoded")],
)

TABLES = {"public.orders": {"rows": 3, "fingerprint": "f00", "columns": ["id"], "inserted": 1}}

OBSERVED = [{"name": "n", "title": "Orders", "sql": "SELECT 1 AS n", "rows": [{"n": 1}], "duration_ms": 2}]

BASELINE = closed(
    "baseline",
    taken_at="2026-01-02T03:04:05+00:00",
    server_version="15.4",
    revision="aaa",
    xid=7,
    tables=TABLES,
    observations=OBSERVED,
    files={"json": "/srv/p.json", "txt": "/srv/p.txt"},
    proofs=[proof("baseline.documented")],
)

UPGRADED = closed(
    "upgrade",
    from_revision="aaa",
    to_revision="bbb",
    started_at="2026-01-02T03:04:05+00:00",
    log="/srv/m.log",
    duration_ms=120,
    attempts=2,
    lock_waits=[{"pid": 4, "query": "UPDATE orders"}],
    proofs=[proof("migrate.upgrade")],
)

FINALIZED = closed("finalize", steps=[{"name": "analyze", "changed": True, "rows": -1, "duration_ms": 3}])

ANSWERS = {
    "orders": {
        "status": 200,
        "kind": "list",
        "keys": ["id"],
        "optional_keys": [],
        "count": 3,
        "latency_ms": {"p50": 1.5, "p95": 2.0, "max": 2.5},
        "requests": 3,
    }
}

API = closed("api", endpoints=ANSWERS, proofs=[proof("api.orders.status"), proof("api.orders.latency", "skipped")])

CHECKED = closed("checks", proofs=[proof("checks.counts", expected=0, observed=0, sql="SELECT 1", duration_ms=4)])

RED_CHECK = closed(
    "checks",
    "failed",
    proofs=[proof("checks.counts", "fail", detail="2 rows are missing.", remedy="Copy them.", sample=[{"id": 1}])],
)

VERIFIED = [*CHECKED, *API, ("verify", "passed", {"claims": 3, "red": [], "message": ""})]

UNVERIFIED: list[Event] = [*RED_CHECK, *API, ("verify", "failed", {"red": ["checks.counts"], "message": "1) ..."})]

FULL = [*RUN, *READY, *BASELINE, *SAVED, *UPGRADED, *FINALIZED, *VERIFIED]

NO_RESULT = "Module result deserialization failed: No start of json char found"

REFUSAL = closed(
    "preflight",
    "failed",
    state="refused",
    proofs=[
        proof("preflight.services", "fail", detail="db is stopped.", remedy="Start it."),
        proof("preflight.x", "fail"),
    ],
)


def lines_of(events: list[Event], run: Run, start: int = 0) -> list[dict[str, Any]]:
    """The journal of these events, a second apart."""
    return [
        {
            "ts": f"2026-01-02T03:{(start + place) // 60:02}:{(start + place) % 60:02}.000+00:00",
            "run_id": run.run_id,
            "release": run.release,
            "environment": run.environment,
            "playbook": run.playbook,
            "step": step,
            "event": event,
            "facts": facts,
        }
        for place, (step, event, facts) in enumerate(events)
    ]


def hostile() -> tuple[list[Event], dict[str, Any]]:
    bad = proof(
        HOSTILE,
        "fail",
        expected=HOSTILE,
        observed={HOSTILE: [float("nan"), HOSTILE]},
        detail=HOSTILE,
        remedy=HOSTILE,
        sql=f"SELECT 1\n```\n{HOSTILE}",
        sample=[{HOSTILE: HOSTILE, "b": None}],
    )
    events = [
        *RUN,
        *closed("baseline", tables={HOSTILE: {"rows": 1, "fingerprint": HOSTILE}}, observations=[
            {"name": HOSTILE, "title": HOSTILE, "sql": HOSTILE, "rows": [{HOSTILE: HOSTILE}], "duration_ms": 1}
        ]),
        *closed("upgrade", "failed", message=HOSTILE, lock_waits=[{HOSTILE: HOSTILE}], log=HOSTILE),
        *closed("rehearse", advice=[HOSTILE]),
        *closed(HOSTILE, proofs=[bad, {**bad, "status": "skipped"}]),
        ("cut", "started", {}),
    ]  # fmt: skip
    release = {
        "title": HOSTILE,
        "checklist": [{"section": HOSTILE, "items": [{"item": HOSTILE, "proofs": [HOSTILE, "*"]}]}],
        "ways_back": [{"title": HOSTILE, "command": f"run {{environment}} {HOSTILE}"}],
    }
    return events, release
