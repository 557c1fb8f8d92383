"""The journal is append-only, on disk and whole after a torn line; it judges by proofs, and is dry in check mode."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import journal
import pytest
from ansible.module_utils.dbrelease.errors import ReleaseError
from ansible.module_utils.dbrelease.journal import Journal, Run, last_facts, stamp
from ansible.module_utils.dbrelease.machine import process_of, this_machine
from ansible.module_utils.dbrelease.proof import Proof

KEYS = {"ts", "run_id", "release", "environment", "playbook", "step", "event", "facts"}
HOLDS = Proof("checks.a", "A holds", "pass").as_dict()
BROKEN = Proof("checks.b", "B holds", "fail", detail="2 rows break it.", remedy="Mend them.").as_dict()


def parameters(run: dict[str, Any], state: str, **options: Any) -> dict[str, Any]:
    return {
        "state": state,
        "run": run,
        "step": None,
        "event": None,
        "facts": {},
        "proofs": [],
        "exclusive": False,
        "controller": {},
        **options,
    }


def lines(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run["state_dir"]) / "journal.jsonl").read_text().splitlines()]


def test_opening_gives_the_run_its_id_and_writes_that_it_started(run_parameters: dict[str, Any]) -> None:
    opened = journal.act(parameters({**run_parameters, "run_id": None}, "opened"), False)
    (line,) = lines(run_parameters)
    assert set(line) == KEYS
    assert (line["run_id"], line["step"], line["event"]) == (opened["run"]["run_id"], "run", "started")
    assert len(stamp(opened["run"]["run_id"])) == len("20260102_030405")


def test_only_the_owner_can_read_it(run_parameters: dict[str, Any]) -> None:
    journal.act(parameters(run_parameters, "opened"), False)
    folder = Path(run_parameters["state_dir"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "journal.jsonl").stat().st_mode) == 0o600


def test_check_mode_writes_nothing(run_parameters: dict[str, Any]) -> None:
    opened = journal.act(parameters({**run_parameters, "run_id": None}, "opened"), True)
    assert opened["run"]["run_id"]
    assert not Path(run_parameters["state_dir"]).exists()


@pytest.mark.parametrize(
    ("proofs", "event", "message"),
    [
        ([], "passed", ""),
        ([HOLDS], "passed", ""),
        ([HOLDS, BROKEN], "failed", "1) B holds: 2 rows break it. Mend them."),
    ],
)
def test_a_stage_is_judged_by_its_proofs(
    run_parameters: dict[str, Any], proofs: list[dict[str, Any]], event: str, message: str
) -> None:
    judged = parameters(run_parameters, "judged", step="verify", proofs=proofs)
    if message:
        with pytest.raises(ReleaseError, match="B holds"):
            journal.act(judged, False)
    else:
        journal.act(judged, False)
    (line,) = lines(run_parameters)
    assert (line["step"], line["event"], line["facts"]["message"]) == ("verify", event, message)


def test_a_line_torn_by_a_kill_is_left_out_and_never_continued(run_parameters: dict[str, Any]) -> None:
    kept = Journal(Run(**run_parameters))
    kept.append("backup", "started")
    with kept.path.open("a") as file:
        file.write('{"ts": "2026-01-02", "event": "pas')
    kept.append("backup", "failed")
    assert [line["event"] for line in kept.read()] == ["started", "failed"]


def test_text_with_line_separators_stays_one_line(run_parameters: dict[str, Any]) -> None:
    kept = Journal(Run(**run_parameters))
    kept.append("note", "passed", {"title": "a\u2028b\nc"})
    assert kept.read()[0]["facts"]["title"] == "a\u2028b\nc"


@pytest.mark.parametrize(("refused", "event"), [(True, "refused"), (False, "failed")])
def test_a_step_that_raises_is_closed(run_parameters: dict[str, Any], refused: bool, event: str) -> None:
    kept = Journal(Run(**run_parameters))
    with pytest.raises(ReleaseError), kept.step("backup"):
        raise ReleaseError("No room.", refused=refused, free=0)
    closing = kept.read()[-1]
    assert (closing["event"], closing["facts"]) == (event, {"free": 0, "message": "No room."})


def test_the_newest_facts_of_a_release_in_an_environment_are_found(run_parameters: dict[str, Any]) -> None:
    kept = Journal(Run(**run_parameters))
    kept.append("backup", "passed", {"n": 1})
    kept.append("backup", "passed", {"n": 2})
    kept.append("backup", "failed", {"n": 3})
    Journal(Run(**{**run_parameters, "environment": "elsewhere"})).append("backup", "passed", {"n": 4})
    assert last_facts(kept.read(), release="sample", environment="test", step="backup") == {"n": 2}


def test_a_folder_that_cannot_be_written_is_one_sentence(run_parameters: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ReleaseError, match=r"Writing the journal .* failed \(Not a directory\): make release_state_dir"
    ):
        journal.act(parameters({**run_parameters, "state_dir": str(tmp_path / "file/state")}, "opened"), False)


def opened(run: dict[str, Any], run_id: str, *, check_mode: bool = False) -> dict[str, Any]:
    who = {"user": "ann", "host": "desk", **vars(this_machine()), **vars(process_of(os.getpid()) or ())}
    options = parameters({**run, "run_id": run_id}, "opened", exclusive=True, controller=who)
    return journal.act(options, check_mode)


def test_of_two_exclusive_runs_the_second_is_refused_and_told_why(run_parameters: dict[str, Any]) -> None:
    first, second = (opened(run_parameters, "x") for _ in range(2))
    assert (first["refused"], first["message"]) == (False, "")
    assert second["refused"]
    assert f"held by run {first['run']['run_id']} (tests of release sample) by ann on desk, since" in second["message"]
    assert [(line["step"], line["event"]) for line in lines(run_parameters)] == [
        ("run", "started"),
        ("claim", "passed"),
        ("run", "started"),
        ("claim", "refused"),
    ]


def test_in_check_mode_a_held_target_is_told_and_not_refused(run_parameters: dict[str, Any]) -> None:
    first = opened(run_parameters, "x")
    before = lines(run_parameters)
    dry = opened(run_parameters, "y", check_mode=True)
    assert not dry["refused"] and first["run"]["run_id"] in dry["message"]
    assert lines(run_parameters) == before


def test_what_only_reads_is_not_refused(run_parameters: dict[str, Any]) -> None:
    opened(run_parameters, "x")
    assert not journal.act(parameters(run_parameters, "opened"), False)["refused"]
