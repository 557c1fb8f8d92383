"""Whether a release may be rolled back: its declared guards, each a proof, and one verdict over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..core.proof import Proof, Status
from ..postgres.session import Row
from ..release.guard_kinds import Guard, kind_of

# What to do where a guard cannot be determined: its own remedy is for a guard that failed.
UNDECIDED = {
    "answers": "Let the API answer there with at least one item, or declare where its list is (`items`).",
    "openapi": "Publish the document on the target, or declare a guard that can be decided here in its place, "
    "such as `answers` or `container`.",
    "container": "Start the container, or correct its name in the inventory.",
    "log": "Let the service log its requests, or declare a guard that can be decided here in its place.",
}
UNDECIDED_IN_DATABASE = "Remove the cause, and rerun the playbook."
State = Literal["allowed", "refused", "not_deployed"]


@dataclass(frozen=True)
class GuardResult:
    """The result of one guard; the title, the remedy and the name are the guard's own."""

    status: Status
    detail: str
    expected: Any = None
    observed: Any = None
    sql: str = ""
    sample: list[Row] = field(default_factory=list)
    duration_ms: int = 0
    lost: int = 0

    def proof(self, guard: Guard) -> Proof:
        """For the evidence."""
        refuses = self.status in ("fail", "inconclusive")
        return Proof(
            name=f"guard.{guard['name']}",
            title=guard["title"],
            status=self.status,
            expected=self.expected,
            observed=self.observed,
            detail=self.detail,
            remedy=remedy_of(guard, self) if refuses else "",
            sql=self.sql,
            sample=self.sample,
            duration_ms=self.duration_ms,
        )


@dataclass(frozen=True)
class Verdict:
    """Over all guards: whether the downgrade may start, and if not, one sentence for each reason."""

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
    """The guard's own remedy, where it failed; where it cannot be determined, how to make it so that it can."""
    if seen.status == "inconclusive":
        return UNDECIDED.get(kind_of(guard), UNDECIDED_IN_DATABASE)
    return " ".join(guard["road"].split())


def in_words(guard: Guard, seen: GuardResult) -> str:
    """Which guard refuses, and why."""
    verb = "could not be determined" if seen.status == "inconclusive" else "failed"
    return f"“{guard['title']}” {verb}: {seen.detail}"


def judge(checked: Sequence[tuple[Guard, GuardResult]], accept_loss: str | None) -> Verdict:
    """Every guard must pass. One that cannot be determined refuses as well; only the loss of rows can be accepted.

    It is accepted by the exact number that was counted, and this covers only the guards that count rows, and those that
    the release declares to be covered by them.
    """
    rows_lost = sum(seen.lost for _, seen in checked)
    uncounted = any(kind_of(guard) == "losses" and seen.status == "inconclusive" for guard, seen in checked)
    accepted = accept_loss == str(rows_lost) and not uncounted
    refusing = [
        (guard, seen)
        for guard, seen in checked
        if seen.status in ("fail", "inconclusive") and not (accepted and _is_covered(guard, seen))
    ]
    reasons = [_reason(guard, seen) for guard, seen in refusing]
    if not checked:
        reasons.append(
            "The release declares no guard, so it cannot be determined whether a rollback is safe: declare guards."
        )
    if accept_loss is not None and not accepted:
        number = "the number could not be counted" if uncounted else f"{_rows(rows_lost)} would be lost"
        reasons.append(f"accept_loss={accept_loss} is not the number counted: {number}; check these rows first.")
    elif rows_lost and not accepted:
        reasons.append(
            f"In total {_rows(rows_lost)} would be lost; `-e accept_loss={rows_lost}` accepts this, and saves them "
            "first, if no other guard refuses."
        )
    message = " ".join(f"{number}) {reason}" for number, reason in enumerate(reasons, start=1))
    # An accepted loss is no failure any more, but it is no pass either.
    kept = [
        (guard, replace(seen, status="inconclusive", detail=f"{seen.detail} Accepted (accept_loss={accept_loss})."))
        if accepted and not reasons and _is_covered(guard, seen)
        else (guard, seen)
        for guard, seen in checked
    ]
    return Verdict("refused" if reasons else "allowed", message, rows_lost, accepted and rows_lost > 0, kept)


def skipped(guards: Iterable[Guard], why: str) -> list[tuple[Guard, GuardResult]]:
    """Every guard, not checked."""
    return [(guard, GuardResult("skipped", why)) for guard in guards]


def _is_covered(guard: Guard, seen: GuardResult) -> bool:
    return seen.status == "fail" and (kind_of(guard) == "losses" or bool(guard.get("covered_by_losses")))


def _reason(guard: Guard, seen: GuardResult) -> str:
    shown = "; ".join(", ".join(f"{name} {value}" for name, value in row.items()) for row in seen.sample[:3])
    text = in_words(guard, seen) + (f" Among them: {shown}." if shown else "")
    return f"{text} {remedy_of(guard, seen)}"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
