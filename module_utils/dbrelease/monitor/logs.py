"""The logs of the declared services since the last sample: errors, and whatever makes their absence prove nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors

from ..commands import docker_client
from ..errors import ReleaseError
from .container_log import Container, Window, look, window_lines
from .events import Rules, Seen, read
from .moments import moment, nanoseconds
from .verdicts import Claim

Facts = dict[str, Any]


@dataclass(frozen=True)
class Doubt:
    """Why no error is no proof; `lost` where lines are gone that nobody has read."""

    text: str
    lost: bool = False


def sample_logs(
    monitoring: Mapping[str, Any],
    containers: Mapping[str, str],
    previous: Mapping[str, Any],
    begin_ns: int,
    end_ns: int,
    secret: str | None,
) -> tuple[dict[str, Facts], list[Claim]]:
    """Each log from where the last sample ended (`previous`, by log), else from `begin_ns`, up to `end_ns`."""
    declared = [log for log in monitoring.get("logs") or () if containers.get(log["service"])]
    if not declared:
        return {}, []
    try:
        client = docker_client()
    except ReleaseError as error:
        return {}, [Claim(log["name"], "inconclusive", error.message) for log in declared]
    facts: dict[str, Facts] = {}
    claims = []
    try:
        for log in declared:
            before = previous.get(log["name"]) or {}
            window = Window(nanoseconds(before.get("end") or "") or begin_ns, end_ns)
            rules = Rules.of(log, monitoring.get("concerns") or ())
            facts[log["name"]], claim = _sample(client, log, containers[log["service"]], before, window, rules, secret)
            claims.append(claim)
    finally:
        client.close()
    return facts, claims


def _sample(
    client: docker.DockerClient,
    log: Mapping[str, Any],
    name: str,
    before: Mapping[str, Any],
    window: Window,
    rules: Rules,
    secret: str | None,
) -> tuple[Facts, Claim]:
    facts: Facts = {"begin": moment(window.begin_ns), "end": moment(window.end_ns), "container": name}
    try:
        container = look(client, name)
        seen = read(window_lines(client, name, window), rules, secret) if container else Seen()
    except (docker.errors.DockerException, OSError) as error:
        reason = " ".join(str(error).split())
        # The window stays open, so that the next sample reads it too.
        facts["end"] = facts["begin"]
        detail = f"The log of container {name} could not be read ({reason})."
        return {**facts, **Seen().facts(), "unread": detail}, Claim(log["name"], "inconclusive", detail)
    facts |= seen.facts()
    doubt = doubts(log, name, container, before, window, seen) if container else []
    if container:
        facts |= {
            "container_id": container.id,
            "started_at": moment(container.started_ns),
            "oldest_at": moment(container.oldest_ns) if container.oldest_ns else None,
            "lost": next((one.text for one in doubt if one.lost), ""),
        }
    return facts, judge(log, name, container, window, seen, doubt)


def judge(
    log: Mapping[str, Any],
    name: str,
    container: Container | None,
    window: Window,
    seen: Seen,
    doubt: Sequence[Doubt],
) -> Claim:
    """Errors fail; a window that may lack lines, or has too few of them, proves nothing."""
    if container is None or container.status != "running":
        status = container.status if container else "missing"
        detail = f"Container {name} of the service {log['service']} is {status}: `docker logs {name}` says why."
        return Claim(log["name"], "fail", detail)
    if seen.errors:
        count = "1 error" if seen.errors == 1 else f"{seen.errors} errors"
        concern = f", {seen.concerning} of which concern the release" if seen.concerning else ""
        detail = f"{count} in the log of {name} since {moment(window.begin_ns)}{concern}: {seen.sample[0]}"
        return Claim(log["name"], "fail", detail, grave=bool(seen.concerning))
    return Claim(log["name"], "inconclusive", doubt[0].text) if doubt else Claim(log["name"])


def doubts(
    log: Mapping[str, Any],
    name: str,
    container: Container,
    before: Mapping[str, Any],
    window: Window,
    seen: Seen,
) -> list[Doubt]:
    """Why a window without errors need not have been one, the weightiest reason first."""
    since = moment(window.begin_ns)
    found = []
    known = before.get("container_id")
    if container.created_ns > window.begin_ns or (known and known != container.id):
        text = f"Container {name} was made anew since {since}: the log of the one before it is gone."
        found.append(Doubt(text, lost=True))
    elif container.started_ns > window.begin_ns:
        found.append(Doubt(f"Container {name} was restarted at {moment(container.started_ns)}, after {since}."))
    # A log that had no line yet when it was last looked at has lost none.
    was_empty = known == container.id and "oldest_at" in before and before["oldest_at"] is None
    gap = container.oldest_ns is None or container.oldest_ns > window.begin_ns
    if gap and not was_empty and not any(one.lost for one in found):
        oldest = f"begins at {moment(container.oldest_ns)}" if container.oldest_ns else "is empty"
        text = f"The log of {name} {oldest}, after {since}: lines were rotated away unread."
        found.append(Doubt(text, lost=True))
    # The rest of an event from before is nothing to worry about; a log that never has one is read by the wrong rules.
    if seen.lines and not seen.levels:
        text = (
            f"None of the {seen.lines} lines in the log of {name} since {since} begins as the release's `event` says."
        )
        found.append(Doubt(text, lost=not before.get("levels")))
    if not found and seen.lines < log.get("minimum_lines", 0):
        text = f"{seen.lines} lines in the log of {name} since {since}, fewer than {log['minimum_lines']}."
        found.append(Doubt(f"Too little traffic: {text}"))
    return found
