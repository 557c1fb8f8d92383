"""Data as Markdown that also reads well as plain text: it can neither break the form nor become HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .plain_text import printable

SPECIAL = re.compile(r"([\\`*\[\]~])")
ESCAPED_BAR = r"\|"
VALUE_LENGTH = 400


def text(value: object) -> str:
    """Data as one line of text: no markup, no HTML, no line breaks."""
    line = " ".join(printable(str("" if value is None else value)).split())
    line = SPECIAL.sub(r"\\\1", line)
    return re.sub(r"&(?=#?\w+;)", "&amp;", line).replace("<", "&lt;")


def code(value: Any) -> str:
    """Data as a code span: a string as it is, anything else as JSON; cut where it is long."""
    line = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = " ".join(printable(line).split())
    if len(line) > VALUE_LENGTH:
        line = f"{line[:VALUE_LENGTH]} … (whole in evidence.json)"
    fence = _longer_than_any(line, 1)
    blank = " " if len(fence) > 1 else ""
    return f"{fence}{blank}{line or ' '}{blank}{fence}"


def block(content: str, language: str = "") -> list[str]:
    """Data as a fenced block, whose fence is longer than any in the data."""
    lines = printable(content, lines=True).strip("\n")
    fence = _longer_than_any(lines, 3)
    return ["", f"{fence}{language}", lines, fence]


def _longer_than_any(content: str, least: int) -> str:
    return "`" * max([least, *(len(run) + 1 for run in re.findall("`+", content))])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table; a bar in a cell, also within code, is escaped."""
    yield ""
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(' --- ' for _ in head)}|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', ESCAPED_BAR) for cell in row)} |"


def duration(milliseconds: int | float | None) -> str:
    """A duration for people."""
    if milliseconds is None:
        return ""
    if milliseconds < 1000:
        return f"{milliseconds:g} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f} s" if seconds < 120 else f"{int(seconds // 60)} min {int(seconds % 60)} s"
