"""Show the SQL that a migration would run, without running it and without leaving files where Alembic runs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..core.proof import Proof
from ..host.commands import Commands, Finished, missing_program
from .alembic import error_tail, reader_environment, run_reading

PREVIEW_TIMEOUT_S = 120
PREVIEW_PROOF = "migrate.preview"
UNKNOWN_REVISION = "Can't locate revision"

Direction = Literal["upgrade", "downgrade"]

# Alembic's own command line, which also finds revisions in a folder that exists only while this process runs. SIGTERM
# (the deadline) ends it by an exception, so that the folder is always removed.
WITH_FILES = """
import json, os, signal, sys, tempfile
from alembic.config import CommandLine
from alembic.script import ScriptDirectory

def end(*_):
    sys.exit(143)

signal.signal(signal.SIGTERM, end)
files = json.load(sys.stdin)
from_config = ScriptDirectory.from_config.__func__
with tempfile.TemporaryDirectory(prefix="dbrelease_preview_") as folder:
    for name, content in files.items():
        with open(os.path.join(folder, os.path.basename(name)), "w", encoding="utf-8") as file:
            file.write(content)

    def extended(cls, config):
        script = from_config(cls, config)
        known = list(script.version_locations or []) or [os.path.join(script.dir, "versions")]
        script.version_locations = [*known, folder]
        return script

    ScriptDirectory.from_config = classmethod(extended)
    CommandLine(prog="alembic").main(sys.argv[1:])
"""


@dataclass(frozen=True)
class Preview:
    """The SQL, empty where Alembic could not print it, and the proof."""

    sql: str
    proof: Proof


def preview(
    commands: Commands,
    command: Sequence[str],
    direction: Direction,
    from_revision: str,
    revision: str,
    files: Mapping[str, str],
) -> Preview:
    """Print the SQL of exactly from:to by Alembic; `files` (name: content) are revisions that it may not have yet."""
    arguments = argument_words(direction, from_revision, revision)
    finished = run_reading(commands, [*command, *arguments], PREVIEW_TIMEOUT_S)
    revisions = {name: content for name, content in files.items() if name.endswith(".py")}
    if finished.status != 0 and revisions and UNKNOWN_REVISION in finished.stderr + finished.stdout:
        finished = _with_files(commands, command, arguments, revisions)
    return _judged(finished, f"{direction} {from_revision}:{revision}")


def argument_words(direction: Direction, from_revision: str, revision: str) -> list[str]:
    """Return Alembic's arguments that print the SQL."""
    return [direction, f"{from_revision}:{revision}", "--sql"]


def _with_files(
    commands: Commands, command: Sequence[str], arguments: Sequence[str], files: Mapping[str, str]
) -> Finished:
    python, options = _python_and_options(command)
    with tempfile.TemporaryFile() as stdin:
        stdin.write(json.dumps(files).encode())
        stdin.seek(0)
        return commands.run(
            [python, "-c", WITH_FILES, *options, *arguments],
            timeout_s=PREVIEW_TIMEOUT_S,
            environment=reader_environment(commands),
            stdin=stdin,
        )


def _python_and_options(command: Sequence[str]) -> tuple[str, list[str]]:
    """Split `python3 -m alembic -c x.ini` or `alembic -c x.ini` into an interpreter and Alembic's own options."""
    if list(command[1:3]) == ["-m", "alembic"]:
        return command[0], list(command[3:])
    return "python3", list(command[1:])


def _judged(finished: Finished, what: str) -> Preview:
    title = "The SQL of the migration was shown beforehand"
    if finished.status == 0 and finished.stdout.strip():
        lines = len(finished.stdout.splitlines())
        return Preview(
            finished.stdout,
            Proof(
                PREVIEW_PROOF,
                title,
                "pass",
                expected=what,
                observed={"lines": lines},
                detail=f"Alembic printed {lines} lines of SQL for {what}.",
                duration_ms=finished.duration_ms,
            ),
        )
    if missing_program(finished):
        reason = f"{finished.argv[0]} was not found"
    elif finished.timed_out:
        reason = f"no answer in {PREVIEW_TIMEOUT_S} s"
    else:
        reason = f"status {finished.status}: {error_tail(finished.stderr or finished.stdout)}"
    return Preview(
        "",
        Proof(
            PREVIEW_PROOF,
            title,
            "inconclusive",
            expected=what,
            observed={"status": finished.status},
            detail=f"Alembic could not print the SQL of {what} without running it ({reason}).",
            remedy="Read the revision file before you run the migration.",
            duration_ms=finished.duration_ms,
        ),
    )
