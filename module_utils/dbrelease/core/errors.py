"""The one domain error."""

from __future__ import annotations

from typing import Any


class ReleaseError(Exception):
    """What was tried, on what, what happened and what to do, in one sentence; facts accompany it.

    `refused` is true when nothing was begun because a rule forbids it, false when something went wrong.
    """

    def __init__(self, message: str, *, refused: bool = False, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.refused = refused
        self.facts = facts
