"""report.md says of a watch what the page says: its window, and a line for each sample that found something."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.journal import Run
from ansible.module_utils.dbrelease.report.markdown_report import QUIET_SHOWN, as_markdown, monitoring
from ansible.module_utils.dbrelease.report.model import build
from evidence_lines import FULL, HOSTILE, RELEASE, RUN, SAMPLE, WINDOW, Event, closed, lines_of
from markdown_it import MarkdownIt
from reports import SAMPLES, WATCHED

BEGUN: Event = ("monitor", "started", {})
QUIET: dict[str, Any] = {"taken_at": "2026-01-02T03:05:05Z", "verdict": "pass", "claims": []}
SEEN = {
    **SAMPLE,
    "logs": {"app_log": {"errors": 2}, "db_log": {"errors": 1}},
    "api": {
        "orders": {"status": 200, "latency_ms": {"p50": 5.0, "p95": 12.0, "max": 20.0}},
        "items": {"status": 200, "latency_ms": {"p50": 5.0, "p95": 1900.0, "max": 2000.0}},
        "gone": {"status": None, "latency_ms": None},
    },
}
BLIND = {
    "taken_at": "2026-01-02T03:06:05Z",
    "verdict": "inconclusive",
    "connections": None,
    "queue": None,
    "drift": None,
}


@pytest.fixture
def run(run_parameters: dict[str, Any]) -> Run:
    return Run(**run_parameters)


def section(report: str) -> str:
    """The lines of `## Monitoring`; empty where the report has none."""
    _, _, found = report.partition("## Monitoring\n")
    return found.partition("\n## ")[0]


CASES: list[tuple[str, list[Event], list[str], list[str]]] = [
    (
        "a window that failed",
        [BEGUN, ("sample", "failed", SEEN), ("sample", "passed", QUIET), ("monitor", "failed", {"window": WINDOW})],
        [
            "- In this run: 2 samples (1 fail, 1 pass)",
            "- Requested window: 60 s from 2026-01-02T03:04:05.000000000Z. 61 s were watched",
            "at most 31 s apart",
            "| 2026-01-02T03:04:05.000000000Z | fail | 3 | 1.9 s | 3 | 2 | 4 | 1 error. |",
            "| 2026-01-02T03:05:05Z | pass |  |  |  |  |  |  |",
        ],
        ["In other runs", "not judged"],
    ),
    (
        "what could not be seen is empty, not nought",
        [BEGUN, ("sample", "passed", BLIND)],
        ["1 sample (1 inconclusive)", "| 2026-01-02T03:06:05Z | inconclusive |  |  |  |  |  |  |"],
        [" 0 "],
    ),
    (
        "killed in the watch",
        [BEGUN, ("sample", "failed", SEEN)],
        ["- The watch did not end in this run, and its window was not judged", "| fail |"],
        ["Requested window"],
    ),
    ("killed before a sample", [BEGUN], ["- In this run: no sample was taken"], ["| When |", "no end in this run"]),
    ("nobody watched", closed("verify"), [], ["In this run"]),
]


@pytest.mark.parametrize(("_", "events", "says", "never"), CASES, ids=[row[0] for row in CASES])
def test_what_a_watch_saw(run: Run, _: str, events: list[Event], says: list[str], never: list[str]) -> None:
    found = section(as_markdown(build(run, RELEASE, lines_of([*RUN, *events], run), asked=["already_deployed"])))
    assert bool(found) == bool(says)
    assert [one for one in says if one not in found] == [] and [one for one in never if one in found] == []


def test_a_report_shows_what_other_runs_observed(run: Run) -> None:
    other = replace(run, run_id="20260101T000000Z-000001")
    lines = [
        *lines_of([*FULL, ("sample", "failed", SEEN)], other),
        *lines_of([*RUN, *closed("readiness", "refused", message="1) No.")], run),
    ]
    found = section(as_markdown(build(run, RELEASE, lines, asked=["already_deployed"])))
    assert "- In other runs since the release was deployed: 1 sample (1 fail)" in found and "| fail | 3 |" in found
    assert "no sample was taken" in found and "not judged" not in found


def test_of_many_samples_every_one_that_found_something_is_shown() -> None:
    lines = list(monitoring({**WATCHED, "samples": [*SAMPLES]}))
    rows = [line for line in lines if line.startswith("| 2026-")]
    assert len(rows) == QUIET_SHOWN + 1
    assert rows[0].startswith("| 2026-01-02T03:07:00+00:00 | fail |"), "it is older than those that are shown"
    assert lines[-1] == f"{len(SAMPLES) - len(rows)} older samples that passed are in evidence.json."


def test_data_can_break_no_row() -> None:
    hostile = {**SAMPLES[0], "taken_at": HOSTILE, "verdict": HOSTILE, "findings": [HOSTILE]}
    report = "\n".join(monitoring({**WATCHED, "samples": [hostile]}))
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(report)
    kinds = {token.type for token in [*tokens, *(child for token in tokens for child in token.children or [])]}
    assert not kinds & {"html_block", "html_inline", "link_open", "image"}
    assert sum(token.type == "td_open" for token in tokens) == sum(token.type == "th_open" for token in tokens) == 8
