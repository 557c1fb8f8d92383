"""Choose how a release is rolled back: by Alembic, unless its sessions do not receive the counted rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import ReleaseError
from ..core.options import environment_of
from ..host.commands import commands_in
from ..postgres.lock_retry import LockLimits
from .alembic import WritesError, current_with
from .alembic_engine import session_environment
from .alembic_probe import COUNTING, PROBE_SETTINGS, probe_name


def method_for(params: Mapping[str, Any]) -> tuple[str, str]:
    """Return `alembic` or `sql`, and why; reads Alembic's session settings where the release has an SQL file."""
    if not (params["script"] or "").strip():
        return "alembic", "The release has no SQL file, so Alembic rolls it back."
    limits = LockLimits()
    try:
        commands = commands_in(
            params["backend_container"] or None, workdir=params["workdir"] or None, environment=environment_of(params)
        )
        name = probe_name(params["run"]["run_id"])
        environment = session_environment(commands, name, limits, PROBE_SETTINGS)
        seen = current_with(commands, params["command"], environment)
    except WritesError:
        return "alembic", "Alembic rolls it back; the settings of its session are unknown, because env.py writes."
    except ReleaseError as error:
        return "sql", f"The release's SQL file rolls it back, because Alembic could not be run: {error.message}"
    if seen.refused:
        return (
            "sql",
            f"The release's SQL file rolls it back, because Alembic's session settings are refused ({seen.refused}).",
        )
    lacking = seen.session.lacks(limits.timeout_ms) if seen.session else []
    if {COUNTING, "lock_timeout"} & set(lacking):
        missing = ", ".join(lacking)
        return "sql", f"The release's SQL file rolls it back, because {missing} did not reach Alembic's session."
    return "alembic", "Alembic rolls it back, because its session settings reach the server." if seen.session else (
        "Alembic rolls it back; the settings of its session could not be read."
    )
