"""A working folder that is not there is named, and not taken for a missing program."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.host.commands import HostCommands, commands_in
from preflight_world import POSTGRES_IMAGE


@pytest.fixture
def container() -> Iterator[str]:
    name = f"test_working_folder_{uuid.uuid4().hex[:8]}"
    client = docker.from_env()
    made = client.containers.run(POSTGRES_IMAGE, ["60"], entrypoint="sleep", name=name, detach=True)
    yield name
    made.remove(force=True)


def test_in_a_container(container: str) -> None:
    commands = commands_in(container)
    assert commands.run(["true"], timeout_s=30).status == 0
    with pytest.raises(
        ReleaseError, match=rf"in container {container} failed \(its working folder /gone does not exist\)"
    ):
        commands.run(["true"], timeout_s=30, workdir="/gone")


def test_on_the_target(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(ReleaseError, match=rf"on the target failed \(its working folder {gone} does not exist\)"):
        HostCommands(str(gone)).run(["true"], timeout_s=30)
