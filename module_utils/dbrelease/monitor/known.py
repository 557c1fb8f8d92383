"""Errors that a log had before the release already: no sign of it, as long as they come no more often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..core.clock import SECOND_NS
from ..host.container_log import Window
from ..host.log_events import LogStats
from .verdicts import WORSE

# What came once may have been anything; what comes again goes on.
RECURRING = 2
REMEMBERED_KINDS = 50
SHORTEST_S = 60.0


def recurring(seen: LogStats, window: Window) -> dict[str, Any]:
    """What is remembered of a log before the release: how long it was read, and of each kind that recurs its number
    there, and the most of it within a minute.

    What concerns the release is left out: it is no less a sign of it where it was there before.
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
    """The kinds of a sample's errors that the log had `before`, and that came not much more often in this window."""
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
