"""Whether a table is as it was in the baseline, and who changed it if not: judges what write_attribution.py saw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..core.proof import Proof, Status
from ..postgres.session import Row
from .catalog_traces import Trigger
from .transactions import Whose

OWN, UNKNOWN = "migration", "unknown"
COUNTERS = ("inserted", "updated", "deleted")
BY_ITS_OWNER = "The role that owned it is not trusted, and may have done it."
AUDIT = "If a trigger should write to it, declare it in tables.audit of the release or audit_tables of the inventory."
FIND_WRITER = "Find out what wrote to it before you continue; the backup of the baseline holds the rows as they were."


@dataclass(frozen=True)
class Window:
    """Between two readings of the counters: writes to one table; and the transactions, other than the migration's, that
    can have made them."""

    updated: int
    deleted: int
    other_transactions: int


@dataclass(frozen=True)
class Trace:
    """What the rows themselves show of their writers, by their transaction ids."""

    by_migration: int = 0  # rows that the migration's transactions wrote
    older: int = 0  # rows that no transaction wrote since the baseline
    others: int = 0  # rows that another transaction wrote between the baseline and the end of the upgrade
    unattributed: int = 0  # rows written while the migration ran, by a transaction that could not be attributed


@dataclass(frozen=True)
class Evidence:
    """Everything known of one table whose content is not the baseline's."""

    before: Row
    now: Row
    trace: Trace
    written: Mapping[str, int]  # since the baseline, by any session, also what was rolled back
    window: Window | None = None  # the upgrade's, if it was recorded
    not_comparable: str = ""  # why counters and transaction ids prove nothing
    whose: Whose | None = None  # dropped, created again, emptied or lost columns: by whose transaction; None: no trace
    audit: bool = False  # declared as one that triggers add rows to
    trigger: Trigger | None = None  # what may have added rows to it for the migration's statements
    altered: bool = False  # the release adds to it, so that the migration may write its rows to fill what it adds
    untrusted: bool = False  # its owner was a role that is not trusted, and may drop, empty or change it at any time

    @property
    def newer(self) -> int:
        """Rows that someone wrote since the baseline."""
        return int(self.now["rows"]) - self.trace.older

    @property
    def only_added_to(self) -> bool:
        """Whether the migration can only have added rows: no earlier row was removed, or none while it ran."""
        window = self.window
        still = window is not None and not window.updated and not window.deleted
        return self.trace.older == self.before["rows"] or (still and self.whose != "own")

    @property
    def by_migration_alone(self) -> bool:
        """Whether no other session wrote: one that is rewritten for a column counts no updates, a filled one all."""
        written = self.written
        return (
            self.newer == self.trace.by_migration
            and not written["inserted"] + written["deleted"]
            and written["updated"] in (0, self.trace.by_migration)
        )


@dataclass(frozen=True)
class Verdict:
    """The answer for one table; `provisional` where counters that arrive late may still turn it."""

    status: Status
    detail: str
    remedy: str = ""
    provisional: bool = False
    by: str = ""  # of a failed one: whether it was observed that the migration did it


NOT_KEPT = Verdict("fail", "Values that it held before have changed.", FIND_WRITER, by=OWN)


def same(before: Row, now: Row) -> bool:
    """Whether a table has exactly the content that it had."""
    whole = not now["absent"] and not now["missing"]
    return whole and (now["rows"], now["fingerprint"]) == (before["rows"], before["fingerprint"])


def judge(evidence: Evidence) -> Verdict:
    """Who changed the table: the migration (fail), the application (inconclusive), a writer without a trace (fail).

    A table of a role that is not trusted fails no release, unless the migration itself wrote rows of it.
    """
    verdict = _judge(evidence)
    if verdict.status == "fail" and evidence.untrusted and not evidence.trace.by_migration:
        return replace(verdict, status="inconclusive", detail=f"{verdict.detail} {BY_ITS_OWNER}", remedy="")
    return verdict


def _judge(evidence: Evidence) -> Verdict:
    now, before, trace, written = evidence.now, evidence.before, evidence.trace, evidence.written
    if now["absent"]:
        return _changed(evidence, "The table no longer exists.")
    if now["missing"]:
        return _changed(evidence, f"The table no longer has the columns {', '.join(now['missing'])}.")
    if trace.by_migration and not evidence.altered:
        return _written(evidence)
    if evidence.not_comparable:
        return Verdict(
            "inconclusive",
            f"Changed since the baseline; who wrote to it cannot be determined: {evidence.not_comparable}.",
        )
    if before.get("oid") and now["oid"] != before["oid"]:
        return _changed(evidence, "The table was dropped and created again since the baseline.")
    if not evidence.newer and not any(written.values()):
        return _changed(evidence, "It changed, and no session is known to have written to it.", provisional=True)
    if trace.by_migration and evidence.by_migration_alone:
        detail = (
            f"The migration wrote {trace.by_migration} rows of it, no other transaction wrote to it, and the content "
            "of the baseline has changed."
        )
        return Verdict("fail", detail, FIND_WRITER, provisional=True, by=OWN)
    gone = before["rows"] - trace.older - trace.by_migration
    lost = before["rows"] - now["rows"]
    # A row with another transaction's id shows its update before the counters do.
    updated = max(written["updated"], evidence.newer - trace.by_migration - written["inserted"])
    if gone > written["deleted"] + updated or lost > written["deleted"]:
        return _changed(
            evidence,
            f"Of the {before['rows']} rows of the baseline, {gone} were removed or rewritten and the table is "
            f"{max(lost, 0)} rows shorter, but only {written['deleted']} deletes and {updated} updates "
            "were counted: it was truncated or rewritten.",
            provisional=True,
        )
    unexplained = _unexplained(trace, evidence.window, altered=evidence.altered) if evidence.window else ""
    if unexplained:
        alone = evidence.window is not None and not evidence.window.other_transactions
        return Verdict("fail", unexplained, FIND_WRITER, by=OWN if alone else UNKNOWN)
    counts = f"+{written['inserted']} ~{written['updated']} -{written['deleted']} rows"
    if evidence.altered:
        return Verdict(
            "inconclusive",
            f"Changed since the baseline: {counts}; the migration, which adds to it, wrote {trace.by_migration} rows; "
            "whether it also changed existing rows cannot be determined, because others wrote to it, too.",
        )
    if trace.unattributed:
        return Verdict(
            "inconclusive",
            f"Changed since the baseline: {counts}; {trace.unattributed} rows were written while the migration ran or "
            "may have run, and whether it or the application wrote them was not observed.",
        )
    return Verdict(
        "inconclusive",
        f"Changed by the application since the baseline: {counts}; the migration wrote none of its rows"
        f"{_unattributed(written['deleted'], evidence.window)}.",
    )


def _changed(evidence: Evidence, what: str, *, provisional: bool = False) -> Verdict:
    """Of a table itself: red, unless it is known that not the migration did it."""
    if evidence.whose == "others":
        return Verdict("inconclusive", f"{what} Another transaction did it, not the migration.", FIND_WRITER)
    if evidence.whose == "unknown":
        return Verdict(
            "fail",
            f"{what} Whether the migration or another transaction did it was not observed.",
            FIND_WRITER,
            provisional,
            UNKNOWN,
        )
    return Verdict("fail", what, FIND_WRITER, provisional, OWN if evidence.whose == "own" else UNKNOWN)


def _written(evidence: Evidence) -> Verdict:
    """Of rows of another table that the migration's transactions wrote: red, unless a trigger has added them."""
    wrote, trigger = f"The migration itself wrote {evidence.trace.by_migration} rows of it.", evidence.trigger
    if not evidence.only_added_to or not (evidence.audit or trigger):
        return Verdict("fail", wrote, f"{FIND_WRITER} {AUDIT}" if evidence.only_added_to else FIND_WRITER, by=OWN)
    added = (
        f"The migration's transactions added {evidence.trace.by_migration} rows to it, and changed or deleted no "
        "existing row"
    )
    if evidence.audit:
        return Verdict("inconclusive", f"{added}. It is declared as a table that triggers add to (tables.audit).")
    if trigger and trigger.named:
        return Verdict("inconclusive", f"{added}: {trigger.name} inserts into it. {AUDIT}")
    name = trigger.name if trigger else ""
    return Verdict(
        "inconclusive",
        f"{added}. Whether the migration or {name}, which builds its statements at run time, added them cannot be "
        f"determined. {AUDIT}",
    )


def _unattributed(deleted: int, window: Window | None) -> str:
    """A deleted row does not show who deleted it: state the limit of the claim."""
    if window is None:
        return ", as far as the rows show (its counters were not recorded)" if deleted else ""
    if not window.deleted:
        return ""
    return (
        f"; who deleted a row cannot be determined: {window.deleted} rows were deleted, and "
        f"{window.other_transactions} other transactions ran meanwhile"
    )


def _unexplained(trace: Trace, window: Window, *, altered: bool) -> str:
    """Writes during the upgrade for which there are too few transactions beside the migration's, if one wrote one row.

    An update leaves its row with the writer's id, so that only updates without such a row need explaining; where the
    migration may update, none does.
    """
    updated = 0 if altered else window.updated - trace.others
    for what, count in (("deleted", window.deleted), ("updated", updated)):
        if count > window.other_transactions:
            return (
                f"While the upgrade ran {count} rows were {what}, by at most {window.other_transactions} transactions "
                f"other than the migration's: the migration {what} them, or one transaction of the application wrote "
                "many rows."
            )
    return ""


@dataclass(frozen=True)
class Written:
    """Rows of one table that were written while the upgrade ran, and how many transactions other than its own ran."""

    inserted: int
    updated: int
    deleted: int
    other_transactions: int


def judge_rows(
    declared: Mapping[str, Any], before: Row, now: Row, written: Written | None, of_content: Verdict
) -> Verdict:
    """Whether the migration changed as many rows as the release declares; what it does not declare is none.

    of_content: the verdict on the columns that stay, which counts where no row is inserted or deleted.
    """
    if now["absent"] or now["missing"]:
        return of_content
    if written is None:
        return Verdict("inconclusive", "How many rows the upgrade wrote was not recorded.")
    said = f"The upgrade inserted {written.inserted}, updated {written.updated} and deleted {written.deleted} rows."
    wrong = [
        f"{counter} {_bound(declared.get(counter))}"
        for counter in COUNTERS
        if not _allowed(declared.get(counter), int(getattr(written, counter)))
    ]
    if wrong:
        detail = f"{said} Declared: {'; '.join(wrong)}."
        if not written.other_transactions:
            return Verdict("fail", detail, FIND_WRITER, by=OWN)
        others = f"{written.other_transactions} other transactions ran meanwhile, and may have written some of them."
        return Verdict("inconclusive", f"{detail} {others}", FIND_WRITER)
    if not declared.get("inserted") and not declared.get("deleted"):
        return replace(of_content, detail=f"{said} {of_content.detail}")
    expected = before["rows"] + written.inserted - written.deleted
    if now["rows"] == expected:
        return Verdict("pass", said)
    # Others may have written since, which is counted late; or the table was emptied, which counts no row.
    return Verdict("inconclusive", f"{said} That makes {expected} rows, and there are {now['rows']}.", FIND_WRITER)


def _bound(declared: Mapping[str, Any] | None) -> str:
    if not declared:
        return "none"
    return f"exactly {declared['exactly']}" if "exactly" in declared else f"at most {declared['at_most']}"


def _allowed(declared: Mapping[str, Any] | None, count: int) -> bool:
    if not declared:
        return count == 0
    return count == declared["exactly"] if "exactly" in declared else count <= int(declared["at_most"])


def prove(table: str, before: Row, now: Row, evidence: Evidence | None, verdict: Verdict) -> Proof:
    """The proof for one table."""
    observed: dict[str, Any] = {"rows": now["rows"], "fingerprint": now["fingerprint"]}
    if evidence is not None and not evidence.not_comparable:
        observed |= {
            **{counter: evidence.written[counter] for counter in COUNTERS},
            "by_migration": evidence.trace.by_migration,
        }
    if verdict.by:
        observed["by"] = verdict.by
    return Proof(
        f"untouched.{table}",
        f"Table {table} holds what it held before",
        verdict.status,
        expected={"rows": before["rows"], "fingerprint": before["fingerprint"]},
        observed=observed,
        detail=verdict.detail,
        remedy=verdict.remedy,
    )


def prove_unread(table: str, before: Row) -> Proof:
    """The proof for one table that another session or its owner kept from being read."""
    return Proof(
        f"untouched.{table}",
        f"Table {table} holds what it held before",
        "inconclusive",
        expected={"rows": before["rows"], "fingerprint": before["fingerprint"]},
        observed={"fingerprint": None},
        detail="It could not be read: another session held a lock on it, or its owner did not allow reading it.",
    )


def rewritten(proofs: Iterable[Mapping[str, Any]]) -> int | None:
    """How many rows others have deleted or changed, by the tables' proofs; None where it cannot be determined."""
    changed = [proof["observed"] for proof in proofs if proof["status"] != "pass" and _is_of_table(proof["observed"])]
    if any("deleted" not in observed for observed in changed):
        return None
    return sum(int(observed["deleted"]) + int(observed["updated"]) for observed in changed)


def _is_of_table(observed: Any) -> bool:
    return isinstance(observed, Mapping) and "fingerprint" in observed
