"""A dry run after a run that was killed: it says what is left, and leaves it."""

from __future__ import annotations

from outside import STATE

from faults import injections as faults
from faults.moments import Step
from faults.running import Running
from faults.surroundings import reset
from faults.table import Row
from faults.test_faults import disturbed


def test_a_dry_run_says_what_is_left_and_leaves_it() -> None:
    reset()
    killed = disturbed(Row("", Step("upgrade"), faults.everything_killed))
    before = (STATE / "journal.jsonl").read_bytes()
    dry = Running("deploy", ("--check",)).wait()
    assert dry.status == 0, dry.reported
    assert f"Run {killed.run_id}" in dry.reported
    assert (STATE / "journal.jsonl").read_bytes() == before
    assert Running("deploy").wait().outcome == "deployed"
    again = Running("deploy").wait()
    assert (again.status, again.outcome) == (0, "already_deployed"), again.reported
    assert killed.run_id not in again.reported, "it is reported once"
