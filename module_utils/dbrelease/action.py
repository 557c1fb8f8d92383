"""The action of every module: it runs on the target, and what the target answers is kept as data only."""

from __future__ import annotations

import ast
import copy
import functools
import math
import multiprocessing
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import ansible.constants as constants  # type: ignore[import-untyped]
import ansible.context as context  # type: ignore[import-untyped]
from ansible.executor import module_common  # type: ignore[import-untyped]
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]
from ansible.plugins.loader import module_loader  # type: ignore[import-untyped]
from ansible.template import Templar  # type: ignore[import-untyped]

from .core.answer import BYTES_AT_MOST, MIB, Declared, declared, keep, shown, untrusted
from .core.errors import ReleaseError
from .core.journal import RUN_ID, Run
from .core.progress_view import PLAIN_S, TERMINAL_S, Viewer, command_of

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
IMPORTS = (ast.Import, ast.ImportFrom)
# As Ansible reports a module that ends while it is imported; what ends later has a message of ours.
NO_PACKAGE = re.compile(r"No module named '(?P<package>[A-Za-z_][\w.]{0,62})'")
PIP_NAMES = {"psycopg2": "psycopg2-binary", "yaml": "PyYAML"}
STATM = Path("/proc/self/statm")
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def declared_by(plugin: str) -> dict[str, str]:
    """What the module of a plugin's file declares; read where Ansible loads the plugin, once for all its tasks."""
    pack(Path(plugin).stem)
    return declared(LIBRARY / Path(plugin).name)


def pack(module: str) -> None:
    """Let Ansible pack a module already here, in the process that its workers are forked from.

    A worker packs the module that it runs, and parses about 100 files for that: in a deploy of 13 modules that was a
    third of the processor's time. Each worker finds what is packed here in Ansible's own cache of this play, and a file
    that is parsed for one module is parsed for all. It only saves time: where it fails, the worker packs the module as
    usual, and reports why it cannot.
    """
    if not context.CLIARGS or multiprocessing.parent_process() is not None:
        return
    with suppress(Exception):
        if not hasattr(module_common._compile_module_ast, "__wrapped__"):
            module_common._compile_module_ast = parsed_once(module_common._compile_module_ast)
            located_once(module_common.LegacyModuleUtilLocator)
        found = module_loader.find_plugin_with_context(module, ".py")
        module_common.modify_module(
            module_name=module,
            module_path=found.plugin_resolved_path,
            module_args={},
            templar=Templar(loader=None),
            task_vars={"ansible_python_interpreter": sys.executable},
            module_compression=constants.config.get_config_value("DEFAULT_MODULE_COMPRESSION"),
        )


def parsed_once(parse: Callable[[str, str], ast.Module]) -> Callable[[str, str], ast.Module]:
    """Ansible's parser, which parses a file of module_utils once, and of which `kept` is what stays in memory."""

    @functools.cache
    def remembered(name: str, source: str) -> ast.Module:
        return kept(parse(name, source))

    @functools.wraps(parse)
    def parsed(name: str, source: str) -> ast.Module:
        # Of the module itself Ansible wants more than its imports.
        return (remembered if name.startswith("ansible.module_utils.") else parse)(name, source)

    return parsed


def located_once(locator: type[Any]) -> None:
    """Let Ansible search each name of module_utils once for all modules, most of which ask for the same ones.

    A third of the time to pack was spent on that, most of it on names that are no files (`from x import y`).
    """
    locate = locator.__init__

    @functools.cache
    def found(name: tuple[str, ...], mu_paths: tuple[str, ...], options: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
        one = object.__new__(locator)
        locate(one, name, mu_paths=list(mu_paths), **dict(options))
        attributes: dict[str, Any] = vars(one)
        return attributes

    def located(self: Any, name: tuple[str, ...], *, mu_paths: list[str], **options: Any) -> None:
        vars(self).update(found(name, tuple(mu_paths), tuple(sorted(options.items()))))

    locator.__init__ = functools.wraps(locate)(located)


def kept(tree: ast.Module) -> ast.Module:
    """A file with nothing but its imports, those that are not at its top level inside an `if`: Ansible needs no more.

    The whole trees of the files of a deploy take more than 30 MB, which each worker would carry.
    """
    top = [statement for statement in tree.body if isinstance(statement, IMPORTS)]
    inner = [found for statement in tree.body if not isinstance(statement, IMPORTS) for found in _imports_in(statement)]
    tree.body = [*top, ast.If(test=ast.Constant(value=True), body=inner, orelse=[])]
    return tree


def _imports_in(node: ast.AST) -> Iterator[ast.stmt]:
    """Those in the statements below it: an expression has none."""
    for name in ("body", "orelse", "handlers", "finalbody", "cases"):
        for below in getattr(node, name, ()):
            if isinstance(below, IMPORTS):
                yield below
            else:
                yield from _imports_in(below)


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
