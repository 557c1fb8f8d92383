"""Whether the live database is what the backup holds already: rows, settings and schema."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

from .commands import Commands
from .database import Login, connect, transaction
from .dump import tool_environment
from .errors import ReleaseError
from .fingerprints import write_counters
from .restore_backup import Backup
from .restore_copy import compare, read_state
from .restore_settings import prove_settings

# Of the program's version and of one run, not of the schema.
NO_SCHEMA = ("--", "SET ", "SELECT pg_catalog.set_config", "\\restrict", "\\unrestrict")


def is_restored(live: Login, backup: Backup, commands: Commands, timeout_s: int, *, inside: bool) -> bool:
    """Each question is asked only where those before, which cost less, were answered with yes."""
    name = "dbrelease restore compare"
    with closing(connect(live, name)) as connection, transaction(connection, read_only=True) as cursor:
        if set(write_counters(cursor)["tables"]) != set(backup.content["tables"]):
            return False
    tables, settings = read_state(live, name)
    if compare(backup.content, tables).status != "pass":
        return False
    with closing(connect(live, name)) as connection, transaction(connection, read_only=True) as cursor:
        if prove_settings(cursor, backup.content["settings"], settings).status != "pass":
            return False
    schema = schema_of(live, commands, timeout_s, inside=inside)
    restored = (backup.content.get("restored") or {}).get("schema_sha256")
    return restored == hashed(schema) or schema == _schema_of_dump(backup.path, commands, timeout_s)


def hashed(schema: list[str]) -> str:
    """For the manifest. The server words some expressions otherwise once they are restored, so that the schema of the
    copy is not letter for letter that of the dump.
    """
    return hashlib.sha256("\n".join(schema).encode()).hexdigest()


def _schema_of_dump(path: Path, commands: Commands, timeout_s: int) -> list[str]:
    with path.open("rb") as file:
        finished = commands.run(["pg_restore", "--schema-only", "--file=-"], timeout_s=timeout_s, stdin=file)
    if finished.status != 0:
        raise ReleaseError(f"Reading the schema of {path} failed ({' '.join(finished.stderr.split())[-300:]}).")
    return _statements(finished.stdout)


def schema_of(live: Login, commands: Commands, timeout_s: int, *, inside: bool) -> list[str]:
    """Its statements, without what differs from one dump to the next."""
    finished = commands.run(
        ["pg_dump", "--schema-only", "--no-password", "--lock-wait-timeout=60000"],
        timeout_s=timeout_s,
        environment=tool_environment(live, "dbrelease restore compare", inside=inside),
    )
    if finished.status != 0:
        raise ReleaseError(
            f"Reading the schema of the {live.label} failed ({' '.join(finished.stderr.split())[-300:]})."
        )
    return _statements(finished.stdout)


def _statements(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith(NO_SCHEMA)]
