"""What a throwaway server is made of: derived from the image of the live database's container and from the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..observe.statement_log import START_SETTINGS
from ..postgres.session import select

# On which an extension, a lock table or the text of a value depends. Sizes of memory are not copied: they are those of
# the live machine.
COPIED = (
    *("shared_preload_libraries", "max_locks_per_transaction", "max_connections", "lc_monetary", "lc_numeric"),
    *("lc_time", "default_text_search_config", "TimeZone"),
    "port",  # the application's settings name it
    "cron.database_name",  # the one database in which pg_cron can be created
)
# What a crash would lose is thrown away in any case. A failing statement may contain a verifier of a password.
OWN = {"fsync": "off", "full_page_writes": "off", "log_min_error_statement": "panic", **START_SETTINGS}
KILL_AFTER_S = 10
BOOTSTRAP_ROLE = 10
ADVICE = (
    "correct that, or prove the backup alone in a database beside the live one with -e rehearsal=same_server, or go on "
    "without a rehearsal with -e rehearsal=off"
)
SETTINGS = """
SELECT (SELECT rolname FROM pg_roles WHERE oid = %(bootstrap)s) AS superuser,
       (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name = ANY (%(names)s)) AS settings,
       (SELECT coalesce(json_agg(spcname ORDER BY spcname), '[]') FROM pg_tablespace WHERE oid >= 16384) AS tablespaces
"""


class CannotRehearseError(ReleaseError):
    """A rehearsal is not possible here, which says nothing of the release."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(
            f"Rehearsing was refused ({reason}), and the live database was not changed: {advice}.", refused=True
        )
        self.reason = reason


def refused(reason: str, advice: str = ADVICE) -> CannotRehearseError:
    """The error of a rehearsal that is not possible here."""
    return CannotRehearseError(reason.rstrip("."), advice)


@dataclass(frozen=True)
class LiveServer:
    """What the throwaway server takes from the live one; settings that db_user may not read are left out."""

    superuser: str
    settings: Mapping[str, str] = field(default_factory=dict)
    tablespaces: Sequence[str] = ()


def read_live(cursor: Cursor) -> LiveServer:
    """Read it; the cursor's session may be read-only."""
    (row,) = select(cursor, SETTINGS, {"bootstrap": BOOTSTRAP_ROLE, "names": list(COPIED)})
    return LiveServer(row["superuser"], dict(row["settings"] or {}), tuple(row["tablespaces"]))


@dataclass(frozen=True)
class Limits:
    """What the throwaway containers may use, and how long they may live."""

    cpus: float
    memory_bytes: int
    start_s: int
    lifetime_s: int


def command_of(image: Mapping[str, Any], live: LiveServer, limits: Limits) -> list[str]:
    """The image's own command under a lifetime; raises a refusal where the image has none.

    The container must end also when no run follows one that was killed.
    """
    config = image.get("Config") or {}
    argv = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
    if not argv:
        raise refused("the image of the database's container names no command that starts a server")
    settings = {**{name: value for name, value in live.settings.items() if value}, **OWN}
    if "cron.database_name" in settings:
        settings["cron.launch_active_jobs"] = "off"
    given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [*bounded(limits.lifetime_s), *argv, *given]


def bounded(lifetime_s: int) -> list[str]:
    """What begins the command of a throwaway container: its first process ends after this time."""
    return ["timeout", "-s", "INT", "-k", str(KILL_AFTER_S), str(lifetime_s)]


def environment_for(superuser: str, password: str) -> dict[str, str]:
    """The variables of the official image, which others also understand."""
    return {"POSTGRES_USER": superuser, "POSTGRES_PASSWORD": password, "POSTGRES_DB": "postgres"}
