"""What the journal remembers of a release in an environment: since when it is deployed, its samples, its watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .clock import SECOND_NS, moment, of_journal
from .journal import Run, last_facts
from .outcome import TAKEN_BACK

Line = Mapping[str, Any]
SAMPLE = "sample"
WATCH = "monitor"
BASELINE = "monitor_baseline"
# Steps that pass only while the database is at the release's revision.
IS_THERE = ("finalize", "verify")
# A watch that was killed is taken up again unless it has lain for longer than it was to last and this.
RESUME_WITHIN_S = 3600


@dataclass(frozen=True)
class Sample:
    """A journaled sample."""

    at_ns: int
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Memory:
    """The lines of one release in one environment, oldest first."""

    lines: Sequence[Line]
    deployed_ns: int | None
    taken_back_ns: int | None
    samples: tuple[Sample, ...]

    @classmethod
    def of(cls, lines: Sequence[Line], run: Run) -> Memory:
        """From the whole journal; what happened before the newest deployment is ignored.

        A run that finishes an interrupted one finds the upgrade done without a line that it passed; a database may have
        been migrated by hand. Then the release is deployed since it was first finalized or verified.
        """
        own = [line for line in lines if (line["release"], line["environment"]) == (run.release, run.environment)]
        begin, deployed_ns, taken_back_ns, sampled = 0, None, None, False
        for place, line in enumerate(own):
            sampled = sampled or line["step"] == SAMPLE
            if line["event"] != "passed":
                continue
            moved = line["step"] == "upgrade" and line["facts"].get("attempts", 1)
            if moved or (line["step"] in IS_THERE and deployed_ns is None):
                begin, deployed_ns, taken_back_ns, sampled = place, of_journal(line["ts"]), None, False
            elif line["step"] == "finalize" and deployed_ns is not None and not sampled:
                deployed_ns = of_journal(line["ts"])
            elif line["step"] == "verify":
                taken_back_ns = None  # however it was migrated, it is deployed
            elif line["step"] in TAKEN_BACK:
                begin, deployed_ns, taken_back_ns, sampled = place + 1, None, of_journal(line["ts"]), False
        recent = own[begin:]
        samples = tuple(Sample(of_journal(line["ts"]), line["facts"]) for line in recent if line["step"] == SAMPLE)
        return cls(recent, deployed_ns, taken_back_ns, samples)

    def previous_logs(self) -> dict[str, Any]:
        """Each log as the newest sample that read it left it."""
        found: dict[str, Any] = {}
        for sample in self.samples:
            found |= sample.facts.get("logs") or {}
        return found

    def seen(self, section: str) -> list[Mapping[str, Any]]:
        """A section of each sample that has it."""
        return [sample.facts[section] for sample in self.samples if sample.facts.get(section)]

    def standbys(self) -> int:
        """The highest value that a sample has observed."""
        return max((replication["standbys"] for replication in self.seen("replication")), default=0)

    def since(self, begin_ns: int) -> list[Sample]:
        """The samples from a moment on, of any run."""
        return [sample for sample in self.samples if sample.at_ns >= begin_ns]

    def watched(self, playbook: str) -> bool:
        """Whether a watch since the deployment has ended well that was as long as any that this playbook has begun."""
        watches = [line for line in self.lines if line["step"] == WATCH]
        own = [line for line in watches if line["event"] == "started" and line["playbook"] == playbook]
        begun = [line["facts"]["watch"]["seconds"] for line in own]
        ended = [_window(line).get("seconds", 0) for line in watches if line["event"] == "passed"]
        return max(ended, default=-1) >= max(begun, default=0)

    def unfinished(self, now_ns: int, at_work: Callable[[str], bool]) -> Line | None:
        """The line that began the newest watch of a window that no run is working on, if it was never judged and lately
        took a sample.

        The run that settled its run judged nothing; nor did one that took a single sample or watched another window.
        """
        lines = [line for line in self.lines if line["step"] == WATCH and not _is_single(line)]
        begun = [line for line in lines if line["event"] == "started"]
        under_way = {_started_at(line) for line in begun if at_work(line["run_id"])}
        begun = [line for line in begun if _started_at(line) not in under_way]
        if not begun:
            return None
        watch = begun[-1]["facts"]["watch"]
        if any(_window(line).get("started_at") == watch["started_at"] for line in lines):
            return None
        last_ns = max([of_journal(begun[-1]["ts"]), *(sample.at_ns for sample in self.samples)])
        idle_s = (now_ns - last_ns) / SECOND_NS
        return begun[-1] if idle_s <= watch["seconds"] + RESUME_WITHIN_S else None

    def deployed_at(self) -> str | None:
        """When the release came to be deployed, UTC."""
        return None if self.deployed_ns is None else moment(self.deployed_ns)


def last_sample_ns(lines: Sequence[Line], run_id: str) -> int | None:
    """When a run took its newest sample."""
    taken = [line["ts"] for line in lines if line["run_id"] == run_id and line["step"] == SAMPLE]
    return of_journal(taken[-1]) if taken else None


def _started_at(line: Line) -> str:
    """When the window began that a line begins or takes up."""
    return str(line["facts"]["watch"]["started_at"])


def _window(line: Line) -> Mapping[str, Any]:
    """The window that a line judges; empty where it judges none."""
    window: Mapping[str, Any] = line["facts"].get("window") or {}
    return window


def _is_single(line: Line) -> bool:
    """Whether a line is of a watch that is one sample long."""
    watch = line["facts"].get("watch") or _window(line)
    return watch.get("seconds") == 0


@dataclass(frozen=True)
class Before:
    """The state before the release; empty, or 0, where it was not observed.

    endpoints: how the API answered, by endpoint; health: how well the server was; queued: how many tasks waited; logs:
    the errors of each log.
    """

    endpoints: Mapping[str, Any]
    health: Mapping[str, Any]
    queued: int
    logs: Mapping[str, Any]

    @classmethod
    def of(cls, lines: list[dict[str, Any]], run: Run) -> Before:
        """From the whole journal."""

        def newest(step: str) -> Mapping[str, Any]:
            return last_facts(lines, release=run.release, environment=run.environment, step=step) or {}

        monitored = newest(BASELINE)
        return cls(
            newest("api_baseline").get("endpoints") or {},
            newest("baseline").get("health") or {},
            (monitored.get("queue") or {}).get("depth") or 0,
            monitored.get("logs") or {},
        )
