"""The API, held to its contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..api import Endpoint, Latency, observe, observe_proofs, verify_proofs
from ..http import HttpSession
from ..journal import Journal, last_facts, utc_now
from ..module import Options, run_of
from ..outcome import AS_BEFORE
from ..proof import sentence
from ..untouched import rewritten
from .untouched import STEP as UNTOUCHED

OPTIONS: Options = {
    "base_url": {"type": "str", "required": True},
    "other_rows": {"type": "bool", "default": False},
    "judge_latency": {"type": "bool", "default": True},
    "mode": {"type": "str", "choices": ["observe", "verify"], "required": True},
    "api": {
        "type": "dict",
        "required": True,
        "options": {
            "timeout_seconds": {"type": "float", "required": True},
            "latency": {
                "type": "dict",
                "required": True,
                "options": {
                    "requests": {"type": "int", "required": True},
                    "factor": {"type": "float", "required": True},
                    "floor_ms": {"type": "float", "required": True},
                },
            },
            "endpoints": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "path": {"type": "str", "required": True},
                    "status": {"type": "int", "required": True},
                    "kind": {"type": "str", "choices": ["list", "object"], "required": True},
                    "keys": {"type": "list", "elements": "str", "required": True, "no_log": False},
                },
            },
        },
    },
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Ask every endpoint, compare, and journal what was seen."""
    journal = Journal(run_of(params), dry=check_mode)
    verifying, api = params["mode"] == "verify", params["api"]
    latency = Latency.of(api["latency"])
    lines = journal.read()
    before = last_facts(lines, release=journal.run.release, environment=journal.run.environment, step="api_baseline")
    baseline = before["endpoints"] if before and verifying else {}
    written = None if params["other_rows"] else _rewritten(lines, journal.run.run_id)
    endpoints: dict[str, Any] = {}
    with journal.step("api" if verifying else "api_baseline") as step:
        step.facts.update(taken_at=utc_now().isoformat(timespec="milliseconds"), endpoints=endpoints, proofs=[])
        with HttpSession(params["base_url"], api["timeout_seconds"]) as session:
            for endpoint in map(Endpoint.of, api["endpoints"]):
                seen = observe(session, endpoint, latency.requests)
                endpoints[endpoint.name] = seen.facts()
                if not verifying:
                    step.prove(*observe_proofs(seen, session.url))
                    continue
                known = baseline.get(endpoint.name)
                judged = params["judge_latency"]
                step.prove(*verify_proofs(seen, known, latency, session.url, written, judge_latency=judged))
    proofs = step.facts["proofs"]
    return {
        "changed": False,
        "proofs": proofs,
        "message": sentence(proofs),
        "endpoints": endpoints,
        "compared": bool(baseline),
    }


def _rewritten(lines: Sequence[Mapping[str, Any]], run_id: str) -> int | None:
    """What this run saw in the tables before it came to the API; 0 where it did not look at them."""
    for line in reversed(lines):
        if line["run_id"] == run_id and line["step"] in (UNTOUCHED, AS_BEFORE) and line["event"] != "started":
            return rewritten(line["facts"].get("proofs") or ())
    return 0
