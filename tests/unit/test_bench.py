"""bench: each measurement works by itself and in any order, on stand-ins that refuse what a stack would refuse."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg2.errors
import pytest

from bench import __main__ as bench
from bench import by_hand, deploy, large, progress, rehearsal, restore, rollback, write_wait

NAMES = [one.name for suite in bench.SUITES for one in suite]


def is_over_budget(argument: str) -> bool:
    """Whether it is a release of the obvious order of statements, which may keep a writer waiting for a second."""
    folder = Path(argument.removeprefix("run_releases=")) / "8_1a"
    if folder == Path(argument) / "8_1a":
        return False
    obvious = "postgresql_not_valid" not in (folder / rehearsal.REVISION).read_text()
    return obvious and "write_wait_ms: 1000}" in (folder / "release.yml").read_text()


class Stack:
    """A stack that nobody has brought up, or that others have left in some state."""

    def __init__(self, backups: Path) -> None:
        self.backups = backups
        self.rows: int | None = None
        self.deployed = self.refused = False
        self.seconds = iter(range(1, 1_000))
        self.played: list[tuple[str, int | None]] = []

    def reset(self, rows: int) -> None:
        self.rows, self.deployed = rows, False
        for file in self.backups.iterdir():
            file.unlink()

    def play(self, name: str, *arguments: str) -> tuple[float, str]:
        assert self.rows is not None, "there is no stack"
        self.refused = any(is_over_budget(one) for one in arguments)
        if self.refused:
            self.played.append((name, self.rows))
            raise SystemExit("It was refused.")
        changed = 0 if name.startswith("verify") or (name.startswith("deploy") and self.deployed) else 1
        assert self.deployed or name.startswith("deploy"), f"{name} on a stack without the release"
        if name.startswith("deploy") and not self.deployed:
            (self.backups / "migration_preview_20260102_030405.sql").write_text("SELECT 'the preview'")
        self.deployed = not name.startswith(("rollback", "restore"))
        self.played.append((name, self.rows))
        return float(next(self.seconds)), f"staging : ok=1 changed={changed} failed=0"

    def evidence(self) -> dict[str, Any]:
        assert self.played
        moments = [("restore.backup", "2026-01-02T03:04:05+00:00"), ("restore.swap", "2026-01-02T03:04:15+00:00")]
        stages = [{"step": step, "started_at": at, "duration_ms": 500} for step, at in moments]
        stages += [{"step": step, "started_at": moments[0][1], "duration_ms": 100} for step in deploy.READING]
        points = [{"second": float(s), "done": 100 * s} for s in range(1, 10)]
        return {
            "backup": {"path": "/s/x.dump"},
            "stages": stages,
            "progress": [{"step": "dump", "total": 1000, "points": points}],
            "outcome": "refused" if self.refused else "deployed",
            "proofs": [{"name": "restore.services", "status": "pass", "duration_ms": 900}, self.write_wait()],
        }

    def write_wait(self) -> dict[str, Any]:
        observed = {"public.drawings": 110.0}
        status = "fail" if self.refused else "pass"
        return {"name": rehearsal.WRITE_WAIT, "status": status, "observed": observed, "detail": "", "remedy": ""}

    def wait(self, act: Callable[[], object], *_: Any) -> float:
        act()
        return 0.1


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    stack = Stack(tmp_path)
    stand_ins: dict[str, Any] = {
        "stack": stack.reset,
        "play": stack.play,
        "newest_evidence": stack.evidence,
        "run": lambda *_, **__: f"{large.SHARED_MEMORY}\n",
        "longest_wait_during": stack.wait,
        "longest_wait": lambda sql: 0.2 if sql in ("SELECT 'the preview'", write_wait.OBVIOUS) else None,
        "BACKUPS": tmp_path,
    }
    for module in (bench, by_hand, deploy, large, progress, rehearsal, restore, rollback, write_wait):
        for name, stand_in in stand_ins.items():
            if module is not write_wait or name != "longest_wait_during":
                monkeypatch.setattr(module, name, stand_in, raising=False)
    restore.restored.cache_clear()
    yield stack
    restore.restored.cache_clear()


def measured(capsys: pytest.CaptureFixture[str], names: Sequence[str]) -> str:
    bench.main(list(names))
    return capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_each_works_by_itself(stack: Stack, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert measured(capsys, [name])


def test_and_in_any_order(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(10):
        order = [[one] for suite in bench.SUITES for one in suite]
        random.Random(seed).shuffle(order)  # noqa: S311
        monkeypatch.setattr(bench, "SUITES", order)
        assert len(measured(capsys, NAMES).splitlines()) >= len(NAMES)


@pytest.mark.parametrize(("name", "limit", "median"), [("deploy_10k", 12, 3.0), ("deploy_again_10k", 4, 4.0)])
def test_a_deploy_is_the_median_of_five(
    stack: Stack, capsys: pytest.CaptureFixture[str], name: str, limit: float, median: float
) -> None:
    (one,) = [one for one in deploy.MEASUREMENTS if one.name == name]
    assert (one.limit, one.measure()) == (limit, median)
    said = capsys.readouterr().out
    assert f"the median run, {median:.3f} s" in said
    assert "restore.swap         from  10.000 s for   0.500 s" in said
    assert {rows for _, rows in stack.played} == {10_000}


@pytest.mark.parametrize(
    ("points", "error"),
    [
        pytest.param([(s, 10 * s) for s in range(1, 100)], 0, id="a constant rate"),
        pytest.param([(s, 6 * s if s < 100 else 8 * s - 200) for s in range(1, 150)], 31, id="faster at the end"),
    ],
)  # fmt: skip
def test_the_error_of_the_time_left_is_that_of_the_second_half(points: list[tuple[float, int]], error: float) -> None:
    assert progress.largest_error(points, 1000) == pytest.approx(error, abs=3 if error else 0)


def test_a_dump_that_showed_no_time_left_is_no_result() -> None:
    with pytest.raises(SystemExit, match="no time left was shown"):
        progress.largest_error([(1, 900), (2, 999)], 1000)


def test_what_takes_very_long_is_measured_by_its_name_only(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path.with_suffix(".json"))
    by_name = [one.title for suite in bench.SUITES for one in suite if one.by_name]
    said = measured(capsys, [])
    assert by_name and not any(title in said for title in by_name)


def test_a_large_deploy_counts_what_failed_and_what_could_not_run(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    proofs = [
        {"name": "checks.a", "status": "pass"},
        {"name": "checks.b", "status": "fail", "detail": "1 row breaks it."},
        {"name": "checks.c", "status": "inconclusive", "could_not_run": True, "detail": "It could not run."},
        {"name": "checks.d", "status": "inconclusive", "detail": "Drift."},
    ]
    monkeypatch.setattr(large, "newest_evidence", lambda: {"proofs": proofs})
    assert large.unproved(1_000) == 2 * len(large.PLAYS)
    assert "deploy_8_1a.yml: checks.c inconclusive: It could not run." in capsys.readouterr().out


def test_a_large_deploy_is_measured_with_dockers_own_shared_memory(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "run", lambda *_, **__: "268435456\n")
    with pytest.raises(SystemExit, match="268435456 bytes of shared memory; Docker's default is measured"):
        large.unproved(1_000)


def test_a_second_deploy_that_changes_something_is_no_figure(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy, "play", lambda *_: (1.0, "staging : ok=1 changed=1 failed=0"))
    with pytest.raises(SystemExit, match="changed something"):
        deploy.second_deploy()


def test_a_name_that_there_is_not_is_refused(stack: Stack) -> None:
    with pytest.raises(SystemExit, match=r"no measurement deploy: name some of deploy_10k, "):
        bench.main(["deploy"])


def test_a_migration_that_met_a_lock_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: Iterator[Exception | float] = iter(
        [psycopg2.errors.LockNotAvailable(), psycopg2.errors.LockNotAvailable(), 0.3]
    )

    def once(_: str) -> float:
        if isinstance(came := next(tries), Exception):
            raise came
        return came

    monkeypatch.setattr(write_wait, "longest_wait_once", once)
    assert write_wait.longest_wait("") == 0.3
