"""Two deploys at once: one ends deployed, the other refuses and names the holder; what only reads is not in the way."""

from __future__ import annotations

import getpass
import re
import socket
import threading
import time
from datetime import datetime

import pytest
from outside import STATE, Playbook, Psql, journal, patient, play

LONGEST_REFUSAL_S = 5.0


class Background(threading.Thread):
    """A playbook that runs beside the test."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.playbook, self.ended = name, Playbook(-1, "")

    def run(self) -> None:
        self.ended = play(self.playbook, *patient())


def seconds_between(first: dict[str, str], second: dict[str, str]) -> float:
    return (datetime.fromisoformat(second["ts"]) - datetime.fromisoformat(first["ts"])).total_seconds()


def wait_for(step: str, event: str = "started", timeout_s: float = 120) -> str:
    """The run whose line this is, once it is there."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (STATE / "journal.jsonl").exists():
            for line in reversed(journal()):
                if (line["step"], line["event"]) == (step, event):
                    return str(line["run_id"])
        time.sleep(0.05)
    pytest.fail(f"no line {step} {event} in the journal")


def test_one_proceeds_and_the_other_names_it(psql: Psql) -> None:
    first = Background("deploy_8_1a.yml")
    first.start()
    holder = wait_for("claim", "passed")
    second = play("deploy_8_1a.yml")
    dry = play("deploy_8_1a.yml", "--check")
    first.join()

    assert first.ended.status == 0, first.ended.output
    assert second.status != 0, second.output
    for word in (holder, getpass.getuser(), socket.gethostname(), "since 20", "deploy of release"):
        assert word in second.output
    (refusal,) = [line for line in journal() if (line["step"], line["event"]) == ("claim", "refused")]
    own = [line for line in journal() if line["run_id"] == refusal["run_id"]]
    assert seconds_between(own[0], refusal) < LONGEST_REFUSAL_S
    assert (own[-1]["step"], own[-1]["event"], own[-1]["facts"]["outcome"]) == ("run", "refused", "refused")
    looked_at = {line["step"] for line in own} - {"run", "claim", "playbook", "report", "notify"}
    assert not looked_at, "it may look at nothing"

    assert dry.status == 0, dry.output
    assert not (STATE / "run.lock").exists()
    outcomes = {line["facts"]["outcome"] for line in journal() if line["step"] == "run" and "outcome" in line["facts"]}
    assert outcomes == {"deployed", "refused"}
    assert psql.left_sessions() == []


def test_started_in_the_same_moment_exactly_one_acts(psql: Psql) -> None:
    runs = [Background("deploy_8_1a.yml") for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    refused = [run.ended for run in runs if re.search("held by run|is starting on", run.ended.output)]
    assert len(refused) == 1, "\n".join(run.ended.output for run in runs)
    assert sorted(run.ended.status == 0 for run in runs) == [False, True]


def test_a_verification_is_neither_refused_nor_in_the_way() -> None:
    verification = Background("verify_8_1a.yml")
    verification.start()
    deploy = play("deploy_8_1a.yml")
    verification.join()
    assert deploy.status == 0, deploy.output
    assert verification.ended.status == 0, verification.ended.output
