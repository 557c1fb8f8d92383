"""How long a deploy takes, and how long its verification keeps the database busy."""

from __future__ import annotations

from statistics import median

from .measurement import Measurement, newest_evidence, play, stack, stage_seconds

READING = ("structure", "checks", "scenario", "plans", "untouched")
TIMES = 5


def first_deploy() -> float:
    """A whole deploy of 10,000 rows: the median of five."""
    return median(_first() for _ in range(TIMES))


def second_deploy() -> float:
    """The same again, which must change nothing: the median of five."""
    _first()
    return median(_again() for _ in range(TIMES))


def _first() -> float:
    stack(10_000)
    return play("deploy_8_1a.yml")[0]


def _again() -> float:
    seconds, output = play("deploy_8_1a.yml")
    if "changed=0 " not in output:
        raise SystemExit(f"The second deploy changed something:\n{output[-2000:]}")
    return seconds


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
