"""Maintains the hourly sample in the controller's crontab; there is no module of this name, as it needs no target.

Each target has its own entry, whichever targets a run is limited to.

Options: state (hourly, absent), run (of role run), targets, services (of the release), stable_seconds (how long a
release must be stable), tools (the folder of ansible-playbook). It returns whether the crontab was changed. An entry
that would watch something else, or could take no sample, is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.core.errors import ReleaseError  # noqa: E402
from ansible.module_utils.dbrelease.core.plain_text import printable  # noqa: E402
from ansible.module_utils.dbrelease.monitor.schedule import (  # noqa: E402
    VALUES,
    Schedule,
    another_value,
    mark_of,
    names_of,
    no_cron,
    no_sample,
    reading,
    until,
)

OPTIONS = {
    "state": {"type": "str", "choices": ["hourly", "absent"], "required": True},
    "run": {"type": "dict", "required": True},
    "targets": {"type": "str", "required": True},
    "services": {"type": "list", "elements": "str", "required": True},
    "stable_seconds": {"type": "int", "required": True},
    "tools": {"type": "str", "required": True},
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """See above; the task is delegated to localhost."""

    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Whether the crontab was changed, or one sentence on why not."""
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(OPTIONS)
        schedule = self._schedule(options, task_vars)
        try:
            if options["state"] == "hourly":
                if schedule.problem:
                    raise ReleaseError(schedule.problem, refused=True)
                self._try(schedule, options["services"], task_vars)
            return self._change(schedule, options["state"], task_vars)
        except ReleaseError as error:
            return {"failed": True, "msg": error.message, "refused": error.refused}

    def _schedule(self, options: Mapping[str, Any], task_vars: Mapping[str, Any]) -> Schedule:
        release, environment = options["run"]["release"], options["run"]["environment"]
        return Schedule(
            mark=mark_of(str(release), str(environment), str(task_vars["inventory_hostname"])),
            root=str(ROOT),
            tools=options["tools"],
            inventory=[str(source) for source in task_vars["ansible_inventory_sources"]],
            limit=str(task_vars["inventory_hostname"]),
            targets=options["targets"],
            release=str(release),
            environment=str(environment),
            until=until(time.time(), options["stable_seconds"]),
        )

    def _try(self, schedule: Schedule, services: list[str], task_vars: Mapping[str, Any]) -> None:
        """Refuse an entry that would watch another target, or could take no sample. Both checks only read."""
        names = names_of(services)
        values = [str(self._templar.template(task_vars.get(name, ""))) for name in names]
        # It must be another Ansible process, with only the environment that cron gives it.
        program = reading(schedule.tools, schedule.inventory, str(task_vars["inventory_hostname"]), names)
        read = run_bare(program, {VALUES: json.dumps(values)})
        if read.returncode:
            raise ReleaseError(another_value(read.stdout), refused=True)
        dry = run_bare(["sh", "-c", f"{schedule.play} --check"], {})
        if dry.returncode:
            raise ReleaseError(no_sample(printable(dry.stdout, lines=True), schedule.play), refused=True)

    def _change(self, schedule: Schedule, state: str, task_vars: Mapping[str, Any]) -> dict[str, Any]:
        """Change only the target's entry; remove one of an earlier version, which is for all targets."""
        absent = {"state": "absent"}
        with alone():
            there = named(table())
            wanted = [{**absent, "name": old}] if (old := schedule.shared_mark) in there else []
            if state != "absent":
                wanted.append({**schedule.entry, "state": "present"})
            elif schedule.mark in there:
                wanted.append({**absent, "name": schedule.mark})
            changed = [self._cron(entry, task_vars) for entry in wanted]
        return {"changed": any(changed)}

    def _cron(self, entry: Mapping[str, Any], task_vars: Mapping[str, Any]) -> bool:
        given = {**entry}
        changed: dict[str, Any] = self._execute_module("ansible.builtin.cron", module_args=given, task_vars=task_vars)
        if changed.get("failed"):
            raise ReleaseError(no_cron(printable(str(changed.get("msg") or "no reason was reported"))))
        return bool(changed.get("changed"))


@contextmanager
def alone() -> Iterator[None]:
    """Lock the crontab: a play changes several entries at once, and a crontab is rewritten as a whole."""
    folder = os.open(ROOT, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def named(table: str) -> set[str]:
    """The names of the entries that Ansible wrote."""
    return {line.removeprefix("#Ansible: ") for line in table.splitlines() if line.startswith("#Ansible: ")}


def table() -> str:
    """The crontab of the user who runs Ansible; empty where there is no cron."""
    try:
        return subprocess.run(["crontab", "-l"], capture_output=True, text=True, errors="replace", check=False).stdout
    except OSError:
        return ""


def run_bare(argv: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program with the environment of cron and the given variables."""
    bare = {"HOME": os.environ.get("HOME", ""), "PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(
        argv,
        cwd=ROOT,
        env=bare,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
