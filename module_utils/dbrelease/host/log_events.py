"""Group the lines of a log into events, each with its level and traceback, and count the errors among them."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.clock import SECOND_NS
from ..core.redaction import masked

# A program writes an event at once: a line that is later than this begins another event.
JOIN_WITHIN_NS = SECOND_NS
# Also that of a group of exceptions, and of an interpreter that died.
TRACEBACK = re.compile(r"\s*(?:\+ (?:Exception Group )?)?Traceback \(most recent call last\):|Fatal Python error: ")
COLOURS = re.compile(r"\x1b\[[\d;]*m")
TRACEBACK_LEVEL = "TRACEBACK"
LEVELS_WITH_TRACEBACKS = {"WARNING", "WARN"}
# The levels of Postgres in English, of Python programs and of syslog. In another language any other word may be an
# error.
USUAL_LEVEL = re.compile(
    "DEBUG[1-5]?|INFO|NOTICE|WARN|WARNING|LOG|ERROR|FATAL|PANIC|DETAIL|HINT|CONTEXT|STATEMENT|QUERY|LOCATION|BACKTRACE"
    "|TRACE|TRACEBACK|CRITICAL|ERR|CRIT|ALERT|EMERG",
    re.IGNORECASE,
)
# Punctuation and single letters are not words of a language.
WORD = re.compile(r"[^\W\d_]{3,}|[^\x00-\x7f]")
# The errors that the engine's own test of types without a hash function writes to the server's log.
OWN_ERRORS = (re.compile(r"could not identify an? (?:extended )?hash function for type"),)
SHOWN_CHARACTERS, LONGEST_CHARACTERS = 300, 1000
SHOWN_KINDS = 5

# An event in another form than the service's own: from a library's handler, from its server, or from a program that
# it starts. Its level is first, or follows a date, or is a value in JSON or logfmt, where it may be a number or short.
_LEVEL = "(?P<level>ERROR|CRITICAL|FATAL|PANIC|WARNING|WARN|NOTICE|INFO|LOG|DEBUG|TRACE)"
_ANY_LEVEL = _LEVEL.replace("ERROR|", "ERROR|ERRO?|EROR|CRIT|ALERT|EMERG|FATA|DPANIC|PANI|", 1)
_FOREIGN = (
    re.compile(rf"\W{{0,2}}{_LEVEL}(?:\]|\W?:)"),
    re.compile(rf"\W?\d{{2,4}}[-/.:]\d\S*(?:\s+\S+){{0,6}}?\s+\W{{0,2}}{_LEVEL}\b"),
    re.compile(rf'\{{.*"(?:level|levelname|severity|lvl|log\.level)"\s*:\s*"{_ANY_LEVEL}"', re.IGNORECASE),
    re.compile(r'\{.*"level"\s*:\s*(?P<level>[1-6]0)\s*[,}]'),
    re.compile(rf'(?:[\w.@-]+=(?:"[^"]*"|\S*)\s+){{0,8}}?(?:level|lvl|severity)="?{_ANY_LEVEL}\b', re.IGNORECASE),
    re.compile(rf"\d{{4}}/\d\d/\d\d \d\d:\d\d:\d\d \[{_ANY_LEVEL}\]", re.IGNORECASE),
)
# The numbers of Bunyan and Pino, and what Logrus, systemd and nginx shorten.
_LEVEL_NAMES = {
    **{"10": "TRACE", "20": "DEBUG", "30": "INFO", "40": "WARNING", "50": "ERROR", "60": "FATAL"},
    **{"ERRO": "ERROR", "ERR": "ERROR", "CRIT": "CRITICAL", "ALERT": "CRITICAL", "EMERG": "CRITICAL", "EROR": "ERROR"},
    **{"FATA": "FATAL", "PANI": "PANIC", "DPANIC": "PANIC"},
}
FOREIGN_ERRORS = {"ERROR", "CRITICAL", "FATAL", "PANIC", TRACEBACK_LEVEL}
# Quoted text may be a user's data.
_QUOTED = re.compile(r"'(?:[^']|'')*'")
# Ids and numbers may differ between two events of one kind.
_NUMBER = re.compile(
    r"\b[\da-fA-F]{8}(?:-[\da-fA-F]{4}){3}-[\da-fA-F]{12}\b|\b(?=\w*\d)(?:0x)?[\da-fA-F]{6,}\b|\d+(?:\.\d+)*"
)
MINUTE_NS = 60 * SECOND_NS
_ERROR_LINE = re.compile(r"(?:[A-Za-z_][\w.]*\.)?[A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit|Warning|Timeout)\b")


@dataclass(frozen=True)
class Rules:
    """How a release declares that a service's log is read.

    event: matches the beginning of an event; its group `level` is the level, `source` (if any) the writer.
    joins: levels that only continue the newest event of the same source, such as DETAIL of Postgres.
    concerns: what an error mentions that concerns the release; such an error counts even where `allow` matches it.
    """

    event: re.Pattern[str]
    errors: frozenset[str]
    joins: frozenset[str]
    allow: tuple[re.Pattern[str], ...]
    concerns: tuple[re.Pattern[str], ...]

    @classmethod
    def of(cls, log: Mapping[str, Any], concerns: Sequence[str]) -> Rules:
        """Build from an item of the release's `monitoring.logs` and its `monitoring.concerns`."""
        return cls(
            re.compile(log["event"]),
            frozenset(log["errors"]),
            frozenset(log.get("joins") or ()),
            (*OWN_ERRORS, *map(re.compile, log.get("allow") or ())),
            tuple(map(re.compile, concerns)),
        )

    def knows(self, level: str) -> bool:
        """Whether it is known if a level is an error."""
        return level in self.errors | self.joins or bool(USUAL_LEVEL.fullmatch(level)) or not WORD.search(level)


@dataclass(frozen=True)
class Line:
    """One line, and when the engine received it, in nanoseconds since 1970."""

    at_ns: int
    text: str


@dataclass
class Event:
    """The lines that a program wrote at once.

    own: whether it begins as the release declares; if not, its level is one of the usual ones, or empty where it
    has none.
    """

    level: str
    source: str
    lines: list[str]
    last_ns: int
    own: bool = True

    def is_error(self, rules: Rules) -> bool:
        """Whether it is an error by the release's rules, or by its own level."""
        return self.level in (rules.errors if self.own else FOREIGN_ERRORS)

    @property
    def text(self) -> str:
        """All its lines, to search for patterns."""
        return "\n".join(self.lines)


@dataclass
class Kind:
    """Errors that differ only in numbers and data: the first as shown, their number, and the most in a minute."""

    text: str
    concerning: bool
    count: int = 0
    most: int = 0
    recent: deque[int] = field(default_factory=deque)

    def add(self, at_ns: int) -> None:
        """Count one more."""
        self.count += 1
        self.recent.append(at_ns)
        while self.recent[0] <= at_ns - MINUTE_NS:
            self.recent.popleft()
        self.most = max(self.most, len(self.recent))


@dataclass
class LogStats:
    """The statistics of one window of a log.

    kinds: its errors, by what those of one kind have in common. unclear: the first line that concerns the release and
    has no level.
    """

    lines: int = 0
    levels: Counter[str] = field(default_factory=Counter)
    allowed: int = 0
    kinds: dict[str, Kind] = field(default_factory=dict)
    unclear: str = ""

    @property
    def errors(self) -> int:
        """The number of errors."""
        return self.count(self.kinds)

    @property
    def concerning(self) -> int:
        """The number of errors that concern the release."""
        return sum(kind.count for kind in self.kinds.values() if kind.concerning)

    def count(self, names: Collection[str]) -> int:
        """The number of errors of these kinds."""
        return sum(kind.count for name, kind in self.kinds.items() if name in names)

    def sample(self, known: Collection[str] = ()) -> list[str]:
        """The first of a few kinds: those that concern the release first, known ones last."""
        kinds = sorted(self.kinds.items(), key=lambda item: (item[0] in known, not item[1].concerning))
        return [kind.text for _, kind in kinds[:SHOWN_KINDS]]

    def facts(self, known: Collection[str] = ()) -> dict[str, Any]:
        """For the journal; `known`: kinds that the log had before the release."""
        return {
            "lines": self.lines,
            "levels": dict(sorted(self.levels.items())),
            "errors": self.errors,
            "concerning": self.concerning,
            "known": self.count(known),
            "allowed": self.allowed,
            "sample": self.sample(known),
        }


def events(lines: Iterable[Line], rules: Rules) -> Iterator[Event]:
    """The events of a window; lines that continue an event from before it are omitted: they were counted there."""
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
        elif (foreign := _foreign_level(line, newest, rules)) is not None:
            newest = Event(foreign, "", [], line.at_ns, own=False)
            order.append(newest)
        elif newest is None:
            continue
        newest.lines.append(line.text)
        newest.last_ns = line.at_ns
    yield from order


def _foreign_level(line: Line, newest: Event | None, rules: Rules) -> str | None:
    """The level of an event that begins in another form than declared; None where the line continues an event.

    A traceback, or an error in another form, continues an error that was written at the same time; a traceback also a
    warning. A line without a level is an event of its own where it is later, and not indented.
    """
    at_once = newest is not None and line.at_ns - newest.last_ns <= JOIN_WITHIN_NS
    if TRACEBACK.match(line.text):
        if newest is None:
            return TRACEBACK_LEVEL
        explained = newest.is_error(rules) or newest.level in LEVELS_WITH_TRACEBACKS
        return None if explained and at_once else TRACEBACK_LEVEL
    found = next((match for pattern in _FOREIGN if (match := pattern.match(line.text))), None)
    if found:
        return None if newest and newest.is_error(rules) and at_once else named(found["level"])
    return None if newest is None or at_once or line.text[:1].isspace() else ""


def named(level: str) -> str:
    """The usual name of a level."""
    return _LEVEL_NAMES.get(level.upper(), level.upper())


def read(lines: Iterable[Line], rules: Rules, secret: str | None = None) -> LogStats:
    """Count a window's lines and events, and its errors by kind."""
    seen = LogStats()

    def counted() -> Iterator[Line]:
        for line in lines:
            seen.lines += 1
            yield replace(line, text=COLOURS.sub("", line.text))

    for event in events(counted(), rules):
        concerning = any(pattern.search(event.text) for pattern in rules.concerns)
        if event.level:
            seen.levels[event.level] += 1
        elif concerning and not seen.unclear:
            seen.unclear = shown(event, secret)[:SHOWN_CHARACTERS]
        if not event.is_error(rules):
            continue
        if not concerning and any(pattern.search(event.text) for pattern in rules.allow):
            seen.allowed += 1
            continue
        text = shown(event, secret)[:LONGEST_CHARACTERS]
        name = _NUMBER.sub("#", text)[:SHOWN_CHARACTERS]
        # An error that concerns the release and one that does not are never of one kind, even if both look the same.
        key = f"{name} (concerns the release)" if concerning else name
        seen.kinds.setdefault(key, Kind(text[:SHOWN_CHARACTERS], concerning)).add(event.last_ns)
    return seen


def shown(event: Event, secret: str | None) -> str:
    """An event on one line: its beginning, and the last error line of a traceback; no passwords, no quoted text."""
    first = event.lines[0].strip()
    explained = [line.strip() for line in event.lines[1:] if _ERROR_LINE.match(line)]
    text = f"{first} ... {explained[-1]}" if explained else first
    return without_data(text, secret)


def without_data(text: str, secret: str | None) -> str:
    """A text without passwords, and without quoted text."""
    return _QUOTED.sub("'?'", masked(text, secret))
