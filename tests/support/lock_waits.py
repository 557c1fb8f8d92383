"""Lets a lock go when somebody has waited for it long enough, however busy the machine is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg2.extensions
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect

Cursor = psycopg2.extensions.cursor

LONGEST = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - l.waitstart)), 0)::float
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE NOT l.granted AND a.datname = current_database()
"""
WAITING = """
SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE NOT l.granted AND a.datname = current_database()
"""
PATIENCE_S = 120


@contextmanager
def let_go_after(login: Login, blocker: psycopg2.extensions.connection, seconds: float) -> Iterator[None]:
    """Within the block the blocker's transaction is rolled back once a lock was waited for that long."""

    def waited_long(cursor: Cursor) -> bool:
        cursor.execute(LONGEST)
        return bool(cursor.fetchall()[0][0] > seconds)

    with let_go_once(login, blocker, waited_long):
        yield


@contextmanager
def let_go_after_an_attempt(login: Login, blocker: psycopg2.extensions.connection) -> Iterator[None]:
    """Within the block the blocker's transaction is rolled back once somebody waited for a lock, and has given up."""
    begun = False

    def given_up(cursor: Cursor) -> bool:
        nonlocal begun
        cursor.execute(WAITING)
        waits = bool(cursor.fetchall()[0][0])
        ended = begun and not waits
        begun = begun or waits
        return ended

    with let_go_once(login, blocker, given_up):
        yield


@contextmanager
def let_go_once(
    login: Login, blocker: psycopg2.extensions.connection, condition: Callable[[Cursor], bool]
) -> Iterator[None]:
    """Within the block the blocker's transaction is rolled back once the server shows this."""
    over, session = threading.Event(), connect(login, "watch")

    def watch() -> None:
        deadline = time.monotonic() + PATIENCE_S
        with closing(session), session.cursor() as cursor:
            while time.monotonic() < deadline and not over.is_set() and not condition(cursor):
                over.wait(0.02)
        blocker.cursor().execute("ROLLBACK")

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
