"""Whether a table is as it was in the baseline, and who changed it if not: decides on what writers.py saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .database import Row
from .proof import Proof, Status

COUNTERS = ("inserted", "updated", "deleted")
LOOK = "Find out what wrote it before you go on; the backup of the baseline holds the rows as they were."


@dataclass(frozen=True)
class Window:
    """Between two readings of the counters: writes to one table, and transactions other than the migration's."""

    updated: int
    deleted: int
    other_transactions: int


@dataclass(frozen=True)
class Trace:
    """What the rows themselves say of who wrote them, by their transaction ids."""

    by_migration: int = 0  # rows that the migration's transaction wrote
    older: int = 0  # rows that nobody wrote since the baseline
    others_in_upgrade: int = 0  # rows that another transaction wrote while the upgrade ran


@dataclass(frozen=True)
class Evidence:
    """Everything known of one table whose content is not the baseline's."""

    before: Row
    now: Row
    trace: Trace
    written: Mapping[str, int]  # since the baseline, by anyone, also what was rolled back
    window: Window | None = None  # the upgrade's, if it was recorded
    not_comparable: str = ""  # why counters and transaction ids say nothing

    @property
    def newer(self) -> int:
        """Rows that someone wrote since the baseline."""
        return int(self.now["rows"]) - self.trace.older


@dataclass(frozen=True)
class Verdict:
    """The answer for one table; `provisional` where counters that arrive late may still turn it."""

    status: Status
    detail: str
    remedy: str = ""
    provisional: bool = False


def same(before: Row, now: Row) -> bool:
    """Whether a table holds exactly what it held."""
    whole = not now["absent"] and not now["missing"]
    return whole and (now["rows"], now["fingerprint"]) == (before["rows"], before["fingerprint"])


def judge(evidence: Evidence) -> Verdict:
    """Who changed the table: the migration (fail), the application (inconclusive), someone without a trace (fail)."""
    now, before, trace, written = evidence.now, evidence.before, evidence.trace, evidence.written
    if now["absent"]:
        return Verdict("fail", "The table is gone.", LOOK)
    if now["missing"]:
        return Verdict("fail", f"Of its columns {', '.join(now['missing'])} are gone.", LOOK)
    if trace.by_migration:
        return Verdict("fail", f"The migration itself wrote {trace.by_migration} rows of it.", LOOK)
    if evidence.not_comparable:
        return Verdict(
            "inconclusive", f"Changed since the baseline; who wrote cannot be told: {evidence.not_comparable}."
        )
    if before.get("oid") and now["oid"] != before["oid"]:
        return Verdict("fail", "The table was dropped and made anew since the baseline.", LOOK)
    if not evidence.newer and not any(written.values()):
        return Verdict("fail", "It changed, and no session is known to have written to it.", LOOK, provisional=True)
    gone = before["rows"] - trace.older
    lost = before["rows"] - now["rows"]
    if gone > written["deleted"] + written["updated"] or lost > written["deleted"]:
        return Verdict(
            "fail",
            f"Of the {before['rows']} rows of the baseline {gone} are gone or rewritten and the table is "
            f"{max(lost, 0)} rows shorter, but only {written['deleted']} deletes and {written['updated']} updates are "
            "known of: it was truncated or rewritten.",
            LOOK,
            provisional=True,
        )
    unexplained = _unexplained(trace, evidence.window) if evidence.window else ""
    if unexplained:
        return Verdict("fail", unexplained, LOOK)
    return Verdict(
        "inconclusive",
        "Changed by the application since the baseline: "
        f"+{written['inserted']} ~{written['updated']} -{written['deleted']} rows; none of it by the migration"
        f"{_unattributed(written['deleted'], evidence.window)}.",
    )


def _unattributed(deleted: int, window: Window | None) -> str:
    """A deleted row names no one: say how far the claim goes."""
    if window is None:
        return ", as far as the rows show (its counters were not recorded)" if deleted else ""
    if not window.deleted:
        return ""
    return f" ({window.deleted} deletes while it ran, for which {window.other_transactions} others account)"


def _unexplained(trace: Trace, window: Window) -> str:
    """Writes during the upgrade for which there are too few transactions beside the migration's, if one wrote one row.

    An update leaves its row with the writer's id, so that only updates without such a row need explaining.
    """
    counts = (("deleted", window.deleted), ("updated", window.updated - trace.others_in_upgrade))
    for what, count in counts:
        if count > window.other_transactions:
            return (
                f"While the upgrade ran {count} rows were {what}, by at most {window.other_transactions} transactions "
                f"other than the migration's: the migration {what} them, or one transaction of the application wrote "
                "many rows."
            )
    return ""


def prove(table: str, before: Row, now: Row, evidence: Evidence | None, verdict: Verdict) -> Proof:
    """The proof for one table."""
    observed: dict[str, Any] = {"rows": now["rows"], "fingerprint": now["fingerprint"]}
    if evidence is not None:
        observed |= {
            **{counter: evidence.written[counter] for counter in COUNTERS},
            "by_migration": evidence.trace.by_migration,
        }
    return Proof(
        f"untouched.{table}",
        f"Table {table} holds what it held before",
        verdict.status,
        expected={"rows": before["rows"], "fingerprint": before["fingerprint"]},
        observed=observed,
        detail=verdict.detail,
        remedy=verdict.remedy,
    )
