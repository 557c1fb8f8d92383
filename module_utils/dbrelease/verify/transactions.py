"""Whose a transaction was: the migration's, another session's, or unknown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..postgres.writers import Span, joined

Whose = Literal["own", "others", "unknown"]
ORDER: tuple[Whose, ...] = ("own", "unknown", "others")


@dataclass(frozen=True)
class Transactions:
    """What is known of the transactions since a baseline, by their ids in full 64 bits; spans exclude their end.

    own: the migration's. others: those of other sessions, although the migration was running. moves: when it ran; None
    where that was not recorded, so that it may have been at any time.
    """

    since: int
    own: Sequence[Sequence[int]] = ()
    others: Sequence[Sequence[int]] = ()
    moves: Sequence[Span] | None = None

    @classmethod
    def of(cls, since: int, known: Iterable[int], moves: Sequence[Mapping[str, Any]]) -> Transactions:
        """From transactions that are known to be the migration's, and what each of its moves recorded."""
        known = sorted({xid for xid in known if xid >= since})
        own: list[Span] = [(xid, xid + 1) for xid in known]
        others: list[Span] = []
        for writers in (move.get("writers") or {} for move in moves):
            own += _spans(writers.get("own"))
            others += _spans(writers.get("others"))
            # Of a session that came and went unseen: what it wrote beside the revision is the migration's, too.
            own += [one for one in _spans(writers.get("single")) if any(one[0] <= xid < one[1] for xid in known)]
        ran = [(_begin(move["before"]), move["after"]["xid"]) for move in moves]
        return cls(since, joined(own), joined(others), ran or None)

    def whose(self, xid: int) -> Whose:
        """Of one transaction since the baseline."""
        if _within(xid, self.own):
            return "own"
        if self.moves is not None and (not _within(xid, self.moves) or _within(xid, self.others)):
            return "others"
        return "unknown" if self.moves is not None or self.own else "others"

    def whose_of(self, xids: Iterable[int]) -> Whose | None:
        """Of some transactions, the gravest answer for one since the baseline; None where there is none."""
        found = {self.whose(xid) for xid in xids if xid >= self.since}
        return next((whose for whose in ORDER if whose in found), None)

    def count(self, first: int, end: int) -> int:
        """How many transactions of a span are the migration's."""
        return sum(max(min(span[1], end) - max(span[0], first), 0) for span in self.own)


def _begin(position: Mapping[str, Any]) -> int:
    return int(position.get("since", position["xid"]))


def _spans(found: Any) -> list[Span]:
    """As they were journaled; what is not a span is ignored."""
    return [(span[0], span[1]) for span in found or () if len(span) == 2]


def _within(xid: int, spans: Iterable[Sequence[int]]) -> bool:
    return any(span[0] <= xid < span[1] for span in spans)
