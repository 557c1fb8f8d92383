"""Declared SQL checks, judged on a live database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.advice import advise, command_for
from ..core.options import Options
from ..core.proof import sentence
from ..postgres.declared_checks import read_checks
from ..postgres.proof_instant import proved
from ..runs.work import Work

OPTIONS: Options = {
    "checks": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "title": {"type": "str", "required": True},
            "violations": {"type": "str"},
            "equal": {"type": "str"},
            "written_in": {"type": "str"},
            "follows": {"type": "list", "elements": "str", "default": []},
        },
        "mutually_exclusive": [("violations", "equal")],
        "required_one_of": [("violations", "equal")],
    },
    "drift": {"type": "str", "choices": ["inconclusive", "fail"], "default": "inconclusive"},
    "statement_timeout_ms": {"type": "int", "default": 60_000},
    "sample_size": {"type": "int", "default": 5},
    "reconcile_command": {"type": "str", "default": ""},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Read in both modes."""
    work = Work.of(params, check_mode)
    run, command = work.run, command_for(params["reconcile_command"], work.run.environment)
    with work.journal.step("checks") as step:
        proofs, facts = read_checks(
            work.login,
            params["checks"],
            proved=proved(work.journal.read(), release=run.release, environment=run.environment),
            drift=params["drift"],
            statement_timeout_ms=params["statement_timeout_ms"],
            sample_size=params["sample_size"],
        )
        proofs = advise(proofs, command, lambda proof: proof.observed is not None)
        step.prove(*proofs)
        step.facts.update(facts)
    lines = [proof.as_dict() for proof in proofs]
    return {"proofs": lines, "message": sentence(lines), **facts}
