"""The progress of a long step: real counters, read beside the work, in one small file and as a bounded series.

Progress never fails a step, and it claims nothing: without a counter it has only the time that has passed.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from .files import replace_private
from .journal import Run, Step

FILE_NAME = "progress.json"  # in the state directory; the last of two runs that work at once has it
EVERY_S = 1.0  # a shorter step writes nothing, and opens no session
# The time left is by the rate of this window, and unknown before so much of it has passed.
WINDOW_S, KNOWN_AFTER_S = 15.0, 3.0
POINTS_AT_MOST, SERIES_AT_MOST = 120, 16
FAILURES_AT_MOST = 3
END_S = 0.5


@dataclass(frozen=True)
class Reading:
    """A counter at one moment.

    total: None where it is unknown. what: the part of the step that is counted. at_most: the total is an upper bound.
    goes_on: False where the rate so far says nothing of what is left.
    """

    done: int
    total: int | None = None
    unit: str = "bytes"
    what: str = ""
    at_most: bool = False
    goes_on: bool = True


class Meter(Protocol):
    """Reads a counter; used and closed in the thread of the progress alone."""

    def read(self) -> Reading | None:
        """Return the counter now, or None where there is none now."""

    def close(self) -> None:
        """End its session, if it has one."""


@dataclass
class Counter:
    """A meter that the step itself advances."""

    total: int | None = None
    unit: str = "bytes"
    done: int = 0

    def read(self) -> Reading | None:
        """See Meter.read."""
        return Reading(self.done, self.total, self.unit)

    def close(self) -> None:
        """See Meter.close."""

    def advance_to(self, done: int) -> None:
        """So much is done."""
        self.done = done


class ReadBy:
    """A meter without a session."""

    def __init__(self, read: Callable[[], Reading | None]) -> None:
        self.read = read

    def close(self) -> None:
        """See Meter.close."""


def position_in(file: BinaryIO) -> Meter:
    """How far a file was read, by whichever process reads it."""
    total = os.fstat(file.fileno()).st_size
    return ReadBy(lambda: Reading(os.lseek(file.fileno(), 0, os.SEEK_CUR), total))


@dataclass
class Series:
    """The readings of one counter by the second of the step; every other one is dropped when they are too many."""

    what: str
    unit: str
    total: int | None = None
    points: list[tuple[float, int]] = field(default_factory=list)
    _apart_s: float = 0.0

    def add(self, at_s: float, reading: Reading) -> None:
        """Keep a reading, unless it is too close to the previous one."""
        self.total = reading.total
        if self.points and at_s - self.points[-1][0] < self._apart_s:
            return
        self.points.append((round(at_s, 1), reading.done))
        if len(self.points) > POINTS_AT_MOST:
            self.points = self.points[::2]
            self._apart_s = 2 * max(self._apart_s, EVERY_S)


class Measured:
    """What is known of a step from its readings so far."""

    def __init__(self) -> None:
        self.series: list[Series] = []
        self._recent: deque[tuple[float, Reading]] = deque()

    def add(self, at_s: float, reading: Reading) -> None:
        """Take a reading of that second of the step."""
        if self._recent and _kind(self._recent[-1][1]) != _kind(reading):
            self._recent.clear()
        self._recent.append((at_s, reading))
        # One reading from before the window stays, so that readings far apart have a rate, too.
        while len(self._recent) > 2 and self._recent[1][0] <= at_s - WINDOW_S:
            self._recent.popleft()
        if not self.series or (self.series[-1].what, self.series[-1].unit) != _kind(reading):
            if len(self.series) == SERIES_AT_MOST:
                return
            self.series.append(Series(reading.what, reading.unit))
        self.series[-1].add(at_s, reading)

    def forget(self) -> None:
        """There is no reading now: what follows has a rate of its own."""
        self._recent.clear()

    @property
    def rate(self) -> float | None:
        """Per second, over the window; None where it is not known yet."""
        if len(self._recent) < 2:
            return None
        (first_s, first), (last_s, last) = self._recent[0], self._recent[-1]
        if last_s - first_s < KNOWN_AFTER_S or last.done < first.done:
            return None
        return (last.done - first.done) / (last_s - first_s)

    @property
    def left_s(self) -> float | None:
        """The time left at that rate; None where it cannot be known."""
        rate = self.rate
        if not rate or not self._recent:
            return None
        last = self._recent[-1][1]
        if last.total is None or not last.goes_on or last.done >= last.total:
            return None
        return (last.total - last.done) / rate

    def state(self, step: str, at_s: float) -> dict[str, Any]:
        """What is shown while the step runs."""
        known: dict[str, Any] = {"step": step, "elapsed_s": round(at_s, 1)}
        if self._recent:
            last, rate, left_s = self._recent[-1][1], self.rate, self.left_s
            known |= {"what": last.what, "unit": last.unit, "done": last.done, "total": last.total}
            known |= {"at_most": last.at_most, "rate": None if rate is None else round(rate, 3)}
            known["left_s"] = None if left_s is None else round(left_s, 1)
        return known

    def facts(self, step: str) -> list[dict[str, Any]]:
        """The series, for the journal."""
        return [
            {"step": step, "what": one.what, "unit": one.unit, "total": one.total, "points": [*map(list, one.points)]}
            for one in self.series
        ]


def _kind(reading: Reading) -> tuple[str, str]:
    return reading.what, reading.unit


class Progress:
    """Reads a meter beside the work, in a thread of its own, and writes the file, once a second at most."""

    def __init__(self, run: Run, step: str, meter: Meter | None) -> None:
        self.step = step
        self.measured = Measured()
        self._run, self._meter = run, meter
        self._path = Path(run.state_dir) / FILE_NAME
        self._written = False
        self._begun = time.monotonic()
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def begin(self) -> None:
        """Start the thread."""
        with suppress(RuntimeError):  # no thread can be started: the step runs without
            self._thread.start()

    def end(self) -> None:
        """Stop, and remove the file; a meter that is in the middle of a query ends with its time limit."""
        with self._writing:
            self._ended.set()
            if self._written:
                with suppress(OSError):
                    self._path.unlink(missing_ok=True)
        if self._thread.is_alive():
            self._thread.join(END_S)

    def facts(self) -> list[dict[str, Any]]:
        """The series, for the journal; empty for a short step."""
        return self.measured.facts(self.step)

    def _work(self) -> None:
        failures = 0
        try:
            while not self._ended.wait(EVERY_S):
                try:
                    self._look()
                    failures = 0
                except Exception:
                    # Whatever it is: a step that cannot be measured shows only that it runs.
                    failures += 1
                    self.measured.forget()
                    if failures == FAILURES_AT_MOST:
                        self._meter, meter = None, self._meter
                        _close(meter)
                with suppress(Exception):
                    self._write(self.measured.state(self.step, time.monotonic() - self._begun))
        finally:
            _close(self._meter)

    def _look(self) -> None:
        reading = self._meter.read() if self._meter else None
        if reading is None:
            self.measured.forget()
        else:
            self.measured.add(time.monotonic() - self._begun, reading)

    def _write(self, state: dict[str, Any]) -> None:
        """Write the state, unless the step has ended."""
        state = {"run_id": self._run.run_id, **state, "at": round(time.time(), 1)}
        with self._writing:
            if self._ended.is_set():
                return
            replace_private(self._path, json.dumps(state).encode() + b"\n", self._run.run_id, durable=False)
            self._written = True


def _close(meter: Meter | None) -> None:
    with suppress(Exception):
        if meter:
            meter.close()


@contextmanager
def progress_of(
    run: Run | None, step: str, meter: Meter | None = None, into: Step | None = None
) -> Iterator[Progress | None]:
    """Show the progress of what the block does, and add its series to a step of the journal; nothing without a run.

    Where two overlap, the file shows either.
    """
    if run is None:
        yield None
        return
    progress = Progress(run, step, meter)
    progress.begin()
    try:
        yield progress
    finally:
        progress.end()
        if into is not None and (series := progress.facts()):
            into.facts.setdefault("progress", []).extend(series)
