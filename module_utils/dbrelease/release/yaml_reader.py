"""Read the YAML of a release strictly: UTF-8, plain values, text keys, each key once; and say where it is not so.

A document is bounded in every direction before its values are made, for a few lines of YAML can stand for any number.
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
# With every alias followed, as a reader of the document meets them; the largest release has a tenth of it.
LIMIT_VALUES = 50_000
LIMIT_CHARACTERS = 1 * MIB
LIMIT_DEPTH = 40
LIMIT_DIGITS = 30
# So many tell what is wrong; a message of thousands tells nothing.
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
    """What the file holds (None where it cannot be read at all) and what is wrong with its form."""
    try:
        text = read_file(directory, name, LIMIT_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        return None, [Problem(shown, "", "UTF-8 text", f"another byte at position {error.start}")]
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
    """The document goes beyond a bound; the problem is noted."""


@dataclass(frozen=True)
class _Size:
    """What a node stands for, with its aliases followed."""

    values: int
    characters: int


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that collects what a strict reader refuses, instead of ending at the first."""

    def __init__(self, text: str, shown: str) -> None:
        super().__init__(text)
        self.shown = shown
        self.problems: list[Problem] = []
        self._depth = 0
        self._sizes: dict[int, _Size] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As the parent, within the bounds."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if self._depth >= LIMIT_DEPTH:
            self._refuse(line, f"{LIMIT_DEPTH} levels at most", "one more")
        tag = getattr(event, "tag", None)
        if tag is not None and tag in self.yaml_constructors:  # another one has none, and is refused for that
            self._note(line, "a value without a tag", tag.replace(STANDARD_TAG, "!!"))
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                self._refuse(line, "a mapping", "one that holds itself")
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
            self._refuse(line, f"{LIMIT_VALUES} values at most, aliases followed", "more")
        if size.characters > LIMIT_CHARACTERS:
            self._refuse(line, f"{LIMIT_CHARACTERS // MIB} MiB of text at most, aliases followed", "more")
        return size

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As the parent, with a second key of a name, and a key that is no text, noted."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (TEXT_TAG, MERGE_TAG):
                self._note(line, "a key that is text", f"{getattr(key, 'value', 'something else')!s:.60}")
                key.tag, key.value = TEXT_TAG, str(key.value)
            elif key.value in seen:
                self._note(line, "each key once", f"`{key.value:.60}`, which is on line {seen[key.value]} already")
            seen.setdefault(key.value, line)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number as people write it: of so many digits, and not 90 minutes written as 1:30."""
        make: Callable[[yaml.ScalarNode], int | float] = (
            self.construct_yaml_int if node.tag == INTEGER_TAG else self.construct_yaml_float
        )
        line = node.start_mark.line + 1
        if len(node.value) > LIMIT_DIGITS:
            self._note(line, f"a number of {LIMIT_DIGITS} digits at most", f"{node.value:.{LIMIT_DIGITS}}...")
            return 0
        if ":" in node.value:
            self._note(line, "a number, or text in quotes", node.value)
            return 0
        value = make(node)
        if not math.isfinite(value):
            self._note(line, "a finite number", node.value)
        return value

    def construct_date(self, node: yaml.ScalarNode) -> Any:
        """A date that there is."""
        try:
            return self.construct_yaml_timestamp(node)
        except ValueError:
            self._note(node.start_mark.line + 1, "a date that there is, or text in quotes", f"{node.value:.60}")
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
        return Problem(shown, f"line {error.problem_mark.line + 1}", "YAML", f"a mistake: {said}")
    return Problem(shown, "", "YAML", f"a mistake: {' '.join(str(error).split())[:SHOWN_CHARACTERS]}")
