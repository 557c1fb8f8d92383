"""An interrupted playbook stops its module, also on a target that is reached over SSH."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core import connection
from ssh_target import ssh_target
from waits import until

ROOT = Path(__file__).resolve().parents[3]
# In the place of the target's Python: a module of ours that works until it is ended, and cleans up.
WORKING = """#!{python}
import os, pathlib, sys, time
if not sys.stdin.isatty():
    sys.stdin.buffer.read()
import ansible.module_utils
ansible.module_utils.__path__.append("{root}/module_utils")
from ansible.module_utils.dbrelease.core.signals import ending_in_order
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.testing import patch_module_args

def act(params, check_mode):
    with ending_in_order():
        try:
            pathlib.Path("{folder}/working").write_text(str(os.getpid()))
            until = time.monotonic() + 90
            while time.monotonic() < until:
                time.sleep(0.1)  # plays: a module that works
        finally:
            pathlib.Path("{folder}/cleaned_up").touch()

with patch_module_args({{}}):
    run_module({{}}, act)
"""


def stand_in(folder: Path) -> Path:
    python = folder / "python"
    python.write_text(WORKING.format(python=sys.executable, root=ROOT, folder=folder))
    python.chmod(0o755)
    return python


def is_running(folder: Path) -> bool:
    return Path(f"/proc/{(folder / 'working').read_text()}").exists()


@contextmanager
def playing(folder: Path, host: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """A playbook whose module works."""
    run = {"run_id": "x", "release": "x", "environment": "e", "playbook": "p", "state_dir": str(folder)}
    task = {"name": "Work", "journal": {"run": run, "state": "recorded", "step": "x", "event": "passed"}}
    (folder / "play.json").write_text(json.dumps([{"name": "Play", "hosts": "all", "tasks": [task]}]))
    host = {**host, "ansible_python_interpreter": str(stand_in(folder))}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {"shop": host}}}))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), str(folder / "play.json")]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    with (
        (folder / "printed").open("wb") as printed,
        subprocess.Popen(
            [*argv, "-i", str(folder / "hosts.json")], cwd=ROOT, env=environment, stdout=printed, stderr=printed
        ) as process,
    ):
        try:
            until(
                lambda: (folder / "working").exists() or process.poll() is not None,
                "the module does not work",
            )
            assert process.poll() is None, (folder / "printed").read_text()
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize(
    "host",
    [
        pytest.param({"ansible_connection": "local"}, id="local"),
        pytest.param({}, id="ssh, one connection"),
        pytest.param({"ansible_ssh_args": "-o ControlMaster=no"}, id="ssh, a connection for each command"),
        pytest.param({"ansible_pipelining": False}, id="ssh, no pipelining"),
    ],
)
def test_an_interrupted_playbook_stops_its_module(number: signal.Signals, host: dict[str, Any], tmp_path: Path) -> None:
    with ExitStack() as stack:
        reached = {} if "ansible_connection" in host else stack.enter_context(ssh_target())
        process = stack.enter_context(playing(tmp_path, {**reached, **host}))
        process.send_signal(number)
        process.wait(60)
        until(lambda: not is_running(tmp_path), "the module works on")
    assert (tmp_path / "cleaned_up").exists()


def test_a_module_whose_result_nothing_reads_ends(tmp_path: Path) -> None:
    with subprocess.Popen([stand_in(tmp_path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as module:
        until((tmp_path / "working").exists, "the module does not work")
        assert module.stdout and module.poll() is None
        module.stdout.close()
        try:
            until(lambda: module.poll() is not None, "the module works on")
        finally:
            module.kill()
    assert (tmp_path / "cleaned_up").exists()


@pytest.mark.parametrize("output", ["a file", "nothing", "a pipe with a reader", "closed"])
def test_an_output_that_has_not_lost_its_reader_ends_no_module(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "kill", pytest.fail)
    reading, writing = os.pipe()
    ended, end = os.pipe()
    os.write(end, b".")  # the block ends
    path = tmp_path / "output" if output == "a file" else Path(os.devnull)
    with path.open("wb") as file:
        descriptor = writing if output == "a pipe with a reader" else file.fileno()
        if output == "closed":
            file.close()
        connection._watch(descriptor, ended)
    for number in (reading, writing, ended, end):
        os.close(number)
