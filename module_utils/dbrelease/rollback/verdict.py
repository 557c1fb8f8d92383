"""Whether a release may be taken back: its declared guards, each a proof, and one verdict over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..core.proof import Proof, Status
from ..postgres.session import Row
from ..release.guard_kinds import Guard, kind_of

# What to do where a guard is undecided: its own remedy is for what it has seen.
UNDECIDED = {
    "answers": "Let the API answer there with at least one item, or declare where its list is (`items`).",
    "openapi": "Publish the document on the target, or declare a guard that can be decided here in its place, "
    "such as `answers` or `container`.",
    "container": "Start the container, or correct its name in the inventory.",
    "log": "Let the service log its requests, or declare a guard that can be decided here in its place.",
}
UNDECIDED_IN_DATABASE = "Remove what kept it from being decided, and run again."
State = Literal["allowed", "refused", "not_deployed"]


@dataclass(frozen=True)
class GuardResult:
    """What a look at one guard came to; the title, the remedy and the name are the guard's own."""

    status: Status
    detail: str
    expected: Any = None
    observed: Any = None
    sql: str = ""
    sample: list[Row] = field(default_factory=list)
    duration_ms: int = 0
    lost: int = 0

    def proof(self, guard: Guard) -> Proof:
        """As the evidence has it."""
        stands_in_the_way = self.status in ("fail", "inconclusive")
        return Proof(
            name=f"guard.{guard['name']}",
            title=guard["title"],
            status=self.status,
            expected=self.expected,
            observed=self.observed,
            detail=self.detail,
            remedy=remedy_of(guard, self) if stands_in_the_way else "",
            sql=self.sql,
            sample=self.sample,
            duration_ms=self.duration_ms,
        )


@dataclass(frozen=True)
class Verdict:
    """Over all guards: whether the downgrade may go on, and if not one sentence for each reason."""

    state: State
    message: str
    rows_lost: int = 0
    accepted: bool = False
    guards: list[tuple[Guard, GuardResult]] = field(default_factory=list)

    @property
    def proofs(self) -> list[Proof]:
        """One for each guard."""
        return [seen.proof(guard) for guard, seen in self.guards]


def remedy_of(guard: Guard, seen: GuardResult) -> str:
    """The guard's own remedy is for where it is red: where it is undecided, nobody saw that it is."""
    if seen.status == "inconclusive":
        return UNDECIDED.get(kind_of(guard), UNDECIDED_IN_DATABASE)
    return " ".join(guard["road"].split())


def in_words(guard: Guard, seen: GuardResult) -> str:
    """What stands in the way, and what to do."""
    undecided = "It is undecided whether this holds. " if seen.status == "inconclusive" else ""
    return f"{guard['title']}: {undecided}{seen.detail}"


def judge(looked: Sequence[tuple[Guard, GuardResult]], accept_loss: str | None) -> Verdict:
    """Every guard must hold. What cannot be decided refuses as well; only rows that are lost can be accepted.

    They are accepted by naming the very number that was counted, as it is written, and that covers only the guards that
    count them, and those that the release declares to have no other harm.
    """
    rows_lost = sum(seen.lost for _, seen in looked)
    uncounted = any(kind_of(guard) == "losses" and seen.status == "inconclusive" for guard, seen in looked)
    accepted = accept_loss == str(rows_lost) and not uncounted
    standing = [
        (guard, seen)
        for guard, seen in looked
        if seen.status in ("fail", "inconclusive") and not (accepted and _is_covered(guard, seen))
    ]
    reasons = [_reason(guard, seen) for guard, seen in standing]
    if not looked:
        reasons.append("The release declares no guard, so nothing can show that going back is allowed; declare them.")
    if accept_loss is not None and not accepted:
        number = "the number could not be counted" if uncounted else f"{_rows(rows_lost)} would be lost"
        reasons.append(f"accept_loss={accept_loss} is not the number counted: {number}; look at them first.")
    elif rows_lost and not accepted:
        reasons.append(
            f"In all {_rows(rows_lost)} would be lost; `-e accept_loss={rows_lost}` goes on nevertheless, and saves "
            "them first, once nothing else stands in the way."
        )
    message = " ".join(f"{number}) {reason}" for number, reason in enumerate(reasons, start=1))
    # What is accepted is no failure any more, and yet nothing that holds.
    kept = [
        (guard, replace(seen, status="inconclusive", detail=f"{seen.detail} Accepted (accept_loss={accept_loss})."))
        if accepted and not reasons and _is_covered(guard, seen)
        else (guard, seen)
        for guard, seen in looked
    ]
    return Verdict("refused" if reasons else "allowed", message, rows_lost, accepted and rows_lost > 0, kept)


def skipped(guards: Iterable[Guard], why: str) -> list[tuple[Guard, GuardResult]]:
    """Every guard, not looked at."""
    return [(guard, GuardResult("skipped", why)) for guard in guards]


def _is_covered(guard: Guard, seen: GuardResult) -> bool:
    return seen.status == "fail" and (kind_of(guard) == "losses" or bool(guard.get("covered_by_losses")))


def _reason(guard: Guard, seen: GuardResult) -> str:
    shown = "; ".join(", ".join(f"{name} {value}" for name, value in row.items()) for row in seen.sample[:3])
    text = in_words(guard, seen) + (f" Among them: {shown}." if shown else "")
    return f"{text} {remedy_of(guard, seen)}"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
