"""How a revision stands to another in the history of the backend's files."""

from __future__ import annotations

from collections.abc import Mapping


def standing_of(found: str, start: str, history: Mapping[str, tuple[str, ...]]) -> str:
    """The relation of a revision to another: `older`, `newer`, `beside` or `unknown`."""
    if found not in history:
        return "unknown"
    if found in _ancestors(start, history):
        return "older"
    return "newer" if start in _ancestors(found, history) else "beside"


def _ancestors(revision: str, history: Mapping[str, tuple[str, ...]]) -> set[str]:
    found: set[str] = set()
    waiting = [revision]
    while waiting:
        before = set(history.get(waiting.pop(), ())) - found
        found |= before
        waiting += before
    return found
