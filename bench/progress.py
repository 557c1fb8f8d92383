"""How far the time left of a dump was from its actual end, by the series in the evidence of the same run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ansible.module_utils

from .measurement import ROOT, Measurement, newest_evidence, play, stack

ansible.module_utils.__path__.append(str(ROOT / "module_utils"))

from ansible.module_utils.dbrelease.core.progress import EVERY_S, Measured, Reading  # noqa: E402


def largest_error(points: Sequence[tuple[float, int]], total: int) -> float:
    """The largest error in the second half, in percent of what was left; the time between two readings is no error."""
    measured, errors = Measured(), list[float]()
    end_s = points[-1][0] + EVERY_S / 2  # it ended before the next reading
    for at_s, done in points:
        measured.add(at_s, Reading(done, total))
        left_s, actual_s = measured.left_s, end_s - at_s
        if left_s is not None and at_s >= end_s / 2:
            errors.append(100 * (abs(left_s - actual_s) - EVERY_S) / actual_s)
            print(f"at {at_s:6.1f} s: {left_s:6.1f} s predicted, {actual_s:6.1f} s actual", flush=True)
    if not errors:
        raise SystemExit(f"The dump took about {end_s:.0f} s, and no time left was shown in its second half.")
    return max([0.0, *errors])


def error_of_a_dump(rows: int) -> float:
    """That of the dump of a deploy."""
    stack(rows)
    play("deploy_8_1a.yml", "-e", "monitor_watch_seconds=1")
    dumps: list[dict[str, Any]] = [one for one in newest_evidence()["progress"] if one["step"] == "dump"]
    if not dumps:
        raise SystemExit("The evidence has no series of the dump: it took less than a second, or was not measured.")
    points = [(point["second"], point["done"]) for point in dumps[-1]["points"]]
    return largest_error(points, dumps[-1]["total"])


MEASUREMENTS = [
    # A dump of 1,000,000 rows takes less than the 3 s after which the time left is first known.
    Measurement(
        "dump_time_left_5m",
        "time left in the 2nd half of a dump, error, 5,000,000 rows",
        "%",
        20,
        lambda: error_of_a_dump(5_000_000),
        by_name=True,
    ),
]
