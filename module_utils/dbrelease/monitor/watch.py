"""The life of a watch in the journal: started, resumed after a kill, judged."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..core.clock import SECOND_NS
from ..core.errors import ReleaseError
from ..core.history import WATCH, Memory
from ..core.journal import Journal
from ..core.proof import failures, sentence
from ..runs.scan import is_at_work
from .window import LONGEST_S, Watch, judge, longest_gap, unwatched

MILLISECOND_NS = 1_000_000


def begin(journal: Journal, seconds: int, interval_s: int) -> dict[str, Any]:
    """Start a watch, or resume one that was killed; beside a running watch a separate window starts."""
    _check(seconds, interval_s)
    lines = journal.read()
    memory = Memory.of(lines, journal.run)
    if memory.taken_back_ns is not None:
        raise ReleaseError(
            "Watching was refused, because the release was rolled back or restored, and there is nothing to "
            "watch: deploy it again, or remove the schedule with -e monitor_schedule=absent.",
            refused=True,
        )
    now_ns = time.time_ns() // MILLISECOND_NS * MILLISECOND_NS  # the resolution of the journal

    def at_work(run_id: str) -> bool:
        return run_id != journal.run.run_id and is_at_work(lines, run_id)

    found = memory.unfinished(now_ns, at_work) if seconds else None  # a single sample is no part of another window
    watch = Watch(Watch.of(found["facts"]["watch"]).begin_ns if found else now_ns, seconds, interval_s)
    samples = memory.since(watch.begin_ns) if found else []
    # The requested time is watched in full.
    watch = replace(watch, seconds=seconds + unwatched(samples, watch, now_ns))
    taken = len(samples)
    facts = {"watch": watch.facts(), "resumed": bool(found), "taken": taken}
    journal.append(WATCH, "started", facts)
    return {
        **facts,
        "samples": watch.samples_left(now_ns) if not journal.dry else 0,
        "deployed_at": memory.deployed_at() or "",
        "proofs": [],
        "message": "",
    }


def nothing_to_watch(journal: Journal) -> dict[str, Any]:
    """Journal that the release declares no monitoring; no sample is due."""
    journal.append(WATCH, "skipped", {"message": "The release declares no monitoring."})
    none = {"watch": {}, "samples": 0, "resumed": False, "taken": 0}
    return {**none, "deployed_at": "", "proofs": [], "message": ""}


def _check(seconds: int, interval_s: int) -> None:
    if not 0 <= seconds <= LONGEST_S:
        raise ReleaseError(
            f"Watching for {seconds} s was refused: set monitor_watch_seconds to a number from 0 (one sample) to "
            f"{LONGEST_S}.",
            refused=True,
        )
    if interval_s < 1:
        raise ReleaseError(
            f"Taking a sample every {interval_s} s was refused: set monitor_interval_seconds to 1 or more.",
            refused=True,
        )


def finish(journal: Journal, monitoring: Mapping[str, Any], handed: Mapping[str, Any]) -> dict[str, Any]:
    """Judge the samples of a watch and end it; raises ReleaseError where a claim fails."""
    watch = Watch.of(handed)
    memory = Memory.of(journal.read(), journal.run)
    samples = memory.since(watch.begin_ns)
    last_ns = samples[-1].at_ns if samples else watch.begin_ns
    watched_s = (last_ns - watch.begin_ns) // SECOND_NS
    gap_s = longest_gap(samples, watch.begin_ns, last_ns)
    unseen = (
        f"no sample was taken for {gap_s} s, longer than {watch.largest_gap_s} s."
        if gap_s > watch.largest_gap_s
        else ""
    )
    judged = judge(
        samples, monitoring, watched_s=watched_s, unseen=unseen, deployed_s=_covered(memory, last_ns, monitoring)
    )
    proofs = [proof.as_dict() for proof in judged]
    message = sentence(proofs)
    window = {
        **watch.facts(),
        "watched_seconds": watched_s,
        "samples": len(samples),
        "longest_gap_seconds": gap_s,
        "deployed_at": memory.deployed_at(),
    }
    journal.append(WATCH, "failed" if message else "passed", {"window": window, "proofs": proofs})
    result = {
        "watch": watch.facts(),
        "samples": 0,
        "resumed": False,
        "taken": len(samples),
        "deployed_at": memory.deployed_at() or "",
        "proofs": proofs,
        "message": message,
    }
    if message:
        raise ReleaseError(
            message, watch=watch.facts(), taken=len(samples), proofs=proofs, could_not_run=not failures(proofs)
        )
    return result


def _covered(memory: Memory, last_ns: int, monitoring: Mapping[str, Any]) -> int | None:
    """How many seconds since the deployment the samples cover without a gap; None where they do not."""
    growth = monitoring.get("growth")
    if memory.deployed_ns is None or not growth or last_ns <= memory.deployed_ns:
        return None
    if longest_gap(memory.samples, memory.deployed_ns, last_ns) > growth["largest_gap_seconds"]:
        return None
    return (last_ns - memory.deployed_ns) // SECOND_NS
