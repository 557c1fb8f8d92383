"""A proof: one claim about the target, what was expected, what was observed, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["pass", "fail", "inconclusive", "skipped"]


@dataclass(frozen=True)
class Proof:
    """One claim and its verdict.

    name: dotted and stable, `<stage>.<claim>` (`preflight.database`); the report, the checklist and JUnit use it.
    status: `inconclusive` means that it was checked and cannot be decided; `skipped` that it was not checked.
    detail: one sentence on what was observed; for a failure also what to do (`remedy`).
    could_not_run: the server prevented the check, so that nothing speaks for the claim and nothing against it.
    """

    name: str
    title: str
    status: Status
    expected: Any = None
    observed: Any = None
    detail: str = ""
    remedy: str = ""
    sql: str = ""
    sample: list[dict[str, Any]] = field(default_factory=list)
    duration_ms: int = 0
    could_not_run: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Every key, every time, so that consumers need no defaults."""
        return asdict(self)


def failures(proofs: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The proofs (as dicts) whose claim failed."""
    return [proof for proof in proofs if proof["status"] == "fail"]


def not_run(proofs: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The proofs (as dicts) whose check the server prevented."""
    return [proof for proof in proofs if proof.get("could_not_run")]


def sentence(proofs: Iterable[Mapping[str, Any]]) -> str:
    """One sentence per proof that failed or could not run: what failed, why, and what to do; else empty."""
    standing = [proof for proof in proofs if proof["status"] == "fail" or proof.get("could_not_run")]
    return " ".join(
        f"{index}) {failure_of(proof)} {proof['remedy']}".rstrip() for index, proof in enumerate(standing, start=1)
    )


def failure_of(proof: Mapping[str, Any]) -> str:
    """What failed and why, without the remedy; the title alone states the claim as if it were true."""
    verb = "could not be checked" if proof.get("could_not_run") else "failed"
    return f"“{proof['title']}” {verb}: {proof['detail']}".removesuffix(": ")


def named(rules: Iterable[str]) -> str:
    """How many problems there are, and which claims they are, for a line that leaves the rest to the end of the run."""
    names = [name.rpartition(".")[2] for name in rules]
    if not names:
        return ""
    return f"{len(names)} {'problem' if len(names) == 1 else 'problems'}: {', '.join(names)}."
