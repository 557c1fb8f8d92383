"""Read the YAML of a release strictly: UTF-8, plain values, text keys, each key once; and say where it is not so."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a release: where, what was expected and what was found."""

    file: str
    key: str
    expected: str
    found: str

    def __str__(self) -> str:
        """As it is reported: `releases/x/release.yml: key: expected ..., found ...`."""
        place = f"{self.file}: {self.key}" if self.key else self.file
        return f"{place}: expected {self.expected}, found {self.found}."


def read(path: Path, shown: str) -> tuple[Any, list[Problem]]:
    """What the file holds (None where it cannot be read at all) and what is wrong with its form."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return None, [Problem(shown, "", "UTF-8 text", f"another byte at position {error.start}")]
    except OSError as error:
        return None, [Problem(shown, "", "a file that can be read", (error.strerror or "none").lower())]
    loader = _StrictLoader(text, shown)
    try:
        return loader.get_single_data(), loader.problems
    except yaml.YAMLError as error:
        return None, [*loader.problems, _syntax_problem(error, shown)]
    except RecursionError:
        return None, [Problem(shown, "", "a mapping", "one that holds itself")]
    finally:
        loader.dispose()


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that collects what a strict reader refuses, instead of ending at the first."""

    def __init__(self, text: str, shown: str) -> None:
        super().__init__(text)
        self.shown = shown
        self.problems: list[Problem] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As the parent, with a second key of a name, and a key that is no text, noted."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (TEXT_TAG, MERGE_TAG):
                self._note(line, "a key that is text", f"{getattr(key, 'value', 'something else')!s:.60}")
                key.tag, key.value = TEXT_TAG, str(key.value)
            elif key.value in seen:
                self._note(line, "each key once", f"`{key.value}`, which is on line {seen[key.value]} already")
            seen.setdefault(key.value, line)
        return super().construct_mapping(node, deep)

    def construct_finite(self, node: yaml.ScalarNode) -> float:
        value = self.construct_yaml_float(node)
        if not math.isfinite(value):
            self._note(node.start_mark.line + 1, "a finite number", node.value)
        return value

    def _note(self, line: int, expected: str, found: str) -> None:
        self.problems.append(Problem(self.shown, f"line {line}", expected, found))


TEXT_TAG = "tag:yaml.org,2002:str"
MERGE_TAG = "tag:yaml.org,2002:merge"
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _StrictLoader.construct_finite)


def _syntax_problem(error: yaml.YAMLError, shown: str) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return Problem(shown, f"line {error.problem_mark.line + 1}", "YAML", f"a mistake: {error.problem}")
    return Problem(shown, "", "YAML", f"a mistake: {' '.join(str(error).split())}")
