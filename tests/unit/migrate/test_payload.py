"""The files of a release are put in place as new files, with the very bytes that the release was read with."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import stat
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import payload
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from preflight_world import POSTGRES_IMAGE

ROOT = Path(__file__).resolve().parents[3]
CONTENT = b"revision = 'abc'\n"


def wait_for(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def item(destination: Path, folder: Path | None = None) -> dict[str, Any]:
    named = {
        "source": "migrations/a.py",
        "destination": str(destination),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    content = base64.b64encode(CONTENT).decode()
    return {**named, "path": "/elsewhere", "content": content, **({"folder": str(folder)} if folder else {})}


def put(run: dict[str, Any], *items: dict[str, Any], check_mode: bool = False) -> dict[str, Any]:
    return payload.act({"run": run, "payload": list(items), "backend_container": ""}, check_mode)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_new_file_has_the_very_bytes_and_can_be_read(
    tmp_path: Path, run_parameters: dict[str, Any], umask: int
) -> None:
    before = os.umask(umask)
    try:
        result = put(run_parameters, item(tmp_path / "a.py", tmp_path))
    finally:
        os.umask(before)
    assert (result["changed"], result["copied"]) == (True, [str(tmp_path / "a.py")])
    assert [proof["status"] for proof in result["proofs"]] == ["pass"]
    assert (tmp_path / "a.py").read_bytes() == CONTENT
    assert stat.S_IMODE((tmp_path / "a.py").stat().st_mode) == 0o644


def test_in_check_mode_nothing_is_written(tmp_path: Path, run_parameters: dict[str, Any]) -> None:
    result = put(run_parameters, item(tmp_path / "a.py"), check_mode=True)
    assert (result["changed"], result["copied"]) == (True, [str(tmp_path / "a.py")])
    assert [proof["status"] for proof in result["proofs"]] == ["skipped"]
    assert not (tmp_path / "a.py").exists() and not Path(run_parameters["state_dir"]).exists()


def test_a_folder_that_is_missing_is_a_sentence(tmp_path: Path, run_parameters: dict[str, Any]) -> None:
    with pytest.raises(ReleaseError, match=r"Copying .*/no/a\.py failed \(No such file or directory\): check that "):
        put(run_parameters, item(tmp_path / "no" / "a.py"))


def test_in_a_container_it_replaces_a_link(run_parameters: dict[str, Any]) -> None:
    engine = docker.from_env()
    script = "mkdir -p /app/versions && ln -s /app/theirs /app/versions/a.py && cat"
    container = engine.containers.run(POSTGRES_IMAGE, ["sh", "-c", script], detach=True, tty=True)
    try:
        wait_for(lambda: container.exec_run(["test", "-L", "/app/versions/a.py"]).exit_code == 0)
        asked = {"run": run_parameters, "payload": [item(Path("/app/versions/a.py"))]}
        payload.act({**asked, "backend_container": container.id}, False)
        seen = container.exec_run(
            ["sh", "-c", "cat /app/versions/a.py; stat -c '%F %a %u' /app/versions/a.py; ls /app"]
        )
        assert isinstance(seen.output, bytes)
        assert seen.output.decode().splitlines() == [CONTENT.decode().strip(), "regular file 644 0", "versions"]
    finally:
        container.remove(force=True)
    with pytest.raises(ReleaseError, match=r"Copying /app/versions/a\.py failed \(.*No such container"):
        payload.act({**asked, "backend_container": container.id}, False)


def action(**arguments: Any) -> Any:
    spec = importlib.util.spec_from_file_location("action_payload", ROOT / "plugins/action/payload.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = object.__new__(module.ActionModule)
    made._task = types.SimpleNamespace(args=arguments, action="payload", delegate_to=None)
    return made


def test_the_file_is_read_where_the_release_is(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(CONTENT)
    made = action(payload=[{**item(tmp_path / "there.py"), "path": str(tmp_path / "a.py"), "content": ""}])
    made.refuse()
    assert base64.b64decode(made._task.args["payload"][0]["content"]) == CONTENT


@pytest.mark.parametrize("now", [b"revision = 'other'\n", None])
def test_a_file_that_has_changed_since_the_release_was_read_is_refused(tmp_path: Path, now: bytes | None) -> None:
    if now is not None:
        (tmp_path / "a.py").write_bytes(now)
    with pytest.raises(ReleaseError, match=r"Reading .*/a\.py was refused \(.*\), and nothing was copied") as raised:
        action(payload=[{**item(tmp_path / "there.py"), "path": str(tmp_path / "a.py")}]).refuse()
    assert raised.value.refused
