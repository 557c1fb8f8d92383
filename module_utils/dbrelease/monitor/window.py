"""A watch: its window, and the verdict on the samples of the window, claim by claim."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.clock import SECOND_NS, moment, nanoseconds
from ..core.history import Sample
from ..core.progress import Reading
from ..core.proof import Proof, Status

TITLES = {
    "api": "The API keeps its contract",
    "latency": "The API is as fast as before",
    "revision": "The database is at the release's revision",
    "connections": "The server has connections to spare",
    "growth": "The growth of the release's table was watched",
    "drift": "No row was written by code without the release",
    "queue": "The worker keeps up with its queue",
    "replication": "The standbys keep up",
    "dead_rows": "Vacuum keeps up with the release's tables",
    "samples": "The watch took its samples, and they keep their limits",
}
REMEDY = "Read the findings of the samples, remove the cause and watch again, or use one of the ways back."
SHOWN_FINDINGS = 3
# Sparse samples prove nothing about the time between: after so many intervals without one, it was not observed.
GAP_INTERVALS, SHORTEST_GAP_S = 4, 60
LONGEST_S = 172_800


def most_samples(seconds: int, interval_s: int) -> int:
    """The maximum number of samples in a window, whether it starts now or is resumed."""
    return 1 + math.ceil(seconds / interval_s)


@dataclass(frozen=True)
class Watch:
    """A window of samples: `seconds` long, one sample every `interval_s`."""

    begin_ns: int
    seconds: int
    interval_s: int

    @classmethod
    def of(cls, watch: Mapping[str, Any]) -> Watch:
        """From the form that modules and the journal pass on."""
        begin_ns = nanoseconds(watch["started_at"])
        return cls(begin_ns or 0, watch["seconds"], watch["interval_seconds"])

    def facts(self) -> dict[str, Any]:
        """That form."""
        return {
            "started_at": moment(self.begin_ns),
            "seconds": self.seconds,
            "interval_seconds": self.interval_s,
        }

    @property
    def largest_gap_s(self) -> int:
        """The longest time without a sample that counts as watched."""
        return max(SHORTEST_GAP_S, GAP_INTERVALS * self.interval_s)

    def is_over(self, now_ns: int) -> bool:
        """Whether the window has passed."""
        return now_ns >= self.begin_ns + self.seconds * SECOND_NS

    def wait_s(self, last_ns: int | None, now_ns: int) -> float:
        """How long until the next sample is due, after the last one of the same run; 0 before its first."""
        if last_ns is None or self.is_over(last_ns):
            return 0.0
        return max(0.0, (last_ns - now_ns) / SECOND_NS + self.interval_s)

    def progress(self) -> Reading:
        """How much of it has passed."""
        return Reading(max(0, (time.time_ns() - self.begin_ns) // SECOND_NS), self.seconds, "seconds")

    def samples_left(self, now_ns: int) -> int:
        """How many samples are still to be taken, the first of them immediately."""
        left_s = (self.begin_ns + self.seconds * SECOND_NS - now_ns) / SECOND_NS
        return 1 + max(0, math.ceil(left_s / self.interval_s))


@dataclass(frozen=True)
class Tally:
    """The verdicts on one claim, in the order of the samples that have it; unanswered: because the server could not."""

    verdicts: tuple[str, ...]
    grave: bool
    details: tuple[str, ...]
    unanswered: tuple[bool, ...]

    @classmethod
    def of(cls, claims: Sequence[Mapping[str, Any]]) -> Tally:
        """From one claim of each sample."""
        details = tuple(dict.fromkeys(claim["detail"] for claim in claims if claim["detail"]))
        # Earlier versions did not record the last one.
        unanswered = tuple(bool(claim.get("could_not_run")) for claim in claims)
        verdicts, grave = tuple(claim["verdict"] for claim in claims), any(claim["grave"] for claim in claims)
        return cls(verdicts, grave, details, unanswered)

    @property
    def failed(self) -> int:
        """How many samples failed."""
        return self.verdicts.count("fail")

    @property
    def could_not_run(self) -> bool:
        """Whether nothing is known: no sample has an answer, or every one that failed failed because the server did."""
        failed = [one for one, verdict in zip(self.unanswered, self.verdicts, strict=True) if verdict == "fail"]
        return all(failed) if failed else all(self.unanswered) and bool(self.unanswered)

    @property
    def in_a_row(self) -> int:
        """The most consecutive samples that failed."""
        longest = run = 0
        for verdict in self.verdicts:
            run = run + 1 if verdict == "fail" else 0
            longest = max(longest, run)
        return longest

    def exceeds(self, limits: Mapping[str, int], *, ended: bool) -> bool:
        """Whether too many failed, one concerns the release, or, in a window that has ended, all failed."""
        return (
            (self.grave and self.failed > 0)
            or self.failed >= limits["failed_samples"]
            or self.in_a_row >= limits["consecutive_failed_samples"]
            or (ended and self.failed == len(self.verdicts) > 0)
        )


def tallies(samples: Sequence[Sample]) -> dict[str, Tally]:
    """One for each claim, in order of first appearance; the last, `samples`, is about whole samples."""
    claims: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        for claim in sample.facts["claims"]:
            claims.setdefault(claim["name"], []).append(claim)
    claims["samples"] = [_as_one(one) for one in samples]
    return {name: Tally.of(made) for name, made in claims.items()}


def _as_one(sample: Sample) -> dict[str, Any]:
    """The claim on a whole sample."""
    verdict = sample.facts["verdict"]
    decisive = [claim for claim in sample.facts["claims"] if claim["verdict"] == verdict]
    unanswered = verdict == "fail" and all(claim.get("could_not_run") for claim in decisive)
    return {"verdict": verdict, "grave": False, "detail": "", "could_not_run": unanswered}


def exceeded(samples: Sequence[Sample], limits: Mapping[str, int]) -> bool:
    """Whether a window that has not ended has already failed."""
    return any(tally.exceeds(limits, ended=False) for tally in tallies(samples).values())


def judge(
    samples: Sequence[Sample],
    monitoring: Mapping[str, Any],
    *,
    watched_s: int,
    unseen: str,
    deployed_s: int | None,
) -> list[Proof]:
    """A proof for each claim, monitor.<claim>; skipped where the target does not have what it is about.

    A claim about a period is proved only if that period was watched.
    watched_s: how long the window was. unseen: the part of it without samples, in a sentence; the windows of a log are
    contiguous nevertheless. deployed_s: how many seconds since the deployment the samples cover.
    """
    limits = monitoring["limits"]
    titles = {log["name"]: log["title"] for log in monitoring.get("logs") or ()}
    proofs = []
    for name, tally in tallies(samples).items():
        needed, covered, gap = monitoring["window_seconds"], watched_s, "" if name in titles else unseen
        if name == "growth":
            needed = monitoring["growth"]["watched_seconds"]
            covered, gap = (watched_s, unseen) if deployed_s is None else (max(watched_s, deployed_s), "")
        status, detail = _verdict(tally, limits, covered, needed, gap)
        # Held as it is where a claim of verify could not run: neither a success, nor a reason to roll back.
        unknown = tally.could_not_run and (
            status == "fail" or tally.verdicts.count("inconclusive") == len(tally.verdicts)
        )
        if unknown:
            status = "inconclusive"
        proofs.append(
            Proof(
                f"monitor.{name}",
                titles.get(name) or TITLES.get(name, name),
                status,
                expected={**limits, "watched_seconds": needed},
                observed={
                    "samples": len(tally.verdicts),
                    "failed": tally.failed,
                    "inconclusive": tally.verdicts.count("inconclusive"),
                    "watched_seconds": covered,
                },
                detail=detail,
                remedy=REMEDY if status == "fail" else "",
                could_not_run=unknown,
            )
        )
    left_out = samples[-1].facts.get("left_out") or {} if samples else {}
    proofs += [
        Proof(f"monitor.{name}", titles.get(name) or TITLES[name], "skipped", detail=reason)
        for name, reason in left_out.items()
    ]
    return proofs


def _verdict(tally: Tally, limits: Mapping[str, int], covered: int, needed: int, gap: str) -> tuple[Status, str]:
    count, failed, open_ = len(tally.verdicts), tally.failed, tally.verdicts.count("inconclusive")
    found = " ".join(tally.details[:SHOWN_FINDINGS])
    if not count:
        return "inconclusive", "No sample was taken."
    if tally.exceeds(limits, ended=True):
        row = f", {tally.in_a_row} of them in a row" if tally.in_a_row > 1 else ""
        return "fail", f"{failed} of {count} samples failed{row}. {found}".strip()
    if failed:
        return "inconclusive", f"{failed} of {count} samples failed, which is within the limits. {found}".strip()
    if open_:
        return "inconclusive", f"{open_} of {count} samples were inconclusive. {found}".strip()
    if gap:
        return "inconclusive", f"None of {count} samples failed; {gap}"
    if covered < needed:
        return (
            "inconclusive",
            f"None of {count} samples failed, but only {covered} s of the required {needed} s were watched.",
        )
    return "pass", f"None of {count} samples failed in {covered} s."


def longest_gap(samples: Sequence[Sample], begin_ns: int, end_ns: int) -> int:
    """The longest time without a sample between two moments, in seconds."""
    return max(_gaps(samples, begin_ns, end_ns))


def unwatched(samples: Sequence[Sample], watch: Watch, now_ns: int) -> int:
    """How many seconds of a watch until now were not observed."""
    return sum(gap for gap in _gaps(samples, watch.begin_ns, now_ns) if gap > watch.largest_gap_s)


def _gaps(samples: Sequence[Sample], begin_ns: int, end_ns: int) -> list[int]:
    moments = sorted([begin_ns, *(s.at_ns for s in samples if begin_ns <= s.at_ns <= end_ns), end_ns])
    return [(later - sooner) // SECOND_NS for sooner, later in itertools.pairwise(moments)]
