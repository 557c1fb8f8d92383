"""`make mutations`: each row of the table in a throwaway copy of the tree; exit status 1 unless every one is seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from .table import ROOT, Mutation, rows

LIMIT_S = 600
Verdict = Literal["seen", "SURVIVED", "ERROR"]


def copy_tree(to: Path) -> None:
    """What is in the repository, or would be after the next `git add`; the tools and the stack are lent by a link."""
    argv = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        source = ROOT / name
        if source.is_symlink() or source.exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to / name, follow_symlinks=False)
    for name in (".venv", ".stack"):
        if not (to / name).is_symlink():
            (to / name).symlink_to(ROOT / name)


def run_tests(tree: Path, tests: Sequence[str], limit_s: int = LIMIT_S) -> tuple[int, str]:
    """pytest's exit status up to the first failure, and the test that failed, or why there is no status."""
    if on_the_stack(tests):
        # As the prepare of a Molecule scenario does; from here, as the stack is that of this checkout.
        subprocess.run([ROOT / "stack/bin/reset"], capture_output=True, check=True)
    report = tree / "mutation.xml"
    report.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "pytest", "--quiet", "--exitfirst", f"--junitxml={report}", *tests]
    # A module that was compiled before would be run in the place of one that was changed within the same second.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ended = subprocess.run(argv, cwd=tree, env=environment, capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return -1, f"the tests did not end within {limit_s} s"
    if not report.is_file():
        return ended.returncode, ""
    red = [case.get("name", "") for case in ET.parse(report).iter("testcase") if case.find("failure") is not None]
    return ended.returncode, next(iter(red), "")


def on_the_stack(tests: Sequence[str]) -> bool:
    """Whether they are those of a Molecule scenario, which find the stack as it is after a reset."""
    return any(test.startswith("molecule/") for test in tests)


def red_without(tree: Path, chosen: Sequence[Mutation]) -> dict[tuple[str, ...], str]:
    """The tests that fail in the tree as it is, and so could show nothing; all at once where that can be."""
    sets = list(dict.fromkeys(mutation.tests for mutation in chosen))
    together = list(dict.fromkeys(test for tests in sets if not on_the_stack(tests) for test in tests))
    if together and run_tests(tree, together, LIMIT_S * len(together))[0] == 0:
        sets = [tests for tests in sets if on_the_stack(tests)]
    ended = {tests: run_tests(tree, tests) for tests in sets}
    return {
        tests: f"without it pytest ends with status {status} ({red})"
        for tests, (status, red) in ended.items()
        if status != 0
    }


def judge(tree: Path, mutation: Mutation) -> tuple[Verdict, str]:
    """Whether a test that passes without the mutation fails with it; the tree is left as it was."""
    path = tree / mutation.file
    whole = path.read_bytes()
    mutation.make(tree)
    try:
        status, red = run_tests(tree, mutation.tests)
    finally:
        path.write_bytes(whole)
    if status == 0:
        return "SURVIVED", f"{' '.join(mutation.tests)} still pass"
    if status != 1 or not red:
        return "ERROR", red or f"pytest ended with status {status}, and no test failed"
    return "seen", red


def main(patterns: list[str]) -> int:
    """Run the rows whose name fits one of the patterns, or all; print a line for each."""
    chosen = [row for row in rows() if not patterns or any(fnmatch(row.name, pattern) for pattern in patterns)]
    if not chosen:
        print("No mutation has such a name; the names are in tests/mutations/table/.", file=sys.stderr)
        return 2
    counted: Counter[Verdict] = Counter()
    with tempfile.TemporaryDirectory(prefix="mutations_") as folder:
        tree = Path(folder)
        copy_tree(tree)
        unsound = red_without(tree, chosen)
        for mutation in chosen:
            begun = time.monotonic()
            why = mutation.problem(tree) or unsound.get(mutation.tests, "")
            ended: tuple[Verdict, str] = ("ERROR", why) if why else judge(tree, mutation)
            verdict, detail = ended
            counted[verdict] += 1
            print(f"{verdict:9}{mutation.name:48}{time.monotonic() - begun:5.0f} s  {detail}", flush=True)
    print(
        f"{len(chosen)} mutations: {counted['seen']} seen, {counted['SURVIVED']} survived, {counted['ERROR']} errors."
    )
    return int(counted["seen"] != len(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
