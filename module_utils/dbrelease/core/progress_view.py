"""The progress of a target's step on the controller: one line, of numbers and of words from closed lists.

The file that a module writes on its target is read over the connection while that module runs. A target may send
anything instead: what does not have the form of progress.py is not shown.
"""

from __future__ import annotations

import json
import math
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from .journal import Run
from .progress import FILE_NAME

BYTES_AT_MOST = 1024
# So that a line appears every 5 s on a terminal and every 30 s elsewhere, also where the target answers late.
TERMINAL_S, PLAIN_S = 4.0, 25.0
FRESH_S = 15.0  # a file that was not written for so long is of no module that runs
FAILURES_AT_MOST = 3
MOST = 2**63
STEPS = {
    "dump": "dumping the database and reading its baseline",
    "decode": "decoding the dump",
    "copy_dump": "copying the dump into the container",
    "restore": "restoring the backup",
    "compare": "comparing the copy with the backup",
    "upgrade": "running the upgrade",
    "downgrade": "running the downgrade",
    "finalize": "running a step of the release",
    "watch": "watching the release",
}
PARTS = {
    "": "",
    "index": ", building an index",
    "cluster": ", rewriting a table",
    "copy": ", copying rows",
    "growth": ", growth of the database",
}
UNITS = ("bytes", "rows", "blocks", "seconds", "items")


def line_of(answer: str, run_id: str) -> str:
    """One line on a step that runs, from the target's clock and its file; empty where they say nothing."""
    clock, _, text = answer.partition("\n")
    if len(text) > BYTES_AT_MOST or not clock.strip().isascii() or not clock.strip().isdigit():
        return ""
    try:
        state = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(state, dict) or state.get("run_id") != run_id:
        return ""
    step, at = state.get("step"), _number(state.get("at"))
    if not isinstance(step, str) or step not in STEPS or at is None or abs(float(clock[:15]) - at) > FRESH_S:
        return ""
    so_far = _number(state.get("elapsed_s")) or 0.0
    counted = _counted(state)
    parts = [*counted, *([] if any("left" in part for part in counted) else [f"{duration(so_far)} so far"])]
    part = state.get("what") if counted else ""
    return f"{STEPS[step]}{PARTS[str(part)]}: {', '.join(parts)}"


def _counted(state: Mapping[str, Any]) -> list[str]:
    """Done, rate and time left; empty without a counter."""
    done, unit, what = _number(state.get("done")), state.get("unit"), state.get("what")
    if done is None or unit not in UNITS or not isinstance(what, str) or what not in PARTS:
        return []
    total, rate, left_s = (_number(state.get(name)) for name in ("total", "rate", "left_s"))
    if total and done <= total:
        most = "at most " if state.get("at_most") is True else ""
        said = [f"{math.floor(100 * done / total)} % of {most}{amount(total, unit)}"]
    else:
        said = [amount(done, unit)]
    if rate is not None and unit != "seconds":
        said.append(f"{amount(rate, unit)}/s")
    if total and left_s is not None:
        said.append(f"{'at most' if state.get('at_most') is True else 'about'} {duration(left_s)} left")
    return said


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value < MOST and math.isfinite(value) else None


def amount(number: float, unit: str) -> str:
    """A number with its unit, for people."""
    if unit == "seconds":
        return duration(number)
    if unit == "bytes":
        for factor, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if number >= factor:
                return f"{number / factor:.1f} {name}"
    shown = f"{number:,.0f}" if number >= 10 or float(number).is_integer() else f"{number:.1f}"
    return f"{shown} {unit}"


def duration(seconds: float) -> str:
    """A time, for people."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def command_of(run: Run) -> str:
    """For the target's shell: print its clock, and the beginning of the file; empty where its path is unknown here."""
    folder = run.state_dir.rstrip("/")
    if folder.startswith("~/"):
        path = f'"$HOME"/{shlex.quote(folder[2:])}'
    elif folder.startswith("/") and "$" not in folder:
        path = shlex.quote(folder)
    else:
        return ""
    return f"date +%s; head -c {BYTES_AT_MOST} {path}/{FILE_NAME} 2>/dev/null"


class Viewer:
    """Shows the progress of a module while it runs, from a thread of its own; it never fails the module."""

    def __init__(self, run_id: str, ask: Callable[[], str], show: Callable[[str], None], every_s: float) -> None:
        """`ask` reads the file of the target; `show` prints a line."""
        self._run_id, self._ask, self._show, self._every_s = run_id, ask, show, every_s
        self._ended = threading.Event()
        self._showing = threading.Lock()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Viewer:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Show nothing more; a target that does not answer is not waited for.

        But a line that is being shown is: Ansible's worker may end after this, and a thread that ends while it prints
        would keep the lock that all workers share.
        """
        with self._showing:
            self._ended.set()

    def _work(self) -> None:
        failures, due = 0, time.monotonic() + self._every_s
        while failures < FAILURES_AT_MOST and not self._ended.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._every_s, time.monotonic() + self._every_s / 2)
            try:
                line = line_of(self._ask(), self._run_id)
                failures = 0
                with self._showing:
                    if line and not self._ended.is_set():
                        self._show(line)
            except Exception:  # the connection is the module's own business
                failures += 1
