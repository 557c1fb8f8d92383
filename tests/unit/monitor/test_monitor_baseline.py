"""What a target is like before the release is what its samples are held against."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import docker
import monitor_baseline
import pytest
from ansible.module_utils.dbrelease.core.history import Before
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.host.commands import HostCommands
from waits import until

LOG = {
    "name": "app_log",
    "title": "No errors in the application's log",
    "service": "app",
    "event": "(?P<level>[A-Z]+) ",
    "errors": ["ERROR"],
}
WRITES = """
for number in 1 2 3; do echo "ERROR no answer of 10.0.0.$number for 'Ada', hunter22"; done
echo "INFO fine"; echo "ERROR once"; for number in 1 2; do echo "ERROR idx_shop_$number is gone"; done
exec sleep 600
"""


def parameters(run: dict[str, Any], containers: dict[str, str], *command: str) -> dict[str, Any]:
    monitoring: dict[str, Any] = {"window_seconds": 900, "logs": [LOG], "concerns": ["idx_shop"]}
    if command:
        monitoring["queue"] = {"service": "broker", "command": list(command), "limit": 10}
    return {"run": run, "monitoring": monitoring, "containers": containers, "login_password": "hunter22"}


@pytest.fixture
def container() -> Iterator[str]:
    """A container that logs some errors, and then runs on."""
    client = docker.from_env()
    name = f"dbrelease_test_{secrets.token_hex(4)}"
    image = client.containers.get("drawing_postgres").attrs["Image"]
    made = client.containers.run(image, ["sh", "-c", WRITES], entrypoint=[], name=name, detach=True, init=True)
    until(lambda: b"idx_shop_2" in made.logs(), "the container did not log its errors")
    yield name
    made.remove(force=True, v=True)
    client.close()


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
    result = monitor_baseline.act(parameters(run_parameters, {"broker": "shop_redis"}, *command), False)
    assert result["queue"]["depth"] == depth
    assert says in result["queue"]["reason"]
    run = Run(**run_parameters)
    assert Before.of(Journal(run).read(), run).queued == (depth or 0)


def test_errors_that_recur_are_remembered_without_anyones_data(run_parameters: dict[str, Any], container: str) -> None:
    result = monitor_baseline.act(parameters(run_parameters, {"app": container}), False)
    log = result["logs"]["app_log"]
    assert (log["errors"], log["seconds"]) == (6, 60.0)
    assert log["kinds"] == {"ERROR no answer of # for '?', ***": {"count": 3, "most": 3}}
    run = Run(**run_parameters)
    assert Before.of(Journal(run).read(), run).logs == result["logs"]


def test_what_was_logged_while_the_release_was_there_is_not_of_before(
    run_parameters: dict[str, Any], container: str
) -> None:
    path = Path(run_parameters["state_dir"])
    path.mkdir(parents=True)
    line = {**run_parameters, "ts": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": "passed"}
    with (path / "journal.jsonl").open("w") as file:
        file.write(json.dumps({**line, "step": "rolled_back", "facts": {}}) + "\n")
    log = monitor_baseline.act(parameters(run_parameters, {"app": container}), False)["logs"]["app_log"]
    assert (log["errors"], log["kinds"]) == (0, {})


@pytest.mark.parametrize("containers", [{}, {"broker": "", "app": ""}])
def test_without_a_container_no_log_is_read(run_parameters: dict[str, Any], containers: dict[str, str]) -> None:
    result = monitor_baseline.act(parameters(run_parameters, containers, "echo", "20"), False)
    assert (result["queue"], result["logs"]) == ({}, {})


def test_a_missing_log_is_reported_and_is_no_failure(run_parameters: dict[str, Any]) -> None:
    result = monitor_baseline.act(parameters(run_parameters, {"app": "dbrelease_no_such"}), False)
    assert result["logs"] == {"app_log": {"unread": "There is no log of a container dbrelease_no_such."}}


def test_check_mode_looks_and_writes_nothing(run_parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible.module_utils.dbrelease.monitor.queue.commands_in", lambda _: HostCommands())
    result = monitor_baseline.act(parameters(run_parameters, {"broker": "shop_redis"}, "echo", "20"), True)
    assert result["queue"]["depth"] == 20
    assert not Path(run_parameters["state_dir"]).exists()
