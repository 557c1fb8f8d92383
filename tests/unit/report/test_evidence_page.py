"""The page of a run is whole and stands alone; the numbers in its charts are those of the evidence."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Run
from ansible.module_utils.dbrelease.report.charts import draw, is_logarithmic
from ansible.module_utils.dbrelease.report.html import anchors, newest_sample, timeline
from ansible.module_utils.dbrelease.report.markdown_report import as_markdown
from ansible.module_utils.dbrelease.report.page import page_of
from ansible.module_utils.dbrelease.report.series import (
    POINTS_AT_MOST,
    Chart,
    Series,
    lock_charts,
    monitoring_charts,
    progress_charts,
    row_counts,
)
from reports import SAMPLES, SITUATIONS, TEMPLATES, model_of, report_of

VOID = {"meta", "link", "br", "img", "hr", "input"}


@pytest.fixture
def run(run_parameters: dict[str, Any]) -> Run:
    return Run(**run_parameters)


def test_the_advice_of_a_rehearsal_is_a_section_of_its_own(run: Run) -> None:
    assert 'id="advice"' not in report_of("deployed", run)
    assert "<li>squawk &amp; more</li>" in report_of("deployed", run, rehearsal={"advice": ["squawk & more"]})


def test_a_missing_template_or_library_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("deployed", run)
    assert page_of(model, TEMPLATES) == report_of("deployed", run)
    with pytest.raises(ReleaseError, match=r"contains no report\.html\.j2"):
        page_of(model, Path("/nowhere"))
    monkeypatch.delitem(sys.modules, "ansible.module_utils.dbrelease.report.html")
    monkeypatch.delitem(sys.modules, "ansible.module_utils.dbrelease.report.charts")
    monkeypatch.setitem(sys.modules, "pygal", None)
    with pytest.raises(ReleaseError, match="pygal is not installed"):
        page_of(model, TEMPLATES)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_counts_read_the_same_in_each_report(run: Run, situation: str) -> None:
    model = model_of(situation, run)
    counts = model["counts"]
    said = (
        f"{counts['pass']} passed, {counts['fail']} failed, "
        f"{counts['inconclusive']} inconclusive, {counts['skipped']} skipped"
    )
    assert f"| Claims | {said} |" in as_markdown(model)
    page = report_of(situation, run).partition('<ul class="counts"')[2].partition("</ul>")[0]
    assert ", ".join(" ".join(found) for found in re.findall(r"<b>(\d+)</b> (\w+)</li>", page)) == said


class Tags(HTMLParser):
    """Whether every element that was opened is closed, and what the page names from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [values[key] or "" for key in ("src", "href", "xlink:href") if key in values]
        self.ids += [values["id"] or ""] if "id" in values else []
        assert not [key for key in values if key.startswith("on")], values
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_page_is_whole_and_names_nothing_from_elsewhere(run: Run, situation: str) -> None:
    page = report_of(situation, run)
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    assert "<script" not in page and "@import" not in page and "url(" not in page
    inside = {link for link in tags.links if link.startswith("#")}
    assert set(tags.links) - inside == {"data:,"}
    assert {link[1:] for link in inside} <= set(tags.ids), "every link leads somewhere"
    assert len(tags.ids) == len(set(tags.ids))
    assert page == report_of(situation, run), "the same evidence always is the same page"
    assert page.encode("utf-8", "strict") and not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", page)


def test_the_verdict_comes_first_and_the_cause_next(run: Run) -> None:
    page = report_of("failed_verification", run)
    places = [page.index(text) for text in ("FAILED", "2 rows are missing.", "rollback.yml -i test", 'id="checklist"')]
    assert places == sorted(places)


def test_what_a_success_left_open_precedes_the_way_back(run: Run) -> None:
    left = {
        **model_of("deployed", run)["proofs"][0],
        "status": "inconclusive",
        "detail": "It is <there>.",
        "remedy": "Go.",
    }
    page = report_of("deployed", run, proofs=[left])
    assert "is inconclusive: It is &lt;there&gt;. Go.</p>" in page
    assert page.index('id="open"') < page.index('id="way-back"')
    assert 'id="open"' not in report_of("failed_verification", run, proofs=[left])


def test_of_claims_of_one_name_the_one_that_does_not_hold_is_linked() -> None:
    proofs = [{"name": "a", "status": status} for status in ("pass", "fail", "pass")]
    assert anchors(proofs) == {"a": {"anchor": "claim-2", "status": "fail"}}


def test_the_timeline_stays_within_its_track(run: Run) -> None:
    for situation in SITUATIONS:
        for bar in timeline({**model_of(situation, run)}):
            assert 0 <= float(bar["left"]) <= 99 and 0 < float(bar["width"]) <= 100 - float(bar["left"]) + 0.01


TABLE = {"table": "t", "rows": 3, "fingerprint": "f"}
COUNTED: list[tuple[str, dict[str, Any] | None, Any, dict[str, Any]]] = [
    ("unchanged", {"rows": 3, "fingerprint": "f"}, "pass", {"after": 3, "change": 0, "same": True}),
    ("grown", {"rows": 5, "fingerprint": "g"}, "fail", {"after": 5, "change": 2, "same": False}),
    ("other content", {"rows": 3, "fingerprint": "g"}, "fail", {"after": 3, "change": 0, "same": False}),
    ("gone", None, "fail", {"after": None, "change": None, "same": None}),
]


@pytest.mark.parametrize(("_", "observed", "status", "expected"), COUNTED, ids=[row[0] for row in COUNTED])
def test_rows_before_and_after(_: str, observed: Any, status: str, expected: dict[str, Any]) -> None:
    proofs = [{"name": "untouched.t", "observed": observed, "status": status}]
    assert row_counts({"tables": [TABLE]}, proofs) == [{"table": "t", "before": 3, "status": status, **expected}]
    (unseen,) = row_counts({"tables": [TABLE]}, [])
    assert unseen["after"] is None and unseen["status"] is None


def test_each_number_of_the_samples_has_its_chart() -> None:
    charts = {chart.title: chart for chart in monitoring_charts({"samples": SAMPLES})}
    assert list(charts) == ["Latency (p95)", "Errors", "Connections", "Growth", "Drift", "Replication"]
    assert charts["Latency (p95)"].series == [Series("orders", [9 + minute % 5 for minute in range(40)])]
    assert [one.name for one in charts["Errors"].series] == ["backend", "worker"]
    assert [one.name for one in charts["Connections"].series] == ["active", "idle"]
    assert charts["Errors"].labels[1] == "03:01:00"
    assert monitoring_charts({"earlier": SAMPLES[:-1], "samples": SAMPLES[-1:]}) == [*charts.values()]
    assert monitoring_charts(None) == monitoring_charts({"samples": []}) == []
    assert monitoring_charts({"samples": SAMPLES[:1]}) == [], "one sample is no series"


@pytest.mark.parametrize(
    ("situation", "says"),
    [
        ("rolled_back", "already rolled back or restored. Remove the cause"),
        ("failed_rollback", "ansible-playbook restore.yml -i test"),
        ("failed_restore", "ansible-playbook restore.yml -e restore_swap_back=app_old_1"),
        ("failed_restore", "moved no revision; the timeline and the claims show what it changed"),
        ("interrupted", "Unknown: the migration ended without"),
        ("refused", "Nothing to roll back: this run did not start to change the database"),
    ],
)
def test_it_explains_a_run_that_did_not_end_as_requested(run: Run, situation: str, says: str) -> None:
    assert says in " ".join(report_of(situation, run).split())


def test_the_course_of_a_long_step_is_drawn(run: Run) -> None:
    points = [{"second": float(second), "done": 10 * second} for second in range(1, 400)]
    dump = {"stage": "backup", "step": "dump", "what": "", "unit": "bytes", "total": 4000, "points": points}
    (chart, unknown) = progress_charts([dump, {**dump, "points": points[:2]}, {**dump, "step": "<unknown>"}])
    assert chart.title == "Dumping the database and reading its baseline"
    assert (chart.unit, len(chart.labels) <= POINTS_AT_MOST, max(chart.known)) == ("bytes", True, 3990)
    assert unknown.title == "<unknown>"
    assert 'id="progress"' not in report_of("deployed", run)
    page = report_of("deployed", run, progress=[dump, {**dump, "step": "<unknown>"}])
    assert 'id="progress"' in page and chart.title in page and "<unknown>" not in page


def test_the_newest_sample_is_reported_in_full() -> None:
    growth = {"total": 9000, "latest": "2026-01-02T03:04:05.678+00:00"}
    reported = {
        one["section"]: one["text"]
        for one in newest_sample({"samples": [SAMPLES[0], {**SAMPLES[1], "growth": growth}]})
    }
    assert reported["Latency ms"] == "orders p50 6, orders p95 10, orders max 20"
    assert reported["Statuses"] == "orders 200"
    assert reported["Growth"] == "total 9000, latest 2026-01-02 03:04:05 UTC"
    assert "Queue depth" not in reported and "Verdict" not in reported
    assert newest_sample(None) == []


def test_many_samples_become_few_points_and_the_worst_stays() -> None:
    samples = [{"taken_at": "", "drift": 7 if number == 1234 else 0} for number in range(3000)]
    (chart,) = monitoring_charts({"samples": samples})
    assert len(chart.labels) == len(chart.series[0].values) <= POINTS_AT_MOST
    assert max(chart.known) == 7


def test_who_stood_in_the_way_is_drawn_with_the_age_of_its_transaction() -> None:
    migration = {"started_at": "2026-01-02T03:00:10+00:00", "duration_ms": 5000}
    waits: list[dict[str, Any]] = [{"pid": 7, "user": "app", "since": "2026-01-02T03:00:00+00:00"}, {"pid": 8}]
    (chart,) = lock_charts({**migration, "lock_waits": waits})
    assert (chart.labels, chart.known) == (["7 app"], [15.0])
    assert lock_charts({**migration, "lock_waits": []}) == lock_charts(None) == []


CHARTS: list[tuple[str, Chart, bool]] = [
    ("near", Chart("a", "bars", ["x"], [Series("s", [1]), Series("t", [2])]), False),
    ("far apart", Chart("a", "bars", ["x"], [Series("s", [0.02]), Series("t", [900])]), True),
    ("zero", Chart("a", "bars", ["x"], [Series("s", [0])]), False),
    ("a gap", Chart("a", "lines", ["x", "y", "z"], [Series("s", [1, None, 3])]), False),
    ("one point", Chart("a", "lines", ["x"], [Series("s", [1])]), False),
    ("below zero", Chart("a", "lines", ["x", "y"], [Series("s", [-5, 5])]), False),
    ("nothing", Chart("a", "stack", ["x"], [Series("s", [None])]), False),
    ("markup", Chart("<b>&", "bars", ["<i>"], [Series("<script>alert(1)</script>", [1])]), False),
    ("many series", Chart("a", "stack", ["x"], [Series(str(n), [n]) for n in range(20)]), False),
]


@pytest.mark.parametrize(("_", "chart", "logarithmic"), CHARTS, ids=[row[0] for row in CHARTS])
def test_any_numbers_can_be_drawn(_: str, chart: Chart, logarithmic: bool) -> None:
    picture = draw(chart)
    assert is_logarithmic(chart) == logarithmic
    assert 'role="img"' in picture and "aria-label=" in picture
    assert not re.search(r"<(script|style|b|i)\b|\bid=", picture)
    assert picture == draw(chart)


def test_the_forecast_and_the_actual_are_a_table(run: Run) -> None:
    figures = {"duration_ms": 9.0, "blocked_ms": 4.0, "size_bytes": 1, "wal_bytes": 2, "temp_bytes": 0, "table": "<b>"}
    cost = {"forecast": None, "actual": {**figures, "rewritten": []}, "sentences": ["a & b"]}
    assert 'id="cost"' not in report_of("deployed", run)
    page = report_of("deployed", run, cost=cost)
    assert "<td>not rehearsed</td><td>4 ms (&lt;b&gt;)</td>" in page
    assert "<li>a &amp; b</li>" in page
