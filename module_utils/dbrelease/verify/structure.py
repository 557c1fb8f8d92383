"""Whether the database has the structure that a release declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.advice import advise, command_for
from ..core.options import Options
from ..core.proof import Proof, sentence
from ..postgres.catalog import read_back
from ..postgres.foreign_keys import repairs
from ..runs.work import Work

OPTIONS: Options = {
    "tables": {
        "type": "dict",
        "required": True,
        "options": {
            **{
                name: {"type": "dict", "default": {}}
                for name in ("existing", "created", "altered", "changed", "dropped")
            },
            "audit": {"type": "list", "elements": "str", "default": []},
        },
    },
    "revision": {"type": "str", "required": True},
    "reconcile_command": {"type": "str", "default": ""},
}

UNDECLARED = Proof(
    "structure.tables",
    "The tables have the declared structure",
    "skipped",
    detail="The release declares no tables, so their structure was not compared with anything.",
)


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Read in both modes."""
    work = Work.of(params, check_mode)
    command = command_for(params["reconcile_command"], work.run.environment)
    with work.journal.step("structure") as step:
        proofs = read_back(work.login, params["tables"], params["revision"], params["bookkeeping_table"])
        proofs = advise(proofs, command, _concerns_reconcile)
        if not any(params["tables"].values()):
            proofs.append(UNDECLARED)
        step.prove(*proofs)
    found = [proof.as_dict() for proof in proofs]
    return {"proofs": found, "message": sentence(found)}


def _concerns_reconcile(proof: Proof) -> bool:
    # Of a missing table nothing was observed.
    return proof.name.endswith(".constraints") and bool(proof.observed) and repairs(proof)
