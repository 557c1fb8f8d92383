"""Stop the application's containers for the swap, always start them again, and wait until they are healthy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import docker
import docker.errors

from ..core.errors import ReleaseError
from ..core.journal import utc_now
from ..core.proof import Proof, Status
from .commands import docker_client
from .inspect import Service, inspect, moment, not_running, replicas, service_of

SERVICES_STEP = SERVICES_PROOF = "restore.services"
SERVICES_TITLE = "The application is up again"
POLL_S = 0.1
# The engine itself may be restarting.
ENGINE_DEADLINE_S = 90.0
# A container without a health check counts as started if it is still running after this time.
STEADY_S = 2.0
# How long the engine takes to kill a container that did not stop in its time.
KILLED_WITHIN = timedelta(seconds=5)
# The exit code of a container whose program was killed by SIGKILL.
KILLED_STATUS = 137


@dataclass(frozen=True)
class Limits:
    """How long a container may take to stop before it is killed, and to become healthy again.

    A container with a longer stop time of its own (Compose's `stop_grace_period`) keeps that.
    """

    stop_s: int
    healthy_s: int

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Limits:
        """Build from a module's option `swap`."""
        return cls(asked["stop_seconds"], asked["healthy_seconds"])


@dataclass(frozen=True)
class Stopping:
    """Containers that are being stopped: since when, and how long each may take before it is killed."""

    containers: Sequence[str]
    since: datetime
    stop_s: int

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Stopping:
        """Build from the journal line that was written before the first was stopped."""
        facts = line["facts"]
        return cls(tuple(facts["containers"]), datetime.fromisoformat(line["ts"]), facts.get("stop_seconds", 0))

    def may_go_on(self, service: Service) -> bool:
        """Whether the engine may still be stopping it, which continues also after its client has ended."""
        if service.status != "running" or utc_now() > self.since + timedelta(seconds=self.stop_s) + KILLED_WITHIN:
            return False
        return not service.since or datetime.fromisoformat(service.since) < self.since


def running(containers: Sequence[str]) -> list[str]:
    """The running ones, and those of the same services: only these are stopped, and started again."""
    named = [*dict.fromkeys(one for name in containers for one in replicas(name, stopped=False))]
    seen = inspect({name: name for name in named})
    return [name for name in named if service_of(name, seen[name]).status == "running"]


def stop_seconds(containers: Sequence[str], limits: Limits) -> int:
    """The longest time that one of them may take to stop."""
    seen = inspect({name: name for name in containers})
    return max([limits.stop_s, *(_own_stop_seconds(attributes) for attributes in seen.values())])


def _own_stop_seconds(attributes: Mapping[str, Any] | None) -> int:
    return int(((attributes or {}).get("Config") or {}).get("StopTimeout") or 0)


def stop(containers: Sequence[str], limits: Limits) -> None:
    """Stop all in parallel; raises ReleaseError where one does not stop."""
    _each(containers, lambda client, name: _stop(client, name, limits), "Stopping")


def _stop(client: docker.DockerClient, name: str, limits: Limits) -> None:
    own = _own_stop_seconds(client.api.inspect_container(name))
    client.api.stop(name, timeout=max(limits.stop_s, own))


def killed(containers: Sequence[str]) -> list[str]:
    """The stopped containers that did not stop in their time and were killed."""
    seen = inspect({name: name for name in containers})
    return [name for name in containers if ((seen[name] or {}).get("State") or {}).get("ExitCode") == KILLED_STATUS]


def started_by_others(containers: Sequence[str], stopped_at: datetime) -> list[str]:
    """Those that were started after they had been stopped, before it is our turn to start them."""
    seen = inspect({name: name for name in containers})
    begun = {name: moment(((seen[name] or {}).get("State") or {}).get("StartedAt") or "") for name in containers}
    return [name for name, since in begun.items() if since and datetime.fromisoformat(since) > stopped_at]


def start(stopping: Stopping) -> None:
    """Start all in parallel, each when it has stopped; repeat while the engine does not answer.

    The engine takes a container that is still stopping for a running one. Raises ReleaseError after the deadline.
    """
    deadline = time.monotonic() + ENGINE_DEADLINE_S
    while True:
        try:
            return _each(stopping.containers, lambda client, name: _start(client, name, stopping), "Starting")
        except ReleaseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _start(client: docker.DockerClient, name: str, stopping: Stopping) -> None:
    while stopping.may_go_on(service_of(name, client.api.inspect_container(name))):
        time.sleep(POLL_S)
    client.api.start(name)


def wait_until_healthy(containers: Sequence[str], limits: Limits) -> dict[str, Service]:
    """Wait until each is healthy, or keeps running without a health check, or the time is up; return their states."""
    begun = time.monotonic()
    services: dict[str, Service] = {}
    while True:
        try:
            seen = inspect({name: name for name in containers})
            services = {name: service_of(name, seen[name]) for name in containers}
        except ReleaseError:
            if time.monotonic() - begun > limits.healthy_s:
                raise
        else:
            if all(_is_up(service, time.monotonic() - begun) for service in services.values()):
                return services
        if time.monotonic() - begun > limits.healthy_s:
            return services
        time.sleep(POLL_S)


def prove(
    services: Mapping[str, Service],
    away_ms: int,
    left: Sequence[str],
    unstarted: Sequence[str] = (),
    killed: Sequence[str] = (),
    restarted: Sequence[str] = (),
) -> Proof:
    """Prove that each stopped container is running again and healthy; containers that were stopped before stay so.

    `unstarted`: those that an earlier swap had stopped; `killed`: those that did not stop in their time; `restarted`:
    those that something else started during the swap.
    """
    down = {name: service for name, service in services.items() if not _is_up(service, STEADY_S)}
    said = [
        f"Container {name} is {service.health}: check `docker logs {name}`."
        if service.status == "running"
        else not_running(name, service)
        for name, service in down.items()
    ]
    doubtful = left or restarted or killed
    status: Status = "fail" if down else "inconclusive" if doubtful else "pass" if services else "skipped"
    if services and not down:
        said.append(f"It was stopped for {away_ms} ms.")
        said += [f"{name} had been stopped since an earlier swap, which could not start it." for name in unstarted]
    if killed:
        said.append(f"{' and '.join(killed)} did not stop in time and had to be killed: unfinished work may be lost.")
    if restarted:
        said.append(
            f"{' and '.join(restarted)} did not stay stopped: something else started it during the swap, such as "
            "autoheal or a job of the target. Its sessions were ended, so unfinished work may be lost."
        )
    if left:
        said.append(
            f"{' and '.join(left)} was not running before the swap, and was not started."
            if len(left) == 1
            else f"{' and '.join(left)} were not running before the swap, and were not started."
        )
    return Proof(
        SERVICES_PROOF,
        SERVICES_TITLE,
        status,
        expected=dict.fromkeys(services, "healthy"),
        observed={name: f"{service.status}, {service.health}" for name, service in services.items()},
        detail=" ".join(said) or "No container of the application is named.",
        remedy=f"Start the containers that should run: `docker start {' '.join(left)}`."
        if left
        else "Check for unfinished work, and suspend what starts these containers before the next restore."
        if restarted
        else "Check for unfinished work, and allow more time to stop: `stop_grace_period`, or restore_stop_seconds."
        if killed
        else "",
        duration_ms=away_ms,
    )


def _is_up(service: Service, seconds: float) -> bool:
    if service.status != "running":
        return False
    return service.health == "healthy" or (service.health == "none" and seconds >= STEADY_S)


def _each(containers: Sequence[str], act: Callable[[docker.DockerClient, str], Any], doing: str) -> None:
    if not containers:
        return
    client = docker_client()
    try:
        with ThreadPoolExecutor(len(containers)) as pool:
            failures = list(pool.map(lambda name: _tried(act, client, name), containers))
    finally:
        client.close()
    said = [f"{name} ({failure})" for name, failure in zip(containers, failures, strict=True) if failure]
    if said:
        raise ReleaseError(f"{doing} the application's containers failed: {', '.join(said)}; check `docker ps --all`.")


def _tried(act: Callable[[docker.DockerClient, str], Any], client: docker.DockerClient, name: str) -> str:
    try:
        act(client, name)
    except (docker.errors.DockerException, OSError) as error:
        return " ".join(str(error).split())
    return ""
