"""The guards that ask the API and the container engine. One that cannot be checked is inconclusive, which refuses."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

import docker.errors

from ..core import clock
from ..core.errors import ReleaseError
from ..core.redaction import masked
from ..host.commands import docker_client
from ..host.container_log import log_lines
from ..host.http import HttpSession
from ..host.inspect import inspect, moment, no_container, replicas
from ..host.json_lists import MISSING, at, lists_in, objects_in
from ..host.log_events import COLOURS, without_data
from ..release.guard_kinds import Guard, kind_of
from .verdict import GuardResult

SAMPLE_LINES = 3
# How long a request of our own may take to appear in the log, and how it is recognized there.
PROBE_WAIT_S = 5.0
PROBE_POLL_S = 0.2
PROBE = "dbrelease-probe"
SHOWN_CHARACTERS = 200
ARCHIVE = "If an archive of the log shows that there is none, rerun with `-e accept_log_gap=true`."
# What a client sent beside the path may be a secret: after a question mark, or as a value in JSON.
_QUERY = re.compile(r"""(?P<before>\?|"\w*(?:query|args)\w*"\s*:\s*")[^\s"']+""", re.IGNORECASE)


@dataclass(frozen=True)
class Services:
    """Where the application is: an empty URL or no container name means that the target has none.

    deployed_at: when the release was deployed, in UTC ISO 8601; empty where the journal does not know.
    accept_log_gap: whether a log that does not reach back so far, or has no requests, is accepted as complete.
    secret: the database's password, which no line of a log shows.
    paths: paths that are requested anyway; the request that is searched for in the log may use them, too.
    ca_file: the authorities that the API's certificate is verified by, where they are not the usual ones.
    """

    base_url: str
    containers: Mapping[str, str]
    timeout_s: float
    deployed_at: str = ""
    accept_log_gap: bool = False
    secret: str | None = None
    paths: tuple[str, ...] = ()
    ca_file: str = ""

    def look(self, guard: Guard) -> GuardResult:
        """Check one guard."""
        return self._look(guard, self._log)

    def try_out(self, guard: Guard) -> GuardResult:
        """Whether a guard can be checked here, before the release: of a log only whether it has the API's requests."""
        return self._look(guard, self._log_has_requests)

    def _look(self, guard: Guard, log: Callable[[Mapping[str, Any]], GuardResult]) -> GuardResult:
        begun = time.monotonic()
        kind = kind_of(guard)
        try:
            seen = {
                "answers": self._answers,
                "openapi": self._openapi,
                "container": self._container,
                "log": log,
            }[kind](guard[kind])
        except ReleaseError as error:
            seen = GuardResult("inconclusive", f"It could not be checked: {error.message}")
        except (docker.errors.DockerException, OSError) as error:
            seen = GuardResult(
                "inconclusive",
                f"It could not be checked ({masked(' '.join(str(error).split()))[:SHOWN_CHARACTERS]}).",
            )
        return GuardResult(**{**vars(seen), "duration_ms": round((time.monotonic() - begun) * 1000)})

    def _answers(self, declared: Mapping[str, Any]) -> GuardResult:
        if not self.base_url:
            return GuardResult("skipped", "The inventory names no API (api_base_url).")
        with HttpSession(self.base_url, self.timeout_s, self.ca_file) as session:
            answer = session.document(declared["path"])
            asked = f"GET {session.url}{declared['path']}"
        if answer.problem or answer.status != 200 or answer.kind not in ("list", "object"):
            seen = answer.problem or f"answered with status {answer.status} and {answer.kind_label}."
            return GuardResult("inconclusive", f"{asked} {seen}", {"absent": declared["keys"]})
        place = declared.get("items")
        meant = answer.value if place is None else at(answer.value, place)
        present = sorted({key for one in objects_in(meant) for key in one} & set(declared["keys"]))
        items = len(meant) if isinstance(meant, list) else 1
        expected, observed = {"absent": declared["keys"]}, {"present": present, "items": items}
        if present:
            return GuardResult("fail", f"{asked} answers with {', '.join(present)}.", expected, observed)
        if unseen := _not_seen(meant, place):
            return GuardResult("inconclusive", f"{asked} {unseen}", expected, observed)
        return GuardResult(
            "pass", f"None of the {items} items of {asked} has {', '.join(declared['keys'])}.", expected, observed
        )

    def _openapi(self, declared: Mapping[str, Any]) -> GuardResult:
        if not self.base_url:
            return GuardResult("skipped", "The inventory names no API (api_base_url).")
        with HttpSession(self.base_url, self.timeout_s, self.ca_file) as session:
            answer = session.document(declared["path"])
            asked = f"GET {session.url}{declared['path']}"
        expected = {"absent": [*declared["paths"], *declared["properties"]]}
        document = answer.value
        paths = document.get("paths") if isinstance(document, dict) else None
        if answer.problem or answer.status != 200 or not isinstance(paths, dict):
            seen = answer.problem or f"answered with status {answer.status} and no OpenAPI document."
            return GuardResult("inconclusive", f"{asked} {seen}", expected)
        found = sorted(path for path in paths if any(re.search(pattern, path) for pattern in declared["paths"]))
        found += sorted(set(_properties(document)) & set(declared["properties"]))
        if found:
            return GuardResult("fail", f"{asked} declares {', '.join(found)}.", expected, {"present": found})
        return GuardResult("pass", f"None of them is in the {len(paths)} paths of {asked}.", expected, {"present": []})

    def _container(self, declared: Mapping[str, Any]) -> GuardResult:
        name = self.containers.get(declared["service"])
        if not name:
            return GuardResult("skipped", no_container(declared["service"]))
        names = replicas(name, stopped=False)
        seen = inspect({one: one for one in names})
        configs = {one: attributes["Config"] for one, attributes in seen.items() if attributes}
        if name not in configs:
            return GuardResult("inconclusive", f"There is no container {name} of the service {declared['service']}.")
        having = {one: found for one, config in configs.items() if (found := _has(config, declared))}
        expected = {key: declared[key] for key in ("environment", "labels", "image") if declared.get(key)}
        if having:
            detail = " ".join(f"Container {one} has {', '.join(found)}." for one, found in having.items())
            return GuardResult("fail", detail, expected, {"present": [*chain(*having.values())]})
        image = configs[name]["Image"]
        others = f", and none of {', '.join(names[1:])}" if len(names) > 1 else ""
        detail = f"Container {name} (image {image}) has none of them{others}."
        return GuardResult("pass", detail, {"absent": expected}, {"present": [], "image": image})

    def _log(self, declared: Mapping[str, Any]) -> GuardResult:
        try:
            return self._log_of(declared)
        except docker.errors.APIError as error:
            # Such as a log driver that only sends: another place has the log, if any.
            reason = masked(" ".join(str(error.explanation or error).split()))[:SHOWN_CHARACTERS]
            gap = f"the log cannot be read ({reason})"
        expected = {"lines": 0, "since": self.deployed_at or "its beginning"}
        if self.accept_log_gap:
            return GuardResult("pass", f"It was accepted that {gap}.", expected)
        return GuardResult("inconclusive", f"{gap[0].upper()}{gap[1:]}. {ARCHIVE}", expected)

    def _log_of(self, declared: Mapping[str, Any]) -> GuardResult:
        name = self.containers.get(declared["service"])
        if not name:
            return GuardResult("skipped", no_container(declared["service"]))
        # A client's request may have reached any container of the service.
        names = replicas(name)
        seen = inspect({one: one for one in names})
        if seen[name] is None:
            return GuardResult("inconclusive", f"There is no container {name} of the service {declared['service']}.")
        # First, so that everything written before it is in the log, too.
        unlogged = self._unlogged(names)
        pattern, since = re.compile(declared["pattern"]), self.deployed_at or "its beginning"
        logs = {one: _search(one, pattern, self.deployed_at) for one in names}
        lines, matching = sum(log[1] for log in logs.values()), sum(log[2] for log in logs.values())
        expected = {"lines": 0, "since": since}
        observed = {"lines": matching, "looked_at": lines, "log_begins": logs[name][0]}
        if matching:
            found = [line for log in logs.values() for line in log[3]][:SAMPLE_LINES]
            sample = [{"line": shown(line, self.secret)} for line in found]
            many = "1 line that matches" if matching == 1 else f"{matching} lines that match"
            with_it = " and ".join(one for one, log in logs.items() if log[2])
            detail = f"The log of container {with_it} has {many} since {since}."
            return GuardResult("fail", detail, expected, observed, sample=sample)
        detail = f"None of the {lines} lines of container {' and '.join(names)} since {since} matches."
        gaps = [
            f"{f'of {one}, ' if len(names) > 1 else ''}{gap}"
            for one, log in logs.items()
            if (gap := self._gap(one, log[0], moment((seen[one] or {}).get("Created") or ""), log[1]))
        ]
        gap = "; ".join(filter(None, (*gaps, unlogged)))
        if gap and not self.accept_log_gap:
            return GuardResult("inconclusive", f"{detail} But {gap}. {ARCHIVE}", expected, observed)
        return GuardResult("pass", f"{detail}{f' It was accepted that {gap}.' if gap else ''}", expected, observed)

    def _log_has_requests(self, declared: Mapping[str, Any]) -> GuardResult:
        name = self.containers.get(declared["service"])
        if not name:
            return GuardResult("skipped", no_container(declared["service"]))
        if unlogged := self._unlogged(replicas(name)):
            return GuardResult("inconclusive", f"{unlogged[0].upper()}{unlogged[1:]}.")
        return GuardResult("pass", f"A request of this run's own is in the log of container {name}.")

    def _unlogged(self, names: Sequence[str]) -> str:
        """Why the absence of a request in the log proves nothing; empty where a request of our own is in it.

        names: the containers of the service; the request reaches one of them.
        """
        if not self.base_url:
            return "it could not be checked whether requests are logged (no api_base_url)"
        marker = f"{PROBE}-{secrets.token_hex(8)}"
        # One server logs the query, another the path alone; a proxy may send only known paths to this container.
        asked = [f"/{marker}", *(f"{path}{'&' if '?' in path else '?'}{PROBE}={marker}" for path in self.paths)]
        since = time.time() - 1
        with HttpSession(self.base_url, self.timeout_s, self.ca_file) as session:
            answers = [session.get(path) for path in asked]
        if all(answer.problem for answer in answers):
            return f"it could not be checked whether requests are logged: the API {answers[0].problem[:-1]}"
        deadline = time.monotonic() + PROBE_WAIT_S
        while not any(_is_logged(name, marker, since) for name in names):
            if time.monotonic() >= deadline:
                where = f"container {' or '.join(names)}"
                return (
                    f"a request of this run's own ({answers[0].url}) was not in the log of {where} "
                    f"after {PROBE_WAIT_S:g} s: requests are not logged there, so their absence proves nothing"
                )
            time.sleep(PROBE_POLL_S)
        return ""

    def _gap(self, name: str, begins: str, created: str, lines: int) -> str:
        """Why the log does not reach back to the deployment; empty where it does."""
        if not lines:
            return "the log has no line since then: what the guard searches for may be logged elsewhere, or not at all"
        if not self.deployed_at:
            return "the journal does not know when the release was deployed"
        if begins and _time(begins) <= _time(self.deployed_at):
            return ""
        if _time(created) > _time(self.deployed_at):
            return f"the container was created again at {created}, after the deployment, and its earlier log is lost"
        return f"the log begins at {begins or 'an unknown time'}, after the deployment: it was rotated or cut"


def _has(config: Mapping[str, Any], declared: Mapping[str, Any]) -> list[str]:
    """What of the declared variables, labels and image a container has."""
    environment = dict(line.split("=", 1) for line in config.get("Env") or () if "=" in line)
    found = [
        f"{what} {key}={value}"
        for what, wanted, actual in (
            ("variable", declared.get("environment") or {}, environment),
            ("label", declared.get("labels") or {}, config.get("Labels") or {}),
        )
        for key, value in wanted.items()
        if actual.get(key, "").strip().lower() == value.strip().lower()
    ]
    if declared.get("image") and re.search(declared["image"], config["Image"]):
        found.append(f"image {config['Image']}")
    return found


def _not_seen(meant: Any, place: str | None) -> str:
    """Why an answer without the keys does not show that they are absent; empty where it does."""
    where = f" at `{place}`" if place else ""
    if place and not isinstance(meant, list):
        held = "nothing" if meant is MISSING else "an object" if isinstance(meant, dict) else "no list"
        return f"has {held}{where}, where the guard's list should be."
    if isinstance(meant, list):
        if not meant:
            return f"answered with an empty list{where}, which does not show the keys of its items."
        return "" if all(isinstance(item, dict) for item in meant) else f"has items{where} that are no objects."
    if place is None and next(lists_in(meant), None) is not None:
        return (
            "answered with an object that contains lists, and the guard does not declare which one to check: "
            "declare it (`items`)."
        )
    return ""


def _search(name: str, pattern: re.Pattern[str], since: str) -> tuple[str, int, int, list[str]]:
    """When the log begins, how many lines it has since then, how many of them match, and the first few of those."""
    client = docker_client()
    with closing(client):
        begins = next((clock.moment(line.at_ns) for line in log_lines(client, name)), "")
        # In seconds, so that no time zone is misread; and until now, as a log that grows faster than it is read would
        # never end.
        window = {"until": time.time(), **({"since": _time(since).timestamp()} if since else {})}
        count = matching = 0
        found: list[str] = []
        for line in log_lines(client, name, **window):
            count += 1
            if pattern.search(line.text):
                matching += 1
                found += [f"{clock.moment(line.at_ns)} {line.text}"] if matching <= SAMPLE_LINES else []
    return moment(begins), count, matching, found


def _is_logged(name: str, marker: str, since: float) -> bool:
    client = docker_client()
    with closing(client):
        return any(marker in line.text for line in log_lines(client, name, since=since))


def shown(line: str, secret: str | None) -> str:
    """A line for a message: no colours, nothing quoted, no passwords, and of a request only its path."""
    return without_data(_QUERY.sub(r"\g<before>...", COLOURS.sub("", line)), secret)[:SHOWN_CHARACTERS]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _properties(value: Any) -> Iterator[str]:
    """The names of all properties of all schemas in a document."""
    if isinstance(value, dict):
        properties = value.get("properties")
        if isinstance(properties, dict):
            yield from properties
        for item in value.values():
            yield from _properties(item)
    elif isinstance(value, list):
        for item in value:
            yield from _properties(item)
