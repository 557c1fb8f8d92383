"""One sample: everything that the release declares is observed once, judged, and reported on one line."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.clock import moment
from ..core.history import Before, Memory
from ..host.inspect import no_container
from ..postgres.session import Login
from .database import leave_a_line, sample_database
from .endpoints import sample_api
from .logs import logs_of, sample_logs
from .queue import sample_queue
from .verdicts import Claim, findings, verdict_of

# A line that a service wrote before the window's end may reach the engine's file a moment later.
SETTLE_S = 0.2


@dataclass(frozen=True)
class Target:
    """Where the sample is taken; containers by service, empty where there is none."""

    login: Login
    containers: Mapping[str, str]
    api_base_url: str
    api_ca_file: str = ""


def take(
    target: Target,
    release: Mapping[str, Any],
    memory: Memory,
    before: Before,
    begin_ns: int,
) -> dict[str, Any]:
    """The facts of a sample. `begin_ns`: from when the logs are read if no sample was taken since the deployment.

    release: its `monitoring`, `checks`, `api`, the names of its `tables`, and its `revision`.
    """
    started = time.monotonic()
    monitoring = release["monitoring"]
    facts: dict[str, Any] = {"taken_at": moment(time.time_ns())}
    claims: list[Claim] = []
    leave_a_line(target.login)
    marked = time.monotonic()
    if release.get("api") and monitoring.get("latency") and target.api_base_url:
        facts["api"], made = sample_api(
            release["api"], monitoring["latency"], target.api_base_url, before.endpoints, target.api_ca_file
        )
        claims += made
    queue = monitoring.get("queue")
    if queue and target.containers.get(queue["service"]):
        facts["queue"], claim = sample_queue(queue, target.containers[queue["service"]], before.queued)
        claims.append(claim)
    time.sleep(max(0.0, SETTLE_S - (time.monotonic() - marked)))
    # The logs are read last, up to a moment before the database was queried.
    end_ns = time.time_ns()
    previous = {"growth": memory.seen("growth"), "standbys": memory.standbys(), "health": before.health}
    sections, made = sample_database(target.login, monitoring, release, previous)
    facts |= sections
    claims += made
    time.sleep(SETTLE_S)
    logs = logs_of(monitoring, target.containers, target.login.password)
    facts["logs"], made = sample_logs(logs, memory.previous_logs(), before.logs, memory.deployed_ns or begin_ns, end_ns)
    claims = [*made, *claims]
    facts |= {
        "verdict": verdict_of(claims),
        "claims": [claim.facts() for claim in claims],
        "left_out": left_out(monitoring, target),
        "duration_ms": round((time.monotonic() - started) * 1000),
    }
    return facts


def left_out(monitoring: Mapping[str, Any], target: Target) -> dict[str, str]:
    """The declared claims that this target cannot have, each with the reason."""
    services = {log["name"]: log["service"] for log in monitoring.get("logs") or ()}
    if queue := monitoring.get("queue"):
        services["queue"] = queue["service"]
    found = {name: no_container(service) for name, service in services.items() if not target.containers.get(service)}
    if monitoring.get("latency") and not target.api_base_url:
        found |= dict.fromkeys(("api", "latency"), "The inventory names no API (api_base_url).")
    return found


def line(facts: Mapping[str, Any]) -> str:
    """A sample for the operator, on one line."""
    parts: list[str] = []
    for name, endpoint in (facts.get("api") or {}).items():
        p50 = endpoint["latency_ms"]["p50"]
        parts.append(f"{name} {f'{p50:.0f} ms' if p50 is not None else endpoint['status'] or 'no answer'}")
    if facts.get("connections"):
        parts.append(f"{facts['connections']['total']} connections")
    if (facts.get("queue") or {}).get("depth") is not None:
        parts.append(f"{facts['queue']['depth']} queued")
    if facts.get("drift"):
        parts.append(f"drift {_sum(facts['drift'].values())}")
    if facts.get("logs"):
        parts.append(f"{sum(log['errors'] for log in facts['logs'].values())} errors logged")
    found = findings(facts)
    text = f"{facts['taken_at'][11:19]} UTC {facts['verdict']}: {', '.join(parts)}"
    return f"{text}. {' '.join(found)}" if found else text


def _sum(counts: Any) -> int:
    return sum(count for count in counts if isinstance(count, int))


def release_tables(tables: Mapping[str, Any]) -> Sequence[str]:
    """The names of the release's tables, those that it creates first."""
    return [*(tables.get("created") or {}), *(tables.get("existing") or {})]
