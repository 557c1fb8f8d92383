"""Declared scenarios, played and rolled back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..database import Login
from ..journal import Journal
from ..module import Options, run_of
from ..proof import sentence
from ..scenario import Limits, play_scenarios

OPTIONS: Options = {
    "scenarios": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "title": {"type": "str", "required": True},
            "steps": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "title": {"type": "str", "required": True},
                    "sql": {"type": "str", "required": True},
                    "save": {"type": "list", "elements": "str", "default": []},
                    "expect": {"type": "dict", "default": {}},
                },
            },
            "leaves_nothing": {"type": "str", "required": True},
        },
    },
    "statement_timeout_ms": {"type": "int", "default": 30_000},
    "lock_timeout_ms": {"type": "int", "default": 1_000},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Play them in both modes; nothing of them stays."""
    limits = Limits(params["statement_timeout_ms"], params["lock_timeout_ms"])
    with Journal(run_of(params), dry=check_mode).step("scenario") as step:
        proofs = play_scenarios(Login.of(params), params["scenarios"], limits)
        step.prove(*proofs)
        step.facts["duration_ms"] = sum(proof.duration_ms for proof in proofs)
    lines = [proof.as_dict() for proof in proofs]
    return {"proofs": lines, "message": sentence(lines), "duration_ms": step.facts["duration_ms"]}
