"""Charts as inline SVG by pygal: shapes only; the page's style sheet sets colours, fonts and dark mode."""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element

import pygal
from pygal.style import Style

from .series import Chart

WIDTH = 380
SERIES_AT_MOST = 8  # the number of colours in the style sheet
LOGARITHMIC_FROM = 20  # greatest to smallest: below that, a linear scale shows both
NO_MARKUP = {"script", "style", "title", "desc"}
COMMON = {
    "js": [],
    "css": [],
    "explicit_size": False,
    "show_dots": False,
    "margin": 4,
    "margin_right": 28,  # half of the last label of a time axis
    "show_legend": False,  # the page prints it, as text that wraps
    "style": Style(label_font_size=12, major_label_font_size=12, value_font_size=12),  # the space that they need
    "truncate_label": 24,
    "tooltip_border_radius": 0,
    "no_data_text": "",
    "spacing": 8,
}


def draw(chart: Chart) -> str:
    """The chart as an `svg` element, as wide as its container; the same chart always yields the same text."""
    graph = _bars(chart) if chart.kind == "bars" else _over_time(chart)
    for series in chart.series[:SERIES_AT_MOST]:
        graph.add(series.name, list(reversed(series.values)) if chart.kind == "bars" else series.values)
    graph.add_xml_filter(lambda root: _plain(root, chart))
    return graph.render(is_unicode=True, disable_xml_declaration=True)


def is_logarithmic(chart: Chart) -> bool:
    """Whether the numbers of a bar chart are so far apart that the small ones would vanish."""
    positive = [value for value in chart.known if value > 0]
    return chart.kind == "bars" and bool(positive) and max(positive) / min(positive) >= LOGARITHMIC_FROM


def short(value: float | None) -> str:
    """A number as printed at a bar or an axis."""
    if value is None:
        return ""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    return f"{value:.4g}"


def _bars(chart: Chart) -> pygal.Graph:
    positive = [value for value in chart.known if value > 0]
    logarithmic = is_logarithmic(chart)
    lowest = math.pow(10.0, math.floor(math.log10(min(positive)))) if logarithmic else 0.0
    room = max([1.0, *positive])
    graph = pygal.HorizontalBar(
        **COMMON,
        width=WIDTH,
        height=12 + 21 * len(chart.labels) * len(chart.series),
        print_values=True,
        print_values_position="top",
        value_formatter=short,
        logarithmic=logarithmic,
        range=(
            lowest,
            room * (room / lowest) ** 0.12 if logarithmic else room * 1.12,
        ),  # room for the value after its bar
        zero=lowest,
        y_labels=None if logarithmic else [lowest, room * 1.12],  # else the axis extends to the next round number
        rounded_bars=2,
        show_x_labels=False,
        show_x_guides=False,
        show_y_guides=False,
    )
    # Horizontal bars grow upwards: the first one to read comes last.
    graph.x_labels = list(reversed(chart.labels))
    return graph


def _over_time(chart: Chart) -> pygal.Graph:
    kind = pygal.StackedBar if chart.kind == "stack" else pygal.Line
    lowest, highest = min([0.0, *chart.known]), _highest(chart)
    graph = kind(
        **{**COMMON, "spacing": 2},
        width=WIDTH,
        height=190,
        value_formatter=short,
        range=(lowest, highest),
        y_labels=_steps(lowest, highest),
        show_minor_x_labels=False,
        x_labels_major_count=4,
        stroke_style={"width": 2},
    )
    graph.x_labels = list(chart.labels)
    return graph


def color(chart: Chart, number: int) -> int:
    """The colour of a series in the style sheet; the first is grey, for values that only serve comparison."""
    return (number if chart.kind == "bars" else number + 1) % SERIES_AT_MOST


def _highest(chart: Chart) -> float:
    columns = zip(*(one.values for one in chart.series), strict=True)
    tops = [float(sum(v or 0 for v in column)) for column in columns] if chart.kind == "stack" else chart.known
    return max([1.0, *tops])


def _steps(lowest: float, highest: float) -> list[float]:
    """Four or five round values for an axis."""
    rough = (highest - lowest) / 4
    power = math.pow(10.0, math.floor(math.log10(rough)))
    step = max(1.0, next(power * part for part in (1, 2, 2.5, 5, 10) if power * part >= rough))
    first = math.floor(lowest / step)
    return [step * at for at in range(first, math.ceil(highest / step) + 1)]


def _plain(root: Element, chart: Chart) -> Element:
    """Remove scripts, styles and tooltips, and add a text for readers who cannot see the chart."""
    for parent in list(root.iter()):
        for child in list(parent):
            name = child.tag.rpartition("}")[2] if isinstance(child.tag, str) else "comment"
            if name in (*NO_MARKUP, "comment") or "tooltip" in child.get("class", "").split():
                parent.remove(child)
    for element in root.iter():
        words = element.get("class", "").split()
        colors = [f"color-{color(chart, int(word[6:]))}" if word.startswith("color-") else word for word in words]
        element.set("class", " ".join(colors))
        for attribute in ("id", "clip-path", "style"):
            element.attrib.pop(attribute, None)
        if element.get("class") == "value" and chart.kind == "bars":
            element.set("text-anchor", "start")
            element.set("x", f"{float(element.get('x', '0')) + 2:.1f}")
    root.set("role", "img")
    root.set("aria-label", chart.summary)
    root.set("class", f"chart {chart.kind}")
    return root
