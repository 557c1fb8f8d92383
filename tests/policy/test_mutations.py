"""The table of mutations can be made in this tree, its tests exist, and no guard or rule is missing from it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.dbrelease.preflight.judge import RULES
from ansible.module_utils.dbrelease.release.guard_kinds import KINDS_OF_DATABASE, KINDS_OF_SERVICES
from mutations.table import Mutation, rows

ROOT = Path(__file__).resolve().parents[2]
MUTATIONS = list(rows())
NAMES = {mutation.name for mutation in MUTATIONS}
KINDS_OF_CHECKS = {"checks": "check", "scenarios": "scenario", "plans": "plan"}


def declared() -> set[str]:
    """What is a guard or a check: every rule and kind of guard, and what a release with a table of mutations declares.

    Another release has no tests here by which a mutation could be judged.
    """
    names = {f"preflight.{rule}" for rule in RULES} | {
        f"guard.{kind}" for kind in KINDS_OF_DATABASE + KINDS_OF_SERVICES
    }
    for table in (ROOT / "tests/mutations/table").glob("release_*.yml"):
        release = ROOT / "releases" / table.stem.removeprefix("release_")
        content: dict[str, Any] = yaml.safe_load((release / "release.yml").read_text())
        checks: dict[str, Any] = yaml.safe_load((release / "checks.yml").read_text())
        names |= {f"{release.name}.guard.{guard['name']}" for guard in content["rollback"]["guards"]}
        names |= {
            f"{release.name}.{word}.{one['name']}" for kind, word in KINDS_OF_CHECKS.items() for one in checks[kind]
        }
    return names


def test_nothing_that_is_declared_is_missing() -> None:
    assert declared() - NAMES == set()
    assert len(declared()) > 30


def test_each_has_a_name_of_its_own_and_says_what_it_protects() -> None:
    assert [name for name, count in Counter(mutation.name for mutation in MUTATIONS).items() if count > 1] == []
    assert [mutation.name for mutation in MUTATIONS if not mutation.protects.endswith(".") or not mutation.tests] == []


def test_each_can_be_made() -> None:
    assert {mutation.name: problem for mutation in MUTATIONS if (problem := mutation.problem(ROOT))} == {}


@pytest.mark.parametrize("top", ["tests", "molecule"])
def test_every_test_that_is_named_exists(top: str) -> None:
    """Each folder by itself, as its conftest.py is."""
    named = sorted({test for mutation in MUTATIONS for test in mutation.tests if test.startswith(f"{top}/")})
    argv = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", *named]
    collected = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert collected.returncode == 0, collected.stdout[-2000:] + collected.stderr[-2000:]


def test_what_cannot_be_made_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("if x:\nif y:\n")
    for file, text, becomes, problem in (
        ("a.py", "if x:", "if False:", ""),
        ("a.py", "if z:", "", "the text is not there once, but 0 times, in a.py"),
        ("a.py", "if", "", "the text is not there once, but 2 times, in a.py"),
        ("a.py", "if x:", "if x:", "it changes nothing"),
        ("b.py", "if x:", "", "there is no file b.py"),
    ):
        assert Mutation("a", "A.", file, text, becomes, ("t",)).problem(tmp_path) == problem
