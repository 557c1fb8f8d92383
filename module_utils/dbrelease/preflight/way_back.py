"""Whether the guards of the way back could be decided on this target: tried before the upgrade, read-only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.proof import Proof
from ..host.inspect import Service
from ..release.guard_kinds import KINDS_OF_SERVICES, kind_of

PROOF = "preflight.way_back"
TITLE = "A rollback could be decided here: each guard that asks the application answers"
TIMEOUT_S = 10.0


def way_back(
    release: Mapping[str, Any], services: Mapping[str, Service], api_base_url: str, ca_file: str, *, ready: bool
) -> Proof:
    """One that is undecided, or red already, is no reason to refuse the release, and is reported before it.

    The guards that ask the database are planned as every declared query is: what they read is not there yet.
    """
    declared = (release.get("rollback") or {}).get("guards") or ()
    guards = [guard for guard in declared if kind_of(guard) in KINDS_OF_SERVICES]
    if not guards or not ready:
        why = "The release is not about to be deployed." if guards else "No guard asks the application."
        return Proof(PROOF, TITLE, "skipped", detail=why)
    # Here, for they are a fifth of what preflight would compile, and most runs do not deploy.
    from ..rollback.guards import paths_of
    from ..rollback.in_services import Services
    from ..rollback.verdict import in_words, remedy_of

    containers = {name: service.container for name, service in services.items()}
    asked = Services(api_base_url, containers, TIMEOUT_S, paths=paths_of(guards), ca_file=ca_file)
    seen = [(guard, asked.try_out(guard)) for guard in guards]
    observed = {guard["name"]: one.status for guard, one in seen}
    against = [(guard, one) for guard, one in seen if one.status in ("fail", "inconclusive")]
    if not against:
        return Proof(PROOF, TITLE, "pass", observed=observed)
    said = " ".join(f"{number}) {in_words(guard, one)}" for number, (guard, one) in enumerate(against, start=1))
    return Proof(
        PROOF,
        TITLE,
        "inconclusive",
        observed=observed,
        detail=f"A rollback will be refused here, also the one that follows a failed verification: {said}",
        remedy=" ".join(dict.fromkeys(remedy_of(guard, one) for guard, one in against)),
    )
