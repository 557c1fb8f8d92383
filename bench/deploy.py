"""How long a deploy takes, and how long its verification keeps the database busy."""

from __future__ import annotations

from typing import NamedTuple

from .measurement import Measurement, Part, newest_evidence, parts_of, play, stack, stage_seconds

READING = ("structure", "checks", "scenario", "plans", "untouched")
TIMES = 5


def first_deploy() -> float:
    """A whole deploy of 10,000 rows: the median of five."""
    return _median("deploy", [_first() for _ in range(TIMES)])


def second_deploy() -> float:
    """The same again, which must change nothing: the median of five."""
    _deployed()
    return _median("second deploy", [_again() for _ in range(TIMES)])


class Run(NamedTuple):
    """How long one run took as a whole process, and its stages."""

    seconds: float
    parts: list[Part]


def _median(title: str, runs: list[Run]) -> float:
    """The seconds of the median run, whose stages are printed."""
    run = sorted(runs, key=lambda one: one.seconds)[len(runs) // 2]
    print(f"{title}, the median run, {run.seconds:.3f} s; its stages, as its journal has them:")
    for part in run.parts:
        print(f"    {part.step:20} from {part.begun_s:7.3f} s for {part.seconds:7.3f} s")
    print("    The rest is the start of Ansible, its tasks, and the start of each module.", flush=True)
    return run.seconds


def _first() -> Run:
    return Run(_deployed(), parts_of(newest_evidence()))


def _deployed() -> float:
    stack(10_000)
    return play("deploy_8_1a.yml")[0]


def _again() -> Run:
    seconds, output = play("deploy_8_1a.yml")
    if "changed=0 " not in output:
        raise SystemExit(f"The second deploy changed something:\n{output[-2000:]}")
    return Run(seconds, parts_of(newest_evidence()))


def verification() -> float:
    """Database time of a verification of 1,000,000 rows."""
    stack(1_000_000)
    play("deploy_8_1a.yml")
    play("verify_8_1a.yml")
    return sum(stage_seconds(newest_evidence(), *READING))


MEASUREMENTS = [
    Measurement("deploy_10k", "deploy, 10,000 rows, whole process", "s", 12.0, first_deploy),
    Measurement("deploy_again_10k", "second deploy, changed=0, whole process", "s", 4.0, second_deploy),
    Measurement("verify_1m", "verify, 1,000,000 rows, database time", "s", 5.0, verification),
]
