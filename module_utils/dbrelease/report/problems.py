"""The end of a run in a few lines: its outcome in one sentence, and each problem with its remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.outcome import TAKEN_BACK
from ..core.proof import failure_of, not_run
from ..core.stages import one_line

Problem = dict[str, str]
PROBLEMS_AT_MOST, LENGTH_AT_MOST = 20, 2_000
# The message of a refusal by guards has all reasons, also those without a claim; the step `hold` repeats them.
SAID_BY_MESSAGE = ("guards",)
LEFT_BY = "settled"  # the last step of a way back


def problems_of(model: Mapping[str, Any]) -> list[Problem]:
    """The problems that kept the run from success: the claims that failed, those of the first cause first.

    A cause that no claim states precedes them in its own words, which include the remedy.
    """
    cause = model["cause"]
    if not cause:
        return []
    red = [proof for proof in model["proofs"] if proof["status"] == "fail" and proof["step"] not in SAID_BY_MESSAGE]
    own = [proof for proof in red if proof["step"] == cause["step"]]
    first = [] if own else [{"sentence": text, "remedy": ""} for text in numbered(cause["message"])]
    others = [proof for proof in red if proof["step"] != cause["step"]]
    if red:  # else the message of the cause has them
        others += not_run(model["proofs"])
    return bounded([*first, *map(_problem, own + others)])


def open_points_of(model: Mapping[str, Any]) -> list[Problem]:
    """What a run could not decide and somebody has to do: each inconclusive claim with a remedy.

    Of a release that failed and was taken back, these are the claims on what the way back left.
    """
    if not model["succeeded"] and model["outcome"] not in TAKEN_BACK:
        return []
    proofs = model["proofs"]
    passed_at = {proof["name"]: place for place, proof in enumerate(proofs) if proof["status"] == "pass"}
    undecided = [
        {"sentence": _undecided(proof), "remedy": proof["remedy"]}
        for place, proof in enumerate(proofs)
        if proof["status"] == "inconclusive"
        and proof["remedy"]
        and (model["succeeded"] or proof["step"] == LEFT_BY)
        and passed_at.get(proof["name"], -1) < place
    ]
    return bounded(undecided)


def warnings_of(model: Mapping[str, Any]) -> list[str]:
    """What the operator has left out of a run that changed the database, in red on the terminal and in the report."""
    if not model["upgrade_begun"]:
        return []
    stages = [stage for stage in model["stages"] if stage["step"] == "rehearse"]
    said = [stage["message"] for stage in stages if stage["status"] == "skipped"]
    claims = [proof for proof in model["proofs"] if proof["name"] == "rehearse.upgrade"]
    said += [f"The release was not rehearsed. {one['detail']}" for one in claims if one["status"] == "inconclusive"]
    return [shortened(text) for text in said]


def summary_of(model: Mapping[str, Any]) -> str:
    """The headline without its cause, which is the first problem; the whole headline where it has no cause."""
    headline, cause = str(model["headline"]), model["cause"]
    if not cause:
        return headline
    of_step = [stage["message"] for stage in model["stages"] if stage["step"] == cause["step"]]
    for message in filter(None, [cause["message"], *of_step]):
        before, found, after = headline.partition(f": {message}")
        if found:
            return f"{before}.{after}"
    return headline


def numbered(message: str) -> list[str]:
    """The sentences of a message that numbers them, as `core.proof.sentence` does; else the message itself."""
    found: list[str] = []
    rest = message
    while rest.startswith(f"{len(found) + 1}) "):
        this, _, left = rest.partition(f" {len(found) + 2}) ")
        found.append(this.partition(") ")[2])
        rest = f"{len(found) + 1}) {left}" if left else ""
    return found or [message]


def bounded(problems: Any) -> list[Problem]:
    """Problems that can be shown, from any source: well-formed, each once, limited in number and length."""
    found: list[Problem] = []
    for given in problems if isinstance(problems, list | tuple) else ():
        if isinstance(given, Mapping):
            problem = {key: shortened(given.get(key)) for key in ("sentence", "remedy")}
            if problem["sentence"] and problem not in found:
                found.append(problem)
    left = len(found) - PROBLEMS_AT_MOST
    if left <= 0:
        return found
    more = {"sentence": f"{left + 1} more problems are not listed here.", "remedy": "Read the report."}
    return [*found[: PROBLEMS_AT_MOST - 1], more]


def shortened(text: Any) -> str:
    """The text as one line of visible characters and bounded length."""
    line = one_line(str(text or "")[: 2 * LENGTH_AT_MOST])
    return line if len(line) <= LENGTH_AT_MOST else f"{line[: LENGTH_AT_MOST - 3]}..."


def _problem(proof: Mapping[str, Any]) -> Problem:
    return {"sentence": failure_of(proof), "remedy": proof["remedy"]}


def _undecided(proof: Mapping[str, Any]) -> str:
    return f"“{proof['title']}” is inconclusive: {proof['detail']}".removesuffix(": ")
