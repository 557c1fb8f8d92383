"""Errors that show only that the server could not answer, in time or at all, and what to do about them."""

from __future__ import annotations

from typing import Any

import psycopg2

from ..core.errors import ReleaseError
from .session import server_reason

# Connection, insufficient resources, operator intervention, system error.
CLASSES = ("08", "53", "57", "58")
# A conflict with another session: lock_not_available, serialization_failure, deadlock_detected.
CONFLICTS = ("55P03", "40001", "40P01")
CANCELLED, CONNECTION_FAILURE = "57014", "08006"
# Only the message distinguishes the two; in another language than English neither is claimed.
OWN_LIMIT, OF_ANOTHER = "statement timeout", "user request"
_TOO_SLOW = (
    "It did not end within its time limit: find out what slowed it down (a session that holds a lock, missing "
    "statistics, a busy server), make it faster, or raise statement_timeout_ms."
)
_ADVICE = {
    "53100": "Free space where the server keeps its data and its temporary files; where the message names a shared "
    "memory segment, give the container of the database more shared memory (`shm_size`; Docker gives it 64 MB).",
    "53200": "Give the server more memory, or lower its work_mem; where the message names max_locks_per_transaction, "
    "raise that.",
    "53300": "Wait for other sessions to end, or raise max_connections.",
    "53400": "Raise the limit that the message names; temp_file_limit, for one, is for temporary files.",
    CANCELLED: "Find out who or what cancelled the statement.",
    **dict.fromkeys(
        CONFLICTS, "Wait until the other session has ended its transaction (pg_locks lists who has locks)."
    ),
}
_BY_CLASS = {
    "08": "Check the connection to the server, and that the server is running.",
    "53": "Give the server the resources that the message names.",
    "57": "Check that the server is running, and find in its log who or what ended the session.",
    "58": "Find in the server's log what it could not read or write, and check its disk.",
}
AGAIN = "Then rerun the playbook: nothing that was observed speaks against the release."


def could_not_run(error: BaseException | None) -> bool:
    """Whether the server, and not what was asked, is the reason of an error."""
    if isinstance(error, ReleaseError):
        return bool(error.facts.get("could_not_run")) or could_not_run(error.__cause__)
    if not isinstance(error, psycopg2.Error):
        return False
    code = error.pgcode or ""
    if code in CONFLICTS:
        return True
    # A session that breaks off leaves no code.
    return code[:2] in CLASSES or (not code and isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError))


def remedy_of(error: BaseException | None) -> str:
    """What to do about such an error."""
    while isinstance(error, ReleaseError):
        error = error.__cause__
    if error is None:  # its message has already named what to do
        return AGAIN
    return f"{_advice_on(error)} {AGAIN}"


def _advice_on(error: BaseException) -> str:
    code = getattr(error, "pgcode", None) or CONNECTION_FAILURE
    if code == CANCELLED and isinstance(error, psycopg2.Error):
        reason = server_reason(error)
        if OWN_LIMIT in reason:
            return _TOO_SLOW
        if OF_ANOTHER not in reason:
            return f"{_ADVICE[code]} If no one did, it exceeded its time limit: make it faster, or raise that limit."
    return _ADVICE.get(code) or _BY_CLASS[code[:2]]


def advised(error: psycopg2.Error, otherwise: str) -> str:
    """What to do about an error, as the end of a sentence; `otherwise`, where the server is not its reason."""
    if not could_not_run(error):
        return otherwise
    text = _advice_on(error)
    return f"{text[0].lower()}{text[1:]} Then rerun the playbook."


def verdict_of(error: BaseException, what: str) -> dict[str, Any]:
    """The proof of a claim that could not be checked; `what` could not run."""
    reason = server_reason(error) if isinstance(error, psycopg2.Error) else str(error)
    return {
        "status": "inconclusive",
        "could_not_run": True,
        "detail": f"{what} could not run: {reason.removesuffix('.')}.",
        "remedy": remedy_of(error),
    }
