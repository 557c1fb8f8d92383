"""Squawk is advice: what it prints is shown, and whatever is wrong with it fails nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.rehearsal.squawk import squawk

# As squawk 2.70.0 prints it.
INDEX = {
    "file": "migration.sql",
    "line": 1,
    "column": 0,
    "level": "Warning",
    "message": "During normal index creation, table updates are blocked, but reads are still allowed.",
    "help": "Use `concurrently` to avoid blocking writes.",
    "rule_name": "require-concurrent-index-creation",
    "column_end": 36,
    "line_end": 1,
}
TIMEOUT = {**INDEX, "line": 0, "rule_name": "require-lock-timeout", "message": "Missing `set lock_timeout`"}


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name beside the Python that runs."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return tmp_path / "squawk"


def prints(program: Path, answer: Any, status: int = 0) -> None:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    program.write_text(
        f"""#!/bin/sh
if [ "$1" = --version ]; then echo 'squawk 2.70.0'; exit 0; fi
cat >"{program}.input"; echo "$*" >"{program}.arguments"
cat <<'END'
{text}
END
exit {status}
"""
    )
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("answer", "status", "sentences"),
    [
        (
            [TIMEOUT, INDEX, {**INDEX, "line": 4}],
            1,
            [
                "squawk 2.70.0 (advice only): require-concurrent-index-creation (“CREATE INDEX ON a (b);” and 1 more "
                f"place): {INDEX['message']}"
            ],
        ),
        ([], 0, ["squawk 2.70.0 (advice only) warns of nothing."]),
        ([TIMEOUT], 1, ["squawk 2.70.0 (advice only) warns of nothing."]),
        ("Segmentation fault", 139, ["squawk was not run: it ended with status 139."]),
        ("{}", 1, ["squawk was not run: it printed what is no list of warnings."]),
        ('[{"rule_name": 3}]', 1, ["squawk was not run: it printed what is no list of warnings."]),
    ],
)
def test_what_it_says_is_shown(program: Path, answer: Any, status: int, sentences: list[str]) -> None:
    prints(program, answer, status)
    assert squawk("SELECT 1;\nCREATE INDEX ON a (b);\n").sentences() == sentences
    assert Path(f"{program}.input").read_text() == "SELECT 1;\nCREATE INDEX ON a (b);\n"
    assert "--reporter json" in Path(f"{program}.arguments").read_text()


def test_a_target_without_it_is_no_error(program: Path) -> None:
    (sentence,) = squawk("SELECT 1").sentences()
    assert sentence.startswith(f"squawk was not run: the program is not on the target, neither in {program.parent}")


def test_one_that_cannot_be_executed_is_no_error(program: Path) -> None:
    program.write_bytes(b"\x7fELF no program")
    program.chmod(0o755)
    (sentence,) = squawk("SELECT 1").sentences()
    assert sentence.startswith("squawk was not run: ")
