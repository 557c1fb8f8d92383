"""Errors that a log already had before the release: no evidence about it, unless they become more frequent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..core.clock import SECOND_NS
from ..host.container_log import Window
from ..host.log_events import LogStats
from .verdicts import WORSE

# A single error may be incidental; one that recurs is expected to go on.
RECURRING = 2
REMEMBERED_KINDS = 50
SHORTEST_S = 60.0


def recurring(seen: LogStats, window: Window) -> dict[str, Any]:
    """What is recorded of a log before the release: its duration, and for each recurring kind of error the number and
    the maximum within a minute.

    Errors that concern the release are omitted: they count against it even where they occurred before.
    """
    counts = Counter({name: kind.count for name, kind in seen.kinds.items() if not kind.concerning})
    return {
        "seconds": _seconds(window),
        "errors": seen.errors,
        "kinds": {
            name: {"count": count, "most": seen.kinds[name].most}
            for name, count in counts.most_common(REMEMBERED_KINDS)
            if count >= RECURRING
        },
    }


def known_kinds(seen: LogStats, before: Mapping[str, Any], window: Window) -> set[str]:
    """The kinds of a sample's errors that the log had `before`, and that are not much more frequent in this window."""
    remembered = before.get("kinds") or {}
    found = set()
    for name, kind in seen.kinds.items():
        if name not in remembered:
            continue
        usual = remembered[name]["count"] * _seconds(window) / before["seconds"]
        if kind.count <= WORSE * max(usual, remembered[name]["most"]):
            found.add(name)
    return found


def _seconds(window: Window) -> float:
    return max(SHORTEST_S, (window.end_ns - window.begin_ns) / SECOND_NS)
