"""While a module runs, its progress appears on the terminal of the controller, and nowhere where a program reads."""

from __future__ import annotations

import getpass
import importlib.util
import json
import os
import pty
import shlex
import subprocess
import sys
import threading
import types
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import ansible.constants as constants  # type: ignore[import-untyped]
import pytest
from ansible.module_utils.dbrelease import action as actions
from ansible.module_utils.dbrelease.core.progress_view import Viewer
from run_ids import RUN_ID
from ssh_target import ssh_target
from waits import until

ROOT = Path(__file__).resolve().parents[3]
# A module that works until it is released, and shows how far it is.
WORKING = """#!{python}
import json, pathlib, sys, time
if not sys.stdin.isatty():
    sys.stdin.buffer.read()
state = {{"run_id": "{run_id}", "step": "dump", "what": "", "unit": "bytes", "done": 161e6, "total": 307e6,
    "at_most": False, "rate": 31.2e6, "left_s": 4.7, "elapsed_s": 12.3, "table": "\\x1b[31msecret"}}
until = time.monotonic() + 90
while not pathlib.Path("{folder}/released").exists() and time.monotonic() < until:
    whole = pathlib.Path("{folder}/state/progress.json")
    part = whole.with_suffix(".tmp")
    part.write_text(json.dumps({{**state, "at": time.time()}}))
    part.replace(whole)
    time.sleep(0.1)  # plays: a module that works
print(json.dumps({{"changed": False}}))
"""
LINE = "progress: [shop] dumping the database and reading its baseline: 52 % of 307.0 MB, 31.2 MB/s, about 5 s left"


# As `sudo -H`: the home directory, where the state is, is that of the other user.
SUDO = """#!/bin/sh
for command; do :; done
HOME={home} exec /bin/sh -c "$command"
"""


def shown_while_it_works(folder: Path, host: dict[str, Any], state_dir: str, work: Path) -> str:
    """What a playbook prints on a terminal; its module works until the line appears, or the playbook ends."""
    (work / "state").mkdir(mode=0o700, parents=True)
    python = folder / "python"
    python.write_text(WORKING.format(python=sys.executable, run_id=RUN_ID, folder=work))
    python.chmod(0o755)
    run = {"run_id": RUN_ID, "release": "x", "environment": "e", "playbook": "p", "state_dir": state_dir}
    task = {"name": "Work", "journal": {"run": run, "state": "recorded", "step": "x", "event": "passed"}}
    (folder / "play.json").write_text(json.dumps([{"name": "Play", "hosts": "all", "tasks": [task]}]))
    host = {**host, "ansible_python_interpreter": str(python)}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {"shop": host}}}))
    printed = bytearray()
    reading, terminal = pty.openpty()

    def collect() -> None:
        with suppress(OSError):  # the terminal was closed
            while data := os.read(reading, 65536):
                printed.extend(data)

    argv = [str(Path(sys.executable).with_name("ansible-playbook")), str(folder / "play.json")]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200"}
    with subprocess.Popen(
        [*argv, "-i", str(folder / "hosts.json")], cwd=ROOT, env=environment, stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        collector = threading.Thread(target=collect)
        collector.start()
        try:
            until(lambda: LINE.encode() in bytes(printed) or process.poll() is not None, "no progress is shown")
        finally:
            (work / "released").touch()
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()
            collector.join(60)
            os.close(reading)
    text = printed.decode()
    assert process.returncode == 0 and LINE in text, text
    return text


def test_it_appears_on_a_terminal_while_the_module_runs(tmp_path: Path) -> None:
    host = {"ansible_connection": "local"}
    text = shown_while_it_works(tmp_path, host, str(tmp_path / "state"), tmp_path)
    assert "secret" not in text, "only numbers and known words of a target are shown"
    assert text.index(LINE) < text.index("ok: [shop]") < text.index("PLAY RECAP")


@pytest.mark.parametrize("become", [False, True], ids=["as the user who connects", "as another user"])
@pytest.mark.parametrize(
    ("sessions", "host"),
    [
        pytest.param(10, {}, id="one connection"),
        pytest.param(10, {"ansible_ssh_args": "-o ControlMaster=no"}, id="a connection for each command"),
        pytest.param(1, {}, id="a server that allows one session to a connection"),
        pytest.param(10, {"ansible_pipelining": False}, id="no pipelining"),
    ],
)
def test_it_appears_over_ssh(sessions: int, host: dict[str, Any], become: bool, tmp_path: Path) -> None:
    other = tmp_path / "other"
    if become:
        sudo = tmp_path / "sudo"
        sudo.write_text(SUDO.format(home=shlex.quote(str(other))))
        sudo.chmod(0o755)
        user = "nobody" if getpass.getuser() == "root" else "root"  # Ansible leaves the same user as it is
        host = {**host, "ansible_become": True, "ansible_become_user": user, "ansible_become_exe": str(sudo)}
    with ssh_target(sessions=sessions) as reached:
        text = shown_while_it_works(tmp_path, {**reached, **host}, "~/state" if become else str(other / "state"), other)
    assert text.index(LINE) < text.index("ok: [shop]") < text.index("PLAY RECAP")


def action(**changes: Any) -> Any:
    """The action of a module, with a connection that runs no command."""
    spec = importlib.util.spec_from_file_location("action_journal", ROOT / "plugins/action/journal.py")
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    made = object.__new__(loaded.ActionModule)
    run = {"run_id": RUN_ID, "state_dir": "/srv/state", **changes.pop("run", {})}
    task = {"args": {"run": run, **changes.pop("args", {})}, "check_mode": changes.pop("check_mode", False)}
    made._task = types.SimpleNamespace(**task)
    made._connection = types.SimpleNamespace(transport="ssh", become=None, **changes.pop("connection", {}))
    made._connection.__dict__.update(changes)
    made.target = "shop"
    made._display = types.SimpleNamespace(display=pytest.fail)
    return made


def test_a_module_of_a_run_is_watched_over_a_connection_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made = action()
    asked: list[tuple[object, str]] = []

    def execute(self: Any, command: str) -> dict[str, Any]:
        asked.append((self._connection, command))
        return {"stdout": ""}

    monkeypatch.setattr(type(made), "_low_level_execute_command", execute)
    monkeypatch.setattr(actions, "PROGRESS_EVERY_S", 0.01)
    with made._progress():
        until(lambda: asked, "the target was not asked")
    used, command = asked[0]
    assert used is not made._connection and command.startswith("date +%s; head -c 1024 /srv/state/progress.json")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"check_mode": True}, id="check mode"),
        pytest.param({"transport": "docker"}, id="a connection that may not be shared"),
        pytest.param({"args": {"run": None}}, id="no run"),
        pytest.param({"run": {"run_id": "../x"}}, id="not a run"),
        pytest.param({"run": {"state_dir": "relative"}}, id="an unknown folder"),
    ],
)
def test_elsewhere_the_target_is_not_asked(changes: dict[str, Any]) -> None:
    assert isinstance(action(**changes)._progress(), nullcontext)


@pytest.mark.parametrize("callback", ["json", "ansible.posix.jsonl", "oneline", "awx_display"])
def test_a_program_that_reads_the_output_gets_no_line(callback: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(action()._progress(), Viewer)
    monkeypatch.setattr(constants, "DEFAULT_STDOUT_CALLBACK", callback)
    assert isinstance(action()._progress(), nullcontext)
