"""The contract of an HTTP API: what its endpoints promise, how they answer now, and how they did in the baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..core.journal import Journal, last_facts, utc_now
from ..core.options import Options, run_of
from ..core.outcome import AS_BEFORE
from ..core.proof import Proof, Status, sentence
from ..host.http import Answer, HttpSession
from .unchanged import STEP as UNTOUCHED
from .unchanged_verdict import rewritten

Facts = Mapping[str, Any]
FEWER = "Exempt the target from the API's rate limit, or lower latency.requests of the release."
AGAIN = "Then rerun the playbook: nothing that was observed speaks against the release."
NO_BASELINE = "This release has no baseline of this endpoint here, so there is nothing to compare with."


@dataclass(frozen=True)
class Endpoint:
    """What the release declares of one endpoint.

    items: where in an answer its list is; then `keys` are those of its items, and `outer_keys` those around it.
    """

    name: str
    path: str
    status: int
    kind: str
    keys: tuple[str, ...]
    items: str | None = None
    outer_keys: tuple[str, ...] = ()

    @classmethod
    def of(cls, declared: Mapping[str, Any]) -> Endpoint:
        """From an item of the release's `api.endpoints`."""
        name, path, status, kind = (declared[key] for key in ("name", "path", "status", "kind"))
        keys, items = tuple(declared["keys"]), declared.get("items")
        if items and kind == "object":
            # The keys are declared for the object; what its list holds is compared with the baseline.
            return cls(name, path, status, "list", (), items, keys)
        return cls(name, path, status, kind, keys, items)

    @property
    def kind_label(self) -> str:
        """What it answers with, for a title."""
        if self.kind == "object":
            return "an object"
        return f"a list at `{self.items}`" if self.items else "a list"


@dataclass(frozen=True)
class Latency:
    """How many requests are sent, and how slow their median may be: `factor` times the baseline's, or `floor_ms`."""

    requests: int
    factor: float
    floor_ms: float

    @classmethod
    def of(cls, declared: Mapping[str, Any]) -> Latency:
        """From the release's `api.latency`."""
        return cls(declared["requests"], declared["factor"], declared["floor_ms"])


@dataclass(frozen=True)
class EndpointObservation:
    """The answers of one endpoint, in the order of its requests."""

    endpoint: Endpoint
    answers: tuple[Answer, ...]

    @property
    def expected(self) -> tuple[Answer, ...]:
        """The answers with the declared status."""
        return tuple(answer for answer in self.answers if not answer.problem and answer.status == self.endpoint.status)

    @property
    def pages(self) -> tuple[Answer, ...]:
        """Those of them that are of the declared kind."""
        return tuple(answer for answer in self.expected if answer.kind == self.endpoint.kind)

    def facts(self) -> dict[str, Any]:
        """What the baseline records; `optional_keys` are those of `keys` that not every item has."""
        odd = next((answer for answer in self.answers if answer not in self.expected), None)
        last = odd or self.answers[-1]
        key_sets = [keys for page in self.pages for keys in page.items if keys is not None]
        everywhere = frozenset.intersection(*key_sets) if key_sets else frozenset()
        anywhere: frozenset[str] = frozenset().union(*key_sets)
        times = sorted(answer.duration_ms for answer in self.expected)
        return {
            "status": last.status,
            "kind": last.kind,
            "keys": sorted(anywhere),
            "optional_keys": sorted(anywhere - everywhere),
            "below": sorted(frozenset().union(*(page.below for page in self.pages))),
            "count": len(self.pages[-1].items) if self.pages and self.endpoint.kind == "list" else None,
            "latency_ms": {
                "p50": round(median(times), 1) if times else None,
                "p95": percentile(times, 95),
                "max": times[-1] if times else None,
            },
            "requests": len(self.answers),
        }


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile of ordered numbers; None of none."""
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else None


def observe(session: HttpSession, endpoint: Endpoint, requests: int) -> EndpointObservation:
    """Ask an endpoint so many times, one after the other, until it cannot be reached or refuses."""
    answers: list[Answer] = []
    for _ in range(max(1, requests)):
        answers.append(session.get(endpoint.path, endpoint.items))
        if answers[-1].problem or answers[-1].says_nothing:
            break
    return EndpointObservation(endpoint, tuple(answers))


def observe_proofs(seen: EndpointObservation, url: str) -> list[Proof]:
    """The claims on a baseline: the declared status, and the declared kind of answer."""
    return [_status(seen, url, "api_baseline"), _shape(seen, None, "api_baseline", kind_only=True)]


def verify_proofs(
    seen: EndpointObservation,
    baseline: Facts | None,
    latency: Latency,
    url: str,
    rewritten: int | None = 0,
    *,
    judge_latency: bool = True,
) -> list[Proof]:
    """The claims after a release: the declared contract, and nothing worse than the baseline.

    rewritten: how many rows others have deleted or changed since the baseline; None where it cannot be determined.
    judge_latency: whether slow answers fail the claim; if not, they are inconclusive.
    """
    proofs = [_status(seen, url, "api"), _shape(seen, baseline, "api", kind_only=False)]
    if seen.endpoint.kind == "list":
        proofs.append(_count(seen, baseline, rewritten))
    return [*proofs, _latency(seen, baseline, latency, judge_latency)]


def _proof_of(seen: EndpointObservation, stage: str, claim: str, title: str) -> Callable[..., Proof]:
    """A function that makes the proofs of one claim, whatever their verdict."""

    def proof(status: Status, **values: Any) -> Proof:
        spent = round(sum(answer.duration_ms for answer in seen.answers))
        return Proof(f"{stage}.{seen.endpoint.name}.{claim}", title, status, duration_ms=spent, **values)

    return proof


def _status(seen: EndpointObservation, url: str, stage: str) -> Proof:
    endpoint = seen.endpoint
    proof = _proof_of(seen, stage, "status", f"{endpoint.path} answers with status {endpoint.status}")
    observed = sorted({answer.status for answer in seen.answers if answer.status is not None})
    wanted = endpoint.status
    unheard = next((one for one in seen.answers if one.says_nothing and one.status != wanted), None)
    # Only where the service itself has given no other answer.
    if unheard and all(one.says_nothing or (one.status == wanted and not one.problem) for one in seen.answers):
        return proof(
            "inconclusive",
            could_not_run=True,
            expected=wanted,
            observed=observed,
            detail=f"GET {url}{endpoint.path} {unheard.problem or 'was refused with status 429 (too many requests).'}",
            remedy=f"{unheard.remedy or FEWER} {AGAIN}",
        )
    for answer in seen.answers:
        if answer.problem:
            where = f"GET {url}{endpoint.path} {answer.problem}"
            return proof("fail", expected=endpoint.status, observed=observed, detail=where, remedy=answer.remedy)
    odd = len(seen.answers) - len(seen.expected)
    detail = f"{len(seen.answers)} of {len(seen.answers)} answers had it."
    if not odd:
        return proof("pass", expected=endpoint.status, observed=observed, detail=detail)
    first = next(answer for answer in seen.answers if answer.status != endpoint.status)
    detail = f"{odd} of {len(seen.answers)} answers of GET {url}{endpoint.path} had status {first.status}{first.note}."
    remedy = (
        "Read the log of the service: it failed while it made this answer."
        if first.status and first.status >= 500
        else "Check that the base URL and the declared path are those of this API, and that it needs no login."
    )
    return proof("fail", expected=endpoint.status, observed=observed, detail=detail, remedy=remedy)


def _shape(seen: EndpointObservation, baseline: Facts | None, stage: str, *, kind_only: bool) -> Proof:
    endpoint = seen.endpoint
    title = f"{endpoint.path} answers with {endpoint.kind_label}"
    proof = _proof_of(seen, stage, "shape", title if kind_only else f"{title} of unchanged structure")
    if not seen.expected:
        return proof("skipped", expected=endpoint.kind, detail=_nothing_to_judge(endpoint))
    odd = next((answer for answer in seen.expected if answer.kind != endpoint.kind), None)
    if odd:
        detail = f"GET {endpoint.path} answered with {odd.kind_label}, where the release declares {endpoint.kind}."
        remedy = "Check that the base URL leads to the API itself, and not to a page or a proxy in front of it."
        if endpoint.items:
            remedy = "Compare the answer with what the release declares: `items` says where its list is."
        return proof("fail", expected=endpoint.kind, observed=odd.kind, detail=detail, remedy=remedy)
    if kind_only:
        return proof("pass", expected=endpoint.kind, observed=endpoint.kind)
    return _structure(seen, baseline, proof)


def _structure(seen: EndpointObservation, baseline: Facts | None, proof: Callable[..., Proof]) -> Proof:
    """Every item has the declared keys; and the baseline's, both ways."""
    endpoint = seen.endpoint
    items = [keys for page in seen.pages for keys in page.items]
    lacking = sorted({key for page in seen.pages for key in set(endpoint.outer_keys) - page.outer})
    if lacking:
        detail = f"GET {endpoint.path} answered without {', '.join(lacking)} around its list."
        remedy = "Compare the API with what the release declares."
        return proof("fail", expected=sorted(endpoint.outer_keys), detail=detail, remedy=remedy)
    expected = sorted({*endpoint.keys, *(baseline["keys"] if baseline else ())})
    if not items:
        detail = f"GET {endpoint.path} answered with an empty list, which shows nothing about the keys of its items."
        return proof("inconclusive", expected=expected, observed=[], detail=detail)
    if None in items:
        detail = f"Items of GET {endpoint.path} are no objects."
        return proof("fail", expected=expected, detail=detail, remedy="Compare the API with what the release declares.")
    present = seen.facts()["keys"]
    known = bool(baseline and baseline["keys"])
    optional = set(baseline.get("optional_keys", ())) if baseline else set()
    always = (set(baseline["keys"]) - optional if baseline and known else set()) | set(endpoint.keys)
    missing = sorted({key for keys in items for key in always - (keys or frozenset())})
    added = sorted(set(present) - set(baseline["keys"])) if baseline and known else []
    faults = [f"{text} {', '.join(keys)}" for text, keys in (("missing:", missing), ("new:", added)) if keys]
    if faults:
        detail = f"The keys of GET {endpoint.path} changed ({'; '.join(faults)})."
        remedy = (
            "The release must not change the answers: find out what else was deployed, or correct the declared keys."
        )
        return proof("fail", expected=expected, observed=present, detail=detail, remedy=remedy)
    unseen = sorted(optional - set(present))
    if unseen:
        detail = f"Only some items had {', '.join(unseen)} in the baseline, and none has now."
        return proof("inconclusive", expected=expected, observed=present, detail=detail)
    below = seen.facts()["below"]
    before = baseline.get("below") if baseline else None
    if before and below and before != below:
        changed = sorted({*before} ^ {*below})
        detail = (
            f"Lists in the answer of GET {endpoint.path} have other keys than in the baseline ({', '.join(changed)})."
        )
        remedy = "Declare where its list is (`items`), so that the keys of its items are checked."
        return proof("inconclusive", expected=expected, observed=present, detail=detail, remedy=remedy)
    detail = "" if known else "Only the declared keys were checked: no baseline has keys of this endpoint."
    return proof("pass", expected=expected, observed=present, detail=detail)


def _count(seen: EndpointObservation, baseline: Facts | None, rewritten: int | None) -> Proof:
    endpoint = seen.endpoint
    proof = _proof_of(seen, "api", "count", f"{endpoint.path} lists as many items as before")
    before = baseline["count"] if baseline else None
    if before is None:
        return proof("skipped", detail=NO_BASELINE)
    if not seen.pages:
        return proof("skipped", expected=before, detail=_nothing_to_judge(endpoint))
    now = len(seen.pages[-1].items)
    if now < before:
        detail = f"GET {endpoint.path} lists {now} items, and listed {before} in the baseline"
        if rewritten is None:
            detail = (
                f"{detail}; the tables hold other rows than at the baseline, so the count shows nothing about the API."
            )
            return proof("inconclusive", expected=before, observed=now, detail=detail)
        if rewritten >= before - now:
            detail = f"{detail}; {rewritten} rows were deleted or changed by others since, which may be why."
            return proof("inconclusive", expected=before, observed=now, detail=detail)
        remedy = "If no session deleted them meanwhile, the API omits rows: compare the tables with the baseline."
        return proof("fail", expected=before, observed=now, detail=f"{detail}.", remedy=remedy)
    detail = f"{now - before} more than in the baseline: the application was writing." if now > before else ""
    return proof("pass", expected=before, observed=now, detail=detail)


def _latency(seen: EndpointObservation, baseline: Facts | None, latency: Latency, judged: bool) -> Proof:
    endpoint = seen.endpoint
    proof = _proof_of(seen, "api", "latency", f"{endpoint.path} answers as fast as before")
    before = baseline["latency_ms"]["p50"] if baseline else None
    if before is None:
        return proof("skipped", detail=NO_BASELINE)
    if not seen.expected:
        return proof("skipped", detail=_nothing_to_judge(endpoint))
    limit = round(max(latency.factor * before, latency.floor_ms), 1)
    now = seen.facts()["latency_ms"]["p50"]
    expected, observed = {"median_ms_at_most": limit}, {"median_ms": now, "baseline_median_ms": before}
    if now > limit:
        detail = f"The median of {len(seen.expected)} requests is {now} ms, above the limit of {limit} ms."
        remedy = "Check the load of the target and the plans of the queries behind this endpoint."
        return proof(
            "fail" if judged else "inconclusive", expected=expected, observed=observed, detail=detail, remedy=remedy
        )
    return proof("pass", expected=expected, observed=observed)


def _nothing_to_judge(endpoint: Endpoint) -> str:
    return f"No answer had status {endpoint.status}, so there was nothing to check."


OPTIONS: Options = {
    "base_url": {"type": "str", "required": True},
    "ca_file": {"type": "path", "default": ""},
    "other_rows": {"type": "bool", "default": False},
    "judge_latency": {"type": "bool", "default": True},
    "mode": {"type": "str", "choices": ["observe", "verify"], "required": True},
    "api": {
        "type": "dict",
        "required": True,
        "options": {
            "timeout_seconds": {"type": "float", "required": True},
            "latency": {
                "type": "dict",
                "required": True,
                "options": {
                    "requests": {"type": "int", "required": True},
                    "factor": {"type": "float", "required": True},
                    "floor_ms": {"type": "float", "required": True},
                },
            },
            "endpoints": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "path": {"type": "str", "required": True},
                    "status": {"type": "int", "required": True},
                    "kind": {"type": "str", "choices": ["list", "object"], "required": True},
                    "items": {"type": "str"},
                    "keys": {"type": "list", "elements": "str", "required": True, "no_log": False},
                },
            },
        },
    },
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Ask every endpoint, compare, and journal what was observed."""
    journal = Journal(run_of(params), dry=check_mode)
    verifying, api = params["mode"] == "verify", params["api"]
    latency = Latency.of(api["latency"])
    lines = journal.read()
    before = last_facts(lines, release=journal.run.release, environment=journal.run.environment, step="api_baseline")
    baseline = before["endpoints"] if before and verifying else {}
    written = None if params["other_rows"] else _rewritten(lines, journal.run.run_id)
    endpoints: dict[str, Any] = {}
    with journal.step("api" if verifying else "api_baseline") as step:
        step.facts.update(taken_at=utc_now().isoformat(timespec="milliseconds"), endpoints=endpoints, proofs=[])
        with HttpSession(params["base_url"], api["timeout_seconds"], params.get("ca_file") or "") as session:
            for endpoint in map(Endpoint.of, api["endpoints"]):
                seen = observe(session, endpoint, latency.requests)
                endpoints[endpoint.name] = seen.facts()
                if not verifying:
                    step.prove(*observe_proofs(seen, session.url))
                    continue
                known = baseline.get(endpoint.name)
                judged = params["judge_latency"]
                step.prove(*verify_proofs(seen, known, latency, session.url, written, judge_latency=judged))
    proofs = step.facts["proofs"]
    return {
        "changed": False,
        "proofs": proofs,
        "message": sentence(proofs),
        "endpoints": endpoints,
        "compared": bool(baseline),
    }


def _rewritten(lines: Sequence[Mapping[str, Any]], run_id: str) -> int | None:
    """How many rows this run found rewritten before it checked the API; 0 where it did not check the tables."""
    for line in reversed(lines):
        if line["run_id"] == run_id and line["step"] in (UNTOUCHED, AS_BEFORE) and line["event"] != "started":
            return rewritten(line["facts"].get("proofs") or ())
    return 0
