"""The numbers of the evidence that become charts: before and after, and their course during the watch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from ..core.progress_view import PARTS, STEPS

Kind = Literal["bars", "lines", "stack"]
Rows = Sequence[Mapping[str, Any]]
POINTS_AT_MOST = 96
TABLES_AT_MOST, COURSES_AT_MOST = 12, 12
PERCENTILES = ("p50", "p95", "max")
STACKED = {"errors", "connections"}  # parts of a whole
UNITS = {"_ms": "ms", "_s": "s", "_seconds": "s", "_bytes": "bytes", "_percent": "%"}
# Of a sample, the keys that identify it and give its result.
NO_SERIES = {"taken_at", "verdict", "findings", "statuses"}


@dataclass(frozen=True)
class Series:
    """Numbers under one name, one for each label of the chart; None where a number is missing."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Chart:
    """The content of a chart, before it is drawn."""

    title: str
    kind: Kind
    labels: Sequence[str]
    series: Sequence[Series]
    unit: str = ""

    @property
    def known(self) -> list[float]:
        """Every number in it."""
        return [value for one in self.series for value in one.values if value is not None]

    @property
    def summary(self) -> str:
        """The chart in words, for readers who cannot see it."""
        parts = []
        for one in self.series:
            known = [value for value in one.values if value is not None]
            if known:
                shown = ", ".join(f"{value:g}" for value in known)
                few = len(known) <= len(PERCENTILES) + 1
                span = f"from {min(known):g} to {max(known):g}, at last {known[-1]:g}"
                parts.append(f"{one.name}: {shown if few else span}")
        return f"{self.title}{', ' + self.unit if self.unit else ''}. {'; '.join(parts) or 'No data.'}"


def number(value: object) -> float | None:
    """The value if it is a number that can be drawn."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def latency_charts(api: Mapping[str, Any]) -> list[Chart]:
    """Per endpoint: the latency before and after, where it was measured."""
    before, after = api.get("before") or {}, api.get("after") or {}
    charts = []
    for endpoint in dict.fromkeys([*before, *after]):
        series = [
            Series(name, [number((side[endpoint].get("latency_ms") or {}).get(key)) for key in PERCENTILES])
            for name, side in (("before", before), ("after", after))
            if endpoint in side
        ]
        chart = Chart(str(endpoint), "bars", PERCENTILES, series, "ms")
        if chart.known:
            charts.append(chart)
    return charts


def row_counts(baseline: Mapping[str, Any] | None, proofs: Rows) -> list[dict[str, Any]]:
    """Per table: rows and fingerprint of the baseline, and those that the run read afterwards, if it did."""
    found = {
        proof["name"].removeprefix("untouched."): proof for proof in proofs if proof["name"].startswith("untouched.")
    }
    counted = []
    for table in (baseline or {}).get("tables") or ():
        proof = found.get(table["table"])
        observed = proof["observed"] if proof and isinstance(proof["observed"], Mapping) else {}
        after = number(observed.get("rows"))
        same = observed["fingerprint"] == table["fingerprint"] if "fingerprint" in observed else None
        before = number(table["rows"])
        change = after - before if after is not None and before is not None else None
        status = proof["status"] if proof else None
        counted.append(
            {
                "table": table["table"],
                "before": before,
                "after": after,
                "change": change,
                "same": same,
                "status": status,
            }
        )
    return counted


def row_charts(counted: Rows) -> list[Chart]:
    """The rows of each table before and after, unless there are too many tables for one chart."""
    if not counted or len(counted) > TABLES_AT_MOST:
        return []
    series = [Series(side, [row[side] for row in counted]) for side in ("before", "after")]
    known = [one for one in series if any(value is not None for value in one.values)]
    return [Chart("Rows", "bars", [row["table"] for row in counted], known)]


def lock_charts(migration: Mapping[str, Any] | None) -> list[Chart]:
    """How old the blocking transactions were when the upgrade ended."""
    ages: dict[str, float] = {}
    for row in (migration or {}).get("lock_waits") or ():
        try:
            began = datetime.fromisoformat(str((migration or {}).get("started_at")))
            age = (began - datetime.fromisoformat(str(row.get("since")))).total_seconds()
        except (ValueError, TypeError):
            continue
        took = number((migration or {}).get("duration_ms")) or 0
        name = " ".join(str(row[key]) for key in ("pid", "user", "application") if row.get(key) is not None)
        ages[name] = round(max(0.0, age + took / 1000), 1)
    if not ages:
        return []
    title = "Age of the blocking transactions at the end of the upgrade"
    return [Chart(title, "bars", list(ages), [Series("age", list(ages.values()))], "s")]


def progress_charts(progress: Rows) -> list[Chart]:
    """How far each long step was by the second; two readings are no course."""
    charts = []
    for one in progress:
        points = one["points"]
        if len(points) > 2:
            title = f"{STEPS.get(one['step'], one['step'])}{PARTS.get(one['what'], '')}"
            labels = [f"{point['second']:g} s" for point in points]
            done = Series("done", [number(point["done"]) for point in points])
            charts.append(_thinned(Chart(title[:1].upper() + title[1:], "lines", labels, [done], one["unit"])))
    return charts[:COURSES_AT_MOST]


def samples_of(monitoring: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The samples of earlier runs and of this one, oldest first."""
    found = [*((monitoring or {}).get("earlier") or ()), *((monitoring or {}).get("samples") or ())]
    return [sample for sample in found if isinstance(sample, Mapping)]


def monitoring_charts(monitoring: Mapping[str, Any] | None) -> list[Chart]:
    """A chart for each number of the samples, in order of appearance; one sample is no series."""
    samples = samples_of(monitoring)
    charts: list[Chart] = []
    if len(samples) < 2:
        return charts
    days = {str(sample.get("taken_at") or "")[:10] for sample in samples}
    for key in dict.fromkeys(key for sample in samples for key in sample):
        if key in NO_SERIES:
            continue
        rows = [dict(_numbers(key, sample.get(key))) for sample in samples]
        names = list(dict.fromkeys(name for row in rows for name in row))
        if not names:
            continue
        labels = [_clock(sample, dated=len(days) > 1) for sample in samples]
        series = [Series(name or _words(key), [row.get(name) for row in rows]) for name in names]
        kind: Kind = "stack" if key in STACKED else "lines"
        charts.append(_thinned(Chart(_words(key), kind, labels, series, _unit(key))))
    return charts


def _numbers(key: str, value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """A number, or the numbers of a mapping with their names; of a latency only the 95th percentile."""
    if isinstance(value, Mapping):
        if name and "p95" in value:
            value = {"": value["p95"]}
        elif isinstance(value.get("by_state"), Mapping):  # the total is their sum
            value = value["by_state"]
        for inner, item in value.items():
            yield from _numbers(key, item, " ".join(part for part in (name, str(inner)) if part))
    elif (drawn := number(value)) is not None:
        yield name, drawn


def _words(key: str) -> str:
    if key == "latency_ms":
        return "Latency (p95)"
    for ending in UNITS:
        key = key.removesuffix(ending)
    return key.replace("_", " ").strip().capitalize()


def _unit(key: str) -> str:
    return next((unit for ending, unit in UNITS.items() if key.endswith(ending)), "")


def _clock(sample: Mapping[str, Any], *, dated: bool) -> str:
    """The time of a moment (`2026-01-02T03:04:05...`), or its day and time, for an axis."""
    taken_at = str(sample.get("taken_at") or "")
    return taken_at[5:16].replace("T", " ") if dated else taken_at[11:19]


def _thinned(chart: Chart) -> Chart:
    """The chart with few enough points to distinguish them; of each group the highest, which is the worst."""
    size = math.ceil(len(chart.labels) / POINTS_AT_MOST)
    if size <= 1:
        return chart
    starts = range(0, len(chart.labels), size)
    series = [
        Series(one.name, [max((v for v in one.values[at : at + size] if v is not None), default=None) for at in starts])
        for one in chart.series
    ]
    return Chart(chart.title, chart.kind, [chart.labels[at] for at in starts], series, chart.unit)
