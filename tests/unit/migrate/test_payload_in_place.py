"""The payload is in place only where every destination holds the very bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import payload
import pytest

CONTENT = b"revision = 'abc'\n"


def parameters(run: dict[str, Any], destination: Path) -> dict[str, Any]:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    item = {"source": "migrations/a.sql", "destination": str(destination), "sha256": sha256, "path": "/elsewhere"}
    return {"run": run, "payload": [item], "copy": [], "backend_container": ""}


@pytest.mark.parametrize(
    ("there", "check_mode", "status"),
    [
        (CONTENT, False, "pass"),
        (CONTENT + b"# changed", False, "fail"),
        (CONTENT + b"# changed", True, "fail"),
        (None, False, "fail"),
        (None, True, "skipped"),
    ],
)
def test_only_the_very_bytes_hold(
    tmp_path: Path, run_parameters: dict[str, Any], there: bytes | None, check_mode: bool, status: str
) -> None:
    destination = tmp_path / "a.sql"
    if there is not None:
        destination.write_bytes(there)
    result = payload.act(parameters(run_parameters, destination), check_mode)
    assert (result["changed"], result["copied"]) == (False, [])
    assert [(proof["name"], proof["status"]) for proof in result["proofs"]] == [("migrate.payload", status)]
    assert bool(result["message"]) == (status == "fail")
    assert Path(run_parameters["state_dir"]).exists() != check_mode
