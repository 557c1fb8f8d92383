"""The verdict on one claim of a sample, and on the sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["pass", "fail", "inconclusive"]
# What was above its limit before the release already fails where it has become worse than that by this factor.
WORSE = 1.5


@dataclass(frozen=True)
class Claim:
    """What one sample says about one claim of the watch (its proof is monitor.<name>); `detail` where it is no pass.

    grave: what it found concerns the release itself, so that no limit of failing samples excuses it.
    """

    name: str
    verdict: Verdict = "pass"
    detail: str = ""
    grave: bool = False

    def facts(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)


def verdict_of(claims: Iterable[Claim]) -> Verdict:
    """A sample fails with one claim; it passes only if every one does."""
    verdicts = {claim.verdict for claim in claims}
    return "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"


def findings(sample: Mapping[str, Any]) -> list[str]:
    """What a journaled sample found, in sentences."""
    return [claim["detail"] for claim in sample["claims"] if claim["detail"]]
