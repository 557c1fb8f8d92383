"""What Alembic and its bookkeeping table say: readers only; migrate/move.py is what acts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import ReleaseError
from ..core.redaction import masked
from ..host.commands import Commands, Finished, missing_program
from ..postgres.session import options_of
from .alembic_probe import AlembicSession, ask, session_of

READ_TIMEOUT_S = 60
KEPT_CAUSE_CHARACTERS = 500
# A reader leaves nothing behind, not even compiled revisions.
READER_ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1"}

# With it the server refuses what env.py would write; a driver may not take it, or a pooler.
READ_ONLY = "-c default_transaction_read_only=on"
_REFUSED_WRITE = re.compile(r"ReadOnlySqlTransaction|read-only transaction|\b25006\b", re.IGNORECASE)
_REFUSED_OPTIONS = re.compile(r"unsupported startup parameter", re.IGNORECASE)

# `0ab370a9afb6 (head)`, `5f (branch label) (effective head)`; a log line has other words after the first one.
_REVISION_LINE = re.compile(r"(?P<revision>[^\s()\[\]:]+)(?P<notes>(?: \([^)]*\))*)")

# `sqlalchemy.exc.ProgrammingError: (...) ...`, `RuntimeError: ...`, `FAILED: ...`; not the SQL and the links after it.
_ERROR_LINE = re.compile(r"(?:[A-Za-z_][\w.]*\.[A-Za-z_]\w*|\w*(?:Error|Exception)|FAILED|SystemExit): ")


class WritesError(ReleaseError):
    """What was started to read wanted to write, and was refused."""


def script_heads(commands: Commands, command: Sequence[str]) -> list[str]:
    """The heads of the revision files that Alembic sees, sorted; raises ReleaseError where it cannot tell.

    One that another line depends on (an "effective head") is none: the database never holds it beside that line's.
    """
    if heads := _texts(_probed(commands, command, "heads"), "heads"):
        return sorted(heads)
    printed = _revisions(_read(commands, command, "heads").stdout)
    real = [revision for revision, notes in printed if "(head)" in notes]
    return sorted(real or (revision for revision, notes in printed if "head" in notes))


def script_history(commands: Commands, command: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Each revision that Alembic knows with those before it; empty where its program could not be asked."""
    history = (_probed(commands, command, "heads") or {}).get("history")
    if not isinstance(history, dict):
        return {}
    return {str(one): tuple(map(str, before)) for one, before in history.items() if isinstance(before, list)}


def alembic_current(commands: Commands, command: Sequence[str]) -> list[str]:
    """The revisions of the database by Alembic, sorted; none for an empty one. Raises ReleaseError if it cannot say.

    It runs env.py, which may write: its sessions are read-only where the driver takes that. WritesError where it then
    fails for that reason.
    """
    found = _rows(_ask_reading(commands, command))
    if found is not None:
        return found
    printed = _read(commands, command, "current", connects=True).stdout
    return sorted({revision for revision, _ in _revisions(printed)})


def reader_environment(commands: Commands) -> dict[str, str]:
    """For whatever of Alembic runs env.py and must only read."""
    return {**READER_ENVIRONMENT, "PGOPTIONS": libpq_options(commands, {}, READ_ONLY)}


def run_reading(commands: Commands, argv: Sequence[str], timeout_s: int) -> Finished:
    """Run it with read-only sessions; without them where a pooler takes no such option."""
    finished = commands.run(argv, timeout_s=timeout_s, environment=reader_environment(commands))
    if finished.status != 0 and _REFUSED_OPTIONS.search(finished.stderr + finished.stdout):
        return commands.run(argv, timeout_s=timeout_s, environment=READER_ENVIRONMENT)
    return finished


def _ask_reading(commands: Commands, command: Sequence[str]) -> dict[str, Any] | None:
    """The same with the program of alembic_probe."""
    given = reader_environment(commands)
    answer, finished = ask(commands, command, "current", timeout_s=READ_TIMEOUT_S, environment=given)
    if finished is not None and finished.status != 0 and _REFUSED_OPTIONS.search(finished.stderr + finished.stdout):
        answer, _ = ask(commands, command, "current", timeout_s=READ_TIMEOUT_S, environment=READER_ENVIRONMENT)
    return answer


def writes(finished: Finished) -> bool:
    """Whether it failed as its session was read-only."""
    return finished.status != 0 and bool(_REFUSED_WRITE.search(finished.stderr + finished.stdout))


@dataclass(frozen=True)
class Current:
    """At which revisions Alembic finds the database, and how its session came to be with the settings of a migration.

    session: None where that is not known. refused: why it could not connect with those settings, and can without.
    """

    revisions: list[str]
    session: AlembicSession | None = None
    refused: str = ""


def current_with(commands: Commands, command: Sequence[str], environment: Mapping[str, str]) -> Current:
    """Ask Alembic where the database is, in a session that is begun as a migration's is; raises ReleaseError."""
    given = {**READER_ENVIRONMENT, **environment}
    answer, finished = ask(commands, command, "current", timeout_s=READ_TIMEOUT_S, environment=given)
    found = _rows(answer)
    if found is not None:
        return Current(found, session_of(answer))
    revisions = alembic_current(commands, command)
    if finished is None or finished.status == 0 or missing_program(finished):
        return Current(revisions)
    # It answers without the settings. Where the program itself fails so, too, they are not to blame.
    plain = _ask_reading(commands, command)
    return Current(revisions, None, error_tail(finished.stderr or finished.stdout) if plain is not None else "")


def error_tail(text: str) -> str:
    """The cause on one line: the last line that names an error, else the last line of all."""
    kept = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in kept if _ERROR_LINE.match(line)]
    # Not after it was cut: half a secret is none that is known.
    return masked((named or kept or ["it printed nothing"])[-1])[:KEPT_CAUSE_CHARACTERS]


def _probed(commands: Commands, command: Sequence[str], verb: str) -> dict[str, Any] | None:
    """What the program says; where it says nothing, the plain command says why, or may be read all the same."""
    return ask(commands, command, verb, timeout_s=READ_TIMEOUT_S, environment=READER_ENVIRONMENT)[0]


def _rows(answer: Mapping[str, Any] | None) -> list[str] | None:
    databases = (answer or {}).get("databases")
    if not isinstance(databases, list) or not databases:
        return None
    return sorted({one for seen in databases for one in _texts(seen, "revisions")})


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
    asked = f"Asking `{' '.join(command)} {verb}` in {commands.place} failed"
    if missing_program(finished):
        raise ReleaseError(f"{asked} (there is no {command[0]}): check the release's migration command.")
    if writes(finished):
        raise WritesError(
            f"{asked} ({error_tail(finished.stderr or finished.stdout)}): env.py writes to the database whenever "
            "Alembic connects, which a read-only session refuses."
        )
    if finished.timed_out:
        raise ReleaseError(f"{asked} (no answer in {READ_TIMEOUT_S} s): check that the database answers from there.")
    raise ReleaseError(
        f"{asked} with status {finished.status} ({error_tail(finished.stderr or finished.stdout)}): "
        "run the same command there, and repair what it names."
    )


def _revisions(output: str) -> list[tuple[str, str]]:
    matches = (_REVISION_LINE.fullmatch(line.strip()) for line in output.splitlines())
    return [(match["revision"], match["notes"]) for match in matches if match]


def libpq_options(commands: Commands, settings: Mapping[str, str], *options: str) -> str:
    """PGOPTIONS of a session there: the place's own stay in front, then those, then the settings."""
    own = commands.run(["printenv", "PGOPTIONS"], timeout_s=30)
    given = [own.stdout.strip()] if own.status == 0 else []
    return " ".join(filter(None, [*given, *options, options_of(settings)]))
