"""What waits for the worker before the release is what a sample holds the queue against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import queue_info
from ansible.module_utils.dbrelease.commands import HostCommands
from ansible.module_utils.dbrelease.journal import Journal, Run
from ansible.module_utils.dbrelease.monitor.memory import Before


def parameters(run: dict[str, Any], command: list[str], containers: dict[str, str]) -> dict[str, Any]:
    return {"run": run, "service": "broker", "command": command, "containers": containers}


@pytest.mark.parametrize(
    ("command", "depth", "says"),
    [(["echo", "20"], 20, ""), (["echo", "LOADING"], None, "LOADING"), (["no_such_program"], None, "no_such_program")],
)
def test_what_the_broker_says_is_remembered(
    run_parameters: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    depth: int | None,
    says: str,
) -> None:
    monkeypatch.setattr("ansible.module_utils.dbrelease.monitor.queue.commands_in", lambda _: HostCommands())
    result = queue_info.act(parameters(run_parameters, command, {"broker": "shop_redis"}), False)
    assert result["depth"] == depth
    assert says in result["reason"]
    run = Run(**run_parameters)
    assert Before.of(Journal(run).read(), run).queued == (depth or 0)


@pytest.mark.parametrize("containers", [{}, {"broker": ""}])
def test_without_a_container_nothing_is_asked(run_parameters: dict[str, Any], containers: dict[str, str]) -> None:
    result = queue_info.act(parameters(run_parameters, ["echo", "20"], containers), False)
    assert (result["depth"], result["reason"]) == (None, "The inventory names no container of the service broker.")
    assert not Path(run_parameters["state_dir"]).exists()


def test_check_mode_asks_and_writes_nothing(run_parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible.module_utils.dbrelease.monitor.queue.commands_in", lambda _: HostCommands())
    result = queue_info.act(parameters(run_parameters, ["echo", "20"], {"broker": "shop_redis"}), True)
    assert result["depth"] == 20
    assert not Path(run_parameters["state_dir"]).exists()
