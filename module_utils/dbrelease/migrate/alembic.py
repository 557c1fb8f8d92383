"""What Alembic and its bookkeeping table say: readers only; migrate/move.py is what acts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..core.errors import ReleaseError
from ..core.redaction import masked
from ..host.commands import Commands, Finished, missing_program

READ_TIMEOUT_S = 60
KEPT_CAUSE_CHARACTERS = 500
# A reader leaves nothing behind, not even compiled revisions.
READER_ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1"}

# `0ab370a9afb6 (head)`, `5f (branch label) (effective head)`; a log line has other words after the first one.
_REVISION_LINE = re.compile(r"(?P<revision>[^\s()\[\]:]+)(?P<notes>(?: \([^)]*\))*)")

# `sqlalchemy.exc.ProgrammingError: (...) ...`, `RuntimeError: ...`, `FAILED: ...`; not the SQL and the links after it.
_ERROR_LINE = re.compile(r"(?:[A-Za-z_][\w.]*\.[A-Za-z_]\w*|\w*(?:Error|Exception)|FAILED|SystemExit): ")


def script_heads(commands: Commands, command: Sequence[str]) -> list[str]:
    """The heads of the revision files that Alembic sees, sorted; raises ReleaseError where it cannot tell."""
    finished = _read(commands, command, "heads")
    return sorted(revision for revision, notes in _revisions(finished.stdout) if "head" in notes)


def alembic_current(commands: Commands, command: Sequence[str]) -> list[str]:
    """What `alembic current` prints, sorted; none for an empty database. Raises ReleaseError where it cannot tell."""
    return sorted({revision for revision, _ in _revisions(_read(commands, command, "current").stdout)})


def error_tail(text: str) -> str:
    """The cause on one line: the last line that names an error, else the last line of all."""
    kept = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in kept if _ERROR_LINE.match(line)]
    # Not after it was cut: half a secret is none that is known.
    return masked((named or kept or ["it printed nothing"])[-1])[:KEPT_CAUSE_CHARACTERS]


def _read(commands: Commands, command: Sequence[str], verb: str) -> Finished:
    finished = commands.run([*command, verb], timeout_s=READ_TIMEOUT_S, environment=READER_ENVIRONMENT)
    if finished.status == 0:
        return finished
    asked = f"Asking `{' '.join(command)} {verb}` in {commands.place} failed"
    if missing_program(finished):
        raise ReleaseError(f"{asked} (there is no {command[0]}): check the release's migration command.")
    if finished.timed_out:
        raise ReleaseError(f"{asked} (no answer in {READ_TIMEOUT_S} s): check that the database answers from there.")
    raise ReleaseError(
        f"{asked} with status {finished.status} ({error_tail(finished.stderr or finished.stdout)}): "
        "run the same command there, and repair what it names."
    )


def _revisions(output: str) -> list[tuple[str, str]]:
    matches = (_REVISION_LINE.fullmatch(line.strip()) for line in output.splitlines())
    return [(match["revision"], match["notes"]) for match in matches if match]
