"""Whatever goes wrong, no acknowledged write is lost, nothing is left, and the next run ends as it was asked."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
import testinfra
from outside import POSTGRES, STATE, Psql

from faults.client import Ledger, writing
from faults.injections import ServerProcessKilled
from faults.moments import Step
from faults.running import LONGEST_RUN_S, Ended, Running, kill_all, lines
from faults.surroundings import (
    catalog,
    catalog_once_restored,
    login,
    nothing_is_left,
    others_out_of_line,
    reset,
    rows_of,
    seeded_rows,
    server_crashes,
    wait_until_healthy,
)
from faults.table import TABLE, Row


@pytest.fixture(scope="session")
def psql() -> Psql:
    return Psql(testinfra.get_host(f"docker://{POSTGRES}"))


@dataclass
class Stack:
    """What runs that nothing disturbs leave, and for which playbook the stack is ready now."""

    catalogs: dict[str, str]
    ready_for: str

    def prepare(self, playbook: str) -> None:
        """A deploy begins before the release, a rollback after it; a restore wherever there is a backup."""
        if playbook != self.ready_for:
            reset()
            if playbook != "deploy":
                deploy()
        self.ready_for = ""


def deploy() -> None:
    ended = Running("deploy").wait()
    assert ended.outcome == "deployed", ended.reported


@pytest.fixture(scope="session")
def stack() -> Stack:
    reset()
    before, restored = catalog(), catalog_once_restored()
    deploy()
    after = catalog()
    catalogs = {"rolled_back": before, "restored": restored, "deployed": after, "already_deployed": after}
    return Stack(catalogs, "restore")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_nothing_is_lost_and_the_next_run_ends_as_asked(row: Row, psql: Psql, stack: Stack) -> None:
    go_through([row], psql, stack)


@pytest.mark.quick
@pytest.mark.parametrize("playbook", ["restore", "rollback", "deploy"])
def test_each_next_run_may_meet_a_fault_itself(playbook: str, psql: Psql, stack: Stack) -> None:
    go_through([row for row in TABLE if row.quick and row.playbook == playbook], psql, stack)


def go_through(rows: Sequence[Row], psql: Psql, stack: Stack) -> None:
    """Each row's fault hits the run that settles what the one before has left; after the last comes a run without."""
    last = rows[-1]
    stack.prepare(last.playbook)
    databases, seeded, begun = set(psql.databases()), seeded_rows(psql), datetime.now(UTC).isoformat()
    with ExitStack() as places:
        for row in rows:
            places.enter_context(row.place())
        with writing() as client:
            runs = [disturbed(row) for row in rows]
            runs.append(Running(last.following or last.playbook).wait())
        for row, ended, following in zip(rows, runs, runs[1:], strict=False):
            demand_told(row, ended, following)
        after = runs[-1]
        assert (after.status, after.outcome) == (0, last.then), after.reported
        for met, ended in zip([*rows, None], runs, strict=True):
            demand_reported(met, ended)
            demand_nothing_after_the_report(ended)
        put_aside = {name for name in psql.databases() if name not in databases and last.playbook == "restore"}
        nothing_is_lost(psql, client.ledger, put_aside)
        assert seeded_rows(psql) == seeded
        assert catalog() == stack.catalogs[last.then]
        nothing_is_left(psql, {*databases, *put_aside})
        assert server_crashes(begun) == sum(isinstance(row.fault, ServerProcessKilled) for row in rows)
    if last.playbook == "restore":
        stack.ready_for = "restore"


def disturbed(row: Row) -> Ended:
    """The run, with the fault in it."""
    at = login()
    run = Running(row.playbook, row.arguments, row.environment)
    try:
        with ExitStack() as fault:
            with row.at.reached(run, at):
                fault.enter_context(row.fault(run, at))
            with suppress(subprocess.TimeoutExpired):
                run.process.wait(row.lasts_s or LONGEST_RUN_S)
        ended = run.wait()
        if not row.down:
            wait_until_healthy()
        assert re.fullmatch(row.ends, ended.outcome), f"{row.name}: {ended.outcome}: {ended.reported}"
        return ended
    finally:
        if not run.over():
            kill_all(run)


def demand_told(row: Row, ended: Ended, following: Ended) -> None:
    """The operator learned of it: from that run, or if it was killed from the one that followed."""
    reported = following.reported if ended.outcome == "killed" else ended.reported
    interrupted = rf"Run {ended.run_id} \({row.playbook}, begun \S+ by \S+ on .+?\) was interrupted"
    assert re.search(row.says or interrupted, reported), f"{row.name}: {reported}"


def demand_reported(row: Row | None, ended: Ended) -> None:
    """Of a run that was killed the run that settled it has made the report, unless its module had made it already.

    One that ended without has said so.
    """
    if ended.outcome == "no report":
        return
    evidence = json.loads((STATE / "runs" / ended.run_id / "evidence.json").read_text())
    assert evidence["run"]["run_id"] == ended.run_id
    if ended.outcome == "killed" and not (row and row.at == Step("report")):
        # A module that survived its controller is ended by the next run, and may still say so itself.
        ended_so = "(?i)interrupted|killed|ended by SIG(TERM|INT)"
        assert re.search(ended_so, evidence["headline"]), evidence["headline"]


def demand_nothing_after_the_report(ended: Ended) -> None:
    """Of a run that has reported its outcome no module works on; whoever settles it closes what was open."""
    own = [line for line in lines() if line["run_id"] == ended.run_id]
    closed = next((n for n, line in enumerate(own) if line["step"] == "run" and line["event"] != "started"), len(own))
    reported = [line for line in own[closed + 1 :] if line["step"] not in ("run", "report", "notify")]
    assert ended.outcome == "killed" or [line for line in reported if not line["facts"].get("interrupted")] == []


def nothing_is_lost(psql: Psql, ledger: Ledger, put_aside: set[str]) -> None:
    """Every acknowledged write is there, with its last state, and nothing that nobody wrote."""
    found = rows_of(psql, ledger, ["drawing_index", *sorted(put_aside)])
    assert ledger.acknowledged > 0
    assert ledger.lost(found) == []
    assert ledger.unexpected(found) == []
    assert others_out_of_line(psql, ledger) == []
