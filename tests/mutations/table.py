"""The table of mutations: YAML files with a row for each guard and each safety step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).resolve().parent / "table"


@dataclass(frozen=True)
class Mutation:
    """One row: what is taken out, and the tests of which at least one must see it."""

    name: str
    protects: str
    file: str
    text: str
    becomes: str
    tests: tuple[str, ...]

    def problem(self, root: Path) -> str:
        """Why it cannot be made in this tree; empty where it can."""
        path = root / self.file
        if not path.is_file():
            return f"there is no file {self.file}"
        found = path.read_text(encoding="utf-8").count(self.text)
        if found != 1:
            return f"the text is not there once, but {found} times, in {self.file}"
        return "it changes nothing" if self.text == self.becomes else ""

    def make(self, root: Path) -> None:
        """Change the file."""
        path = root / self.file
        path.write_text(path.read_text(encoding="utf-8").replace(self.text, self.becomes), encoding="utf-8")


def rows(folder: Path = TABLE) -> Iterator[Mutation]:
    """Every row of every file, in the order of the files."""
    for path in sorted(folder.glob("*.yml")):
        for row in yaml.safe_load(path.read_text(encoding="utf-8")):
            yield Mutation(**{**row, "tests": tuple(row["tests"])})
