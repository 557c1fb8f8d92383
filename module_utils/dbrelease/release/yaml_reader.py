"""Read the YAML of a release strictly: UTF-8, plain values, text keys, each key once; report every violation.

All sizes of a document are checked before its values are created: a few lines of YAML can expand to any number.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .files import MIB, UnfitError, read_file

LIMIT_BYTES = 1 * MIB
# Counted with every alias followed; the largest release has a tenth of it.
LIMIT_VALUES = 50_000
LIMIT_CHARACTERS = 1 * MIB
LIMIT_DEPTH = 40
LIMIT_DIGITS = 30
# A message with thousands of problems would be useless.
LIMIT_PROBLEMS = 50
SHOWN_CHARACTERS = 200


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


def read(directory: Path, name: str, shown: str) -> tuple[Any, list[Problem]]:
    """Return the file's content (None where it cannot be read) and the problems of its form."""
    try:
        text = read_file(directory, name, LIMIT_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        return None, [Problem(shown, "", "UTF-8 text", f"an invalid byte at position {error.start}")]
    except UnfitError as error:
        missing = not os.path.lexists(directory / name)
        expected = "a file that can be read" if missing else "a regular file in the release's folder"
        return None, [Problem(shown, "", expected, "no such file or directory" if missing else str(error))]
    except OSError as error:
        return None, [Problem(shown, "", "a file that can be read", (error.strerror or "none").lower())]
    loader = _StrictLoader(text, shown)
    try:
        return loader.get_single_data(), loader.problems
    except _TooMuchError:
        return None, loader.problems
    except yaml.YAMLError as error:
        return None, [*loader.problems, _syntax_problem(error, shown)]
    finally:
        loader.dispose()


class _TooMuchError(Exception):
    """The document exceeds a limit; the problem is recorded."""


@dataclass(frozen=True)
class _Size:
    """The size of a node, with its aliases followed."""

    values: int
    characters: int


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that collects all violations, instead of stopping at the first."""

    def __init__(self, text: str, shown: str) -> None:
        super().__init__(text)
        self.shown = shown
        self.problems: list[Problem] = []
        self._depth = 0
        self._sizes: dict[int, _Size] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose as the parent does, within the limits."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if self._depth >= LIMIT_DEPTH:
            self._refuse(line, f"at most {LIMIT_DEPTH} levels", "more")
        tag = getattr(event, "tag", None)
        if tag is not None and tag in self.yaml_constructors:  # an unknown tag is refused elsewhere
            self._note(line, "a value without a tag", tag.replace(STANDARD_TAG, "!!"))
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                self._refuse(line, "a mapping", "one that contains itself")
        elif node is not None:
            self._sizes[id(node)] = self._size_of(node, line)
        return node

    def _size_of(self, node: yaml.Node, line: int) -> _Size:
        if isinstance(node, yaml.ScalarNode):
            size = _Size(1, len(node.value))
        else:
            pairs = isinstance(node, yaml.MappingNode)
            inner = [self._sizes[id(one)] for item in node.value for one in (item if pairs else [item])]
            size = _Size(1 + sum(one.values for one in inner), sum(one.characters for one in inner))
        if size.values > LIMIT_VALUES:
            self._refuse(line, f"at most {LIMIT_VALUES} values, aliases followed", "more")
        if size.characters > LIMIT_CHARACTERS:
            self._refuse(line, f"at most {LIMIT_CHARACTERS // MIB} MiB of text, aliases followed", "more")
        return size

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Construct as the parent does; record duplicate keys, and keys that are not text."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (TEXT_TAG, MERGE_TAG):
                self._note(line, "a key that is text", f"{getattr(key, 'value', 'something else')!s:.60}")
                key.tag, key.value = TEXT_TAG, str(key.value)
            elif key.value in seen:
                self._note(line, "each key once", f"`{key.value:.60}`, which is already on line {seen[key.value]}")
            seen.setdefault(key.value, line)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Construct a number: with a limited number of digits, and not in base 60, as YAML reads 1:30."""
        make: Callable[[yaml.ScalarNode], int | float] = (
            self.construct_yaml_int if node.tag == INTEGER_TAG else self.construct_yaml_float
        )
        line = node.start_mark.line + 1
        if len(node.value) > LIMIT_DIGITS:
            self._note(line, f"a number of at most {LIMIT_DIGITS} digits", f"{node.value:.{LIMIT_DIGITS}}...")
            return 0
        if ":" in node.value:
            self._note(line, "a number, or text in quotes", node.value)
            return 0
        value = make(node)
        if not math.isfinite(value):
            self._note(line, "a finite number", node.value)
        return value

    def construct_date(self, node: yaml.ScalarNode) -> Any:
        """Construct a valid date."""
        try:
            return self.construct_yaml_timestamp(node)
        except ValueError:
            self._note(node.start_mark.line + 1, "a valid date, or text in quotes", f"{node.value:.60}")
            return node.value

    def _note(self, line: int, expected: str, found: str) -> None:
        self.problems.append(Problem(self.shown, f"line {line}", expected, found))
        if len(self.problems) >= LIMIT_PROBLEMS:
            raise _TooMuchError

    def _refuse(self, line: int, expected: str, found: str) -> None:
        self._note(line, expected, found)
        raise _TooMuchError


STANDARD_TAG = "tag:yaml.org,2002:"
TEXT_TAG = f"{STANDARD_TAG}str"
MERGE_TAG = f"{STANDARD_TAG}merge"
INTEGER_TAG = f"{STANDARD_TAG}int"
_StrictLoader.add_constructor(INTEGER_TAG, _StrictLoader.construct_number)
_StrictLoader.add_constructor(f"{STANDARD_TAG}float", _StrictLoader.construct_number)
_StrictLoader.add_constructor(f"{STANDARD_TAG}timestamp", _StrictLoader.construct_date)


def _syntax_problem(error: yaml.YAMLError, shown: str) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        said = str(error.problem)[:SHOWN_CHARACTERS]
        return Problem(shown, f"line {error.problem_mark.line + 1}", "YAML", f"an error: {said}")
    return Problem(shown, "", "YAML", f"an error: {' '.join(str(error).split())[:SHOWN_CHARACTERS]}")
