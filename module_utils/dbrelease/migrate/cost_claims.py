"""What the live migration of a run cost, beside the release's budget and what the run's rehearsal had forecast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..core.errors import ReleaseError
from ..core.journal import Journal, Step
from ..core.proof import Proof
from ..observe.budget import TITLES, WRITE_WAIT, as_time, judge
from ..observe.cost import Cost, compare
from ..observe.observation import joined, observation_of

STAGE = "migrate"
BUDGET_PROOF = f"{STAGE}.budget.{WRITE_WAIT}"
FORECAST_PROOF = f"{STAGE}.forecast"
KEPT = "It is committed, and this is no reason to take it back."
NOT_OBSERVED = "What the upgrade did to others was not observed."
NOBODY = "No other session was observed to wait for it."


def cost_claims(journal: Journal, finalize: Step, budget: Mapping[str, Any]) -> list[Proof]:
    """The claims on the upgrade of this run and its finalize steps together; none where this run has not upgraded.

    What is over the budget is inconclusive: the upgrade is committed, and every check of it may hold.
    """
    try:
        events = journal.read()
    except ReleaseError as error:
        return [_not_observed(error.message)]
    facts = {
        event["step"]: event["facts"]
        for event in events
        if event["run_id"] == journal.run.run_id and event["event"] == "passed"
    }
    if "upgrade" not in facts:
        return []
    upgraded = observation_of(facts["upgrade"])
    if upgraded is None:
        return [_not_observed(NOT_OBSERVED)]
    finalized = observation_of(finalize.facts)
    actual = joined(upgraded, finalized) if finalized else upgraded
    proofs = list(map(_kept, judge(actual, budget, STAGE)))
    proofs[0] = replace(proofs[0], detail=f"{proofs[0].detail} {_waited(facts['upgrade'].get('longest_wait'))}")
    rehearsed = observation_of(facts.get("rehearse") or {})
    if rehearsed:
        proofs.append(compare(Cost.of(rehearsed), Cost.of(actual), FORECAST_PROOF))
    return proofs


def _not_observed(why: str) -> Proof:
    return Proof(BUDGET_PROOF, TITLES[WRITE_WAIT], "inconclusive", detail=why)


def _kept(proof: Proof) -> Proof:
    if proof.status != "fail":
        return proof
    return replace(proof, status="inconclusive", detail=f"{proof.detail} {KEPT}")


def _waited(longest: Mapping[str, Any] | None) -> str:
    if not longest:
        return NOBODY
    table = f" of {longest['table']}" if longest["table"] else ""
    why_not = f" It was not stopped: {longest['not_stopped']}." if longest["not_stopped"] else ""
    return f"The longest wait of another session that was observed is {as_time(longest['ms'])}{table}.{why_not}"
