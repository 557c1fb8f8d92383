"""monitor_watch: a row is a series of samples, and what the watch makes of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.history import Memory, Sample
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.core.process import process_of, this_machine
from ansible.module_utils.dbrelease.monitor.window import Watch, exceeded, longest_gap
from monitor_watch import act

SECOND = 1_000_000_000
MONITORING: dict[str, Any] = {
    "window_seconds": 60,
    "limits": {"failed_samples": 3, "consecutive_failed_samples": 2},
    "logs": [{"name": "app_log", "title": "No errors in the log", "service": "app"}],
    "growth": {"watched_seconds": 3600, "largest_gap_seconds": 60},
}
Write = Callable[..., None]


@pytest.fixture
def write(run_parameters: dict[str, Any]) -> Write:
    """Appends a journal line from so many seconds ago."""
    path = Path(run_parameters["state_dir"]) / "journal.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(ago_s: float, step: str, event: str = "passed", facts: dict[str, Any] | None = None, **more: str) -> None:
        ts = (datetime.now(UTC) - timedelta(seconds=ago_s)).isoformat(timespec="milliseconds")
        line = {**run_parameters, "ts": ts, "step": step, "event": event, "facts": facts or {}, **more}
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    return write


def sample_facts(verdict: str = "pass", claim: str = "app_log", *, grave: bool = False) -> dict[str, Any]:
    detail = "" if verdict == "pass" else f"It was {verdict}."
    return {"verdict": verdict, "claims": [{"name": claim, "verdict": verdict, "detail": detail, "grave": grave}]}


def begun(run: dict[str, Any], seconds: int = 0, *, check_mode: bool = False, **more: Any) -> dict[str, Any]:
    options = {"interval_seconds": 10, **more}
    return act({"state": "begun", "run": run, "monitoring": MONITORING, "seconds": seconds, **options}, check_mode)


def judged(run: dict[str, Any], watch: dict[str, Any]) -> dict[str, Any]:
    return act({"state": "judged", "run": run, "monitoring": MONITORING, "watch": watch}, False)


def events(run: dict[str, Any]) -> list[tuple[str, str]]:
    lines = (Path(run["state_dir"]) / "journal.jsonl").read_text().splitlines()
    return [(line["step"], line["event"]) for line in map(json.loads, lines)]


def test_without_monitoring_no_sample_is_due_and_it_says_so(run_parameters: dict[str, Any]) -> None:
    assert begun(run_parameters, 900, monitoring={})["samples"] == 0
    assert events(run_parameters) == [("monitor", "skipped")]


P, F, I = "pass", "fail", "inconclusive"  # noqa: E741
# Verdicts of samples ten seconds apart, and the verdict on the claim.
SERIES: list[tuple[str, list[str], str]] = [
    ("quiet for long enough", [P] * 8, P),
    ("quiet, but not for long enough", [P] * 3, I),
    ("one failed", [P] * 7 + [F], I),
    ("two failed apart", [P, F, P, F, P, P, P, P], I),
    ("two failed in a row", [P, P, F, F, P, P, P, P], F),
    ("three failed", [F, P, F, P, F, P, P, P], F),
    ("the only one failed", [F], F),
    ("one was undecided", [P] * 7 + [I], I),
    ("all were undecided", [I] * 8, I),
    ("no sample", [], I),
]


@pytest.mark.parametrize(("verdicts", "expected"), [case[1:] for case in SERIES], ids=[case[0] for case in SERIES])
def test_the_verdict_on_a_claim(
    run_parameters: dict[str, Any], write: Write, verdicts: list[str], expected: str
) -> None:
    age = 10 * len(verdicts)
    for number, verdict in enumerate(verdicts):
        write(age - 10 * number, "sample", facts=sample_facts(verdict))
    started = (datetime.now(UTC) - timedelta(seconds=age + 0.5)).isoformat().replace("+00:00", "Z")
    watch = {"started_at": started, "seconds": age, "interval_seconds": 10}
    try:
        result = judged(run_parameters, watch)
        proofs = result["proofs"]
    except ReleaseError as error:
        proofs = error.facts["proofs"]
        assert expected == F
    claims = {proof["name"]: proof for proof in proofs}
    claim = claims["monitor.app_log" if verdicts else "monitor.samples"]
    assert claim["status"] == expected, claim
    assert claim["detail"]
    assert events(run_parameters)[-1] == ("monitor", "failed" if expected == F else "passed")


def test_a_failure_that_concerns_the_release_has_no_limit(run_parameters: dict[str, Any], write: Write) -> None:
    watch = begun(run_parameters)["watch"]
    write(0, "sample", facts=sample_facts())
    write(0, "sample", facts=sample_facts(F, grave=True))
    write(0, "sample", facts=sample_facts())
    with pytest.raises(ReleaseError, match="1 of 3 samples failed"):
        judged(run_parameters, watch)


UNANSWERED: list[tuple[str, list[tuple[str, bool]], str, bool]] = [
    ("the server was away", [(F, True), (F, True), (F, True)], I, True),
    ("it never answered", [(I, True), (I, True)], I, True),
    ("it answered once", [(I, True), (P, False)], I, False),
    ("it was away, and a finding", [(F, True), (F, True), (F, False)], F, False),
]


@pytest.mark.parametrize(
    ("samples", "expected", "unknown"), [case[1:] for case in UNANSWERED], ids=[case[0] for case in UNANSWERED]
)
def test_a_server_that_could_not_answer_speaks_for_nothing_and_against_nothing(
    run_parameters: dict[str, Any], write: Write, samples: list[tuple[str, bool]], expected: str, unknown: bool
) -> None:
    watch = begun(run_parameters)["watch"]
    for verdict, unanswered in samples:
        facts = sample_facts(verdict)
        facts["claims"][0]["could_not_run"] = unanswered
        write(0, "sample", facts=facts)
    try:
        proofs, held = judged(run_parameters, watch)["proofs"], False
    except ReleaseError as error:
        proofs, held = error.facts["proofs"], error.facts["could_not_run"]
    found = {proof["name"]: proof["status"] for proof in proofs}
    assert (found["monitor.app_log"], found["monitor.samples"], held) == (expected, expected, unknown)


def test_a_gap_is_inconclusive_but_for_logs_whose_windows_meet(run_parameters: dict[str, Any], write: Write) -> None:
    claims = [*sample_facts()["claims"], *sample_facts(claim="latency")["claims"]]
    for ago_s in (890, 880, 0):
        write(ago_s, "sample", facts={"verdict": P, "claims": claims})
    started = (datetime.now(UTC) - timedelta(seconds=900)).isoformat().replace("+00:00", "Z")
    watch = {"started_at": started, "seconds": 900, "interval_seconds": 30}
    proofs = {proof["name"]: proof for proof in _proofs(run_parameters, watch)}
    assert {name: proof["status"] for name, proof in proofs.items()} == {
        "monitor.app_log": P,
        "monitor.latency": I,
        "monitor.samples": I,
    }
    assert "no sample was taken for 880 s, longer than 120 s" in proofs["monitor.latency"]["detail"]


def test_what_was_left_out_is_skipped_and_says_why(run_parameters: dict[str, Any], write: Write) -> None:
    watch = begun(run_parameters)["watch"]
    reason = "The inventory names no container of the service app."
    write(0, "sample", facts={"verdict": P, "claims": [], "left_out": {"app_log": reason}})
    proof = next(one for one in _proofs(run_parameters, watch) if one["name"] == "monitor.app_log")
    assert (proof["status"], proof["title"], proof["detail"]) == ("skipped", "No errors in the log", reason)


def test_claims_have_limits_of_their_own(run_parameters: dict[str, Any], write: Write) -> None:
    watch = begun(run_parameters)["watch"]
    for claim in ("app_log", "latency"):
        write(0, "sample", facts=sample_facts())
        write(0, "sample", facts=sample_facts(F, claim))
    statuses = {proof["name"]: proof["status"] for proof in _proofs(run_parameters, watch)}
    assert statuses["monitor.app_log"] == I and statuses["monitor.latency"] == F and statuses["monitor.samples"] == I


def _proofs(run: dict[str, Any], watch: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        proofs: list[dict[str, Any]] = judged(run, watch)["proofs"]
    except ReleaseError as error:
        proofs = error.facts["proofs"]
    return proofs


@pytest.mark.parametrize(
    ("seconds", "interval", "samples"), [(0, 30, 1), (900, 30, 31), (20, 30, 2), (60, 10, 7), (61, 10, 8)]
)
def test_how_many_samples_are_due(run_parameters: dict[str, Any], seconds: int, interval: int, samples: int) -> None:
    assert begun(run_parameters, seconds, interval_seconds=interval)["samples"] == samples


@pytest.mark.parametrize(
    ("seconds", "interval", "says"),
    [(-1, 30, "monitor_watch_seconds"), (172_801, 30, "172800"), (900, 0, "monitor_interval_seconds")],
)
def test_bad_input_is_refused(run_parameters: dict[str, Any], seconds: int, interval: int, says: str) -> None:
    with pytest.raises(ReleaseError, match=says) as refusal:
        begun(run_parameters, seconds, interval_seconds=interval)
    assert refusal.value.refused


def test_check_mode_plans_no_sample_and_writes_nothing(run_parameters: dict[str, Any]) -> None:
    assert begun(run_parameters, 900, check_mode=True)["samples"] == 0
    assert not Path(run_parameters["state_dir"]).exists()


class TestKilled:
    """A watch without an end."""

    def test_it_is_taken_up_again_with_its_samples(self, run_parameters: dict[str, Any], write: Write) -> None:
        write(1000, "upgrade", facts={"attempts": 1})
        first = begun(run_parameters, 100)
        write(0, "sample", facts=sample_facts())
        second = begun({**run_parameters, "run_id": "20260102T030406Z-fedcba"}, 100)
        assert second["resumed"] and second["taken"] == 1
        assert second["watch"]["started_at"] == first["watch"]["started_at"]
        assert second["samples"] == 11

    def test_its_window_goes_on(self, run_parameters: dict[str, Any], write: Write) -> None:
        started = (datetime.now(UTC) - timedelta(seconds=75)).isoformat().replace("+00:00", "Z")
        watch = {"started_at": started, "seconds": 100, "interval_seconds": 10}
        write(75, "monitor", "started", {"watch": watch})
        write(40, "sample", facts=sample_facts())
        assert begun(run_parameters, 100)["samples"] == 4

    def test_the_time_without_a_watch_is_added(self, run_parameters: dict[str, Any], write: Write) -> None:
        """Killed after 100 s of 900, and again after 100 s more: 700 s are left to watch."""
        started = (datetime.now(UTC) - timedelta(seconds=3200)).isoformat().replace("+00:00", "Z")
        watch = {"started_at": started, "seconds": 900, "interval_seconds": 10}
        write(3200, "monitor", "started", {"watch": watch})
        for ago_s in (*range(3190, 3099, -10), *range(2090, 1989, -10)):
            write(ago_s, "sample", facts=sample_facts())
        found = begun(run_parameters, 900)
        assert found["resumed"] and found["watch"]["started_at"][:19] == started[:19]
        assert found["watch"]["seconds"] == pytest.approx(900 + 1010 + 1990, abs=2)
        assert found["samples"] == pytest.approx(71, abs=1)

    @pytest.mark.parametrize(
        ("why", "lines"),
        [
            ("it ended", [(50, "monitor", "passed")]),
            ("it failed", [(50, "monitor", "failed")]),
            ("the release was deployed again", [(50, "upgrade", "passed")]),
        ],
    )
    def test_not_if(
        self, run_parameters: dict[str, Any], write: Write, why: str, lines: list[tuple[int, str, str]]
    ) -> None:
        watch = {"started_at": "2026-01-01T00:00:00Z", "seconds": 100, "interval_seconds": 10}
        write(75, "monitor", "started", {"watch": watch})
        for ago_s, step, event in lines:
            write(ago_s, step, event, {"attempts": 1, "window": watch})
        assert not begun(run_parameters, 100)["resumed"]

    @pytest.mark.parametrize(
        ("how", "started", "ended", "resumed"),
        [
            ("at work", None, False, False),
            ("gone, and its number another process's", "1", False, True),
            ("at work, its run at its end", None, True, True),
        ],
    )
    def test_not_while_its_controller_is_at_work(
        self, run_parameters: dict[str, Any], write: Write, how: str, started: str | None, ended: bool, resumed: bool
    ) -> None:
        here, process = this_machine(), process_of(os.getpid())
        assert process
        controller = {**asdict(here), "user": "ann", "host": "desk", "pid": process.pid}
        other = {"run_id": "20260102T030406Z-fedcba"}
        write(80, "run", "started", {"controller": {**controller, "started": started or process.started}}, **other)
        watch = {"started_at": "2026-01-01T00:00:00Z", "seconds": 100, "interval_seconds": 10}
        write(75, "monitor", "started", {"watch": watch}, **other)
        if ended:
            write(60, "run", "failed", **other)
        assert begun(run_parameters, 100)["resumed"] is resumed

    @pytest.mark.parametrize(
        ("window", "resumed"), [("2026-01-01T00:00:00Z", False), ("2026-01-01T00:00:30Z", True)], ids=["it", "another"]
    )
    def test_not_if_another_that_is_at_work_has_taken_it_up(
        self, run_parameters: dict[str, Any], write: Write, window: str, resumed: bool
    ) -> None:
        process = process_of(os.getpid())
        assert process
        controller = {**asdict(this_machine()), "user": "ann", "host": "desk", **asdict(process)}
        other = {"run_id": "20260102T030406Z-fedcba"}
        watch = {"started_at": "2026-01-01T00:00:00Z", "seconds": 100, "interval_seconds": 10}
        write(75, "monitor", "started", {"watch": watch})
        write(60, "run", "started", {"controller": controller}, **other)
        write(50, "monitor", "started", {"watch": {**watch, "started_at": window}}, **other)
        assert begun(run_parameters, 100)["resumed"] is resumed

    def test_also_if_another_window_was_judged_meanwhile(self, run_parameters: dict[str, Any], write: Write) -> None:
        watch = {"started_at": "2026-01-01T00:00:00Z", "seconds": 100, "interval_seconds": 10}
        write(75, "monitor", "started", {"watch": watch})
        write(50, "monitor", "passed", {"window": {**watch, "started_at": "2025-12-31T00:00:00Z"}})
        assert begun(run_parameters, 100)["resumed"]

    def test_also_if_the_next_run_has_settled_it(self, run_parameters: dict[str, Any], write: Write) -> None:
        watch = {"started_at": "2026-01-01T00:00:00Z", "seconds": 100, "interval_seconds": 10}
        write(75, "monitor", "started", {"watch": watch})
        write(50, "monitor", "failed", {"message": "The run was interrupted."})
        assert begun(run_parameters, 100)["resumed"]

    def test_not_if_it_lay_too_long(self, run_parameters: dict[str, Any], write: Write) -> None:
        watch = {"started_at": "2026-01-01T00:00:00Z", "seconds": 100, "interval_seconds": 10}
        write(3800, "monitor", "started", {"watch": watch})
        assert not begun(run_parameters, 100)["resumed"]

    def test_not_of_another_environment(self, run_parameters: dict[str, Any], write: Write) -> None:
        watch = {"started_at": "2026-01-01T00:00:00Z", "seconds": 100, "interval_seconds": 10}
        write(5, "monitor", "started", {"watch": watch}, environment="elsewhere")
        assert not begun(run_parameters, 100)["resumed"]


@pytest.mark.parametrize(("step", "there"), [("rolled_back", "upgrade"), ("restored", "verify")])
def test_a_release_that_was_taken_back_is_not_watched_until_it_is_there_again(
    run_parameters: dict[str, Any], write: Write, step: str, there: str
) -> None:
    write(20, "upgrade", "passed", {"attempts": 1})
    write(10, step)
    with pytest.raises(ReleaseError, match="was rolled back or restored") as refusal:
        begun(run_parameters)
    assert refusal.value.refused
    write(5, there, "passed", {"attempts": 1})
    assert begun(run_parameters)["samples"] == 1


WATCHED: list[tuple[str, list[tuple[str, str]], bool]] = [
    ("never", [("upgrade", "passed")], False),
    ("to a good end", [("upgrade", "passed"), ("monitor", "passed")], True),
    (
        "killed, and sampled once since",
        [("upgrade", "passed"), ("monitor", "started 900"), ("monitor", "passed")],
        False,
    ),
    (
        "killed, and watched for as long since",
        [("upgrade", "passed"), ("monitor", "started 900"), ("monitor", "passed 900")],
        True,
    ),
    ("to a bad end", [("upgrade", "passed"), ("monitor", "failed")], False),
    ("killed", [("upgrade", "passed"), ("monitor", "started")], False),
    ("before it was deployed again", [("upgrade", "passed"), ("monitor", "passed"), ("upgrade", "passed")], False),
]


@pytest.mark.parametrize(("_", "events", "watched"), WATCHED, ids=[row[0] for row in WATCHED])
def test_a_deployment_is_watched_once_a_watch_of_it_has_ended_well(
    run_parameters: dict[str, Any], write: Write, _: str, events: list[tuple[str, str]], watched: bool
) -> None:
    for seconds_ago, (step, event) in zip(range(100, 0, -10), events, strict=False):
        event, _, seconds = event.partition(" ")
        key = "watch" if event == "started" else "window"
        write(
            seconds_ago,
            step,
            event,
            {"attempts": 1, **({key: {"seconds": int(seconds or 0)}} if step == "monitor" else {})},
        )
    run = Run(**run_parameters)
    assert Memory.of(Journal(run).read(), run).watched(run.playbook) == watched


@pytest.mark.parametrize(("gap", "status"), [(30, P), (120, I)])
def test_growth_needs_samples_all_through_its_day(
    run_parameters: dict[str, Any], write: Write, gap: int, status: str
) -> None:
    write(3700, "upgrade", facts={"attempts": 1})
    for ago_s in range(3690, 0, -gap):
        write(ago_s, "sample", facts=sample_facts(claim="growth"))
    watch = begun(run_parameters)["watch"]
    write(0, "sample", facts=sample_facts(claim="growth"))
    (proof,) = [proof for proof in judged(run_parameters, watch)["proofs"] if proof["name"] == "monitor.growth"]
    assert proof["status"] == status


def test_a_window_that_has_failed_already_needs_no_more_samples() -> None:
    limits = MONITORING["limits"]
    failed = Sample(0, sample_facts(F))
    assert not exceeded([failed], limits)
    assert exceeded([failed, failed], limits)


def test_the_longest_gap_counts_both_ends() -> None:
    samples = [Sample(at * SECOND, {}) for at in (10, 20, 50)]
    assert longest_gap(samples, 0, 55 * SECOND) == 30
    assert longest_gap(samples, 0, 100 * SECOND) == 50
    assert longest_gap([], 0, 7 * SECOND) == 7


def test_a_watch_survives_its_way_through_the_journal() -> None:
    watch = Watch(1_700_000_000_123_000_000, 900, 30)
    assert Watch.of(watch.facts()) == watch
