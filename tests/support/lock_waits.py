"""Lets a lock go when somebody has waited for it long enough, however busy the machine is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2.extensions
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect

LONGEST = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - l.waitstart)), 0)::float
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE NOT l.granted AND a.datname = current_database()
"""
PATIENCE_S = 120


@contextmanager
def let_go_after(login: Login, blocker: psycopg2.extensions.connection, seconds: float) -> Iterator[None]:
    """Within the block the blocker's transaction is rolled back once a lock was waited for that long."""
    over = threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + PATIENCE_S
        with closing(connect(login, "watch")) as session, session.cursor() as cursor:
            while time.monotonic() < deadline and not over.is_set():
                cursor.execute(LONGEST)
                if cursor.fetchall()[0][0] > seconds:
                    break
                over.wait(0.1)
        blocker.cursor().execute("ROLLBACK")

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
