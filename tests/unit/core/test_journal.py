"""The journal is append-only, on disk and whole after a torn line; it judges by proofs, and is dry in check mode."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import journal
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal, Run, last_facts
from ansible.module_utils.dbrelease.core.proof import Proof

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
        **options,
    }


def lines(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run["state_dir"]) / "journal.jsonl").read_text().splitlines()]


RECORDED = {"step": "backup", "event": "passed"}


def test_a_line_is_recorded_for_its_owner_only(run_parameters: dict[str, Any]) -> None:
    recorded = journal.act(parameters(run_parameters, "recorded", **RECORDED), False)
    (line,) = lines(run_parameters)
    assert set(line) == KEYS and line == recorded["line"]
    folder = Path(run_parameters["state_dir"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "journal.jsonl").stat().st_mode) == 0o600


def test_check_mode_writes_nothing(run_parameters: dict[str, Any]) -> None:
    assert journal.act(parameters(run_parameters, "recorded", **RECORDED), True)["line"]["event"] == "passed"
    assert not Path(run_parameters["state_dir"]).exists()


@pytest.mark.parametrize(
    ("proofs", "event", "message"),
    [
        ([], "passed", ""),
        ([HOLDS], "passed", ""),
        ([HOLDS, BROKEN], "failed", "1) “B holds” failed: 2 rows break it. Mend them."),
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


WHOLE = {
    "ts": "2026-01-02T03:04:05.000+00:00",
    "run_id": "20260102T030405Z-abcdef",
    "release": "sample",
    "environment": "test",
    "playbook": "deploy",
    "step": "backup",
    "event": "started",
    "facts": {},
}


@pytest.mark.parametrize(
    "odd",
    [
        *(pytest.param(json.dumps({k: v for k, v in WHOLE.items() if k != key}), id=f"no {key}") for key in WHOLE),
        *(pytest.param(json.dumps({**WHOLE, key: None}), id=f"{key} null") for key in WHOLE),
        pytest.param(json.dumps({**WHOLE, "facts": []}), id="facts a list"),
        pytest.param(json.dumps({**WHOLE, "step": ["backup"]}), id="step a list"),
        pytest.param(json.dumps({**WHOLE, "ts": "2026-01-02T03:04:05"}), id="a time without a zone"),
        pytest.param(json.dumps({**WHOLE, "ts": "yesterday"}), id="no time"),
        pytest.param(json.dumps({**WHOLE, "run_id": "deploy-7"}), id="another's run id"),
        pytest.param(json.dumps({**WHOLE, "run_id": "20261332T030405Z-abcdef"}), id="a run id of no day"),
        pytest.param(json.dumps(["event"]), id="no object"),
        pytest.param("[" * 100_000, id="nested too deep"),
        pytest.param('{"facts": ' * 100_000, id="objects nested too deep"),
    ],
)
def test_a_line_that_is_no_event_is_left_out(run_parameters: dict[str, Any], odd: str) -> None:
    kept = Journal(Run(**run_parameters))
    kept.append("backup", "started")
    with kept.path.open("a") as file:
        file.write(f"{odd}\n")
    kept.append("backup", "passed")
    assert [line["event"] for line in kept.read()] == ["started", "passed"]


def test_what_a_later_version_writes_besides_is_kept(run_parameters: dict[str, Any]) -> None:
    kept = Journal(Run(**run_parameters))
    later = {**WHOLE, "event": "paused", "host": "desk"}
    kept.path.parent.mkdir()
    kept.path.write_text(json.dumps(later) + "\n")
    assert kept.read() == [later]


@pytest.mark.parametrize(("taken", "others"), [(0, ""), (40, ""), (40, '{"line": "of another run"}\n')])
def test_a_disk_that_writes_the_beginning_of_a_line_is_reported_and_the_line_is_removed(
    run_parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch, taken: int, others: str
) -> None:
    journal = Journal(Run(**run_parameters))
    journal.append("before", "passed")
    whole = journal.path.read_text()
    left = [taken]

    def fills_up(descriptor: int, data: bytes) -> int:
        if not left:
            with journal.path.open("a") as file:
                file.write(others)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[: left.pop()])

    write = os.write
    monkeypatch.setattr(os, "write", fills_up)
    with pytest.raises(ReleaseError, match=r"No space left on device.*with room left"):
        journal.append("step", "passed", {"long": "x" * 100})
    monkeypatch.undo()
    kept = journal.path.read_text()
    assert kept.startswith(whole) and kept.endswith(others or whole)
    assert [line["step"] for line in journal.read() if "step" in line] == ["before"]
    journal.append("after", "passed")
    assert [line["step"] for line in journal.read() if "step" in line] == ["before", "after"]


@pytest.mark.parametrize("at_once", [1, 7, 4096])
def test_a_line_that_the_disk_takes_in_parts_is_whole(
    run_parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    journal, write = Journal(Run(**run_parameters)), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:at_once]))
    journal.append("step", "passed", {"long": "x" * 100})
    assert [line["facts"] for line in journal.read()] == [{"long": "x" * 100}]


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


@pytest.mark.parametrize(("status", "event"), [("pass", "passed"), ("inconclusive", "passed"), ("fail", "failed")])
def test_a_step_with_a_red_claim_is_closed_as_failed(run_parameters: dict[str, Any], status: Any, event: str) -> None:
    kept = Journal(Run(**run_parameters))
    with kept.step("checks") as step:
        step.prove(Proof("checks.a", "A holds", status))
    assert kept.read()[-1]["event"] == event


def test_the_newest_facts_of_a_release_in_an_environment_are_found(run_parameters: dict[str, Any]) -> None:
    kept = Journal(Run(**run_parameters))
    kept.append("verify", "passed", {"n": 1})
    kept.append("verify", "passed", {"n": 2})
    kept.append("verify", "failed", {"n": 3})
    Journal(Run(**{**run_parameters, "environment": "elsewhere"})).append("verify", "passed", {"n": 4})
    assert last_facts(kept.read(), release="sample", environment="test", step="verify") == {"n": 2}


def test_a_folder_that_cannot_be_written_is_one_sentence(run_parameters: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ReleaseError, match=r"Writing the journal .* failed \(Not a directory\): make release_state_dir"
    ):
        journal.act(
            parameters({**run_parameters, "state_dir": str(tmp_path / "file/state")}, "recorded", **RECORDED), False
        )


@pytest.mark.parametrize(
    "named", [{"version": 2}, {"schema_version": 3}, {"format": "v2"}, {"v": "2.1"}, {"journal_version": 2.0}]
)
def test_a_newer_version_is_recognized_by_whatever_names_it(
    run_parameters: dict[str, Any], named: dict[str, Any]
) -> None:
    journal.act(parameters(run_parameters, "recorded", **RECORDED), False)
    path = Path(run_parameters["state_dir"]) / "journal.jsonl"
    (line,) = lines(run_parameters)
    path.write_text(path.read_text() + json.dumps({**line, **dict.fromkeys(named, "1")}) + "\n")
    assert len(Journal(Run(**run_parameters)).read()) == 2, "this one"
    path.write_text(path.read_text() + json.dumps({**line, **named}) + "\n")
    with pytest.raises(ReleaseError, match=r"newer version of this program wrote it, in format [23],.*run the version"):
        Journal(Run(**run_parameters)).read()


def test_a_journal_of_a_newer_version_is_refused_and_named(run_parameters: dict[str, Any]) -> None:
    journal.act(parameters(run_parameters, "recorded", **RECORDED), False)
    path = Path(run_parameters["state_dir"]) / "journal.jsonl"
    (line,) = lines(run_parameters)
    path.write_text(path.read_text() + json.dumps({**line, "version": 1}) + "\n")
    assert len(Journal(Run(**run_parameters)).read()) == 2, "this one"
    path.write_text(path.read_text() + json.dumps({"version": 2, "when": 1, "what": "as nobody writes it now"}) + "\n")
    for _ in range(2):
        with pytest.raises(ReleaseError, match=r"newer version of this program wrote it, in format 2.*run the version"):
            Journal(Run(**run_parameters)).read()


def test_a_lone_surrogate_is_journaled_and_read_back(run_parameters: dict[str, Any]) -> None:
    facts = {"answer": "a\ud800b", "k\udfff": ["\udc80"]}
    Journal(Run(**run_parameters)).append("api", "passed", facts)
    assert Journal(Run(**run_parameters)).read()[0]["facts"] == facts
