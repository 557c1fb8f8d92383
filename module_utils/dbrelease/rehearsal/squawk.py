"""What the linter squawk says of a migration's SQL: advice beside the observation, and never a verdict.

It reads the text alone: it warns of statements that block nobody, and passes some that block writers for minutes.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ReleaseError
from ..core.plain_text import printable
from ..core.redaction import masked_sql
from ..host.commands import Finished, HostCommands

PROGRAM = "squawk"
TIMEOUT_S = 30
KEPT_CHARACTERS = 300
QUOTED_CHARACTERS = 80
RULES_AT_MOST = 20
STRANGE = "it printed what is no list of warnings"
# The run sets timeouts itself, a migration runs once, and the rest is taste.
LEFT_OUT = frozenset({"require-lock-timeout", "require-statement-timeout", "prefer-robust-stmts", "prefer-text-field"})


@dataclass(frozen=True)
class Warned:
    """A rule, what it says, and the lines of the SQL that it is about, of which the first is quoted."""

    rule: str
    message: str
    lines: tuple[int, ...]
    quoted: str = ""


@dataclass(frozen=True)
class Advice:
    """What squawk said; `reason` says why it said nothing where it did not run."""

    version: str = ""
    warned: tuple[Warned, ...] = ()
    reason: str = ""

    def sentences(self) -> list[str]:
        """For the report."""
        if self.reason:
            return [f"squawk was not run: {self.reason}."]
        if not self.warned:
            return [f"{self.version} (advice only) warns of nothing."]
        return [f"{self.version} (advice only): {one.rule} ({_where(one)}): {one.message}" for one in self.warned]


def _where(one: Warned) -> str:
    more = len(one.lines) - 1
    return f"“{one.quoted}”" + (f" and {more} more {'place' if more == 1 else 'places'}" if more else "")


def squawk(sql: str) -> Advice:
    """Let it read the SQL; nothing that goes wrong with it is an error of the rehearsal."""
    beside = str(Path(sys.executable).parent)
    program = shutil.which(PROGRAM, path=beside) or shutil.which(PROGRAM)
    if program is None:
        return Advice(reason=f"the program is not on the target, neither in {beside} nor on the PATH")
    try:
        version = HostCommands().run([program, "--version"], timeout_s=TIMEOUT_S)
        with tempfile.TemporaryFile() as text:
            text.write(sql.encode("utf-8", "replace"))
            text.seek(0)
            argv = [program, "--reporter", "json", "--stdin-filepath", "migration.sql"]
            finished = HostCommands().run(argv, timeout_s=TIMEOUT_S, stdin=text)
        return Advice(_plain(version.stdout) or PROGRAM, _warned(finished, sql.split("\n")))
    except (ReleaseError, OSError, ValueError) as error:
        return Advice(reason=_plain(str(error)).rstrip("."))


def _warned(finished: Finished, text: Sequence[str]) -> tuple[Warned, ...]:
    # 1: it warned.
    if finished.timed_out or finished.status not in (0, 1):
        words = f", and printed: {finished.stderr}" if finished.stderr.strip() else ""
        raise ValueError(f"it ended with status {finished.status}{words}")
    printed = json.loads(finished.stdout)
    if not isinstance(printed, list):
        raise ValueError(STRANGE)
    found: dict[str, dict[str, Any]] = {}
    for entry in printed:
        if not isinstance(entry, dict) or not isinstance(entry.get("rule_name"), str):
            raise ValueError(STRANGE)
        rule = _plain(entry["rule_name"])
        if rule in LEFT_OUT or not isinstance(entry.get("line"), int):
            continue
        one = found.setdefault(rule, {"message": _plain(f"{entry.get('message')}"), "lines": []})
        # It counts from 0.
        one["lines"].append(entry["line"] + 1)
    return tuple(
        Warned(rule, one["message"], tuple(lines := sorted(set(one["lines"]))), _quoted(text, lines[0]))
        for rule, one in list(found.items())[:RULES_AT_MOST]
    )


def _quoted(text: Sequence[str], number: int) -> str:
    line = _plain(text[number - 1]) if number <= len(text) else ""
    return line if len(line) <= QUOTED_CHARACTERS else f"{line[: QUOTED_CHARACTERS - 1]}…"


def _plain(text: str) -> str:
    return printable(masked_sql(" ".join(text.split())))[:KEPT_CHARACTERS]
