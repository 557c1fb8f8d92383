"""Every answer of a module that a test here sees, also of one that fails, is as its RETURN declares."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.answer import ALWAYS, ON_FAILURE, declared, keep
from ansible.module_utils.dbrelease.core.errors import ReleaseError

LIBRARY = Path(__file__).resolve().parents[1] / "library"

Act = Callable[[Mapping[str, Any], bool], dict[str, Any]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for module in {item.module for item in items if isinstance(item, pytest.Function)}:
        for name, value in vars(module).copy().items():
            if isinstance(value, ModuleType) and Path(getattr(value, "__file__", "") or "").parent == LIBRARY:
                value.act = watched(value.act)  # type: ignore[attr-defined]
            elif callable(value) and getattr(value, "__name__", "") == "act":
                setattr(module, name, watched(value))


def watched(act: Act) -> Act:
    """The same, which fails a test whose module answers what it does not declare."""
    path = LIBRARY / f"{act.__module__}.py"
    if not path.exists() or hasattr(act, "__wrapped__"):
        return act
    keys = {**declared(path), **ALWAYS}

    @functools.wraps(act)
    def watching(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
        try:
            result = act(params, check_mode)
        except ReleaseError as error:
            hold(error.facts, failed=True)
            raise
        hold(result)
        return result

    def hold(answer: Mapping[str, Any], *, failed: bool = False) -> None:
        known = keys.keys() | (ON_FAILURE if failed else {}).keys()
        assert answer.keys() <= known, f"{path.stem} answers and does not declare {answer.keys() - known}"
        keep(json.loads(json.dumps(answer, default=str)), keys, path.stem)

    return watching
