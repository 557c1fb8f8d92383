"""Nothing runs away: what a container, a program, a log or an API answers is bounded in time, memory and disk."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.host import commands
from ansible.module_utils.dbrelease.host.commands import ContainerCommands, HostCommands
from preflight_world import POSTGRES_IMAGE

ENDLESS = ["sh", "-c", "exec 2>/dev/null; while echo 0123456789abcdef0123456789abcdef; do :; done"]


@pytest.fixture
def container() -> Iterator[Any]:
    """A throwaway one, of which an attacker has the programs."""
    engine = docker.from_env()
    made = engine.containers.run(POSTGRES_IMAGE, ["sleep", "120"], entrypoint="", init=True, detach=True)
    yield made
    made.remove(force=True, v=True)


# Programs.


def test_what_a_program_writes_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "OUTPUT_BYTES_AT_MOST", 1 << 20)
    begun = time.monotonic()
    with pytest.raises(ReleaseError, match=r"Running sh on the target was given up \(it wrote more than 1048576 bytes"):
        HostCommands().run(ENDLESS, timeout_s=60)
    assert time.monotonic() - begun < 30


def test_what_a_container_answers_without_an_end_is_refused(container: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "OUTPUT_BYTES_AT_MOST", 1 << 20)
    there = ContainerCommands(docker.from_env(), container.id)
    with pytest.raises(ReleaseError, match=r"Running sh in container .* was given up \(it wrote more than 1048576"):
        there.run(ENDLESS, timeout_s=60)


@pytest.mark.parametrize("held", [">/dev/null", "2>/dev/null"])
def test_a_program_that_is_left_behind_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, held: str) -> None:
    """It has one of the two streams, and ends by itself much later than the command that began it."""
    monkeypatch.setattr(commands, "LATE_S", 0)
    monkeypatch.setattr(commands, "KILL_GRACE_S", 1)
    begun = time.monotonic()
    argv = ["sh", "-c", f"setsid sleep 30 {held} & echo $!"]
    if held == ">/dev/null":
        left = HostCommands().run(argv, timeout_s=1).stdout
    else:
        with pytest.raises(ReleaseError, match="a program that it left behind holds its output"):
            HostCommands().run(argv, timeout_s=1)
        left = ""
    assert time.monotonic() - begun < 15
    if left:
        subprocess.run(["kill", left.strip()], check=False)
