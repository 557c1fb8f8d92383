"""What a measurement is, and the few things that all of them do."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ARTIFACTS = ROOT / "artifacts/staging"
# By playbook; the cost of a rehearsal is measured where a measurement names it.
UNREHEARSED = {"deploy_8_1a.yml": ("-e", "rehearsal=off")}


@dataclass(frozen=True)
class Measurement:
    """One figure: what is measured, the most that it may be (None: shown for comparison), and how.

    measure: returns the figure in `unit`. by_name: measured only where it is named, as it takes long or much room.
    """

    name: str
    title: str
    unit: str
    limit: float | None
    measure: Callable[[], float]
    by_name: bool = False


def stack(rows: int) -> None:
    """The stack at the revision before the release, freshly seeded with so many rows."""
    run(["make", "--no-print-directory", "stack", "RESET=1"], ROWS=str(rows))


def play(name: str, *arguments: str) -> tuple[float, str]:
    """Seconds that a playbook took as a whole process, and what it printed; a failure ends the bench."""
    begun = time.monotonic()
    output = run(
        [str(ROOT / ".venv/bin/ansible-playbook"), name, "-i", "staging", *UNREHEARSED.get(name, ()), *arguments]
    )
    return time.monotonic() - begun, output


def run(command: list[str], **environment: str) -> str:
    """What a command of this repository prints; a failure ends the bench with its output."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"Running {' '.join(command)} failed with status {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def newest_evidence() -> dict[str, Any]:
    """The evidence of the newest run."""
    newest = max(ARTIFACTS.glob("*/evidence.json"), key=lambda path: path.parent.name)
    evidence: dict[str, Any] = json.loads(newest.read_text())
    return evidence


class Part(NamedTuple):
    """A stage of a run: when it started after the first one, and how long it worked. Stages may overlap."""

    step: str
    begun_s: float
    seconds: float


def parts_of(evidence: dict[str, Any]) -> list[Part]:
    """The stages of a run that took time, in their order; the report has no duration in its own evidence."""
    begun = [datetime.fromisoformat(stage["started_at"]) for stage in evidence["stages"]]
    return [
        Part(stage["step"], (at - begun[0]).total_seconds(), stage["duration_ms"] / 1000)
        for stage, at in zip(evidence["stages"], begun, strict=True)
        if stage["duration_ms"]
    ]


def stage_seconds(evidence: dict[str, Any], *steps: str) -> Iterator[float]:
    """How long each of these stages worked, without Ansible around it."""
    for stage in evidence["stages"]:
        if stage["step"] in steps:
            yield stage["duration_ms"] / 1000
