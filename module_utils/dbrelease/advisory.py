"""One run at a time on one database, wherever the runs keep their state: a session's lock, polled, not waited for."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg2
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import RealDictCursor

from .database import Login, connect, select, server_reason
from .errors import ReleaseError
from .journal import Run

# The engine's own number; the server counts such locks for each database by itself.
KEY = 0x6462_7265_6C65
WAIT_S = 3.0
POLL_S = 0.2
RUN_ID = r"\d{8}T\d{6}Z-[0-9a-f]{6}"
LOCK_NAME = "dbrelease-lock-"

HOLDERS = """
SELECT a.pid, a.application_name AS application, a.usename::text AS "user",
       coalesce(host(a.client_addr), 'local') AS host,
       to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS since
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.classid = %(high)s AND l.objid = %(low)s
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# What a run has left working when its module was killed: its lock is gone, its program's session is not.
WORKERS = """
SELECT a.pid, a.application_name AS application, a.usename::text AS "user",
       coalesce(host(a.client_addr), 'local') AS host,
       to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS since
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.application_name ~ %(pattern)s
  AND a.application_name !~ %(own)s AND a.application_name NOT LIKE %(locks)s
"""


@contextmanager
def advisory_lock(login: Login, run: Run) -> Iterator[None]:
    """Hold the database for a run; raises ReleaseError, naming the holder, where another one has it.

    Its session is idle and holds no snapshot: nothing waits for it.
    """
    connection = connect(login, f"{LOCK_NAME}{run.run_id}"[:63])
    try:
        with connection.cursor(cursor_factory=RealDictCursor) as cursor:
            _acquire(cursor, login, run)
        yield
    finally:
        with suppress(psycopg2.Error):
            connection.close()


def _acquire(cursor: Cursor, login: Login, run: Run) -> None:
    deadline = time.monotonic() + WAIT_S
    try:
        while True:
            (row,) = select(cursor, "SELECT pg_try_advisory_lock(%s) AS taken", (KEY,))
            others = _workers(cursor, run) if row["taken"] else _holders(cursor)
            if row["taken"] and not others:
                return
            if row["taken"]:
                select(cursor, "SELECT pg_advisory_unlock(%s)", (KEY,))
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
    except psycopg2.Error as error:
        raise ReleaseError(f"Locking the {login.label} failed ({server_reason(error)}): run again.") from error
    raise ReleaseError(
        f"Run {run.run_id} may not act on the {login.label}: {' and '.join(others) or 'another run'} is at work on it; "
        "wait for its end, or end it with pg_terminate_backend, and run again.",
        refused=True,
    )


def _holders(cursor: Cursor) -> list[str]:
    return _words(select(cursor, HOLDERS, {"high": KEY >> 32, "low": KEY & 0xFFFFFFFF}))


def _workers(cursor: Cursor, run: Run) -> list[str]:
    names = {"pattern": f"^dbrelease-[a-z_]+-{RUN_ID}", "own": re.escape(run.run_id), "locks": f"{LOCK_NAME}%"}
    return _words(select(cursor, WORKERS, names))


def _words(rows: list[dict[str, object]]) -> list[str]:
    return [
        f"{row['application']} (pid {row['pid']}, user {row['user']}, from {row['host']}, since {row['since']})"
        for row in rows
    ]
