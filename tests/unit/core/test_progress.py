"""Progress: rate and time left, a bounded series and a small file; what a target sends is shown only in its form."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core import progress, progress_view
from ansible.module_utils.dbrelease.core.journal import Run
from ansible.module_utils.dbrelease.core.progress import (
    POINTS_AT_MOST,
    SERIES_AT_MOST,
    Counter,
    Measured,
    Reading,
    progress_of,
)
from ansible.module_utils.dbrelease.core.progress_view import Viewer, command_of, line_of
from run_ids import RUN_ID
from waits import until


def measured(*readings: tuple[float, Reading]) -> Measured:
    found = Measured()
    for at_s, reading in readings:
        found.add(at_s, reading)
    return found


def at(at_s: float, done: int, total: int | None = 1000, **more: Any) -> tuple[float, Reading]:
    return at_s, Reading(done, total, **more)


@pytest.mark.parametrize(
    ("readings", "rate", "left_s"),
    [
        pytest.param([], None, None, id="no reading"),
        pytest.param([at(1, 100)], None, None, id="one reading"),
        pytest.param([at(1, 100), at(2, 200)], None, None, id="too early"),
        pytest.param([at(0, 0), at(4, 200)], 50, 16, id="a known total"),
        pytest.param([at(0, 0, None), at(4, 200, None)], 50, None, id="no total"),
        pytest.param([at(0, 0), at(4, 0)], 0, None, id="it stands still"),
        pytest.param([at(0, 0), at(5, 1000)], 200, None, id="all is done"),
        pytest.param([at(0, 0), at(5, 2000)], 400, None, id="more than the total"),
        pytest.param([at(0, 500), at(5, 100)], None, None, id="it went back"),
        pytest.param([at(0, 0), at(4, 200, goes_on=False)], 50, None, id="the rate says nothing of the rest"),
        pytest.param([at(0, 0, what="index"), at(4, 200)], None, None, id="another counter"),
        pytest.param([at(s, s) for s in range(20)] + [at(20 + s, 20 + 10 * s) for s in range(30)], 10, 69,
                     id="the window, not the beginning"),
        pytest.param([at(0, 0), at(60, 100), at(120, 200)], 100 / 60, 480, id="readings far apart"),
    ],
)  # fmt: skip
def test_the_time_left_is_by_the_recent_rate(
    readings: list[tuple[float, Reading]], rate: float | None, left_s: float | None
) -> None:
    found = measured(*readings)
    assert (found.rate, found.left_s) == (rate and pytest.approx(rate), left_s and pytest.approx(left_s, rel=0.02))


def test_a_step_without_a_counter_shows_only_the_time() -> None:
    assert Measured().state("dump", 12.34) == {"step": "dump", "elapsed_s": 12.3}


def test_the_series_is_bounded_and_keeps_its_span() -> None:
    found = measured(*(at(second, second) for second in range(20_000)))
    (series,) = found.facts("dump")
    assert POINTS_AT_MOST / 4 < len(series["points"]) <= POINTS_AT_MOST
    assert series["points"][0] == [0, 0] and series["points"][-1][0] > 19_000
    gaps = {b[0] - a[0] for a, b in zip(series["points"][:-1], series["points"][1:], strict=True)}
    assert max(gaps) < 3 * min(gaps)


def test_the_number_of_series_is_bounded() -> None:
    found = measured(*(at(n, n, what=("index", "growth")[n % 2]) for n in range(100)))
    assert len(found.facts("upgrade")) == SERIES_AT_MOST


@pytest.fixture
def run(run_parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(progress, "EVERY_S", 0.02)
    return Run(**run_parameters)


def file_of(run: Run) -> Path:
    return Path(run.state_dir) / "progress.json"


def test_the_file_is_small_private_and_gone_afterwards(run: Run) -> None:
    counter = Counter(total=10, unit="items", done=4)
    with progress_of(run, "finalize", counter) as shown:
        until(file_of(run).exists, "there is no file")
        assert file_of(run).stat().st_mode & 0o777 == 0o600
        until(lambda: json.loads(file_of(run).read_text()).get("done") == 4, "the counter is not shown")
        assert len(file_of(run).read_bytes()) < progress_view.BYTES_AT_MOST
    assert shown is not None and shown.facts()[0]["points"][0][1] == 4
    assert list(file_of(run).parent.iterdir()) == []


class Failing:
    def __init__(self) -> None:
        self.asked = self.closed = 0

    def read(self) -> Reading | None:
        self.asked += 1
        raise OSError("no server")

    def close(self) -> None:
        self.closed += 1


def test_a_counter_that_fails_is_given_up_and_the_step_goes_on(run: Run) -> None:
    meter = Failing()
    with progress_of(run, "dump", meter) as shown:
        until(lambda: meter.closed == 1, "the meter was not closed")
        until(file_of(run).exists, "there is no file")
        assert json.loads(file_of(run).read_text()).keys() == {"run_id", "step", "elapsed_s", "at"}
    assert (meter.asked, meter.closed) == (progress.FAILURES_AT_MOST, 1)
    assert shown is not None and shown.facts() == []


def test_a_folder_that_cannot_be_written_fails_no_step(run: Run, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in place of the folder")
    meter = Counter()
    with progress_of(run, "dump", meter) as shown:
        assert shown is not None
        until(lambda: bool(shown.facts()), "nothing was measured")


def test_a_counter_that_does_not_answer_is_not_waited_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "END_S", 0.01)
    asked, released, closed = threading.Event(), threading.Event(), threading.Event()

    class Stuck(Failing):
        def read(self) -> Reading | None:
            asked.set()
            released.wait(60)
            return Reading(1)

        def close(self) -> None:
            closed.set()

    with progress_of(run, "dump", Stuck()):
        assert asked.wait(60)
    assert not closed.is_set(), "the step ended while the counter was still being read"
    released.set()
    assert closed.wait(60)
    assert not file_of(run).exists()


def test_without_a_run_nothing_is_measured() -> None:
    meter = Failing()
    with progress_of(None, "decode", meter) as shown:
        assert shown is None
    assert meter.asked == 0


STATE = {
    "run_id": RUN_ID,
    **{"step": "dump", "what": "", "unit": "bytes", "done": 161_000_000, "total": 307_000_000, "at_most": False},
    **{"rate": 31_200_000, "left_s": 4.7, "elapsed_s": 12.3, "at": 1000},
}


def answer(clock: str = "1003", **changes: Any) -> str:
    return f"{clock}\n{json.dumps({**STATE, **changes})}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (answer(), "dumping the database and reading its baseline: 52 % of 307.0 MB, 31.2 MB/s, about 5 s left"),
        (
            answer(step="restore", at_most=True, left_s=200),
            "restoring the backup: 52 % of at most 307.0 MB, 31.2 MB/s, at most 3 min 20 s left",
        ),
        (
            answer(step="upgrade", what="growth", total=None, left_s=None),
            "running the upgrade, growth of the database: 161.0 MB, 31.2 MB/s, 12 s so far",
        ),
        (
            answer(step="upgrade", what="index", unit="blocks", done=10, total=4000, rate=2.5, left_s=1596),
            "running the upgrade, building an index: 0 % of 4,000 blocks, 2.5 blocks/s, about 26 min 36 s left",
        ),
        (
            answer(step="watch", unit="seconds", done=30, total=900, rate=1, left_s=870),
            "watching the release: 3 % of 15 min 0 s, about 14 min 30 s left",
        ),
        (answer(done=None), "dumping the database and reading its baseline: 12 s so far"),
        (answer(unit="furlongs"), "dumping the database and reading its baseline: 12 s so far"),
        (answer(what="\x1b[2J"), "dumping the database and reading its baseline: 12 s so far"),
        (answer(done=-1), "dumping the database and reading its baseline: 12 s so far"),
        (
            answer(done=400_000_000, left_s=None),
            "dumping the database and reading its baseline: 400.0 MB, 31.2 MB/s, 12 s so far",
        ),
        (answer(step="{{ lookup('pipe', 'id') }}"), ""),
        (answer(step=["dump"]), ""),
        (answer(run_id="20260102T030405Z-ffffff"), ""),
        (answer(clock="1100"), ""),
        (answer(clock="900"), ""),
        (answer(clock="now"), ""),
        (answer(clock="²"), ""),
        (answer(clock="9" * 5000), ""),
        (answer(at="1000"), ""),
        ("1003\n", ""),
        ("1003\n[1]", ""),
        ("1003\n" + "[" * 1000, ""),
        ("1003\n" + "x" * 5000, ""),
        ("", ""),
    ],
)  # fmt: skip
def test_what_a_target_sends_is_shown_only_in_its_form(text: str, line: str) -> None:
    assert line_of(text, RUN_ID) == line


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e400", "9" * 300, "true", '"x"', "{}", "-5"])
@pytest.mark.parametrize("key", ["done", "total", "rate", "left_s", "elapsed_s"])
def test_a_number_that_is_none_is_not_shown(key: str, value: str) -> None:
    text = json.dumps({**STATE, key: "HERE"}).replace('"HERE"', value)
    shown = line_of(f"1003\n{text}", RUN_ID)
    assert shown.startswith("dumping the database and reading its baseline: ")
    assert not {"nan", "inf", "x", "999", "true"} & set(shown.lower().replace(",", " ").split())


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("/srv/state", "/srv/state/progress.json"),
        ("/srv/a b", "'/srv/a b'/progress.json"),
        ("~/state", '"$HOME"/state/progress.json'),
        ("$HOME/state", ""),
        ("state", ""),
        ("/srv/$(id)", ""),
    ],
)
def test_the_path_is_one_word_for_the_shell(run_parameters: dict[str, Any], folder: str, command: str) -> None:
    made = command_of(replace(Run(**run_parameters), state_dir=folder))
    assert made == (f"date +%s; head -c 1024 {command} 2>/dev/null" if command else "")


def test_lines_appear_while_the_module_runs_and_not_after_it() -> None:
    shown: list[str] = []
    with Viewer(RUN_ID, answer, shown.append, 0.01):
        until(lambda: len(shown) >= 3, "no line was shown")
    assert set(shown) == {line_of(answer(), RUN_ID)}


def test_a_connection_that_fails_ends_the_view_alone() -> None:
    asked: list[int] = []

    def ask() -> str:
        asked.append(1)
        raise OSError

    with Viewer(RUN_ID, ask, pytest.fail, 0.01) as viewer:
        until(lambda: not viewer._thread.is_alive(), "it still asks")
    assert len(asked) == progress_view.FAILURES_AT_MOST
