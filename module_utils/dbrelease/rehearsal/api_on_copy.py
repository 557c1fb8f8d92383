"""The application's API on the copy: the same image answers on the old schema and on the new one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ..core.errors import ReleaseError
from ..core.proof import Proof, failure_of, failures
from ..host.http import HttpSession
from ..host.inspect import inspect
from ..verify.api import Endpoint, EndpointObservation, Latency, observe, observe_proofs, verify_proofs

OLD, NEW = "rehearse.api_downgraded", "rehearse.api_upgraded"
TITLES = {
    OLD: "The running application's image answers on the downgraded copy",
    NEW: "The running application's image answers its contract on the upgraded copy",
}
POLL_S = 0.5
WARM_UP_S = 10.0  # for the right answer, from the first one on
REMEDY = "The live database was only read. This application does not work with the new schema: correct the release."


@dataclass(frozen=True)
class Api:
    """The declared API; base_url: of the live one, for its path and its login. port: in the application's container."""

    declared: Mapping[str, Any]
    base_url: str
    port: int
    start_s: int

    def observed(self, container: str, host: str) -> list[EndpointObservation] | str:
        """The answers of all endpoints, once the application answers at all; else why there are none."""
        latency = Latency.of(self.declared["latency"])
        with HttpSession(self._url(host), self.declared["timeout_seconds"], public_url=self.base_url) as http:
            endpoints = [Endpoint.of(one) for one in self.declared["endpoints"]]
            answered, deadline = False, time.monotonic() + self.start_s
            while (first := http.get(endpoints[0].path, endpoints[0].items)).status != endpoints[0].status:
                if not _is_running(container):
                    return "its container ended while it started; it may need a service besides the database"
                if first.status is not None and not answered:
                    answered, deadline = True, min(deadline, time.monotonic() + WARM_UP_S)
                if time.monotonic() > deadline:
                    break
                time.sleep(POLL_S)
            if first.status is None:
                return f"it did not answer within {self.start_s} s: {first.problem}"
            return [observe(http, endpoint, min(latency.requests, 3)) for endpoint in endpoints]

    def _url(self, host: str) -> str:
        parts = urlsplit(self.base_url)
        login, at, _ = parts.netloc.rpartition("@")
        shown = f"[{host}]" if ":" in host else host
        return parts._replace(scheme="http", netloc=f"{login}{at}{shown}:{self.port}").geturl()


def _is_running(container: str) -> bool:
    try:
        attributes = inspect({"application": container})["application"]
    except ReleaseError:
        return False
    return attributes is not None and bool(attributes["State"]["Running"])


def unknown(name: str, why: str) -> Proof:
    """The claim where nothing was observed."""
    return Proof(name, TITLES[name], "inconclusive", detail=f"Not observed: {why.rstrip('.')}.")


def prove_old(seen: list[EndpointObservation] | str) -> Proof:
    """On a copy that equals the one before the release, a wrong answer has another cause than the release."""
    if isinstance(seen, str):
        return unknown(OLD, seen)
    wrong = failures(proof.as_dict() for one in seen for proof in observe_proofs(one, ""))
    if wrong:
        return unknown(OLD, f"it does not work beside the copy alone ({' '.join(map(failure_of, wrong))})")
    return Proof(OLD, TITLES[OLD], "pass", detail=f"{len(seen)} endpoints answered as declared.")


def prove_new(
    before: list[EndpointObservation] | str, seen: list[EndpointObservation] | str, latency: Latency
) -> Proof:
    """The contract, compared with the answers on the downgraded copy; slow answers do not fail it."""
    old = prove_old(before)
    if old.status != "pass" or isinstance(before, str):
        return unknown(NEW, "it did not answer as declared on the downgraded copy, either")
    if isinstance(seen, str):
        detail = f"On the old schema it answers; on the new one, {seen.rstrip('.')}."
        return Proof(NEW, TITLES[NEW], "fail", detail=detail, remedy=REMEDY)
    proofs = [
        proof
        for known, one in zip(before, seen, strict=True)
        for proof in verify_proofs(one, known.facts(), latency, "", judge_latency=False)
    ]
    wrong = failures(proof.as_dict() for proof in proofs)
    if wrong:
        return Proof(NEW, TITLES[NEW], "fail", detail=" ".join(map(failure_of, wrong)), remedy=REMEDY)
    return Proof(NEW, TITLES[NEW], "pass", detail=f"{len(seen)} endpoints answered as on the old schema.")
