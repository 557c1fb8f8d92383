"""The verdicts of a rule, as proofs with its title."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..core.proof import Proof
from .facts import Unseen

TITLES = {
    "services": "The declared services are running and healthy",
    "database": "The database can be reached",
    "server": "The server is recent enough and takes writes",
    "dump_tools": "The dump tools fit the server",
    "revision": "The database is at the revision that the release starts from",
    "history": "The migration history has one head, and it is the release's",
    "tables": "The tables that the release builds on exist with their columns",
    "rights": "db_user may do what the release needs",
    "session_settings": "The settings of a migration reach Alembic's sessions",
    "migration_role": "The role that migrates may create what the release declares",
    "restorable": "No obstacle to restoring the backup is known",
    "dump_locks": "The server can lock as many tables at once as a dump does",
    "created_absent": "The tables that the release creates exist only after it",
    "added_absent": "The columns that the release adds exist only after it",
    "removed_present": "What the release drops or renames exists before it",
    "payload": "The release's files are in place, or can be copied there",
    "strangers": "The release's SQL calls nothing that an untrusted role has created",
    "checks_plan": "Every declared query can be planned and only reads",
    "prepared_transactions": "No prepared transaction is left in the database",
    "old_transactions": "No old transaction is on the release's tables",
    "vacuum": "No vacuum that prevents wraparound is running on the release's tables",
    "indexes": "No index of the release's tables is invalid, or exists too early",
    "settings": "Settings of the role and the database do not decide what the migration does",
    "state_dir": "No other user can change what is kept in the state directory",
    "dump_room": "The state directory is writable and has room for the dump",
    "table_room": "The server has room for the new tables",
    "api": "The API answers",
    "staging_evidence": "The release has been deployed in staging",
}


def holds(rule: str, detail: str = "", *, expected: Any = None, observed: Any = None) -> Proof:
    """The claim is true."""
    return Proof(f"preflight.{rule}", TITLES[rule], "pass", expected, observed, detail)


def broken(
    rule: str,
    detail: str,
    remedy: str = "",
    *,
    expected: Any = None,
    observed: Any = None,
    sample: Iterable[dict[str, Any]] = (),
) -> Proof:
    """The claim is false; `remedy` says what to do."""
    return Proof(f"preflight.{rule}", TITLES[rule], "fail", expected, observed, detail, remedy, sample=list(sample))


def undecided(rule: str, detail: str, remedy: str = "", *, expected: Any = None) -> Proof:
    """It was checked, but cannot be determined."""
    return Proof(f"preflight.{rule}", TITLES[rule], "inconclusive", expected, None, detail, remedy)


def skipped(rule: str, detail: str) -> Proof:
    """It was not checked."""
    return Proof(f"preflight.{rule}", TITLES[rule], "skipped", detail=detail)


def unseen(rule: str, what: Unseen) -> Proof:
    """Fail with the reason, unless another rule fails for the same reason."""
    if what.because:
        return skipped(rule, f"Not checked because of preflight.{what.because}: {what.reason}")
    return broken(rule, what.reason)
