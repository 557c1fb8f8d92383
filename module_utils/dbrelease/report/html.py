"""The evidence as one HTML file without scripts or external resources; needs pygal and Jinja2."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..core.markdown import duration
from ..core.plain_text import printable_parts
from ..observe.cost import cost_rows
from .charts import SERIES_AT_MOST, color, draw, is_logarithmic
from .markdown_report import OUTCOME_WORDS
from .next_actions import no_way_back
from .problems import open_points_of, warnings_of
from .series import (
    Chart,
    latency_charts,
    lock_charts,
    monitoring_charts,
    progress_charts,
    row_charts,
    row_counts,
    samples_of,
)

TEMPLATE = "report.html.j2"
VALUE_LENGTH = 2000
SAMPLE_ROWS = 20
TONES = {
    **dict.fromkeys(("pass", "passed", "proved"), "good"),
    **dict.fromkeys(("fail", "failed", "refused", "interrupted"), "bad"),
    **dict.fromkeys(("inconclusive", "started"), "open"),
}
OUTCOME_TONES = {
    **dict.fromkeys(("deployed", "already_deployed", "restored", "planned"), "good"),
    **dict.fromkeys(("rolled_back", "refused"), "open"),
    "failed": "bad",
}
NO_VALUES = {"taken_at", "verdict", "findings"}  # of a sample
MARKS = {"good": "✓", "bad": "✗", "open": "!", "none": "·"}


def as_html(model: Mapping[str, Any], templates: Path) -> str:
    """The whole page; the same model always yields the same page."""
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        duration=duration, moment=moment, value=shown, size=size, tone=tone, mark=mark, grouped=grouped, keyed=keyed
    )
    clean = printable_parts(model)
    rows = row_counts(clean["baseline"], clean["proofs"])
    return environment.get_template(TEMPLATE).render(
        model=clean,
        outcome_word=OUTCOME_WORDS.get(clean["outcome"], clean["outcome"].replace("_", " ").upper()),
        outcome_tone=outcome_tone(clean),
        style=Markup((templates / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - a file of these templates
        claims=claims(clean["proofs"]),
        anchors=anchors(clean["proofs"]),
        no_way_back=no_way_back(clean),
        open_points=open_points_of(clean),
        warnings=warnings_of(clean),
        timeline=timeline(clean),
        latency=[drawn(chart) for chart in latency_charts(clean["api"])],
        rows=rows,
        row_pictures=[drawn(chart) for chart in row_charts(rows)],
        no_waits=no_waits(clean),
        lock_pictures=[drawn(chart) for chart in lock_charts(clean["migration"])],
        courses=[drawn(chart) for chart in progress_charts(clean["progress"])],
        monitoring=[drawn(chart) for chart in monitoring_charts(clean.get("monitoring"))],
        newest=newest_sample(clean.get("monitoring")),
        sample_rows=SAMPLE_ROWS,
        cost_rows=cost_rows(clean["cost"]["forecast"], clean["cost"]["actual"]) if clean.get("cost") else (),
    )


def outcome_tone(model: Mapping[str, Any]) -> str:
    """Green only for a requested outcome."""
    own = str(OUTCOME_TONES.get(model["outcome"], "open"))
    return own if model["succeeded"] or own != "good" else "open"


def tone(status: str) -> str:
    """What a status means at a glance."""
    return str(TONES.get(status, "none"))


def mark(status: str) -> str:
    """A sign for readers who cannot distinguish colours."""
    return MARKS[tone(status)]


def drawn(chart: Chart) -> dict[str, Any]:
    """A chart for the template, with its legend."""
    # pygal builds the element with ElementTree, which escapes the data.
    svg = Markup(draw(chart))  # noqa: S704
    legend = [
        {"name": one.name, "color": color(chart, place)} for place, one in enumerate(chart.series[:SERIES_AT_MOST])
    ]
    return {"chart": chart, "svg": svg, "logarithmic": is_logarithmic(chart), "legend": legend}


def claims(proofs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The claims by step, each with its anchor in the page."""
    placed = [{**proof, "anchor": f"claim-{number}"} for number, proof in enumerate(proofs, start=1)]
    steps = dict.fromkeys(proof["step"] for proof in placed)
    return [{"step": step, "proofs": [proof for proof in placed if proof["step"] == step]} for step in steps]


def anchors(proofs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The anchor of each claim: of several with one name the first that failed, else the last."""
    found: dict[str, dict[str, str]] = {}
    for number, proof in enumerate(proofs, start=1):
        if found.get(proof["name"], {}).get("status") != "fail":
            found[proof["name"]] = {"anchor": f"claim-{number}", "status": proof["status"]}
    return found


def timeline(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stages with the start and the length of each, in percent of the run."""
    starts = [instant(stage["started_at"]) for stage in model["stages"]]
    began = instant(model["started_at"]) or min((start for start in starts if start is not None), default=0.0)
    ends = [
        start + (stage["duration_ms"] or 0) / 1000
        for stage, start in zip(model["stages"], starts, strict=True)
        if start
    ]
    whole = max([instant(model["ended_at"]) or began, began, *ends]) - began or 1.0
    bars = []
    for stage, start in zip(model["stages"], starts, strict=True):
        left = min(99.0, max(0.0, ((start or began) - began) / whole * 100))
        width = min(100 - left, max(0.4, (stage["duration_ms"] or 0) / 10 / whole))
        bars.append({**stage, "left": f"{left:.2f}", "width": f"{width:.2f}"})
    return bars


def no_waits(model: Mapping[str, Any]) -> str:
    """Why the page shows no wait of the migration for a lock."""
    attempts = (model["migration"] or {}).get("attempts")
    if attempts:
        return "None: no other session blocked it."
    moves = [stage["status"] for stage in model["stages"] if stage["step"] in ("upgrade", "downgrade")]
    unknown = attempts is None and any(status in ("interrupted", "failed") for status in moves)
    return "Unknown: the migration ended without reporting them." if unknown else "The migration was not attempted."


def newest_sample(monitoring: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Everything that the newest sample observed, by section; values that it could not observe are omitted."""
    samples = samples_of(monitoring) or [{}]
    texts = {key: ", ".join(_values(value)) for key, value in samples[-1].items() if key not in NO_VALUES}
    return [{"section": key.replace("_", " ").capitalize(), "text": text} for key, text in texts.items() if text]


def _values(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner, item in value.items():
            yield from _values(item, f"{name} {inner}".strip())
    elif value is not None:
        yield f"{name} {moment(value) if isinstance(value, str) else shown(value)}".strip()


def instant(moment_: str | None) -> float | None:
    """Seconds since the epoch of an ISO 8601 moment."""
    try:
        return datetime.fromisoformat(moment_ or "").timestamp()
    except ValueError:
        return None


def moment(value: str | None) -> str:
    """An ISO 8601 moment in readable form: `2026-01-02 03:04:05 UTC`."""
    try:
        parsed = datetime.fromisoformat(value or "")
    except ValueError:
        return str(value or "")
    return f"{parsed:%Y-%m-%d %H:%M:%S} {parsed.tzname() or ''}".strip()


def shown(value: Any) -> str:
    """A value as text: a string unchanged, anything else as JSON; truncated where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_LENGTH else f"{text[:VALUE_LENGTH]} … (whole in evidence.json)"


def size(value: int | float | None) -> str:
    """A number of bytes in readable form."""
    amount = float(value or 0)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"


def grouped(value: int | float | None) -> str:
    """A whole number with thousands separators."""
    return "" if value is None else f"{value:,.0f}".replace(",", "\u202f")


def keyed(proof: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Expected and observed side by side for each key, where both are mappings that share a key; else nothing."""
    expected, observed = proof["expected"], proof["observed"]
    if not isinstance(expected, Mapping) or not isinstance(observed, Mapping) or not expected.keys() & observed.keys():
        return []
    return [
        {
            "key": key,
            "expected": shown(expected[key]) if key in expected else "",
            "observed": shown(observed[key]) if key in observed else "",
            "differs": key in expected and key in observed and expected[key] != observed[key],
        }
        for key in dict.fromkeys([*expected, *observed])
    ]
