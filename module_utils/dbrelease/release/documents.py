"""The two documents of a release, and how a rule reads them: what is missing, or of another type, is empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .yaml_reader import Problem

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Parts:
    """The two documents of a release and its folder; `release_file` and `checks_file` are their names in messages."""

    directory: Path
    release: Document
    checks: Document
    release_file: str
    checks_file: str

    def in_release(self, key: str, expected: str, found: str) -> Problem:
        """A problem of release.yml."""
        return Problem(self.release_file, key, expected, found)

    def in_checks(self, key: str, expected: str, found: str) -> Problem:
        """A problem of checks.yml."""
        return Problem(self.checks_file, key, expected, found)


def mapping(document: Any, *path: str) -> Document:
    """The mapping at a path; empty where there is none."""
    for part in path:
        document = document.get(part) if isinstance(document, Mapping) else None
    return document if isinstance(document, Mapping) else {}


def items(document: Any, *path: str) -> list[Document]:
    """The mappings in the list at a path; empty where there is none."""
    value = mapping(document, *path[:-1]).get(path[-1])
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def texts(value: Any) -> list[str]:
    """The texts in a list; empty where the value is not a list."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def names(document: Any, *path: str) -> list[str]:
    """The names of the items in the list at a path."""
    return texts([item.get("name") for item in items(document, *path)])


def listed(known: list[str]) -> str:
    """The allowed names, for a message."""
    return f"one of {', '.join(known)}" if known else "no name, because none is declared"
