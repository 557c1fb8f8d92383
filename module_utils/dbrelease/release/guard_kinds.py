"""The kinds of guards that a release may declare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Guard = Mapping[str, Any]
KINDS_OF_DATABASE = ("violations", "columns", "losses", "dependents", "only_columns", "values")
KINDS_OF_SERVICES = ("answers", "openapi", "container", "log")


def kind_of(guard: Guard) -> str:
    """The key that says what the guard checks."""
    return next(kind for kind in (*KINDS_OF_DATABASE, *KINDS_OF_SERVICES) if guard.get(kind))
