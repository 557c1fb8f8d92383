"""Waits for a condition: a wait for a fixed time is too long on an idle machine, and too short on a busy one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import psycopg2
from ansible.module_utils.dbrelease.postgres.session import Login, Session
from own_sessions import connect

PATIENCE_S = 60
PAUSE_S = 0.02


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> None:
    """Return when the condition is true; fail after that many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"Waited {seconds:g} s in vain: {what}."
        time.sleep(PAUSE_S)


def _connected(login: Login) -> Session:
    """A session; on a busy machine a short limit may end it before its first statement."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return connect(login, "tests")
        except psycopg2.OperationalError:
            if time.monotonic() > deadline:
                raise


def until_an_idle_session_is_ended(login: Login, *, in_transaction: bool = False) -> None:
    """Return when the server has ended a session for having been idle.

    Sessions that have the same limit, and were idle before, would have been ended earlier.
    """
    idle = psycopg2.connect(
        host=login.host, port=login.port, user=login.user, password=login.password, dbname=login.database
    )
    idle.autocommit = True
    with closing(idle), closing(_connected(login)) as session, session.cursor() as cursor:
        cursor.execute("SET idle_session_timeout = 0")
        if in_transaction:
            idle.cursor().execute("BEGIN")

        def is_ended() -> bool:
            cursor.execute("SELECT FROM pg_stat_activity WHERE pid = %s", (idle.info.backend_pid,))
            return cursor.rowcount == 0

        until(is_ended, "the server did not end an idle session")


def until_ended(login: Login, application_name: str) -> None:
    """Return when no session of this name is connected to the database: what it wrote has been counted then."""
    with closing(connect(login, "tests")) as session, session.cursor() as cursor:

        def is_ended() -> bool:
            cursor.execute(
                "SELECT FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()",
                (application_name,),
            )
            return cursor.rowcount == 0

        until(is_ended, f"{application_name} is still connected")
