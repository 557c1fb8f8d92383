"""Compare a database with the baseline of its release, and journal it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .database import Login
from .fingerprints import READING
from .journal import Journal, last_facts
from .module import run_of
from .outcome import AS_BEFORE, BASELINE_PROOF
from .proof import Proof, sentence
from .restored import compare_with_baseline
from .writers import Memory

OTHERWISE = "The baseline of the release was recorded by another version of this program, which read it otherwise."
NO_BASELINE = Proof(
    BASELINE_PROOF,
    "The database is what it was before the release",
    "inconclusive",
    detail="The journal has no baseline of the release to compare with.",
)


def compare_restored(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """The module's act: reads only."""
    journal = Journal(run_of(params), dry=check_mode)
    events = journal.read()

    def newest(step: str) -> dict[str, Any] | None:
        return last_facts(events, release=journal.run.release, environment=journal.run.environment, step=step)

    baseline = newest("baseline")
    with journal.step(AS_BEFORE) as step:
        proofs = [NO_BASELINE]
        if baseline is not None and baseline.get("reading") != READING:
            baseline, proofs = None, [replace(NO_BASELINE, detail=OTHERWISE)]
        if baseline is not None:
            transactions = (newest("guards") or {}).get("migration_xids") or ()
            proofs = compare_with_baseline(
                Login.of(params),
                Memory.of(baseline, newest("upgrade"), transactions),
                newest("downgrade"),
                bookkeeping_table=params["bookkeeping_table"],
                created=params["created"],
                altered=params["altered"],
                settle_seconds=params["settle_seconds"],
            )
        step.prove(*proofs)
    found = [proof.as_dict() for proof in proofs]
    return {"changed": False, "compared": baseline is not None, "proofs": found, "message": sentence(found)}
