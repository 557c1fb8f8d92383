"""Whether the declared indexes serve their queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..database import Login
from ..journal import Journal
from ..module import Options, run_of
from ..plans import read_plans
from ..proof import sentence

OPTIONS: Options = {
    "plans": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "title": {"type": "str", "required": True},
            "index": {"type": "str", "required": True},
            "table": {"type": "str", "required": True},
            "row_floor": {"type": "int", "required": True},
            "sql": {"type": "str", "required": True},
        },
    },
    "statement_timeout_ms": {"type": "int", "default": 60_000},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Read in both modes."""
    with Journal(run_of(params), dry=check_mode).step("plans") as step:
        proofs = read_plans(Login.of(params), params["plans"], params["statement_timeout_ms"])
        step.prove(*proofs)
        step.facts["duration_ms"] = sum(proof.duration_ms for proof in proofs)
    lines = [proof.as_dict() for proof in proofs]
    return {"proofs": lines, "message": sentence(lines), "duration_ms": step.facts["duration_ms"]}
