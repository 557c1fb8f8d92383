"""run: it is given an id, claims its target or is refused, and knows whether another left anything; target.py looks."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core import journal
from ansible.module_utils.dbrelease.core.journal import Event, Journal, Run, stamp
from ansible.module_utils.dbrelease.core.process import process_of, this_machine
from run import act

NOWHERE = {"containers": {}, "db_host": "db.example.com", "db_port": 5433}


def lines(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run["state_dir"]) / "journal.jsonl").read_text().splitlines()]


def test_it_is_given_its_id_and_the_journal_says_that_it_began(run_parameters: dict[str, Any]) -> None:
    began = opened(run_parameters, exclusive=False)
    (line,) = lines(run_parameters)
    assert (line["run_id"], line["step"], line["event"]) == (began["run"]["run_id"], "run", "started")
    assert line["facts"]["controller"]["user"] == "ann"
    assert len(stamp(began["run"]["run_id"])) == len("20260102_030405")
    assert (began["login_host"], began["login_port"], began["services"]) == ("db.example.com", 5433, {})


def test_check_mode_writes_nothing(run_parameters: dict[str, Any]) -> None:
    assert opened(run_parameters, check_mode=True)["run"]["run_id"]
    assert not Path(run_parameters["state_dir"]).exists()


def test_however_many_runs_there_were_each_line_is_read_once(
    run_parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(run_parameters["state_dir"])
    folder.mkdir(mode=0o700)
    whole = [("run", "started"), ("claim", "passed"), ("verify", "started"), ("verify", "passed"), ("run", "passed")]
    with (folder / "journal.jsonl").open("w") as file:
        for number in range(2_000):
            run = {**run_parameters, "run_id": f"20250102T030405Z-{number:06x}", "ts": "2025-01-02T03:04:05+00:00"}
            for step, event in whole:
                file.write(json.dumps({**run, "step": step, "event": event, "facts": {}}) + "\n")
    (folder / "journal.jsonl").chmod(0o600)
    read: list[str] = []
    event_of = journal._event_of

    def counted(line: str) -> dict[str, Any] | None:
        read.append(line)
        return event_of(line)

    monkeypatch.setattr(journal, "_event_of", counted)
    began = opened(run_parameters)
    assert (began["refused"], began["unsettled"]) == (False, False)
    assert len(read) == len(set(read)) == 2_000 * len(whole) + 2  # the last two are of this very run


def test_after_ten_thousand_runs_it_takes_less_than_a_second_of_work(run_parameters: dict[str, Any]) -> None:
    folder = Path(run_parameters["state_dir"])
    folder.mkdir(mode=0o700)
    proof = {"name": "a.b", "title": "A thing holds", "status": "pass", "detail": "It is so.", "remedy": ""}
    steps: list[tuple[str, str, dict[str, Any]]] = [
        ("run", "started", {"asked": ["deployed"]}),
        ("claim", "passed", {}),
    ]
    for step in ("preflight", "upgrade", "verify"):
        steps += [(step, "started", {}), (step, "passed", {"proofs": [proof], "duration_ms": 12})]
    steps += [("run", "passed", {"outcome": "deployed"})]
    run = {**run_parameters, "run_id": "RUN_ID", "ts": "2025-01-02T03:04:05+00:00"}
    lines = "".join(
        json.dumps({**run, "step": step, "event": event, "facts": facts}) + "\n" for step, event, facts in steps
    )
    text = "".join(lines.replace("RUN_ID", f"20250102T030405Z-{number:06x}") for number in range(10_000))

    def seconds_of_work() -> float:
        (folder / "journal.jsonl").write_text(text)
        (folder / "journal.jsonl").chmod(0o600)
        journal._KNOWN.clear()
        begun = time.process_time()
        assert not opened(run_parameters)["unsettled"]
        return time.process_time() - begun

    # A processor that is shared works more slowly: the best of three counts.
    assert any(seconds_of_work() < 1 for _ in range(3))


BEGUN: list[tuple[str, Event]] = [("run", "started"), ("claim", "passed"), ("backup", "started")]
LEFT: list[tuple[str, list[tuple[str, Event]], list[str], bool]] = [
    ("nothing", [], [], False),
    ("a closed run", [*BEGUN, ("backup", "passed"), ("run", "passed")], ["x.dump"], False),
    ("a run without an end", BEGUN, [], True),
    ("a file half written", [], ["x.dump.tmp.20260102T030405Z-abcdef"], True),
]


@pytest.mark.parametrize("check_mode", [False, True])
@pytest.mark.parametrize(("_", "events", "files", "unsettled"), LEFT, ids=[row[0] for row in LEFT])
def test_what_an_earlier_run_left_is_to_be_settled(
    run_parameters: dict[str, Any],
    _: str,
    events: list[tuple[str, Event]],
    files: list[str],
    unsettled: bool,
    check_mode: bool,
) -> None:
    state = Path(run_parameters["state_dir"])
    state.mkdir()
    for step, event in events:
        Journal(Run(**run_parameters)).append(step, event)
    for name in files:
        (state / name).touch()
    assert not opened(run_parameters, check_mode=check_mode, exclusive=False)["unsettled"], "it may settle nothing"
    assert opened(run_parameters, check_mode=check_mode)["unsettled"] == unsettled


def opened(run: dict[str, Any], *, check_mode: bool = False, exclusive: bool = True) -> dict[str, Any]:
    who = {"user": "ann", "host": "desk", **vars(this_machine()), **vars(process_of(os.getpid()) or ())}
    names = {name: run[name] for name in ("release", "environment", "playbook", "state_dir")}
    return act({**names, **NOWHERE, "exclusive": exclusive, "controller": who, "asked": ["deployed"]}, check_mode)


def test_of_two_exclusive_runs_the_second_is_refused_with_the_reason(run_parameters: dict[str, Any]) -> None:
    first, second = (opened(run_parameters) for _ in range(2))
    assert (first["refused"], first["message"]) == (False, "")
    assert second["refused"]
    assert f"held by run {first['run']['run_id']} (tests of release sample) by ann on desk, since" in second["message"]
    assert [(line["step"], line["event"]) for line in lines(run_parameters)] == [
        ("run", "started"),
        ("claim", "passed"),
        ("run", "started"),
        ("claim", "refused"),
    ]


def test_in_check_mode_a_held_target_is_reported_and_not_refused(run_parameters: dict[str, Any]) -> None:
    first = opened(run_parameters)
    before = lines(run_parameters)
    dry = opened(run_parameters, check_mode=True)
    assert not dry["refused"] and first["run"]["run_id"] in dry["message"]
    assert lines(run_parameters) == before


def test_what_only_reads_is_not_refused(run_parameters: dict[str, Any]) -> None:
    opened(run_parameters)
    assert not opened(run_parameters, exclusive=False)["refused"]
