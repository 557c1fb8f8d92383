"""The last lines on the terminal: by results that a test makes up, and by the real ansible-playbook."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.plain_text import printable
from evidence_lines import HOSTILE

ROOT = Path(__file__).resolve().parents[3]
RUN_ID, OTHER_ID = "20260102T030405Z-abcdef", "20260101T030405Z-abcdef"
REDIS = {"sentence": "The services run: cache is stopped.", "remedy": "Start it."}
LOGIN = {"sentence": "The database can be reached: the password is wrong.", "remedy": "Set db_password."}
WAY = {"title": "Roll back", "command": "ansible-playbook rollback.yml -i test"}
REFUSED: dict[str, Any] = {
    **{"outcome": "refused", "succeeded": False, "run_id": RUN_ID, "headline": "Refused: cache is stopped."},
    **{"summary": "Refused, and the database was not changed.", "problems": [REDIS, LOGIN], "ways_back": [WAY]},
    "report": str(Path.cwd() / f"artifacts/test/{RUN_ID}/report.html"),
}
DEPLOYED: dict[str, Any] = {
    **REFUSED,
    **{"outcome": "deployed", "succeeded": True, "summary": "It was deployed.", "problems": [], "ways_back": []},
}


class Screen:
    """What is displayed, line by line, and in which colour."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.colours: list[str | None] = []

    def display(self, text: str, color: str | None = None, **_: Any) -> None:
        self.lines.append(text)
        self.colours.append(color)

    def banner(self, text: str, **_: Any) -> None:
        self.lines.append(text)

    v = banner


class Stats:
    """How many tasks failed on a target."""

    def __init__(self, *failed: str) -> None:
        self.failed = failed

    def summarize(self, name: str) -> dict[str, int]:
        return {"failures": int(name in self.failed), "unreachable": 0}


@pytest.fixture
def callback() -> Any:
    spec = importlib.util.spec_from_file_location("verdict_under_test", ROOT / "plugins/callback/verdict.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    made = module.CallbackModule()
    made._display = Screen()
    made.v2_playbook_on_play_start(None)
    return made


def of(host: str, action: str, **answer: Any) -> Any:
    named = SimpleNamespace(get_name=lambda: host)
    return SimpleNamespace(host=named, task=SimpleNamespace(action=action), task_name=f"Do {action}", result=answer)


def shown(callback: Any, *failed: str) -> list[str]:
    callback.v2_playbook_on_stats(Stats(*failed))
    lines: list[str] = callback._display.lines
    return lines


def test_a_refusal_has_every_problem_the_report_and_the_way_back(callback: Any) -> None:
    callback.v2_runner_on_failed(of("a", "assert", msg="2 problems."))
    callback.v2_runner_on_ok(of("a", "evidence", **REFUSED))
    callback.v2_runner_on_failed(of("a", "assert", msg="Refused."))
    assert shown(callback, "a") == [
        "VERDICT",
        "a: refused",
        "  Refused, and the database was not changed.",
        "  Problem 1: The services run: cache is stopped. Start it.",
        "  Problem 2: The database can be reached: the password is wrong. Set db_password.",
        f"  Report: artifacts/test/{RUN_ID}/report.html",
        "  Way back: Roll back: ansible-playbook rollback.yml -i test",
    ]


def test_what_a_success_left_open_is_on_the_screen(callback: Any) -> None:
    callback.v2_runner_on_ok(of("a", "evidence", **{**DEPLOYED, "open_points": [LOGIN], "report": ""}))
    assert shown(callback)[1:] == [
        "a: deployed",
        "  It was deployed.",
        "  Open: The database can be reached: the password is wrong. Set db_password.",
    ]


def test_the_worst_target_is_the_first(callback: Any) -> None:
    for name, outcome in {"a": "deployed", "b": "refused", "c": "failed"}.items():
        given = {**(DEPLOYED if outcome == "deployed" else REFUSED), "outcome": outcome}
        callback.v2_runner_on_ok(of(name, "evidence", **given))
    callback.v2_runner_on_failed(of("d", "run", msg="It is held."))
    lines = shown(callback, "b", "c", "d")
    heads = [line for line in lines[1:] if not line.startswith(" ")]
    assert heads == ["d: failed", "c: failed", "b: refused", "a: deployed"]


def test_without_evidence_the_first_and_the_last_failure_are_reported(callback: Any) -> None:
    callback.v2_runner_on_unreachable(of("a", "run", msg="no route"))
    for message in ("the state directory is a link: remove it.", "another", "nobody knows: run again."):
        callback.v2_runner_on_failed(of("a", "run", msg=message))
    assert shown(callback, "a")[1:] == [
        "a: failed",
        "  There is no report of this run.",
        "  Problem 1: The task “Do run” failed: the state directory is a link: remove it.",
        "  Problem 2: The task “Do run” failed: nobody knows: run again.",
    ]


def test_problems_of_evidence_that_could_not_be_written_are_reported(callback: Any) -> None:
    failed = of("a", "evidence", msg="The disk is full.", problems=[REDIS, LOGIN])
    callback.v2_runner_on_failed(failed, ignore_errors=True)
    callback.v2_runner_on_failed(of("a", "assert", msg="The disk is full."))
    assert shown(callback, "a")[2:] == [
        "  There is no report of this run.",
        "  Problem 1: The services run: cache is stopped. Start it.",
        "  Problem 2: The database can be reached: the password is wrong. Set db_password.",
        "  Problem 3: The task “Do assert” failed: The disk is full.",
    ]


def test_an_unreachable_target_says_so(callback: Any) -> None:
    callback.v2_runner_on_unreachable(of("a", "run", msg="no route"))
    assert shown(callback, "a")[-1] == "  Problem: Reaching a failed: no route"


def test_a_target_that_stopped_for_another_is_reported_too(callback: Any) -> None:
    callback.v2_runner_on_ok(of("b", "release_info"))
    callback.v2_runner_on_failed(of("a", "run", msg="It is held."))
    assert "b: failed" in (lines := shown(callback, "a"))
    assert lines[-1] == "  Problem: This target stopped because another target of the play failed."


def test_a_failure_after_the_evidence_is_not_a_success(callback: Any) -> None:
    callback.v2_runner_on_ok(of("a", "evidence", **DEPLOYED))
    callback.v2_runner_on_failed(of("a", "notification", msg="No such option."))
    lines = shown(callback, "a")
    assert lines[1] == "a: deployed, and after that a task failed"
    assert "  Problem: The task “Do notification” failed: No such option." in lines


def test_the_evidence_of_an_interrupted_run_is_not_this_runs(callback: Any) -> None:
    callback.v2_runner_on_ok(of("a", "run", run={"run_id": RUN_ID}))
    callback.v2_runner_on_ok(of("a", "evidence", **{**DEPLOYED, "run_id": OTHER_ID}))
    assert shown(callback)[1:3] == ["a: failed", "  There is no report of this run."]


@pytest.mark.parametrize("ignored", [True, False], ids=["ignored", "rescued"])
def test_a_play_without_a_run_says_nothing(callback: Any, ignored: bool) -> None:
    callback.v2_runner_on_failed(of("a", "uri", msg="down"), ignore_errors=ignored)
    assert shown(callback) == []


def test_each_play_has_its_verdict(callback: Any) -> None:
    callback.v2_runner_on_ok(of("a", "evidence", **DEPLOYED))
    callback.v2_playbook_on_play_start(None)
    callback.v2_runner_on_ok(of("a", "evidence", **{**REFUSED, "run_id": OTHER_ID}))
    assert [line for line in shown(callback, "a") if line.startswith("a")] == ["a: refused", "a: deployed"]


def test_text_of_a_target_moves_no_cursor(callback: Any) -> None:
    hostile = {
        **{"outcome": HOSTILE, "summary": HOSTILE, "report": HOSTILE, "ways_back": [{"title": HOSTILE}, 1]},
        "problems": [{"sentence": HOSTILE, "remedy": HOSTILE}],
    }
    callback.v2_runner_on_ok(of("a", "evidence", **hostile))
    callback.v2_runner_on_failed(of("b", "run", msg=HOSTILE))
    lines = shown(callback, "a", "b")
    assert len(lines) > 7 and all(line == printable(line) for line in lines)


@pytest.mark.parametrize(
    "answer",
    [{"problems": 1, "ways_back": 2, "report": 3}, {"run_id": []}, {"msg": [1]}, {"results": [None, {"failed": True}]}],
)
def test_it_never_raises(callback: Any, answer: dict[str, Any]) -> None:
    for act in (callback.v2_runner_on_ok, callback.v2_runner_on_failed, callback.v2_runner_on_unreachable):
        act(of("a", "evidence", **answer))
        act(None)
    callback.v2_playbook_on_stats(None)
    callback.v2_playbook_on_stats(Stats("a"))


# By the real ansible-playbook.

STUB = """
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        return dict(self._task.args["answer"])
"""


def played(folder: Path, tasks: list[dict[str, Any]], **environment: str) -> str:
    """What a play of these tasks prints, with stubs for the modules."""
    (folder / "action").mkdir()
    for name in ("run", "evidence"):
        (folder / "action" / f"{name}.py").write_text(STUB)
    (folder / "play.json").write_text(json.dumps([{"name": "Deploy", "hosts": "all", "tasks": tasks}]))
    argv = [
        str(Path(sys.executable).with_name("ansible-playbook")),
        str(folder / "play.json"),
        "-i",
        "a,",
        "-c",
        "local",
    ]
    environment = {"ANSIBLE_ACTION_PLUGINS": str(folder / "action"), **environment}
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), **environment}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    return done.stdout


TASKS: list[dict[str, Any]] = [
    {"name": "Open the run", "run": {"answer": {"run": {"run_id": RUN_ID}}}},
    {"name": "Gather", "evidence": {"answer": {**REFUSED, "report": str(ROOT / "artifacts/test/x/report.html")}}},
    {
        "name": "End",
        "ansible.builtin.assert": {
            "that": False,
            "fail_msg": "{{ 'in short' if lookup('verdict_is_shown') else 'in full' }}",
        },
    },
]


def test_the_last_lines_are_the_verdict(tmp_path: Path) -> None:
    output = played(tmp_path, TASKS)
    recap, _, verdict = output.partition("VERDICT ***")
    assert "PLAY RECAP" in recap and "in short" in recap and "in full" not in recap
    assert verdict.splitlines()[1:] == [
        "a: refused",
        "  Refused, and the database was not changed.",
        "  Problem 1: The services run: cache is stopped. Start it.",
        "  Problem 2: The database can be reached: the password is wrong. Set db_password.",
        "  Report: artifacts/test/x/report.html",
        "  Way back: Roll back: ansible-playbook rollback.yml -i test",
    ]
    assert "\x1b" not in output


def test_it_has_colours_where_the_display_has_them(tmp_path: Path) -> None:
    assert "\x1b[0;31ma: refused\x1b[0m" in played(tmp_path, TASKS, ANSIBLE_FORCE_COLOR="1")


@pytest.mark.parametrize(
    "environment",
    [
        {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
        {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.jsonl"},
        {"ANSIBLE_STDOUT_CALLBACK": "oneline"},
        {"ANSIBLE_STDOUT_CALLBACK": "minimal"},
        {"ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.timer"},
    ],
    ids=lambda environment: next(iter(environment.values())),
)
def test_it_is_silent_where_a_program_reads_or_nobody_enabled_it(tmp_path: Path, environment: dict[str, str]) -> None:
    output = played(tmp_path, TASKS, **environment)
    assert "VERDICT" not in output and "a: refused" not in output and "in full" in output
    if environment.get("ANSIBLE_STDOUT_CALLBACK") == "ansible.posix.json":
        evidence = json.loads(output)["plays"][0]["tasks"][1]["hosts"]["a"]
        assert evidence["problems"] == [REDIS, LOGIN]
