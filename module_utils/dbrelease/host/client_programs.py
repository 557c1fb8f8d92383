"""Which versions of pg_dump and pg_restore a place has."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..core.errors import ReleaseError
from .commands import Commands

TIMEOUT_S = 30
DUMP_TOOLS = ("pg_dump", "pg_restore")
TOOL_VERSION = re.compile(r"\(PostgreSQL\) (\d+(?:\.\d+|\w+)*)")


def tool_versions(commands: Commands) -> Mapping[str, str]:
    """The versions of pg_dump and pg_restore; raises ReleaseError where one is not there."""
    return {tool: _tool_version(commands, tool) for tool in DUMP_TOOLS}


def _tool_version(commands: Commands, tool: str) -> str:
    finished = commands.run([tool, "--version"], timeout_s=TIMEOUT_S)
    found = TOOL_VERSION.search(finished.stdout)
    if finished.status != 0 or not found:
        reason = " ".join(finished.stderr.split()) or f"status {finished.status}"
        raise ReleaseError(
            f"Asking {tool} in {commands.place} for its version failed ({reason}): "
            "install the server's client programs there."
        )
    return found.group(1)
