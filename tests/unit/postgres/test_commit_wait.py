"""No run acts where commits wait for a standby that is not connected, as its own would not return."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2.extensions
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Run
from ansible.module_utils.dbrelease.postgres.commit_wait import endless_commit, needed
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from ansible.module_utils.dbrelease.runs.database_lock import NameLock, advisory_lock
from own_sessions import connect

Session = psycopg2.extensions.connection
MISSING = "dbrelease_no_such_standby"
WAIT_S = 10


@pytest.mark.parametrize(
    ("names", "number"),
    [
        ("", 0),
        (" ", 0),
        ("standby1", 1),
        ("*", 1),
        ("a, b, c", 1),
        ("2 (a, b)", 2),
        ("FIRST 2 (a, b, c)", 2),
        ("any 3(a,b,c)", 3),
        ('"FIRST 2 (a"', 1),
    ],
)
def test_as_many_as_the_server_waits_for(names: str, number: int) -> None:
    assert needed(names) == number


@pytest.fixture
def waiting_for_nobody(server: Login, database: Login) -> Iterator[None]:
    """Commits of the whole server wait for a standby that does not exist, for as long as the test lasts."""
    with closing(connect(server, "synchronous")) as connection:
        connection.autocommit = True
        # A server of tests alone waits for no disk either.
        with connection.cursor() as cursor:
            cursor.execute(f'ALTER DATABASE "{database.database}" SET synchronous_commit = on')
        try:
            _set(connection, f"SET synchronous_standby_names = '{MISSING}'", MISSING)
            yield
        finally:
            _set(connection, "RESET synchronous_standby_names", "")


def _set(connection: Session, setting: str, expected: str) -> None:
    deadline = time.monotonic() + WAIT_S
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER SYSTEM {setting}")
        cursor.execute("SELECT pg_reload_conf()")
        while True:
            cursor.execute("SHOW synchronous_standby_names")
            if cursor.fetchone() == (expected,):
                return
            assert time.monotonic() < deadline, "the server did not reload its configuration"


def test_the_missing_standby_is_reported(session: Session, waiting_for_nobody: None) -> None:
    with transaction(session, read_only=True) as cursor:
        cursor.execute("SET LOCAL synchronous_commit = on")
        reason = endless_commit(cursor)
    assert MISSING in reason and "0 of them are connected" in reason


@pytest.mark.parametrize("level", ["off", "local"])
def test_a_commit_that_waits_for_no_standby_returns(session: Session, waiting_for_nobody: None, level: str) -> None:
    with transaction(session, read_only=True) as cursor:
        cursor.execute(f"SET LOCAL synchronous_commit = {level}")
        assert endless_commit(cursor) == ""


def test_without_synchronous_standbys_a_commit_returns(session: Session) -> None:
    with transaction(session, read_only=True) as cursor:
        assert endless_commit(cursor) == ""


def test_no_run_acts_there(database: Login, run_parameters: dict[str, Any], waiting_for_nobody: None) -> None:
    run = Run(**run_parameters)
    with pytest.raises(ReleaseError, match=MISSING) as refused, advisory_lock(database, run):
        pass
    assert refused.value.refused and "Start the missing standby" in refused.value.message
    lock = NameLock(database, "shop", run)
    with pytest.raises(ReleaseError, match=MISSING), closing(lock):
        lock.take()
    assert not lock.held
