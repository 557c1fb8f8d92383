"""No run acts where commits wait for a standby that is not connected, as its own would not return."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Run
from ansible.module_utils.dbrelease.postgres import commit_wait
from ansible.module_utils.dbrelease.postgres.commit_wait import bounded_commits, endless_commit, needed
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from ansible.module_utils.dbrelease.runs.database_lock import NameLock, advisory_lock
from lost_standby import MISSING, found_again, lose_it
from own_sessions import connect

Session = psycopg2.extensions.connection


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
    with found_again(database), closing(connect(server, "synchronous")) as connection:
        with connection.cursor() as cursor:
            lose_it(cursor)
        yield


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


def test_a_commit_that_waits_for_it_is_ended_and_what_it_committed_is_there(
    database: Login, waiting_for_nobody: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_wait, "LONGEST_WAIT_S", 0.2)
    with (
        bounded_commits(database, "dbrelease-waits") as watch,
        closing(connect(database, "dbrelease-waits")) as connection,
        connection.cursor() as cursor,
        pytest.raises(psycopg2.OperationalError),
    ):
        cursor.execute("CREATE TABLE written ()")
    assert MISSING in watch.reason and "this server has the commit, and perhaps no standby" in watch.reason
    with closing(connect(database, "reads")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('written') IS NOT NULL")
        assert cursor.fetchall() == [(True,)]
