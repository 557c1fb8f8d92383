"""The criteria of readiness: each a pure function of journal and observations that returns a proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from ...core.clock import SECOND_NS, moment
from ...core.history import Memory, Sample
from ...core.proof import Proof, Status
from ...verify.api import Latency
from ..verdicts import findings
from ..window import longest_gap, tallies

SHOWN = 3
LOOK = "Remove the cause, and rerun the playbook when the release has been stable for the required time since then."
WATCH = "Let monitor take samples (-e monitor_schedule=hourly), and rerun the playbook."
VERIFY = (
    "However, the database is at its revision: run the verification, from which on it counts as deployed, and let "
    "monitor take samples."
)
NEVER = "The journal records no deployment of this release, or it was rolled back or restored since."


def _proof(name: str, title: str, status: Status, detail: str, remedy: str = "", **values: Any) -> Proof:
    return Proof(f"readiness.{name}", title, status, detail=detail, remedy=remedy if status != "pass" else "", **values)


def stable(
    memory: Memory,
    readiness: Mapping[str, int],
    limits: Mapping[str, int] | None,
    now_ns: int,
    *,
    at_revision: bool = False,
) -> Proof:
    """Deployed for long enough, with samples throughout the required time; a gap does not count as stability.

    at_revision: whether the database is at the release's revision now, whatever the journal records.
    """
    needed, allowed = readiness["stable_seconds"], readiness["largest_gap_seconds"]
    title = f"The release has been stable for {_hours(needed)}"
    if memory.deployed_ns is None:
        remedy = VERIFY if at_revision else "Deploy it first."
        return _proof("stable", title, "fail", NEVER, remedy, expected={"seconds": needed})
    age = (now_ns - memory.deployed_ns) // SECOND_NS
    begin_ns = _begin(memory, readiness, now_ns)
    samples = memory.since(begin_ns)
    gap = longest_gap(samples, begin_ns, now_ns)
    values: dict[str, Any] = {
        "expected": {"seconds": needed, "largest_gap_seconds": allowed},
        "observed": {"seconds": age, "largest_gap_seconds": gap, "samples": len(samples)},
    }
    if age < needed:
        detail = f"It was deployed {_hours(age)} ago, at {moment(memory.deployed_ns)}."
        return _proof("stable", title, "fail", detail, f"Rerun the playbook in {_hours(needed - age)}.", **values)
    if gap > allowed:
        detail = f"For {_hours(gap)} no sample was taken, longer than {_hours(allowed)}: that time was not observed."
        return _proof("stable", title, "fail", detail, WATCH, **values)
    if problem := _unrest(samples, limits):
        return _proof("stable", title, "fail", problem, LOOK, **values)
    detail = f"{len(samples)} samples in the last {_hours(needed)}, at most {_hours(gap)} apart."
    return _proof("stable", title, "pass", detail, **values)


def _unrest(samples: Sequence[Sample], limits: Mapping[str, int] | None) -> str:
    """Why the samples disprove stability: too many failed, one that concerns the release, or the newest."""
    for name, tally in tallies(samples).items() if limits else ():
        found = " ".join(tally.details[:SHOWN])
        if limits and tally.in_a_row >= limits["consecutive_failed_samples"]:
            return f"{tally.in_a_row} samples in a row failed ({name}). {found}".strip()
        if limits and tally.failed >= limits["failed_samples"]:
            return f"{tally.failed} of {len(samples)} samples failed ({name}). {found}".strip()
        if tally.grave:
            return f"A sample failed on a finding that concerns the release ({name}). {found}".strip()
    if limits and (restarted := _restarted(samples, limits["consecutive_failed_samples"])):
        return restarted
    if samples and samples[-1].facts["verdict"] == "fail":
        return f"The newest sample failed. {' '.join(findings(samples[-1].facts))}".strip()
    return ""


def _restarted(samples: Sequence[Sample], limit: int) -> str:
    """The container that was restarted in the windows of too many consecutive samples; each of them proves nothing."""
    in_a_row: dict[str, int] = {}
    for name, facts in (log for sample in samples for log in (sample.facts.get("logs") or {}).items()):
        started = facts.get("started_at")
        if started is None:
            continue
        # Both timestamps have the same format, which sorts as text.
        in_a_row[name] = in_a_row.get(name, 0) + 1 if started > facts["begin"] else 0
        if in_a_row[name] >= limit:
            return f"Container {facts['container']} was restarted before each of {in_a_row[name]} samples in a row."
    return ""


def no_errors(memory: Memory, readiness: Mapping[str, int], logs: Sequence[str], now_ns: int) -> Proof:
    """No log has an error that concerns the release; a log that was not read throughout that time is inconclusive."""
    title = "No error that concerns the release was logged"
    begin_ns = _begin(memory, readiness, now_ns)
    samples = memory.since(begin_ns)
    left_out = _left_out(samples)
    logs = [name for name in logs if name not in left_out]
    if not logs:
        reason = next(iter(left_out.values()), "The release declares no log.")
        return _proof("errors", title, "skipped", reason)
    read = [(name, log) for sample in samples for name, log in (sample.facts.get("logs") or {}).items()]
    concerning = sum(log.get("concerning", 0) for _, log in read)
    errors = sum(log.get("errors", 0) for _, log in read)
    values: dict[str, Any] = {"expected": 0, "observed": {"concerning": concerning, "others": errors - concerning}}
    if concerning:
        found = next(log["sample"][0] for _, log in read if log.get("concerning"))
        return _proof("errors", title, "fail", f"{concerning} were logged, the first: {found}", LOOK, **values)
    lost = [log["lost"] for _, log in read if log.get("lost")]
    gaps = [_unread(name, samples, begin_ns, now_ns, readiness["largest_gap_seconds"]) for name in logs]
    if doubts := [*lost, *filter(None, gaps)]:
        detail = doubts[0]
        remedy = "Check that time manually, and rerun the playbook when samples cover the time since then."
        return _proof("errors", title, "inconclusive", detail, remedy, **values)
    others = f" {errors} other errors were logged." if errors else ""
    return _proof("errors", title, "pass", f"None in {len(samples)} samples.{others}", **values)


def _unread(name: str, samples: Sequence[Sample], begin_ns: int, now_ns: int, allowed: int) -> str:
    """Why the unread part of a log may hide an error; a part that a sample could not read, the next one reads.

    An empty log counts as unread: the service may log elsewhere.
    """
    logs = [(sample, (sample.facts.get("logs") or {}).get(name)) for sample in samples]
    reasons = [(sample, log.get("unread") or log.get("silent") or "") for sample, log in logs if log]
    gap = longest_gap([sample for sample, reason in reasons if not reason], begin_ns, now_ns)
    if gap <= allowed:
        return ""
    reason = next((f" {reason}" for _, reason in reversed(reasons) if reason), "")
    return f"For {_hours(gap)} no sample has read {name}, longer than {_hours(allowed)}.{reason}"


def _begin(memory: Memory, readiness: Mapping[str, int], now_ns: int) -> int:
    """The beginning of the time for which it must have been stable."""
    return max(memory.deployed_ns or 0, now_ns - readiness["stable_seconds"] * SECOND_NS)


def _left_out(samples: Sequence[Sample]) -> Mapping[str, str]:
    """The claims that the newest sample skipped because the target has no such thing, with the reason."""
    left_out: Mapping[str, str] = (samples[-1].facts.get("left_out") or {}) if samples else {}
    return left_out


def performance(samples: Sequence[Sample], latency: Mapping[str, Any] | None, baseline: Mapping[str, Any]) -> Proof:
    """The median of each endpoint, over the samples and in the newest one, is within its limit over the baseline."""
    title = "The application is as fast as before the release"
    if not latency:
        return _proof("performance", title, "skipped", "The release does not declare how to measure it.")
    if reason := _left_out(samples).get("latency"):
        return _proof("performance", title, "skipped", reason)
    limit = Latency.of(latency)
    expected, observed, slow, unknown = {}, {}, [], []
    names = sorted({*baseline, *(name for sample in samples for name in sample.facts.get("api") or {})})
    for name in names:
        before = ((baseline.get(name) or {}).get("latency_ms") or {}).get("p50")
        seen = [_p50(sample, name) for sample in samples]
        times = [time for time in seen if time is not None]
        if before is None or not times:
            unknown.append(name)
            continue
        expected[name] = round(max(limit.factor * before, limit.floor_ms), 1)
        observed[name] = round(median(times), 1)
        if observed[name] > expected[name] or seen[-1] is None or seen[-1] > expected[name]:
            newest = f"{seen[-1]} ms" if seen[-1] is not None else "no answer"
            limits = f"limit {expected[name]} ms, before {before} ms"
            slow.append(f"{name} took {observed[name]} ms (newest sample: {newest}), {limits}")
    values: dict[str, Any] = {"expected": expected, "observed": observed}
    if slow:
        remedy = "Check the load of the target and the plans of the queries behind these endpoints."
        return _proof("performance", title, "fail", f"{'; '.join(slow)}.", remedy, **values)
    if unknown or not names:
        detail = f"Nothing to compare: there is no baseline or no answer of {', '.join(unknown) or 'any endpoint'}."
        return _proof("performance", title, "inconclusive", detail, WATCH, **values)
    detail = f"The medians of {len(samples)} samples are within their limits."
    return _proof("performance", title, "pass", detail, **values)


def _p50(sample: Sample, name: str) -> float | None:
    endpoint = (sample.facts.get("api") or {}).get(name) or {}
    value = (endpoint.get("latency_ms") or {}).get("p50")
    return float(value) if value is not None else None


def drift(proofs: Sequence[Proof]) -> Proof:
    """Every drift check counts zero now."""
    title = "There is no drift: every row is as the release requires"
    if not proofs:
        return _proof("drift", title, "skipped", "The release declares no drift.")
    observed = {proof.name.removeprefix("checks."): proof.observed for proof in proofs}
    found = [f"{proof.title}: {proof.detail}" for proof in proofs if proof.status != "pass"]
    if found:
        remedy = "Run reconcile, which repairs the rows, and rerun the playbook."
        return _proof("drift", title, "fail", " ".join(found), remedy, expected=0, observed=observed)
    return _proof("drift", title, "pass", "No row violates a drift check.", expected=0, observed=observed)


def constraints(proofs: Sequence[Proof]) -> Proof:
    """Revision, columns, indexes and constraints are as declared, and valid."""
    title = "The structure is as declared, and its constraints are valid"
    found = [f"{proof.title}: {proof.detail}" for proof in proofs if proof.status != "pass"]
    if found:
        return _proof("constraints", title, "fail", " ".join(found), "Run reconcile or verify, and rerun the playbook.")
    return _proof("constraints", title, "pass", f"{len(proofs)} claims about the structure passed.")


def _hours(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds / 3600:.1f} h".replace(".0 h", " h")
