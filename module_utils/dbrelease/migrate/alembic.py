"""Read what Alembic reports; migrate/alembic_engine.py migrates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import ReleaseError
from ..core.redaction import masked
from ..host.commands import Commands, Finished, missing_program
from ..postgres.session import options_of
from .alembic_probe import AlembicSession, ask, session_of

READ_TIMEOUT_S = 60
KEPT_CAUSE_CHARACTERS = 500
# A reader leaves no files behind, not even compiled revisions.
READER_ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1"}

# With this option the server refuses writes by env.py; some drivers and poolers do not support it.
READ_ONLY = "-c default_transaction_read_only=on"
_REFUSED_WRITE = re.compile(r"ReadOnlySqlTransaction|read-only transaction|\b25006\b", re.IGNORECASE)
_REFUSED_OPTIONS = re.compile(r"unsupported startup parameter", re.IGNORECASE)

# `0ab370a9afb6 (head)`, `5f (branch label) (effective head)`; a log line has other words after the first one.
_REVISION_LINE = re.compile(r"(?P<revision>[^\s()\[\]:]+)(?P<notes>(?: \([^)]*\))*)")

# `sqlalchemy.exc.ProgrammingError: (...) ...`, `RuntimeError: ...`, `FAILED: ...`; not the SQL and the links after it.
_ERROR_LINE = re.compile(r"(?:[A-Za-z_][\w.]*\.[A-Za-z_]\w*|\w*(?:Error|Exception)|FAILED|SystemExit): ")


class WritesError(ReleaseError):
    """A program that was started to read tried to write, and the server refused it."""


def script_heads(commands: Commands, command: Sequence[str]) -> list[str]:
    """Read the heads of the revision files that Alembic finds, sorted; raises ReleaseError where that fails.

    A revision on which another branch depends (an "effective head") is not one: the database never has both rows.
    """
    if heads := _heads(_probed(commands, command, "heads")):
        return heads
    printed = _revisions(_read(commands, command, "heads").stdout)
    real = [revision for revision, notes in printed if "(head)" in notes]
    return sorted(real or (revision for revision, notes in printed if "head" in notes))


def script_history(commands: Commands, command: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Read each revision that Alembic knows with its predecessors; empty where the probe could not run."""
    history = (_probed(commands, command, "heads") or {}).get("history")
    if not isinstance(history, dict):
        return {}
    return {str(one): tuple(map(str, before)) for one, before in history.items() if isinstance(before, list)}


def alembic_current(commands: Commands, command: Sequence[str]) -> list[str]:
    """Read the database's revisions by Alembic, sorted; empty for an empty database. Raises ReleaseError on failure.

    It runs env.py, which may write: its sessions are read-only where the driver supports that. Raises WritesError
    where it fails for that reason.
    """
    found = _rows(_ask_reading(commands, command))
    if found is not None:
        return found
    printed = _read(commands, command, "current", connects=True).stdout
    return sorted({revision for revision, _ in _revisions(printed)})


def reader_environment(commands: Commands) -> dict[str, str]:
    """The environment of Alembic commands that run env.py and must only read."""
    return {**READER_ENVIRONMENT, "PGOPTIONS": libpq_options(commands, {}, READ_ONLY)}


def run_reading(commands: Commands, argv: Sequence[str], timeout_s: int) -> Finished:
    """Run it with read-only sessions; without them where a pooler refuses that option."""
    finished = commands.run(argv, timeout_s=timeout_s, environment=reader_environment(commands))
    if finished.status != 0 and _REFUSED_OPTIONS.search(finished.stderr + finished.stdout):
        return commands.run(argv, timeout_s=timeout_s, environment=READER_ENVIRONMENT)
    return finished


def _ask_reading(commands: Commands, command: Sequence[str]) -> dict[str, Any] | None:
    """Read the current revisions by the program of alembic_probe."""
    return ask(command, "current", lambda argv: run_reading(commands, argv, READ_TIMEOUT_S))[0]


def writes(finished: Finished) -> bool:
    """Whether it failed because its session was read-only."""
    return finished.status != 0 and bool(_REFUSED_WRITE.search(finished.stderr + finished.stdout))


@dataclass(frozen=True)
class Current:
    """The revisions that Alembic reads, and its session with the settings of a migration.

    session: None where unknown. refused: why it could not connect with those settings, although it can without.
    heads: those of the revision files (see script_heads), sorted; empty where this start did not read them.
    """

    revisions: list[str]
    session: AlembicSession | None = None
    refused: str = ""
    heads: list[str] = field(default_factory=list)


def current_with(commands: Commands, command: Sequence[str], environment: Mapping[str, str]) -> Current:
    """Read the revisions by Alembic, in a session with the settings of a migration; raises ReleaseError."""
    given = {**READER_ENVIRONMENT, **environment}
    answer, finished = ask(
        command, "current", lambda argv: commands.run(argv, timeout_s=READ_TIMEOUT_S, environment=given)
    )
    found = _rows(answer)
    if found is not None:
        return Current(found, session_of(answer), heads=_heads(answer))
    revisions = alembic_current(commands, command)
    if finished is None or finished.status == 0 or missing_program(finished):
        return Current(revisions)
    # Alembic works without the settings. Where the probe fails without them too, the settings are not the cause.
    plain = _ask_reading(commands, command)
    return Current(revisions, None, error_tail(finished.stderr or finished.stdout) if plain is not None else "")


def error_tail(text: str) -> str:
    """Return the cause in one line: the last line that names an error, else the last line."""
    kept = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in kept if _ERROR_LINE.match(line)]
    # Masked before it is cut: half a secret would not be recognized.
    return masked((named or kept or ["it printed nothing"])[-1])[:KEPT_CAUSE_CHARACTERS]


def _probed(commands: Commands, command: Sequence[str], verb: str) -> dict[str, Any] | None:
    """Return the probe's answer; without one the caller runs the plain command, which may work or print the cause."""

    def run(argv: Sequence[str]) -> Finished:
        return commands.run(argv, timeout_s=READ_TIMEOUT_S, environment=READER_ENVIRONMENT)

    return ask(command, verb, run)[0]


def _rows(answer: Mapping[str, Any] | None) -> list[str] | None:
    databases = (answer or {}).get("databases")
    if not isinstance(databases, list) or not databases:
        return None
    return sorted({one for seen in databases for one in _texts(seen, "revisions")})


def _heads(answer: Mapping[str, Any] | None) -> list[str]:
    return sorted(_texts(answer, "heads"))


def _texts(answer: Any, key: str) -> list[str]:
    found = answer.get(key) if isinstance(answer, Mapping) else None
    return [str(one) for one in found] if isinstance(found, list) else []


def _read(commands: Commands, command: Sequence[str], verb: str, *, connects: bool = False) -> Finished:
    if connects:
        finished = run_reading(commands, [*command, verb], READ_TIMEOUT_S)
    else:
        finished = commands.run([*command, verb], timeout_s=READ_TIMEOUT_S, environment=READER_ENVIRONMENT)
    if finished.status == 0:
        return finished
    asked = f"Running `{' '.join(command)} {verb}` in {commands.place} failed"
    if missing_program(finished):
        raise ReleaseError(f"{asked} ({command[0]} was not found): check migration.command of the release.")
    if writes(finished):
        raise WritesError(
            f"{asked} ({error_tail(finished.stderr or finished.stdout)}): env.py writes to the database whenever "
            "Alembic connects, which fails in a read-only session."
        )
    if finished.timed_out:
        raise ReleaseError(f"{asked} (no answer in {READ_TIMEOUT_S} s): check that the database answers from there.")
    raise ReleaseError(
        f"{asked} with status {finished.status} ({error_tail(finished.stderr or finished.stdout)}): "
        "run the same command there, and correct the error that it prints."
    )


def _revisions(output: str) -> list[tuple[str, str]]:
    matches = (_REVISION_LINE.fullmatch(line.strip()) for line in output.splitlines())
    return [(match["revision"], match["notes"]) for match in matches if match]


def libpq_options(commands: Commands, settings: Mapping[str, str], *options: str) -> str:
    """Return PGOPTIONS of a session there: the existing options first, then `options`, then the settings."""
    own = commands.run(["printenv", "PGOPTIONS"], timeout_s=30)
    given = [own.stdout.strip()] if own.status == 0 else []
    return " ".join(filter(None, [*given, *options, options_of(settings)]))
