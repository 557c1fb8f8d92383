"""Read which versions of pg_dump and pg_restore a host or a container has."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.errors import ReleaseError
from ..core.redaction import masked
from .commands import Commands, missing_program

TIMEOUT_S = 60
DUMP_TOOLS = ("pg_dump", "pg_restore")
NAMED = " (PostgreSQL) "
KEPT_CAUSE_CHARACTERS = 500


def tool_version(commands: Commands, tool: str) -> str:
    """Return a line such as `pg_dump (PostgreSQL) 15.9`; raises ReleaseError where the tool does not run."""
    finished = commands.run([tool, "--version"], timeout_s=TIMEOUT_S)
    said = " ".join(finished.stdout.split())
    if finished.status != 0 or NAMED not in said:
        printed = masked(" ".join(finished.stderr.split()))[:KEPT_CAUSE_CHARACTERS]
        reason = "it was not found" if missing_program(finished) else printed or f"status {finished.status}"
        raise ReleaseError(
            f"Running {tool} in {commands.place} failed ({reason}): install PostgreSQL's client programs there, or set "
            "db_container to a container that has them."
        )
    return said


def tool_versions(commands: Commands) -> Mapping[str, str]:
    """Return the versions of pg_dump and pg_restore, as `15.9`; raises ReleaseError where one does not run."""
    return {tool: tool_version(commands, tool).partition(NAMED)[2].split()[0] for tool in DUMP_TOOLS}
