"""Lines of a log as events: each with its level, a traceback with what it belongs to, and the errors among them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..secret import masked

SECOND_NS = 1_000_000_000
# A program writes an event at once: a line that comes later than this begins another one.
JOIN_WITHIN_NS = SECOND_NS
# Also that of a group of exceptions, and of an interpreter that died.
TRACEBACK = re.compile(r"\s*(?:\+ (?:Exception Group )?)?Traceback \(most recent call last\):|Fatal Python error: ")
COLOURS = re.compile(r"\x1b\[[\d;]*m")
TRACEBACK_LEVEL = "TRACEBACK"
LEVELS_WITH_TRACEBACKS = {"WARNING", "WARN"}
# What the engine's own look at types without a hash makes the server log.
OWN_ERRORS = (re.compile(r"could not identify an? (?:extended )?hash function for type"),)
SHOWN_CHARACTERS = 300
SHOWN_EVENTS = 5

# What stands in quotes may be someone's data.
_QUOTED = re.compile(r"'(?:[^']|'')*'")
_ERROR_LINE = re.compile(r"(?:[A-Za-z_][\w.]*\.)?[A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit|Warning|Timeout)\b")


@dataclass(frozen=True)
class Rules:
    """How a release says that a service's log is to be read.

    event: begins a line that begins an event; its group `level` is the level, `source` (if any) who wrote it.
    joins: levels that only go on with the newest event of the same source, as Postgres' DETAIL does.
    concerns: what an error mentions that concerns the release; such an error counts even where `allow` names it.
    """

    event: re.Pattern[str]
    errors: frozenset[str]
    joins: frozenset[str]
    allow: tuple[re.Pattern[str], ...]
    concerns: tuple[re.Pattern[str], ...]

    @classmethod
    def of(cls, log: Mapping[str, Any], concerns: Sequence[str]) -> Rules:
        """From an item of the release's `monitoring.logs` and its `monitoring.concerns`."""
        return cls(
            re.compile(log["event"]),
            frozenset(log["errors"]),
            frozenset(log.get("joins") or ()),
            (*OWN_ERRORS, *map(re.compile, log.get("allow") or ())),
            tuple(map(re.compile, concerns)),
        )


@dataclass(frozen=True)
class Line:
    """One line, and when the engine took it, in nanoseconds since 1970."""

    at_ns: int
    text: str


@dataclass
class Event:
    """What a program wrote at once."""

    level: str
    source: str
    lines: list[str]
    last_ns: int

    @property
    def text(self) -> str:
        """All of it, to look for patterns in."""
        return "\n".join(self.lines)


@dataclass
class Seen:
    """What was in one window of a log."""

    lines: int = 0
    levels: Counter[str] = field(default_factory=Counter)
    errors: int = 0
    concerning: int = 0
    allowed: int = 0
    sample: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """For the journal."""
        return {**vars(self), "levels": dict(sorted(self.levels.items()))}


def events(lines: Iterable[Line], rules: Rules) -> Iterator[Event]:
    """The events of a window; what goes on with an event from before it is left out, for it was counted there."""
    open_events: dict[str, Event] = {}
    order: list[Event] = []
    newest: Event | None = None
    for line in lines:
        match = rules.event.match(line.text)
        if match:
            level, source = match["level"], match.groupdict().get("source") or ""
            joined = open_events.get(source) if level in rules.joins else None
            if joined is None and level in rules.joins:
                newest = None
                continue
            event = joined or Event(level, source, [], line.at_ns)
            if joined is None:
                order.append(event)
            open_events[source] = newest = event
        elif _stands_alone(line, newest, rules):
            newest = Event(TRACEBACK_LEVEL, "", [], line.at_ns)
            order.append(newest)
        elif newest is None:
            continue
        newest.lines.append(line.text)
        newest.last_ns = line.at_ns
    yield from order


def _stands_alone(line: Line, newest: Event | None, rules: Rules) -> bool:
    """A traceback that no logged error or warning explains: a program that died, or printed it itself."""
    if not TRACEBACK.match(line.text):
        return False
    if newest is None or newest.level == TRACEBACK_LEVEL:
        return newest is None or line.at_ns - newest.last_ns > JOIN_WITHIN_NS
    explained = newest.level in rules.errors or newest.level in LEVELS_WITH_TRACEBACKS
    return not explained or line.at_ns - newest.last_ns > JOIN_WITHIN_NS


def read(lines: Iterable[Line], rules: Rules, secret: str | None = None) -> Seen:
    """Count a window's lines and events, and keep the first few errors, those that concern the release first."""
    seen = Seen()
    kept: list[tuple[bool, str]] = []

    def counted() -> Iterator[Line]:
        for line in lines:
            seen.lines += 1
            yield replace(line, text=COLOURS.sub("", line.text))

    for event in events(counted(), rules):
        seen.levels[event.level] += 1
        if event.level not in rules.errors and event.level != TRACEBACK_LEVEL:
            continue
        concerning = any(pattern.search(event.text) for pattern in rules.concerns)
        if not concerning and any(pattern.search(event.text) for pattern in rules.allow):
            seen.allowed += 1
            continue
        seen.errors += 1
        seen.concerning += concerning
        kept.append((not concerning, shown(event, secret)))
    seen.sample = [text for _, text in sorted(kept, key=lambda item: item[0])[:SHOWN_EVENTS]]
    return seen


def shown(event: Event, secret: str | None) -> str:
    """An event on one line: how it begins, and of a traceback what it ends with; no passwords, nothing quoted."""
    first = event.lines[0].strip()
    named = [line.strip() for line in event.lines[1:] if _ERROR_LINE.match(line)]
    text = f"{first} ... {named[-1]}" if named else first
    return _QUOTED.sub("'?'", masked(text, secret))[:SHOWN_CHARACTERS]
