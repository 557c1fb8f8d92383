"""The logs of the declared services since the last sample: errors, and the reasons why none may prove nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors

from ..core.clock import moment, nanoseconds
from ..core.errors import ReleaseError
from ..host.commands import docker_client
from ..host.container_log import Container, Window, find_container, window_lines
from ..host.inspect import DATABASE_SERVICE
from ..host.log_events import LogStats, Rules, read
from .known import known_kinds, recurring
from .verdicts import Claim

Facts = dict[str, Any]


@dataclass(frozen=True)
class Doubt:
    """Why the absence of errors is no proof.

    lost: lines may be lost for good, or were not understood. silent: there was nothing to read.
    """

    text: str
    lost: bool = False
    silent: bool = False


@dataclass(frozen=True)
class Log:
    """One declared log of a target: its declaration, the container that writes it, and the secret to mask in it."""

    declared: Mapping[str, Any]
    container: str
    rules: Rules
    secret: str | None

    @property
    def name(self) -> str:
        """Its name in the release."""
        return str(self.declared["name"])

    def read(self, client: docker.DockerClient, window: Window) -> LogStats:
        """The statistics of a window of it."""
        return read(window_lines(client, self.container, window), self.rules, self.secret)


def logs_of(monitoring: Mapping[str, Any], containers: Mapping[str, str], secret: str | None) -> list[Log]:
    """The declared logs that the target has."""
    concerns = monitoring.get("concerns") or ()
    return [
        Log(log, containers[log["service"]], Rules.of(log, concerns), secret)
        for log in monitoring.get("logs") or ()
        if containers.get(log["service"])
    ]


def usual_errors(logs: Sequence[Log], begin_ns: int, end_ns: int) -> dict[str, Facts]:
    """The errors of each log before the release, from `begin_ns` or the first line of the log; see `recurring`."""
    if not logs:
        return {}
    try:
        client = docker_client()
    except ReleaseError as error:
        return {log.name: {"unread": error.message} for log in logs}
    try:
        return {log.name: _usual_errors(client, log, begin_ns, end_ns) for log in logs}
    finally:
        client.close()


def _usual_errors(client: docker.DockerClient, log: Log, begin_ns: int, end_ns: int) -> Facts:
    try:
        container = find_container(client, log.container)
        if container is None or container.oldest_ns is None:
            return {"unread": f"There is no log of a container {log.container}."}
        window = Window(max(begin_ns, container.oldest_ns), end_ns)
        return recurring(log.read(client, window), window)
    except (docker.errors.DockerException, OSError) as error:
        return {"unread": _unread(log, error)}


def sample_logs(
    logs: Sequence[Log], previous: Mapping[str, Any], usual: Mapping[str, Any], begin_ns: int, end_ns: int
) -> tuple[dict[str, Facts], list[Claim]]:
    """Each log from the end of the last sample (`previous`, by log), else from `begin_ns`, up to `end_ns`.

    usual: the errors of each log before the release, as `usual_errors` returned them.
    """
    if not logs:
        return {}, []
    try:
        client = docker_client()
    except ReleaseError as error:
        return {}, [Claim(log.name, "inconclusive", error.message) for log in logs]
    facts: dict[str, Facts] = {}
    claims = []
    try:
        for log in logs:
            before = previous.get(log.name) or {}
            window = Window(nanoseconds(before.get("end") or "") or begin_ns, end_ns)
            facts[log.name], claim = _sample(client, log, before, usual.get(log.name) or {}, window)
            claims.append(claim)
    finally:
        client.close()
    return facts, claims


def _sample(
    client: docker.DockerClient, log: Log, before: Mapping[str, Any], usual: Mapping[str, Any], window: Window
) -> tuple[Facts, Claim]:
    facts: Facts = {"begin": moment(window.begin_ns), "end": moment(window.end_ns), "container": log.container}
    try:
        container = find_container(client, log.container)
        seen = log.read(client, window) if container else LogStats()
    except (docker.errors.DockerException, OSError) as error:
        # The window stays open, so that the next sample reads it, too.
        facts["end"] = facts["begin"]
        detail = _unread(log, error)
        return {**facts, **LogStats().facts(), "unread": detail}, Claim(log.name, "inconclusive", detail)
    known = known_kinds(seen, usual, window)
    facts |= seen.facts(known)
    doubt = doubts(log, container, before, window, seen) if container else []
    if container:
        facts |= {
            "container_id": container.id,
            "started_at": moment(container.started_ns),
            "oldest_at": moment(container.oldest_ns) if container.oldest_ns else None,
            "lost": next((one.text for one in doubt if one.lost), ""),
            "silent": next((one.text for one in doubt if one.silent), ""),
        }
    return facts, judge(log, container, window, seen, known, doubt)


def _unread(log: Log, error: Exception) -> str:
    return f"The log of container {log.container} could not be read ({' '.join(str(error).split())})."


def judge(
    log: Log,
    container: Container | None,
    window: Window,
    seen: LogStats,
    known: Collection[str],
    doubt: Sequence[Doubt],
) -> Claim:
    """Errors fail; those of `known` kinds, and a window with lost or too few lines, are inconclusive."""
    name, since = log.container, moment(window.begin_ns)
    if container is None or container.status != "running":
        status = container.status if container else "missing"
        last = f" ({seen.sample(known)[0]})" if seen.errors else ""
        service = log.declared["service"]
        detail = f"Container {name} of the service {service} is {status}{last}: read `docker logs {name}`."
        return Claim(log.name, "fail", detail, grave=bool(seen.concerning))
    of_old = seen.count(known)
    if new := seen.errors - of_old:
        concern = f", {seen.concerning} of which concern the release" if seen.concerning else ""
        besides = f" (besides {of_old} that also occurred before the release)" if of_old else ""
        detail = f"{errors(new)} in the log of {name} since {since}{besides}{concern}: {seen.sample(known)[0]}"
        return Claim(log.name, "fail", detail, grave=bool(seen.concerning))
    if of_old and not doubt:
        usual = "which were as frequent before the release"
        detail = f"{errors(of_old)} in the log of {name} since {since}, {usual}: {seen.sample()[0]}"
        return Claim(log.name, "inconclusive", detail)
    return Claim(log.name, "inconclusive", doubt[0].text) if doubt else Claim(log.name)


def errors(count: int) -> str:
    """The number of errors, in words."""
    return "1 error" if count == 1 else f"{count} errors"


def doubts(
    log: Log,
    container: Container,
    before: Mapping[str, Any],
    window: Window,
    seen: LogStats,
) -> list[Doubt]:
    """Why a window may have had errors although none was read, the most serious reason first."""
    name, since = log.container, moment(window.begin_ns)
    found = []
    known = before.get("container_id")
    if container.created_ns > window.begin_ns or (known and known != container.id):
        text = f"Container {name} was recreated since {since}: the log of the previous one is lost."
        found.append(Doubt(text, lost=True))
    elif container.started_ns > window.begin_ns:
        found.append(Doubt(f"Container {name} was restarted at {moment(container.started_ns)}, after {since}."))
    # A log that was empty when it was last read has lost no line.
    was_empty = known == container.id and "oldest_at" in before and before["oldest_at"] is None
    gap = container.oldest_ns is None or container.oldest_ns > window.begin_ns
    if gap and not was_empty and not any(one.lost for one in found):
        oldest = f"begins at {moment(container.oldest_ns)}" if container.oldest_ns else "is empty"
        text = f"The log of {name} {oldest}, after {since}: lines were rotated out before they were read."
        found.append(Doubt(text, lost=True))
    # The rest of an earlier event is harmless; a log without any event is read by the wrong rules.
    if seen.lines and not seen.levels:
        text = f"None of the {seen.lines} lines in the log of {name} since {since} matches the release's `event`."
        found.append(Doubt(text, lost=not before.get("levels")))
    strange = [level for level in sorted(seen.levels) if not log.rules.knows(level)]
    if strange and log.declared["service"] == DATABASE_SERVICE:
        text = (
            f"The log of {name} since {since} has the level {' and '.join(strange)}, which may be an error in another "
            "language: set lc_messages = 'C' (also where ALTER DATABASE or ALTER ROLE set it), or declare the level in "
            "the release's `errors` or `joins`."
        )
        found.append(Doubt(text, lost=True))
    if seen.unclear:
        text = f"A line in the log of {name} since {since} concerns the release but has no level: {seen.unclear}"
        found.append(Doubt(text, lost=True))
    if not found and seen.lines < log.declared.get("minimum_lines", 0):
        text = f"{seen.lines} lines in the log of {name} since {since}, fewer than {log.declared['minimum_lines']}."
        found.append(Doubt(f"Too little traffic: {text}", silent=True))
    return found
