"""Lines that are events, but with facts that no program of ours wrote: reported in one sentence, or ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Run, last_facts
from ansible.module_utils.dbrelease.restore.cleanup import left_stopped, never_started
from ansible.module_utils.dbrelease.restore.source import find_backup
from ansible.module_utils.dbrelease.runs import scan

RUN = "20260102T030405Z-abcdef"
TABLE = {"rows": 1, "fingerprint": "1", "columns": ["a"], "inserted": 0, "updated": 0, "deleted": 0}


def line(step: str, event: str, **facts: Any) -> dict[str, Any]:
    whose = {"run_id": RUN, "release": "sample", "environment": "test", "playbook": "restore"}
    return {**whose, "ts": "2026-01-02T03:04:05.000+00:00", "step": step, "event": event, "facts": facts}


@pytest.mark.parametrize(
    ("step", "facts", "reported"),
    [
        ("backup", {}, "facts lacks path, manifest, sha256, bytes"),
        ("backup", {"path": 5, "manifest": "x", "sha256": "x", "bytes": 5}, "facts.path is not a text"),
        ("baseline", {"xid": 5}, "facts lacks tables"),
        ("baseline", {"xid": 5, "tables": {"public.t": {**TABLE, "rows": "x"}}}, "rows is not a whole number"),
        ("upgrade", {"before": {"xid": 5}, "after": None}, "facts.before lacks tables"),
        ("downgrade", {"after": "x"}, "facts.after is not an object"),
        ("guards", {"migration_xids": 7}, "facts.migration_xids is not a list"),
    ],
)
def test_odd_facts_are_reported_with_their_line(step: str, facts: dict[str, Any], reported: str) -> None:
    with pytest.raises(ReleaseError) as raised:
        last_facts([line(step, "passed", **facts)], release="sample", environment="test", step=step)
    assert f"(in the last line of step {step}, of run {RUN}, {reported}" in raised.value.message.replace(
        "facts.tables.public.t.", ""
    )


def test_a_restore_refuses_an_older_backup_than_the_one_with_odd_facts(tmp_path: Path) -> None:
    older = line("backup", "passed", path="/x.dump", manifest="/x.json", sha256="00", bytes=5)
    run = Run(RUN, "sample", "test", "restore", str(tmp_path))
    assert find_backup("", run, [older]) == tmp_path / "x.dump"
    with pytest.raises(ReleaseError, match=r"facts\.path is not a text.*nothing was touched") as raised:
        find_backup("", run, [older, line("backup", "passed", **{**older["facts"], "path": 5})])
    assert raised.value.refused


SERVICES = "restore.services"


@pytest.mark.parametrize(
    ("lines", "stopped", "never"),
    [
        ([], (), []),
        ([line(SERVICES, "started", containers=["web"])], ("web",), ["web"]),
        ([line(SERVICES, "started", containers=["web"]), line(SERVICES, "passed", containers=["web"])], (), []),
        ([line(SERVICES, "failed", containers=["web"])], (), ["web"]),
        ([line(SERVICES, "started", containers=["web"]), line(SERVICES, "failed", interrupted=True)], (), []),
        ([line(SERVICES, "started")], (), []),
        ([line(SERVICES, "started", containers=["web"], stop_seconds="x")], (), []),
        ([line(SERVICES, "failed", containers=["web"]), line(SERVICES, "failed", containers=7)], (), ["web"]),
        ([line(SERVICES, "started", containers=["web"]), line(SERVICES, "started", containers=[5])], ("web",), ["web"]),
    ],
)
def test_what_a_swap_has_stopped_is_read_from_the_newest_line_that_says_it(
    lines: list[dict[str, Any]], stopped: tuple[str, ...], never: list[str]
) -> None:
    stopping = left_stopped(lines)
    assert (tuple(stopping.containers) if stopping else (), never_started(lines)) == (stopped, never)


@pytest.mark.parametrize(
    "facts", [{"asked": 7}, {"asked": [7]}, {"controller": "desk"}, {"controller": {"pid": "x"}}, {"controller": [5]}]
)
def test_a_run_with_odd_facts_is_settled_as_any_other(tmp_path: Path, facts: dict[str, Any]) -> None:
    run = Run("20260103T030405Z-fedcba", "sample", "test", "deploy", str(tmp_path))
    (found,) = scan.scan_target(run, [line("run", "started", **facts), line("backup", "started")], dry=False).runs
    assert (found.run.run_id, found.steps, found.asked, found.user) == (RUN, ("backup",), (), "unknown")
