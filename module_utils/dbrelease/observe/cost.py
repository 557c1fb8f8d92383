"""What a migration cost, in a few figures: those of a rehearsal are the forecast of the live migration's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..core.proof import Proof
from .budget import DURATION, SIZE, WRITE_WAIT, as_bytes, as_time, write_locks
from .observation import Observation

# A forecast is kept within a quarter; what is so small differs between any two runs.
TOLERANCE = 0.25
SMALL = {WRITE_WAIT: 200.0, DURATION: 10_000.0, SIZE: 1 << 20, "wal": 1 << 20}
FORECAST_TITLE = "The migration cost what the rehearsal had forecast"


@dataclass(frozen=True)
class Cost:
    """The figures of one migration; blocked_ms: the longest that it held a lock that blocks the writers of a table.

    Both a rehearsal and a live migration are sampled, so this is measured in the same way in both.
    """

    duration_ms: float
    blocked_ms: float
    size_bytes: int
    wal_bytes: int
    temp_bytes: int
    table: str = ""  # whose writers were blocked longest
    rewritten: tuple[str, ...] = ()

    @classmethod
    def of(cls, observation: Observation) -> Cost:
        """Of one that was observed."""
        longest = max(write_locks(observation), key=lambda one: one.ms, default=None)
        return cls(
            observation.duration_ms,
            longest.ms if longest else 0.0,
            observation.size_bytes,
            observation.wal_bytes,
            observation.temp_bytes,
            longest.table if longest else "",
            observation.rewritten,
        )

    def as_dict(self) -> dict[str, Any]:
        """For the evidence."""
        return {**asdict(self), "rewritten": list(self.rewritten)}


def compare(expected: Cost, actual: Cost, name: str = "migrate.forecast") -> Proof:
    """The forecast beside what the live migration cost; a difference is no failure, and is inconclusive."""
    pairs = {
        DURATION: ("duration", expected.duration_ms, actual.duration_ms, as_time),
        WRITE_WAIT: ("longest lock that blocks writers", expected.blocked_ms, actual.blocked_ms, as_time),
        SIZE: ("growth", expected.size_bytes, actual.size_bytes, as_bytes),
        "wal": ("WAL", expected.wal_bytes, actual.wal_bytes, as_bytes),
    }
    shown, differing = [], []
    for key, (what, was, now, in_words) in pairs.items():
        shown.append(f"{what} {in_words(now)} (forecast {in_words(was)})")
        if abs(now - was) > max(TOLERANCE * max(was, now), SMALL[key]):
            differing.append(what)
    detail = f"{'; '.join(shown)}."
    if differing:
        detail += f" More than {TOLERANCE:.0%} apart: {', '.join(differing)}."
    return Proof(
        name,
        FORECAST_TITLE,
        "inconclusive" if differing else "pass",
        expected={key: was for key, (_, was, _, _) in pairs.items()},
        observed={key: now for key, (_, _, now, _) in pairs.items()},
        detail=f"{detail[0].upper()}{detail[1:]}",
    )


def cost_rows(forecast: Mapping[str, Any] | None, actual: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """For a table of the two, each as `Cost.as_dict`: the figure, its forecast and its actual value."""
    return [
        (what, in_words(forecast) if forecast else "not rehearsed", in_words(actual) if actual else "not observed")
        for what, in_words in IN_WORDS.items()
    ]


def _blocked(cost: Mapping[str, Any]) -> str:
    return f"{as_time(cost['blocked_ms'])} ({cost['table']})" if cost["table"] else "none was observed"


IN_WORDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "Duration": lambda cost: as_time(cost["duration_ms"]),
    "Longest lock that blocks writers": _blocked,
    "Growth of the database": lambda cost: as_bytes(cost["size_bytes"]),
    "WAL of the server": lambda cost: as_bytes(cost["wal_bytes"]),
    "Temporary files": lambda cost: as_bytes(cost["temp_bytes"]),
    "Rewritten tables": lambda cost: ", ".join(cost["rewritten"]) or "none",
}
