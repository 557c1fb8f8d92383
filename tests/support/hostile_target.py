"""A target that lies: a wrapper in place of its Python runs each module honestly, and then changes what it answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RUN_ID = "20260102T030405Z-abcdef"
WRAPPER = """#!{python}
import json, re, runpy, subprocess, sys

sent = sys.stdin.buffer.read()
done = subprocess.run(["{python}", *sys.argv[1:]], input=sent, stdout=subprocess.PIPE)
named = re.search(rb'_ansible_module_name[\\\\\\\\"]+: ?[\\\\\\\\"]+([a-z_.]+)', sent)
module = named[1].decode().rpartition(".")[2] if named else ""
change = runpy.run_path("{lie}")["change"]
if module:
    answer = change(module, json.loads(done.stdout))
    done.stdout = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
sys.stdout.buffer.write(done.stdout)
sys.exit(done.returncode)
"""


@dataclass(frozen=True)
class Played:
    """What a play came to."""

    status: int
    output: str
    folder: Path

    def said(self, name: str) -> Any:
        """What the play wrote down of a host, by the task `kept`."""
        return json.loads((self.folder / f"{name}.said").read_text())


def wrapper(folder: Path, lie: str, name: str = "python") -> str:
    """A Python that lies by `change(module, answer)`, the body of which is `lie`."""
    body = "\n".join(f"    {line}" for line in lie.splitlines())
    folder = folder / "pythons"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.lie").write_text(f"import json\n\ndef change(module, answer):\n{body}\n    return answer\n")
    path = folder / name
    path.write_text(WRAPPER.format(python=sys.executable, lie=folder / f"{name}.lie"))
    path.chmod(0o755)
    return str(path)


def kept(**values: str) -> dict[str, Any]:
    """A task that writes down values as the controller has them; each is an expression."""
    return {
        "name": "Write down",
        "ansible.builtin.copy": {
            "dest": "{{ folder }}/{{ inventory_hostname }}.said",
            "content": "{{ {" + ", ".join(f"'{name}': ({value})" for name, value in values.items()) + "} | to_json }}",
            "mode": "0600",
        },
        "delegate_to": "localhost",
        "vars": {"ansible_python_interpreter": sys.executable},
    }


def play(
    folder: Path,
    tasks: list[dict[str, Any]],
    hosts: dict[str, dict[str, Any]],
    *arguments: str,
    variables: dict[str, Any] | None = None,
) -> Played:
    """A play of the tasks on the hosts, by the real ansible-playbook with the project's own settings."""
    targets = {name: {"ansible_connection": "local", **host} for name, host in hosts.items()}
    common = {"folder": str(folder), "db_password": "the real one", "owned": str(folder / "owned"), **(variables or {})}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": targets, "vars": common}}))
    defaults = {"group/dbrelease.engine.run": {"run": "{{ run_opened.run }}"}}
    plays = [{"name": "Attack", "hosts": "all", "any_errors_fatal": False, "module_defaults": defaults, "tasks": tasks}]
    (folder / "play.json").write_text(json.dumps(plays))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), str(folder / "play.json")]
    done = subprocess.run(
        [*argv, "-i", str(folder / "hosts.json"), *arguments],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert not (folder / "owned").exists(), "a command of the target's ran on the controller"
    return Played(done.returncode, done.stdout + done.stderr, folder)


def opened(folder: Path, **changed: str) -> dict[str, Any]:
    """The task that opens a run; needs no database and no container."""
    names = {
        "release": "small",
        "environment": "test",
        "playbook": "monitor",
        "state_dir": str(folder / "{{ inventory_hostname }}"),
    }
    return {
        "name": "Open the run",
        "run": {**names, "db_host": "db.example.com", "containers": {}, **changed},
        "register": "run_opened",
        "ignore_errors": True,
    }


def gathered(artifacts: Path, run: str = "{{ run_opened.run }}") -> dict[str, Any]:
    """The task that brings the evidence of a run."""
    return {
        "name": "Gather the evidence",
        "evidence": {
            "run": run,
            "release": {"title": "Small"},
            "asked": ["already_deployed"],
            "artifacts": str(artifacts),
            "templates": str(ROOT / "roles/report/templates"),
        },
        "register": "report_evidence",
        "ignore_errors": True,
    }
