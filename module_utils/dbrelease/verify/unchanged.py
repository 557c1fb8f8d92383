"""Whether the tables that a release does not touch still have the content of the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import ReleaseError
from ..core.journal import Journal, last_facts
from ..core.options import Options
from ..core.proof import sentence
from ..postgres.kept_values import rows_declared
from ..runs.work import Work
from .write_attribution import SETTLE_SECONDS, Memory, compare

STEP = "untouched"
OPTIONS: Options = {
    "except_tables": {"type": "list", "elements": "str", "default": []},
    "altered_tables": {"type": "list", "elements": "str", "default": []},
    "audit_tables": {"type": "list", "elements": "str", "default": []},
    "changed": {"type": "dict", "default": {}},
    "bookkeeping_tables": {"type": "list", "elements": "str", "default": ["alembic_version"]},
    "settle_seconds": {"type": "float", "default": SETTLE_SECONDS},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Read in both modes."""
    work = Work.of(params, check_mode)
    with work.journal.step(STEP) as step:
        proofs = compare(
            work.login,
            remembered(work.journal),
            except_tables=params["except_tables"],
            altered_tables=[*params["altered_tables"], *(params.get("changed") or {})],
            bookkeeping_tables=params["bookkeeping_tables"],
            settle_seconds=params["settle_seconds"],
            audit_tables=params.get("audit_tables") or (),
            changed_rows=rows_declared({"changed": params.get("changed") or {}}),
        )
        step.prove(*proofs)
        step.facts["tables"] = len(proofs)
    found = [proof.as_dict() for proof in proofs]
    return {"tables": len(proofs), "proofs": found, "message": sentence(found)}


def remembered(journal: Journal) -> Memory:
    """The baseline and the upgrade of this release in this environment; raises ReleaseError without a baseline."""
    run, events = journal.run, journal.read()
    baseline = last_facts(events, release=run.release, environment=run.environment, step="baseline")
    if baseline is None:
        raise ReleaseError(
            f"Comparing with the baseline failed (the journal {journal.path} has none of release {run.release} in "
            f"environment {run.environment}): run the playbook that deploys it, which takes one."
        )
    upgrade = last_facts(events, release=run.release, environment=run.environment, step="upgrade")
    finalized = last_facts(events, release=run.release, environment=run.environment, step="finalize")
    return Memory.of(baseline, upgrade, (finalized or {}).get("transactions") or ())
