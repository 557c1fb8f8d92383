"""What the engine has left connected: a server is a moment behind the client that closed a session."""

from __future__ import annotations

import time
from contextlib import closing

from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect

ENGINES = """
SELECT application_name FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'dbrelease%'
"""
ENDING_S = 5


def left_sessions(login: Login) -> list[str]:
    """The engine's sessions in this database that do not end by themselves; those of other tests are elsewhere."""
    deadline = time.monotonic() + ENDING_S
    with closing(connect(login, "tests")) as session, session.cursor() as cursor:
        while True:
            cursor.execute(ENGINES)
            names = [name for (name,) in cursor.fetchall()]
            if not names or time.monotonic() > deadline:
                return names
            time.sleep(0.05)
