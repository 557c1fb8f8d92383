"""The engine is that of the deploying user's Docker context, as for the command `docker`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.host.commands import docker_client

ENGINE = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
Use = Callable[[str, str], None]


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Make a context of a name that leads to an address, and use it."""

    def use(name: str, address: str) -> None:
        folder = tmp_path / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
        folder.mkdir(parents=True)
        meta = {"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": address, "SkipTLSVerify": False}}}
        (folder / "meta.json").write_text(json.dumps(meta))
        (tmp_path / "config.json").write_text(json.dumps({"currentContext": name}))

    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    return use


def test_the_engine_is_that_of_the_context(use: Use) -> None:
    use("rootless", ENGINE)
    client = docker_client()
    assert client.ping()
    client.close()


def test_an_engine_of_a_context_that_does_not_answer_is_named(use: Use, tmp_path: Path) -> None:
    use("rootless", f"unix://{tmp_path}/none.sock")
    with pytest.raises(ReleaseError, match="by the Docker context rootless failed"):
        docker_client()


@pytest.mark.parametrize("address", ["ssh://root@other", "tcp://other:2376"])
def test_an_engine_of_another_machine_is_refused(use: Use, address: str) -> None:
    use("remote", address)
    with pytest.raises(ReleaseError, match="not to an engine of the target"):
        docker_client()


def test_a_context_that_is_missing_is_named(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use("rootless", ENGINE)
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    with pytest.raises(ReleaseError, match="Reading the Docker context gone"):
        docker_client()


def test_the_variable_decides_before_the_context(use: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use("rootless", f"unix://{tmp_path}/none.sock")
    monkeypatch.setenv("DOCKER_HOST", ENGINE)
    client = docker_client()
    assert client.ping()
    client.close()
