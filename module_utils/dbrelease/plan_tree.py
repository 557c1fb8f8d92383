"""Reading a plan as EXPLAIN (FORMAT JSON) gives it: which indexes it seeks in, and how many rows it fetches by them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Node = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """A node in its plan: what is above it, how often it is run (an estimate), and if only as a sub-select."""

    node: Node
    above: Node
    loops: float = 1.0
    sub_select: bool = False


def places(plan: Node) -> Iterator[Place]:
    """Every node of a plan."""
    yield from _below(Place(plan, {}))


def _below(place: Place) -> Iterator[Place]:
    yield place
    children = place.node.get("Plans", [])
    outer = next((float(child["Plan Rows"]) for child in children if child["Parent Relationship"] == "Outer"), 1.0)
    for child in children:
        relation = child["Parent Relationship"]
        repeated = place.node["Node Type"] == "Nested Loop" and relation == "Inner"
        loops = place.loops * max(outer, 1.0) if repeated else place.loops
        yield from _below(Place(child, place.node, loops, place.sub_select or relation in ("InitPlan", "SubPlan")))


def _by_index(plan: Node, names: Collection[str]) -> Iterator[float]:
    """How many rows are fetched by each use of the index that seeks something in it."""
    for place in places(plan):
        if place.node.get("Index Name") not in names:
            continue
        if "Index Cond" in place.node or "Order By" in place.node:
            yield float(place.node["Plan Rows"]) * place.loops
        elif place.above.get("Node Type") == "Limit" and not place.sub_select:
            # The first rows in the index's order. Otherwise it is only walked from end to end, which serves nobody.
            yield float(place.above["Plan Rows"]) * place.loops


def serves(plan: Node, names: Collection[str]) -> bool:
    """Whether the plan seeks its rows in that index."""
    return any(True for _ in _by_index(plan, names))


def fetched(plan: Node, names: Collection[str]) -> float:
    """How many rows the plan would fetch by that index."""
    return max(_by_index(plan, names), default=0.0)


def indexes_of(plan: Node) -> set[str]:
    """The names of all indexes in a plan."""
    return {place.node["Index Name"] for place in places(plan) if "Index Name" in place.node}


def seeking(plan: Node, column: str, names: Collection[str]) -> Iterator[str]:
    """Those of the named indexes by which the plan seeks in a column (as the server writes it; empty for none)."""
    if column:
        sought = re.compile(rf"\({re.escape(column)} (=|<|>|<=|>=) ")
        for place in places(plan):
            if place.node.get("Index Name") in names and sought.search(place.node.get("Index Cond", "")):
                yield place.node["Index Name"]
