"""Which versions of pg_dump and pg_restore a place has."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.errors import ReleaseError
from .commands import Commands, missing_program

TIMEOUT_S = 60
DUMP_TOOLS = ("pg_dump", "pg_restore")
NAMED = " (PostgreSQL) "


def tool_version(commands: Commands, tool: str) -> str:
    """`pg_dump (PostgreSQL) 15.9`; raises ReleaseError where the tool is missing."""
    finished = commands.run([tool, "--version"], timeout_s=TIMEOUT_S)
    said = " ".join(finished.stdout.split())
    if finished.status != 0 or NAMED not in said:
        reason = "it is not there" if missing_program(finished) else f"status {finished.status}"
        raise ReleaseError(
            f"Running {tool} in {commands.place} failed ({reason}): install PostgreSQL's client programs there, or set "
            "db_container to the container that has them."
        )
    return said


def tool_versions(commands: Commands) -> Mapping[str, str]:
    """The versions of pg_dump and pg_restore, as `15.9`; raises ReleaseError where one is not there."""
    return {tool: tool_version(commands, tool).partition(NAMED)[2].split()[0] for tool in DUMP_TOOLS}
