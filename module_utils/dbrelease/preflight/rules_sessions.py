"""The rules on what other sessions hold: pure functions from what was seen to a proof."""

from __future__ import annotations

from ..proof import Proof
from .demands import Demands
from .facts import Database, Facts
from .rules_database import on_database
from .verdicts import broken, holds, undecided


@on_database("prepared_transactions")
def prepared_transactions(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """A prepared transaction keeps its locks without a session, for ever."""
    if seen.prepared:
        names = ", ".join(f"{row['gid']} of {row['user']} since {row['since']}" for row in seen.prepared)
        remedy = "End each with COMMIT PREPARED or ROLLBACK PREPARED, as its owner decides."
        return broken("prepared_transactions", f"Left: {names}.", remedy, sample=seen.prepared)
    return holds("prepared_transactions", observed=0)


@on_database("old_transactions")
def old_transactions(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """Nobody sits on the release's tables: the change would wait for them, and the application for the change."""
    limit = f"none older than {demands.age_limit_s} s"
    if seen.old_transactions:
        names = "; ".join(
            f"pid {row['pid']} of {row['user']} ({row['application'] or 'no application name'}, {row['state']}, "
            f"since {row['since']}) on {', '.join(row['tables'])}: {row['query']}"
            for row in seen.old_transactions
        )
        remedy = "Let each end, or end it with pg_terminate_backend(pid), and run again."
        return broken(
            "old_transactions", f"{names}.", remedy, expected=limit, observed=len(seen.old_transactions),
            sample=seen.old_transactions,
        )  # fmt: skip
    if seen.hidden:
        return undecided(
            "old_transactions",
            f"The age of {seen.hidden} transactions on the release's tables is hidden from this user.",
            "Grant pg_read_all_stats to db_user.",
            expected=limit,
        )
    return holds("old_transactions", expected=limit, observed=0)
