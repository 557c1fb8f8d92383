"""The rules on other sessions and other roles' objects: pure functions from observed facts to a proof."""

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
    """None: a prepared transaction keeps its locks without a session, until it is ended."""
    if seen.prepared:
        names = ", ".join(
            f"{quoted_text(row['gid'])} of {quoted_text(row['user'])} since {row['since']}" for row in seen.prepared
        )
        remedy = "Ask the owner of each, and end it with COMMIT PREPARED or ROLLBACK PREPARED."
        return broken("prepared_transactions", f"Prepared transactions: {names}.", remedy, sample=seen.prepared)
    return holds("prepared_transactions", observed=0)


@on_database("old_transactions")
def old_transactions(demands: Demands, facts: Facts, seen: Database) -> Proof:
    """None on the release's tables: the migration would wait for it, and the application for the migration."""
    limit = f"none older than {demands.age_limit_s} s"
    if seen.old_transactions:
        names = "; ".join(
            f"pid {row['pid']} of {quoted_text(row['user'])} ({quoted_text(row['application'])}, {row['state']}, "
            f"since {row['since']}) on {', '.join(row['tables'])}: {quoted_text(row['query'], KEPT_QUERY_CHARACTERS)}"
            for row in seen.old_transactions
        )
        remedy = "Wait for each to end, or terminate it with pg_terminate_backend(pid), and rerun the playbook."
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
    """No untrusted role has created a function or operator that the release's SQL may call instead of the intended."""
    trusted = "superusers, db_user, the database's owner, roles that may act as one of them or may write the revision"
    if seen.planted:
        return broken(
            "strangers",
            f"In the search path of db_user {planted_words(seen.planted)}: the release's SQL may call it, as db_user.",
            "Check what each does, and drop it, or make a trusted role its owner.",
            expected=f"created by {trusted} alone",
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
            f"None was found, but other roles may create some at any time in the search path of db_user ({said}).",
            "Revoke that right: for example, REVOKE CREATE ON SCHEMA public FROM PUBLIC.",
            expected=f"may be created by {trusted} alone",
        )
    detail = (
        "db_user is a superuser, so a declared query may call anything on the server: a db_user that only owns the "
        "database is safer."
        if seen.superuser
        else ""
    )
    return holds("strangers", detail, expected=f"created by {trusted} alone")
