"""The last lines on the terminal: the outcome of each target, every problem once, the report, and the ways back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ansible.constants as constants  # type: ignore[import-untyped]
import ansible.module_utils
from ansible.plugins.callback import CallbackBase  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.action import verdict_is_shown  # noqa: E402
from ansible.module_utils.dbrelease.report.problems import Problem, bounded, shortened  # noqa: E402

DOCUMENTATION = r"""
name: verdict
type: aggregate
author: The authors of dbrelease
short_description: The last lines on the terminal are the verdict
description:
  - After the recap it prints for each target the outcome, each problem with what to do, what is left
    open, the path of the report on the controller, and the ways back. The worst target is the first.
  - It prints what the module M(evidence) returns. Of a target without evidence it prints the messages of the first and
    of the last task that failed there.
  - It is silent where C(stdout_callback) writes for programs, such as C(json), C(jsonl), C(oneline) and that of
    ansible-runner; they have the same in the results of the tasks.
requirements:
  - C(callbacks_enabled) in ansible.cfg names it.
"""

# The worst first; a run without evidence is worse than any with it.
WORST_FIRST = ("failed", "refused", "rolled_back", "restored", "planned")
WAYS_AT_MOST = 10
WARNING = "Warning: "
UNKNOWN = "There is no report of this run."
STOPPED = "This target stopped because another target of the play failed."


@dataclass
class Target:
    """The results of the tasks of one play on one target."""

    name: str
    run_id: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)  # since the evidence, where there is any
    unwritten: list[Problem] = field(default_factory=list)  # of evidence that could not be written
    unreachable: str = ""

    @property
    def broken(self) -> bool:
        """Whether a task failed after the evidence of a success."""
        return bool(self.evidence.get("succeeded")) and bool(self.problems_of_tasks)

    @property
    def succeeded(self) -> bool:
        """Whether it ended as requested."""
        return bool(self.evidence.get("succeeded")) and not self.broken

    @property
    def problems_of_tasks(self) -> list[Problem]:
        """The messages of the first and the last task that failed; else why the target is unreachable."""
        said = [self.failures[0], self.failures[-1]] if self.failures else [self.unreachable]
        return bounded([*self.unwritten, *({"sentence": message} for message in said)])

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """Its sort key among the targets."""
        outcome = self.evidence.get("outcome")
        place = WORST_FIRST.index(outcome) if outcome in WORST_FIRST else len(WORST_FIRST)
        return self.succeeded, bool(self.evidence), place


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """See DOCUMENTATION. An error here never changes how the playbook ends."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "verdict"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.plays: list[dict[str, Target]] = [{}]
        self.disabled = not self._safely(verdict_is_shown)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Each play has a run of its own."""
        self.plays.append({})

    def v2_runner_on_ok(self, result: Any) -> None:
        """Keep the evidence."""
        self._safely(self._passed, result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Keep the message of the task."""
        self._safely(self._failed, result, ignore_errors)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Keep the first reason."""
        self._safely(self._unreachable, result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print the verdict."""
        self._safely(self._print, stats)

    def _safely(self, act: Callable[..., Any], *given: Any) -> Any:
        """The result of the call; None, and a line with -v, where it fails."""
        try:
            return act(*given)
        except Exception as error:  # a plugin that prints must not end a playbook
            self._display.v(f"The callback verdict failed ({type(error).__name__}); read the report.")
            return None

    def _target(self, result: Any) -> Target:
        name = str(result.host.get_name())
        return self.plays[-1].setdefault(name, Target(name))

    def _passed(self, result: Any) -> None:
        target, answer = self._target(result), result.result
        action = str(result.task.action).rpartition(".")[2]
        if action == "run" and isinstance(answer.get("run"), Mapping):
            target.run_id = str(answer["run"].get("run_id") or "")
        # The next run also writes the evidence of one that was interrupted.
        elif action == "evidence" and target.run_id in ("", answer.get("run_id", "")):
            target.evidence, target.failures = answer, []

    def _failed(self, result: Any, ignored: bool) -> None:
        if str(result.task.action).rpartition(".")[2] == "evidence":
            self._target(result).unwritten = bounded(result.result.get("problems"))
        if ignored:
            return
        self._target(result).failures.append(f"The task “{result.task_name}” failed: {message_of(result.result)}")

    def _unreachable(self, result: Any) -> None:
        target = self._target(result)
        target.unreachable = target.unreachable or f"Reaching {target.name} failed: {message_of(result.result)}"

    def _print(self, stats: Any) -> None:
        targets = [target for play in self.plays for target in ended(play, stats)]
        if not targets:
            return
        self._display.banner("VERDICT")
        for target in sorted(targets, key=lambda target: target.rank):
            colour = constants.COLOR_OK if target.succeeded else constants.COLOR_ERROR
            first, *lines = block(target)
            self._display.display(first, color=colour)
            for line in lines:
                warns = line.startswith(WARNING)
                self._display.display(f"  {line}", **({"color": constants.COLOR_ERROR} if warns else {}))


def ended(play: Mapping[str, Target], stats: Any) -> Iterator[Target]:
    """The targets of a play to report: a play without evidence does not belong to the engine."""
    known = [target for target in play.values() if target.evidence]
    failed = [target for target in play.values() if not target.evidence and is_failed(target, stats)]
    for target in known:
        if not is_failed(target, stats):
            target.failures, target.unreachable = [], ""  # a rescue has handled them
    stopped = [
        target for target in play.values() if target not in known + failed and (target.run_id or (known + failed)[:1])
    ]
    yield from known + failed
    for target in stopped:
        target.failures = [STOPPED]
        yield target


def is_failed(target: Target, stats: Any) -> bool:
    """Whether the playbook ended there with a failure."""
    counted = stats.summarize(target.name)
    return bool(counted["failures"] or counted["unreachable"])


def block(target: Target) -> Iterator[str]:
    """The lines of one target; the first has its name and the outcome."""
    evidence = target.evidence
    outcome = shortened(evidence.get("outcome")) or "failed"
    yield f"{target.name}: {outcome}{', and after that a task failed' if target.broken else ''}"
    yield shortened(evidence.get("summary") or evidence.get("headline")) if evidence else UNKNOWN
    problems = bounded(evidence.get("problems"))
    if not evidence or target.broken:
        problems += target.problems_of_tasks
    for number, problem in enumerate(problems, start=1):
        label = "Problem" if len(problems) == 1 else f"Problem {number}"
        yield f"{label}: {problem['sentence']} {problem['remedy']}".rstrip()
    warnings = evidence.get("warnings")
    for warning in warnings if isinstance(warnings, list) else ():
        yield f"{WARNING}{shortened(warning)}"
    for point in bounded(evidence.get("open_points")):
        yield f"Open: {point['sentence']} {point['remedy']}".rstrip()
    if report := shortened(evidence.get("report")):
        yield f"Report: {near(report)}"
    for way in ways_of(evidence):
        yield f"Way back: {shortened(way.get('title'))}: {shortened(way.get('command'))}"


def ways_of(evidence: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The commands of the ways back; invalid values are dropped."""
    given = evidence.get("ways_back")
    return [way for way in given if isinstance(way, Mapping)][:WAYS_AT_MOST] if isinstance(given, list) else []


def near(path: str) -> str:
    """The shortest form of the path as seen from where the playbook was started."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def message_of(result: Mapping[str, Any]) -> str:
    """Why a task failed; for a loop the message of its first item that failed."""
    items = result.get("results")
    for answer in [*(items if isinstance(items, list) else []), result]:
        if isinstance(answer, Mapping) and (answer is result or answer.get("failed") or answer.get("unreachable")):
            said = answer.get("msg") or answer.get("censored")
            if said:
                return shortened(said)
    return "it reported no reason."
