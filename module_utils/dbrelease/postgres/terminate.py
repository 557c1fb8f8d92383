"""The server's sessions of a program that may have lost its client: found by application_name, and ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing

import psycopg2
import psycopg2.extensions
from psycopg2.extras import RealDictCursor

from ..core.errors import ReleaseError
from ..core.signals import Ended
from .session import Login, connect, select
from .trusted_roles import trusted_roles

# Rows of pg_stat_activity. State and kind of other users' sessions are hidden from a role without pg_monitor, but not
# their existence.
OF_CLIENTS = "coalesce(backend_type, 'client backend') = 'client backend' AND datid IS NOT NULL"

# A stranger's session may have any name, and may not be ours to end.
NAMED = """
FROM pg_stat_activity
WHERE application_name = %s AND pid <> pg_backend_pid() AND usesysid = ANY (%s::oid[])
"""
END = f"SELECT pid, pg_terminate_backend(pid) {NAMED}"
LEFT = f"SELECT count(*) AS sessions {NAMED}"
END_SESSIONS_S = 15.0
POLL_S = 0.1


def end_sessions(login: Login, name: str) -> int:
    """Terminate the server sessions of that name and wait until they have ended; return how many were terminated."""
    try:
        with closing(connect(login, "dbrelease end sessions", read_only=True)) as connection:
            return _end_sessions(connection, name)
    except Ended:
        raise
    except (ReleaseError, psycopg2.Error):
        # The database does not answer; the caller that reads the revision back reports it.
        return 0


def sessions_left(login: Login, name: str) -> bool:
    """Whether sessions of that name exist still: what they wrote may become visible at any time."""
    try:
        with (
            closing(connect(login, "dbrelease end sessions", read_only=True)) as connection,
            connection.cursor(cursor_factory=RealDictCursor) as cursor,
        ):
            (row,) = select(cursor, LEFT, (name, trusted_roles(cursor, connection.info.dbname)))
            return bool(row["sessions"])
    except (ReleaseError, psycopg2.Error):
        return False  # the caller that reads the revision back reports that the database does not answer


def _end_sessions(connection: psycopg2.extensions.connection, name: str) -> int:
    ended: set[int] = set()
    deadline = time.monotonic() + END_SESSIONS_S
    with connection.cursor(cursor_factory=RealDictCursor) as cursor:
        while time.monotonic() < deadline:
            found = select(cursor, END, (name, trusted_roles(cursor, connection.info.dbname)))
            ended.update(row["pid"] for row in found)
            if not found:
                break
            time.sleep(POLL_S)
    return len(ended)


def sessions_of(connection: psycopg2.extensions.connection, run_ids: Sequence[str]) -> list[str]:
    """The names of the server's sessions that carry one of these run ids at their end."""
    with connection.cursor(cursor_factory=RealDictCursor) as cursor:
        found = select(
            cursor,
            "SELECT application_name AS name FROM pg_stat_activity WHERE application_name LIKE 'dbrelease-%%' "
            "AND application_name LIKE ANY (%s) AND pid <> pg_backend_pid() AND usesysid = ANY (%s::oid[])",
            ([f"%-{run_id}" for run_id in run_ids], trusted_roles(cursor, connection.info.dbname)),
        )
    return [row["name"] for row in found]
