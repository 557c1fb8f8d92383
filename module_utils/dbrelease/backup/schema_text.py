"""The schema of a database or of a dump, as the statements that make it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..core.display import last_words
from ..core.errors import ReleaseError
from ..core.own_files import reading
from ..host.commands import Commands
from ..postgres.session import Login
from .dump import tool_environment

# Of the program's version and of one run, not of the schema.
NO_SCHEMA = ("--", "SET ", "SELECT pg_catalog.set_config", "\\restrict", "\\unrestrict")


def schema_of(database: Login, commands: Commands, timeout_s: int, application: str, *, inside: bool) -> list[str]:
    """Its statements, without what differs from one dump to the next; raises ReleaseError."""
    finished = commands.run(
        ["pg_dump", "--schema-only", "--no-subscriptions", "--no-password", "--lock-wait-timeout=60000"],
        timeout_s=timeout_s,
        environment=tool_environment(database, application, inside=inside),
    )
    if finished.status != 0:
        raise ReleaseError(f"Reading the schema of the {database.label} failed ({last_words(finished.stderr, 300)}).")
    return _statements(finished.stdout)


def schema_of_dump(path: Path, commands: Commands, timeout_s: int) -> list[str]:
    """The same of a dump."""
    with reading(path) as file:
        finished = commands.run(
            ["pg_restore", "--schema-only", "--no-subscriptions", "--file=-"], timeout_s=timeout_s, stdin=file
        )
    if finished.status != 0:
        raise ReleaseError(f"Reading the schema of {path} failed ({last_words(finished.stderr, 300)}).")
    return _statements(finished.stdout)


def hashed(schema: list[str]) -> str:
    """For the manifest. The server words some expressions otherwise once they are restored, so that the schema of the
    copy is not letter for letter that of the dump.
    """
    return hashlib.sha256("\n".join(schema).encode()).hexdigest()


def _statements(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith(NO_SCHEMA)]
