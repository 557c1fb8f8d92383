"""Makes the commits of a test server wait for a standby that does not exist."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2.extensions
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect

MISSING = "dbrelease_no_such_standby"
WAIT_S = 10
LONGEST_S = 20


def lose_it(cursor: psycopg2.extensions.cursor) -> None:
    """From now on each commit waits for it, in a database that is prepared."""
    _set(cursor, f"SET synchronous_standby_names = '{MISSING}'", MISSING)


def find_it(cursor: psycopg2.extensions.cursor) -> None:
    """From now on no commit waits."""
    _set(cursor, "RESET synchronous_standby_names", "")


@contextmanager
def found_again(login: Login) -> Iterator[None]:
    """Prepare the database; no commit of the server waits any longer when the block ends, or has lasted too long."""
    with closing(connect(login, "synchronous")) as connection, connection.cursor() as cursor:
        # A server of tests alone waits for no disk either.
        cursor.execute(f'ALTER DATABASE "{login.database}" SET synchronous_commit = on')
        timer = threading.Timer(LONGEST_S, find_it, [cursor])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            find_it(cursor)
            cursor.execute(f'ALTER DATABASE "{login.database}" RESET synchronous_commit')


def _set(cursor: psycopg2.extensions.cursor, setting: str, expected: str) -> None:
    deadline = time.monotonic() + WAIT_S
    cursor.execute(f"ALTER SYSTEM {setting}")
    cursor.execute("SELECT pg_reload_conf()")
    while True:
        cursor.execute("SHOW synchronous_standby_names")
        if cursor.fetchone() == (expected,):
            break
        assert time.monotonic() < deadline, "the server did not reload its configuration"
    # Commits wait as soon as the checkpointer has read the configuration, which it does before this.
    cursor.execute("CHECKPOINT")
