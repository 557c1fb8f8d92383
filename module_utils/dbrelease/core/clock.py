"""Moments to the nanosecond, as the container engine writes them, and as the journal keeps them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

SECOND_NS = 1_000_000_000
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


def nanoseconds(text: str) -> int | None:
    """Since 1970, of a moment in RFC 3339; None where the text is none."""
    match = _RFC3339.fullmatch(text)
    if not match:
        return None
    try:
        whole = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00"))
    except ValueError:
        return None
    return int(whole.timestamp()) * SECOND_NS + int((match[2] or "0").ljust(9, "0"))


def moment(at_ns: int) -> str:
    """In UTC, RFC 3339 with Z: the same moment wherever it is read."""
    whole = datetime.fromtimestamp(at_ns // SECOND_NS, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{at_ns % SECOND_NS:09d}Z"


def of_journal(text: str) -> int:
    """Since 1970, of the `ts` of a journal line."""
    whole = datetime.fromisoformat(text)
    return int(whole.replace(microsecond=0).timestamp()) * SECOND_NS + whole.microsecond * 1000
