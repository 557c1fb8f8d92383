"""Whether a failed deploy rolls the release back, by the results of the last step of the migration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Result = Mapping[str, Any] | None  # None where that step was not reached


def is_due(own: Result, where_failed: Iterable[Result]) -> bool:
    """Whether this run migrated this target, and a failure concerns the release.

    where_failed: the results of the targets on which a task has failed. Either every target is rolled back or none:
    all are where, on one of them, something failed after the migration, or a claim that the migration must prove. A
    migration that failed for another reason on another target says nothing about the release.
    """
    return own is not None and not own.get("unreachable") and _ran(own) and any(map(_ran, where_failed))


def broken_by_others(failed: Iterable[Result]) -> str:
    """Why no failed check can be caused by the release; empty where one can be, or where the failed checks are unknown.

    failed: the results of the tasks that failed, one for each target. A check that passed when the migration had ended,
    and fails now, was broken by other sessions since.
    """
    titles: list[str] = []
    for result in failed:
        red = [proof for proof in (result or {}).get("proofs") or () if proof.get("status") == "fail"]
        held = set((result or {}).get("held") or ())
        if not red or any(proof.get("name") not in held for proof in red):
            return ""
        titles += [str(proof.get("title")) for proof in red]
    named = "; ".join(dict.fromkeys(titles))
    return (
        f"the failed checks passed when the migration had ended, so other sessions broke them since ({named})."
        if named
        else ""
    )


def is_unknown(failed: Iterable[tuple[Result, Result]]) -> bool:
    """Whether nothing that failed after the migration is a verdict: claims could not be checked, or a module died.

    failed: of each target on which a task has failed the results of the migration's last step and of that task.
    """
    found = [result for migrated, result in failed if _ran(migrated)]
    return bool(found) and not any(map(_is_verdict, found))


def _is_verdict(result: Result) -> bool:
    """Whether a module of ours failed on purpose: only such a result says `refused`, true or false."""
    return result is not None and "refused" in result and result.get("could_not_run") is not True


def _ran(result: Result) -> bool:
    """Whether the migration ended, or reached claims that it could not prove."""
    return result is not None and (not result.get("failed") or bool(result.get("unproven")))
