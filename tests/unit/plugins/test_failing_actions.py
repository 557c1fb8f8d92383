"""The modules whose red claim fails their task: no later step would judge it with others."""

from __future__ import annotations

import importlib.util
import types
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
RED: dict[str, Any] = {"message": "1) The file is another one: remove it.", "proofs": [{"status": "fail"}]}
GREEN: dict[str, Any] = {"message": "", "proofs": []}


def judged(module: str, result: dict[str, Any], **arguments: Any) -> Any:
    spec = importlib.util.spec_from_file_location(f"action_{module}", ROOT / f"plugins/action/{module}.py")
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    action = object.__new__(loaded.ActionModule)
    action._task = types.SimpleNamespace(args=arguments)
    return action.judged(dict(result))


@pytest.mark.parametrize(("module", "arguments"), [("payload", {}), ("api_contract_info", {"mode": "observe"})])
def test_a_red_claim_fails_the_task(module: str, arguments: dict[str, Any]) -> None:
    result = judged(module, RED, **arguments)
    assert (result["failed"], result["msg"], result["proofs"]) == (True, RED["message"], RED["proofs"])
    assert judged(module, GREEN, **arguments) == GREEN


def test_the_contract_after_the_release_is_judged_with_all_else() -> None:
    assert judged("api_contract_info", RED, mode="verify") == RED
