"""How the API answers now, compared with its contract and the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import ReleaseError
from ..core.proof import Proof
from ..host.http import HttpSession
from ..verify.api import Endpoint, Latency, observe, verify_proofs
from .verdicts import Claim

CONTRACT = (".status", ".shape")


def sample_api(
    api: Mapping[str, Any], latency: Mapping[str, Any], base_url: str, baseline: Mapping[str, Any], ca_file: str = ""
) -> tuple[dict[str, Any], list[Claim]]:
    """The facts of each endpoint, and the claims `api` (status and structure) and `latency`."""
    limit = Latency.of(latency)
    facts: dict[str, Any] = {}
    proofs: list[Proof] = []
    try:
        with HttpSession(base_url, api["timeout_seconds"], ca_file) as session:
            for endpoint in map(Endpoint.of, api["endpoints"]):
                seen = observe(session, endpoint, limit.requests)
                facts[endpoint.name] = seen.facts()
                proofs += verify_proofs(seen, baseline.get(endpoint.name), limit, session.url)
    except ReleaseError as error:
        return {}, [Claim("api", "fail", error.message), Claim("latency", "inconclusive", error.message)]
    # Rows change while the application is in use: the number that an endpoint lists is no evidence about the release.
    return facts, [
        claim_of("api", [proof for proof in proofs if proof.name.endswith(CONTRACT)]),
        claim_of("latency", [proof for proof in proofs if proof.name.endswith(".latency")]),
    ]


def claim_of(name: str, proofs: Sequence[Proof]) -> Claim:
    """One claim of several proofs: the status and the text of the worst."""
    for verdict, statuses in (("fail", ("fail",)), ("inconclusive", ("inconclusive", "skipped"))):
        worst = [proof for proof in proofs if proof.status in statuses]
        if worst:
            detail = f"{worst[0].title}: {worst[0].detail} {worst[0].remedy}".strip()
            unknown = all(proof.could_not_run for proof in worst)
            return Claim(name, "fail" if verdict == "fail" else "inconclusive", detail, could_not_run=unknown)
    return Claim(name)
