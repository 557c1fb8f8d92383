"""Which steps the evidence is given beside the journal."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
RED: dict[str, Any] = {"state": "refused", "proofs": [{"status": "fail"}], "message": "red"}
GREEN: dict[str, Any] = {"state": "ready", "proofs": [], "message": "", "watched": False}


def looked_up(**variables: Any) -> list[tuple[str, str]]:
    spec = importlib.util.spec_from_file_location("unwritten_steps", ROOT / "plugins/lookup/unwritten_steps.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = module.LookupModule().run([], variables)
    assert all(line["facts"].keys() <= {"proofs", "message", "state"} for line in lines)
    return [(line["step"], line["event"]) for line in lines]


@pytest.mark.parametrize(
    ("variables", "steps"),
    [
        ({}, []),
        ({"preflight_result": GREEN}, []),
        ({"preflight_result": GREEN, "ansible_check_mode": True}, [("preflight", "passed")]),
        ({"preflight_result": RED}, [("preflight", "refused")]),
        ({"rollback_guards": RED, "ansible_check_mode": True}, [("guards", "refused")]),
        ({"readiness_result": {"ready": False, "proofs": [], "message": "x"}}, [("readiness", "refused")]),
        ({"rollback_guards": {"skipped": True}, "ansible_check_mode": True}, []),
        ({"preflight_result": {"failed": True, "proofs": [], "msg": "x"}, "ansible_check_mode": True}, []),
    ],
)
def test_steps(variables: dict[str, Any], steps: list[tuple[str, str]]) -> None:
    assert looked_up(**variables) == steps
