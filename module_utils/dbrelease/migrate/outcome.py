"""What a move of the database from one revision to another came to: decided from what was seen, never assumed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..core.errors import ReleaseError
from ..core.proof import Proof, Status
from ..core.redaction import masked
from .alembic import error_tail
from .preview import Direction

UPGRADE_PROOF = "migrate.upgrade"
KILLED = (137, 143)
# In these words a downgrade that is told when rows were counted (dbrelease.counted_at) refuses to drop later ones.
UNCOUNTED = "written since they were counted"
COUNT_AGAIN = "Run the rollback again, which counts anew and says with which number it goes on, or restore the backup."
LOCK_TIMEOUT = re.compile(r"LockNotAvailable|lock timeout|\b55P03\b", re.IGNORECASE)


@dataclass(frozen=True)
class Move:
    """What is wanted: from exactly one revision to exactly one other."""

    direction: Direction
    from_revision: str
    revision: str
    success_pattern: str | None = None

    @property
    def label(self) -> str:
        """For messages: `upgrade 0a1b -> 2c3d`."""
        return f"{self.direction} {self.from_revision} -> {self.revision}"

    def named(self, proof: Proof) -> Proof:
        """The proof under the name of its stage: of the way back it is `rollback.downgrade`, `.preview` or `.log`."""
        if self.direction == "upgrade":
            return proof
        return replace(
            proof, name=f"rollback.{'downgrade' if proof.name == UPGRADE_PROOF else proof.name.split('.')[-1]}"
        )


@dataclass(frozen=True)
class Outcome:
    """How it ended. `status` is None where the command's end was not seen; then `cause` says why.

    revisions: what the database said afterwards, None where it could not be asked.
    """

    status: int | None
    output: str
    revisions: list[str] | None
    timed_out: bool = False
    cause: str = ""
    duration_ms: int = 0


def check_pattern(pattern: str | None) -> None:
    """Raise ReleaseError for a pattern that could not be searched for once the migration has run."""
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ReleaseError(
            f"The success_pattern /{pattern}/ was refused ({error}): make it a regular expression.", refused=True
        ) from error


def is_needed(move: Move, found: Sequence[str]) -> bool:
    """False where the database is already at the wanted revision; raises ReleaseError where it is anywhere else."""
    if list(found) == [move.revision]:
        return False
    if list(found) == [move.from_revision]:
        return True
    raise ReleaseError(
        f"The {move.label} was refused: the database is at {_names(found)}, expected exactly {move.from_revision} "
        f"(or {move.revision}, where it is done); find out how it came there before you run again.",
        refused=True,
        revisions=list(found),
    )


def lock_timeout(output: str) -> str:
    """The line that tells of a lock that was not to be had in time; empty where there is none."""
    return error_tail(output) if LOCK_TIMEOUT.search(output) else ""


def refuses(move: Move, proof: Proof) -> bool:
    """Whether the way back refused by itself, with the database where it was."""
    unmoved = proof.status == "fail" and proof.observed == [move.from_revision]
    # What Alembic said is masked already in the detail.
    said = any(words in proof.detail for words in (UNCOUNTED, masked(UNCOUNTED)))
    return move.direction == "downgrade" and unmoved and said


def advised(move: Move, proofs: Sequence[Proof]) -> list[Proof]:
    """The proofs; that of a refusal says how to go on."""
    return [replace(proof, remedy=COUNT_AGAIN) if refuses(move, proof) else proof for proof in proofs]


def already_there(move: Move) -> Proof:
    """The proof of a move that was not needed."""
    return _proof(move, "pass", [move.revision], f"The database was at {move.revision} already; Alembic was not run.")


def judge(move: Move, outcome: Outcome) -> Proof:
    """Success is exit status 0, the wanted revision in the database, and the declared line in the output."""
    there = outcome.revisions == [move.revision]
    if outcome.status == 0 and there:
        if not move.success_pattern or re.search(move.success_pattern, outcome.output):
            detail = f"Alembic ended with status 0 and the database is at {move.revision}."
            return _proof(move, "pass", outcome.revisions, detail, duration_ms=outcome.duration_ms)
        detail = (
            f"Alembic ended with status 0 and the database is at {move.revision}, but its output lacks the line that "
            f"the release promises (/{move.success_pattern}/)."
        )
    else:
        detail = f"{_ending(outcome)}; {_position(move, outcome.revisions)}."
    return _proof(move, "fail", outcome.revisions, detail, _remedy(move, outcome), outcome.duration_ms)


def _proof(
    move: Move, status: Status, revisions: list[str] | None, detail: str, remedy: str = "", duration_ms: int = 0
) -> Proof:
    return Proof(
        UPGRADE_PROOF,
        f"Alembic's {move.label}",
        status,
        expected=[move.revision],
        observed=revisions,
        detail=detail,
        remedy=remedy,
        duration_ms=duration_ms,
    )


def _ending(outcome: Outcome) -> str:
    if outcome.cause:
        return outcome.cause.rstrip(".")
    if outcome.timed_out:
        return "Alembic did not end in time and was ended"
    if outcome.status == 0:
        return "Alembic ended with status 0"
    if outcome.status in KILLED:
        # Its last words are of what it was doing, and may look like success.
        return f"Alembic was killed (status {outcome.status})"
    return f"Alembic ended with status {outcome.status} ({error_tail(outcome.output)})"


def _position(move: Move, revisions: list[str] | None) -> str:
    if revisions is None:
        return "the revision could not be read back, so where the database is, is unknown"
    if revisions == [move.revision]:
        return f"nevertheless the database is now at {move.revision}"
    if revisions == [move.from_revision]:
        return f"the database is still at {move.from_revision}"
    return f"the database is now at {_names(revisions)}, which is neither {move.from_revision} nor {move.revision}"


def _remedy(move: Move, outcome: Outcome) -> str:
    if outcome.revisions == [move.from_revision]:
        return "Read the saved log, remove the cause, and run again."
    if outcome.revisions == [move.revision]:
        return "Read the saved log and verify the database before anything else."
    return "Read the saved log and the bookkeeping table; restore the backup if the database is between revisions."


def _names(revisions: Sequence[str]) -> str:
    return " and ".join(revisions) if revisions else "no revision"
