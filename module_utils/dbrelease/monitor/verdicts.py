"""The verdict on one claim of a sample, and on the sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["pass", "fail", "inconclusive"]
# A value that already exceeded its limit before the release fails if it has become worse by this factor.
WORSE = 1.5


@dataclass(frozen=True)
class Claim:
    """The verdict of one sample on one claim of the watch (its proof is monitor.<name>); `detail` unless it passed.

    grave: the finding concerns the release itself, so that no limit of failed samples excuses it. could_not_run: the
    server could not answer, which says nothing of the release.
    """

    name: str
    verdict: Verdict = "pass"
    detail: str = ""
    grave: bool = False
    could_not_run: bool = False

    def facts(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)


def verdict_of(claims: Iterable[Claim]) -> Verdict:
    """A sample fails if one claim fails; it passes only if every claim passes."""
    verdicts = {claim.verdict for claim in claims}
    return "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"


def findings(sample: Mapping[str, Any]) -> list[str]:
    """The findings of a journaled sample, in sentences."""
    return [claim["detail"] for claim in sample["claims"] if claim["detail"]]
