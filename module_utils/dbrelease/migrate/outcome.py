"""The result of a migration from one revision to another: decided from what was observed, never assumed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..core.errors import ReleaseError
from ..core.proof import Proof, Status
from ..core.redaction import masked
from .alembic import error_tail
from .preview import Direction

UPGRADE_PROOF = "migrate.upgrade"
KILLED = (137, 143)
# With these words a downgrade that receives the time of the count (dbrelease.counted_at) refuses to drop later rows.
UNCOUNTED = "written since they were counted"
COUNT_AGAIN = "Rerun the rollback, which counts again and reports the number to accept, or restore the backup."
LOCK_TIMEOUT = re.compile(r"LockNotAvailable|lock timeout|\b55P03\b", re.IGNORECASE)


@dataclass(frozen=True)
class Move:
    """The requested migration: from exactly one revision to exactly one other."""

    direction: Direction
    from_revision: str
    revision: str
    success_pattern: str | None = None
    by: Literal["alembic", "sql"] = "alembic"

    @property
    def title(self) -> str:
        """What is attempted, for messages: `Alembic's upgrade 0a1b -> 2c3d`."""
        return f"Alembic's {self.label}" if self.by == "alembic" else f"The {self.label} by SQL"

    @property
    def runner(self) -> str:
        """What runs."""
        return "Alembic" if self.by == "alembic" else "the script"

    @property
    def done(self) -> str:
        """That it ended without an error."""
        return "Alembic ended with status 0" if self.by == "alembic" else "The script was committed"

    @property
    def label(self) -> str:
        """For messages: `upgrade 0a1b -> 2c3d`."""
        return f"{self.direction} {self.from_revision} -> {self.revision}"

    def named(self, proof: Proof) -> Proof:
        """Return the proof under the name of its stage: for a downgrade `rollback.downgrade`, `.preview` or `.log`."""
        if self.direction == "upgrade":
            return proof
        return replace(
            proof, name=f"rollback.{'downgrade' if proof.name == UPGRADE_PROOF else proof.name.split('.')[-1]}"
        )


@dataclass(frozen=True)
class Outcome:
    """How it ended. `status` is None where the command's end was not observed; then `cause` is the reason.

    revisions: those in the database afterwards, None where they could not be read.
    """

    status: int | None
    output: str
    revisions: list[str] | None
    timed_out: bool = False
    cause: str = ""
    duration_ms: int = 0


def check_pattern(pattern: str | None) -> None:
    """Raise ReleaseError for an invalid pattern, before the migration runs."""
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ReleaseError(
            f"The success_pattern /{pattern}/ was refused ({error}): correct the regular expression.", refused=True
        ) from error


def is_needed(move: Move, found: Sequence[str]) -> bool:
    """False where the database is already at the requested revision; raises ReleaseError at any other revision."""
    if list(found) == [move.revision]:
        return False
    if list(found) == [move.from_revision]:
        return True
    raise ReleaseError(
        f"The {move.label} was refused: the database is at {_names(found)}, expected exactly {move.from_revision} "
        f"(or {move.revision}, if it is already done); find out what changed it before you rerun the playbook.",
        refused=True,
        revisions=list(found),
    )


def lock_timeout(output: str) -> str:
    """The line that reports a lock timeout; empty where there is none."""
    return error_tail(output) if LOCK_TIMEOUT.search(output) else ""


def refuses(move: Move, proof: Proof) -> bool:
    """Whether the downgrade itself refused, and the revision is unchanged."""
    unmoved = proof.status == "fail" and proof.observed == [move.from_revision]
    # Alembic's output is already masked in the detail.
    said = any(words in proof.detail for words in (UNCOUNTED, masked(UNCOUNTED)))
    return move.direction == "downgrade" and unmoved and said


def advised(move: Move, proofs: Sequence[Proof]) -> list[Proof]:
    """Return the proofs; that of a refusal says how to continue."""
    return [replace(proof, remedy=COUNT_AGAIN) if refuses(move, proof) else proof for proof in proofs]


def already_there(move: Move) -> Proof:
    """The proof of a move that was not needed."""
    return _proof(
        move, "pass", [move.revision], f"The database was already at {move.revision}; {move.runner} was not run."
    )


def judge(move: Move, outcome: Outcome) -> Proof:
    """Judge the outcome: success is exit status 0, the requested revision, and the declared line in the output."""
    there = outcome.revisions == [move.revision]
    if outcome.status == 0 and there and not outcome.cause:
        if not move.success_pattern or re.search(move.success_pattern, outcome.output):
            detail = f"{move.done} and the database is at {move.revision}."
            return _proof(move, "pass", outcome.revisions, detail, duration_ms=outcome.duration_ms)
        detail = (
            f"{move.done} and the database is at {move.revision}, but its output has no line that "
            f"matches success_pattern (/{move.success_pattern}/)."
        )
    else:
        detail = f"{_ending(move, outcome)}; {_position(move, outcome.revisions)}."
    return _proof(move, "fail", outcome.revisions, detail, _remedy(move, outcome), outcome.duration_ms)


def _proof(
    move: Move, status: Status, revisions: list[str] | None, detail: str, remedy: str = "", duration_ms: int = 0
) -> Proof:
    return Proof(
        UPGRADE_PROOF,
        move.title,
        status,
        expected=[move.revision],
        observed=revisions,
        detail=detail,
        remedy=remedy,
        duration_ms=duration_ms,
    )


def _ending(move: Move, outcome: Outcome) -> str:
    if outcome.cause:
        return outcome.cause.rstrip(".")
    if outcome.timed_out:
        return "Alembic did not end in time and was terminated"
    if outcome.status == 0:
        return move.done
    if outcome.status in KILLED:
        # Its last line of output may look like success.
        return f"Alembic was killed (status {outcome.status})"
    return f"Alembic ended with status {outcome.status} ({error_tail(outcome.output)})"


def _position(move: Move, revisions: list[str] | None) -> str:
    if revisions is None:
        return "the revision could not be read back, so it is unknown whether the database was migrated"
    if revisions == [move.revision]:
        return f"nevertheless the database is now at {move.revision}"
    if revisions == [move.from_revision]:
        return f"the database is still at {move.from_revision}"
    return f"the database is now at {_names(revisions)}, which is neither {move.from_revision} nor {move.revision}"


def _remedy(move: Move, outcome: Outcome) -> str:
    if outcome.revisions == [move.from_revision]:
        return "Read the saved log, remove the cause, and rerun the playbook."
    if outcome.revisions == [move.revision]:
        return "Read the saved log, and verify the database before you do anything else."
    return "Read the saved log and Alembic's table; restore the backup if the database is between revisions."


def _names(revisions: Sequence[str]) -> str:
    return " and ".join(revisions) if revisions else "no revision"
