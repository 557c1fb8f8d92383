"""The action of every module: it runs on the target, and what the target answers is kept as data only."""

from __future__ import annotations

import copy
import math
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ansible.constants as constants  # type: ignore[import-untyped]
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]

from .core.answer import BYTES_AT_MOST, MIB, Declared, declared, keep, shown, untrusted
from .core.errors import ReleaseError
from .core.journal import RUN_ID, Run
from .core.progress_view import PLAIN_S, TERMINAL_S, Viewer, command_of
from .packing import pack

LIBRARY = Path(__file__).resolve().parents[2] / "library"
MEMORY_AT_MOST = 1024 * MIB  # more than an honest answer of the greatest size takes while it is read
WORK_AT_MOST_S = 60.0  # to render the evidence of a run: an honest one takes less than a second
LOOK_EVERY_S = 0.05  # of the worker's own time
# The callbacks on stdout that write for people, with a recap at the end: of ansible-core, and of the package `ansible`.
FOR_PEOPLE = {
    "default",
    "debug",
    "default_without_diff",
    "diy",
    "selective",
    "tasks_only",
    "timestamp",
    "unixy",
    "yaml",
}
# Read where the plugins are loaded: Ansible's workers have no terminal.
PROGRESS_EVERY_S = TERMINAL_S if os.isatty(1) else PLAIN_S
# A second command may run over a copy of these connections while a module runs.
SHARED_TRANSPORTS = ("local", "ssh")
# As Ansible reports a module that ends while it is imported; what ends later has a message of ours.
NO_PACKAGE = re.compile(r"No module named '(?P<package>[A-Za-z_][\w.]{0,62})'")
PIP_NAMES = {"psycopg2": "psycopg2-binary", "yaml": "PyYAML"}
STATM = Path("/proc/self/statm")
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def declared_by(plugin: str) -> dict[str, str]:
    """What the module of a plugin's file declares; read where Ansible loads the plugin, once for all its tasks."""
    pack(Path(plugin).stem)
    return declared(LIBRARY / Path(plugin).name)


class DeclaredAction(ActionBase):  # type: ignore[misc]
    """Runs the module of its task. A module has a file, or a link, of its name in plugins/action."""

    _supports_check_mode = True
    declared: Declared
    target: str

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """The declared part of the module's result, or one sentence on why it is refused."""
        super().run(tmp, task_vars)
        self.target = str((task_vars or {}).get("inventory_hostname", ""))
        try:
            self.refuse()
            with bounded_memory(self._what()), self._progress():
                answer: dict[str, Any] = self._execute_module(task_vars=task_vars)
                kept = keep(answer, self.declared, self._what())
                self._demand_packages(kept, task_vars or {})
            result = self.judged(kept)
        except ReleaseError as error:
            return {"failed": True, "msg": error.message, "refused": error.refused, **error.facts}
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        if self._discovered_interpreter_key:  # found by Ansible itself, for the next tasks on this target
            result["ansible_facts"] = {self._discovered_interpreter_key: self._discovered_interpreter}
        return result

    def refuse(self) -> None:
        """Raise ReleaseError where the module is not to be run with these arguments."""

    def judged(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result, with the controller's own values where they decide something there."""
        return result

    def _progress(self) -> AbstractContextManager[object]:
        """Show the progress of the module while it runs, where people read the output."""
        run = self._task.args.get("run")
        if not (isinstance(run, Mapping) and re.fullmatch(RUN_ID, str(run.get("run_id"))) and writes_for_people()):
            return nullcontext()
        command = command_of(Run(str(run["run_id"]), "", "", "", str(run.get("state_dir"))))
        if not command or self._task.check_mode or self._connection.transport not in SHARED_TRANSPORTS:
            return nullcontext()
        asking = copy.copy(self)
        asking._connection = copy.copy(self._connection)
        asking._connection.become = copy.copy(self._connection.become)  # it keeps what it waits for

        def ask() -> str:
            return str(asking._low_level_execute_command(command)["stdout"])

        def show(line: str) -> None:
            self._display.display(f"progress: [{self.target}] {line}")

        return Viewer(str(run["run_id"]), ask, show, PROGRESS_EVERY_S)

    def _demand_packages(self, answer: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """Raise ReleaseError where the module could not even begin, for want of a package."""
        event = getattr(answer.get("exception"), "event", None)
        missing = NO_PACKAGE.fullmatch(str(getattr(event, "msg", "")))
        if answer.get("failed") and not answer.get("msg") and missing:
            python = task_vars.get("ansible_python_interpreter") or self._discovered_interpreter or "its Python"
            package = missing["package"].partition(".")[0]
            raise ReleaseError(
                f"Running {self._what()} failed ({python} there has no package {package}), and it did nothing: install "
                f"it for that Python (`{python} -m pip install {PIP_NAMES.get(package, package)}`), or let "
                "ansible_python_interpreter name one that has it."
            )

    def _what(self) -> str:
        return f"{self._task.action} on {self._task.delegate_to or self.target}"

    def _low_level_execute_command(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        result: dict[str, Any] = super()._low_level_execute_command(*args, **kwargs)
        if len(result["stdout"]) + len(result["stderr"]) > BYTES_AT_MOST:
            raise untrusted(self._what(), f"it is greater than {BYTES_AT_MOST // MIB} MiB")
        # Ansible shows what is before or behind an answer. No JSON has these characters but in escapes.
        return {**result, **{name: shown(result[name]) for name in ("stdout", "stderr")}}

    def _parse_returned_data(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            answer = super()._parse_returned_data(*args, **kwargs)
        except ReleaseError:
            raise
        except Exception as error:  # whatever it is that Ansible does not take, this is about the answer
            raise untrusted(self._what(), f"reading it ended in {type(error).__name__}") from error
        # Before Ansible warns of keys that it drops, in the words of the sender.
        return keep(answer, self.declared, self._what())


def bounded_memory(what: str) -> AbstractContextManager[None]:
    """An answer without an end is refused while it is read."""
    return _bounded(lambda why: untrusted(what, f"reading it takes more than {why}"), math.inf)


def bounded_work(doing: str, advice: str) -> AbstractContextManager[None]:
    """The result of an answer may be far larger than the answer: making it is stopped, by ReleaseError."""

    def given_up(why: str) -> ReleaseError:
        return ReleaseError(f"{doing} was stopped (it takes more than {why}): {advice}", refused=True)

    return _bounded(given_up, WORK_AT_MOST_S)


@contextmanager
def _bounded(refusal: Callable[[str], ReleaseError], work_s: float) -> Iterator[None]:
    """The timer runs while this process works, not while it waits."""
    if threading.current_thread() is not threading.main_thread():  # where Ansible's worker would be none
        yield
        return
    before, begun = _resident_bytes(), time.process_time()

    def look(*_: Any) -> None:
        if _resident_bytes() - before > MEMORY_AT_MOST:
            raise refusal(f"{MEMORY_AT_MOST // MIB} MiB of memory")
        if time.process_time() - begun > work_s:
            raise refusal(f"{work_s:g} s of work")

    handler = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, LOOK_EVERY_S, LOOK_EVERY_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)


def _resident_bytes() -> int:
    """What this process holds in memory; on Linux its peak may be its parent's, and does not show growth."""
    try:
        return int(STATM.read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


def writes_for_people() -> bool:
    """Whether the output of this playbook is for people: a program reads that of a callback not known to write so."""
    return str(constants.DEFAULT_STDOUT_CALLBACK).rpartition(".")[2] in FOR_PEOPLE


def verdict_is_shown() -> bool:
    """Whether plugins/callback/verdict.py ends this playbook's output, so that the verdict need not be printed before.

    It is silent where the output is for programs.
    """
    enabled = [str(name).rpartition(".")[2] for name in constants.CALLBACKS_ENABLED or ()]
    return "verdict" in enabled and writes_for_people()
