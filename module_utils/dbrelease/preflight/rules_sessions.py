"""The rules on what others hold, or have made: pure functions from what was seen to a proof."""

from __future__ import annotations

from ..core.proof import Proof
from ..postgres.lock_retry import KEPT_QUERY_CHARACTERS
from ..postgres.strangers import planted_words
from ..postgres.trusted_roles import quoted_text
from ..release.requirements import Demands
from .facts import Database, Facts
from .rules_database import on_database
from .verdicts import broken, holds, undecided


@on_database("prepared_transactions")
def prepared_transactions(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """A prepared transaction keeps its locks without a session, for ever."""
    if seen.prepared:
        names = ", ".join(
            f"{quoted_text(row['gid'])} of {quoted_text(row['user'])} since {row['since']}" for row in seen.prepared
        )
        remedy = "End each with COMMIT PREPARED or ROLLBACK PREPARED, as its owner decides."
        return broken("prepared_transactions", f"Left: {names}.", remedy, sample=seen.prepared)
    return holds("prepared_transactions", observed=0)


@on_database("old_transactions")
def old_transactions(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """Nobody sits on the release's tables: the change would wait for them, and the application for the change."""
    limit = f"none older than {demands.age_limit_s} s"
    if seen.old_transactions:
        names = "; ".join(
            f"pid {row['pid']} of {quoted_text(row['user'])} ({quoted_text(row['application'])}, {row['state']}, "
            f"since {row['since']}) on {', '.join(row['tables'])}: {quoted_text(row['query'], KEPT_QUERY_CHARACTERS)}"
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


@on_database("strangers")
def strangers(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """Where the release's text finds functions and operators nobody else has made any that the server calls instead."""
    trusted = "superusers, db_user, the database's owner, whoever may become one of them, or may write the revision"
    if seen.planted:
        return broken(
            "strangers",
            f"Where db_user finds names {planted_words(seen.planted)}: the release's text may call it, as db_user.",
            "See what each does, and drop it, or give it to a role that is trusted.",
            expected=f"made by {trusted} alone",
            observed=len(seen.planted),
            sample=seen.planted,
        )
    if seen.open_schemas:
        said = "; ".join(
            f"in {quoted_text(row['schema'])}: {', '.join(map(quoted_text, row['roles'][:5]))}"
            for row in seen.open_schemas
        )
        return undecided(
            "strangers",
            f"There is none, but where db_user finds names others may make some at any time ({said}).",
            "Take that right from them: REVOKE CREATE ON SCHEMA public FROM PUBLIC, for one.",
            expected=f"may be made by {trusted} alone",
        )
    detail = (
        "db_user is a superuser, so what a declared query calls may do anything on the server: a db_user that only "
        "owns the database is safer."
        if seen.superuser
        else ""
    )
    return holds("strangers", detail, expected=f"made by {trusted} alone")
