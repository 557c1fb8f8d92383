"""A working folder, a shell or a `timeout` that is missing is named, and not taken for a missing program."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.host.commands import NO_PROGRAM, HostCommands, commands_in
from preflight_world import POSTGRES_IMAGE


@pytest.fixture
def container() -> Iterator[str]:
    name = f"test_working_folder_{uuid.uuid4().hex[:8]}"
    client = docker.from_env()
    made = client.containers.run(POSTGRES_IMAGE, ["60"], entrypoint="sleep", name=name, detach=True)
    yield name
    made.remove(force=True)


@pytest.fixture
def bare() -> Iterator[str]:
    """A container in which no program is found by its name, as in an image without a shell."""
    name = f"test_no_shell_{uuid.uuid4().hex[:8]}"
    client, environment = docker.from_env(), {"PATH": "/nowhere"}
    run = client.containers.run
    made = run(POSTGRES_IMAGE, ["60"], entrypoint="/bin/sleep", environment=environment, name=name, detach=True)
    yield name
    made.remove(force=True)


def test_in_a_container(container: str) -> None:
    commands = commands_in(container)
    assert commands.run(["true"], timeout_s=30).status == 0
    with pytest.raises(
        ReleaseError, match=rf"in container {container} failed \(its working folder /gone does not exist\)"
    ):
        commands.run(["true"], timeout_s=30, workdir="/gone")


OCI = "OCI runtime exec failed: exec failed:"
NOT_FOUND = 'exec: "sh": executable file not found in $PATH: unknown'
PRINTED = {
    f"{OCI} unable to start container process: {NOT_FOUND}": "sh",
    f"{OCI} container_linux.go:380: starting container process caused: {NOT_FOUND}": "sh",
    "Error: crun: executable file `sh` not found in $PATH: No such file or directory: OCI runtime attempted to "
    "invoke a command that was not found": "sh",
    "sh: 10: exec: timeout: not found": "timeout",
    "sh: exec: line 9: timeout: not found": "timeout",
    "/bin/sh: timeout: not found": "timeout",
    "sh: 10: exec: alembic: not found": "",
    "timeout: failed to run command 'alembic': No such file or directory": "",
    'exec: "bash": executable file not found in $PATH': "",
}


@pytest.mark.parametrize(("printed", "missing"), PRINTED.items())
def test_what_engines_and_shells_print_is_read(printed: str, missing: str) -> None:
    found = NO_PROGRAM.search(f"{printed}\n")
    assert ((found and (found["sh"] or found["timeout"])) or "") == missing


def test_an_image_without_a_shell(bare: str) -> None:
    said = (
        rf"Running alembic in container {bare} failed \(its image has no sh in its PATH\): use an image that has `sh`"
    )
    with pytest.raises(ReleaseError, match=said) as caught:
        commands_in(bare).run(["alembic", "current"], timeout_s=30)
    assert caught.value.refused


def test_on_the_target(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(ReleaseError, match=rf"on the target failed \(its working folder {gone} does not exist\)"):
        HostCommands(str(gone)).run(["true"], timeout_s=30)
