"""A signal ends also a statement that the server is still running: it would delay the end of the module."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from ansible.module_utils.dbrelease.core.signals import HEARD_S, Ended, ending_in_order
from ansible.module_utils.dbrelease.postgres.session import Login, connect
from left_sessions import left_sessions
from own_sessions import connect as own_connect
from waits import until

NAME, RUNS_S = "dbrelease interrupted", 40


@pytest.fixture
def asked_while_it_runs(database: Login) -> Iterator[None]:
    """SIGTERM arrives when the server runs a statement of the session."""

    def is_running() -> bool:
        with closing(own_connect(database, "tests")) as session, session.cursor() as cursor:
            cursor.execute(
                "SELECT FROM pg_stat_activity WHERE (application_name, state) = (%s, 'active') AND query LIKE %s",
                (NAME, "%sleep%"),
            )
            return bool(cursor.rowcount)

    def ask() -> None:
        until(is_running, "the statement does not run")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    thread.join()


@pytest.mark.usefixtures("asked_while_it_runs")
@pytest.mark.parametrize("swallowed", [False, True], ids=["alone", "where its error is handled"])
def test_a_statement_that_runs_is_cancelled(database: Login, swallowed: bool) -> None:
    begun = time.monotonic()
    with (
        pytest.raises(Ended, match="SIGTERM"),
        ending_in_order(),
        closing(connect(database, NAME)) as session,
        session.cursor() as cursor,
    ):
        try:
            cursor.execute("SELECT pg_sleep(%s)", (RUNS_S,))
        except psycopg2.Error:
            if not swallowed:
                raise
    assert time.monotonic() - begun < RUNS_S
    assert left_sessions(database) == []


def test_a_signal_that_is_answered_cancels_nothing(database: Login) -> None:
    """What cleans up afterwards may use the same session."""
    with (
        closing(connect(database, NAME)) as session,
        session.cursor() as cursor,
        pytest.raises(Ended),
        ending_in_order(),
    ):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cursor.execute("SELECT pg_sleep(%s)", (2 * HEARD_S,))
            assert cursor.rowcount == 1
