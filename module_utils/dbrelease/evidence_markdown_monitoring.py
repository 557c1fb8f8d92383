"""The section of report.md on watching: the window, and what each sample came to, in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .markdown import duration, table, text

QUIET_SHOWN = 20  # of samples without a finding, the newest
HEAD = ("When", "Verdict", "Errors", "Slowest p95", "Connections", "Drift", "Queue", "Findings")
Sample = Mapping[str, Any]


def monitoring(watched: Mapping[str, Any]) -> Iterator[str]:
    """Its lines; every sample that found something has its row."""
    window, earlier, own = watched["window"], watched["earlier"], watched["samples"]
    yield "## Monitoring"
    yield ""
    if earlier:
        yield f"- In other runs since the release was deployed: {_counted(earlier)}"
    yield f"- In this run: {_counted(own) if own else 'no sample was taken'}"
    if window:
        yield (
            f"- The window was to be {window['seconds']} s long, from {text(window['started_at'])} on: "
            f"{window['watched_seconds']} s were watched, with a sample every {window['interval_seconds']} s or so "
            f"({window['samples']} in all), at most {window['longest_gap_seconds']} s apart"
        )
    elif own:
        yield "- The watch has no end in this run, and its window was not judged"
    samples = [*earlier, *own]
    quiet = [place for place, sample in enumerate(samples) if sample["verdict"] == "pass" and not sample["findings"]]
    left_out = set(quiet[:-QUIET_SHOWN])
    rows = [_row(sample) for place, sample in enumerate(samples) if place not in left_out]
    if rows:
        yield from table(HEAD, rows)
    if left_out:
        yield ""
        yield f"{len(left_out)} older samples that passed are in evidence.json."


def _counted(samples: Sequence[Sample]) -> str:
    verdicts = Counter(str(sample["verdict"]) for sample in samples)
    counted = ", ".join(f"{number} {text(verdict)}" for verdict, number in verdicts.items())
    return f"{len(samples)} {'sample' if len(samples) == 1 else 'samples'} ({counted})"


def _row(sample: Sample) -> list[str]:
    """What could not be seen is left empty, which is not nought."""
    slowest = max(
        (one["p95"] for one in sample["latency_ms"].values() if one and one.get("p95") is not None), default=None
    )
    return [
        text(sample["taken_at"]),
        text(sample["verdict"]),
        _sum(sample["errors"]),
        duration(slowest),
        text((sample["connections"] or {}).get("total")),
        _sum(sample["drift"]),
        text(sample["queue_depth"]),
        text(" ".join(sample["findings"])),
    ]


def _sum(counts: Mapping[str, int | None] | None) -> str:
    known = [count for count in (counts or {}).values() if count is not None]
    return str(sum(known)) if known else ""
