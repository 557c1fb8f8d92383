"""Timeouts that somebody has set for the role in the database end none of the engine's transactions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2.extensions
import pytest
from ansible.module_utils.dbrelease.migrate.steps import Step, attempt_step, count_pending, limit_lock_waits
from ansible.module_utils.dbrelease.postgres.declared_sql import limit_statements
from ansible.module_utils.dbrelease.postgres.lock_retry import LockLimits, LockWatch, PatientSession
from ansible.module_utils.dbrelease.postgres.session import Login, select, transaction, without_timeouts
from own_sessions import connect

Session = psycopg2.extensions.connection
LIMITS = LockLimits()
SLOW = "SELECT count(*) AS pending FROM (SELECT pg_sleep(0.4)) AS slow WHERE false"
STEP = Step("slow", "Slow", SLOW, SLOW)
# A server tells those that it knows: the last came with version 17.
SET = ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")


@pytest.fixture
def hasty(session: Session, database: Login) -> Iterator[Session]:
    """A session of the role for which all of them are short."""
    with session.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_settings WHERE name = ANY (%s)", (list(SET),))
        for (name,) in cursor.fetchall():
            cursor.execute(f'ALTER ROLE "{database.user}" IN DATABASE "{database.database}" SET {name} = \'200ms\'')
    connection = connect(database, "hasty")
    yield connection
    connection.close()


def slowly(cursor: Any) -> None:
    """Both the server and the client take their time."""
    select(cursor, SLOW)
    time.sleep(0.4)
    assert select(cursor, "SELECT 1 AS one") == [{"one": 1}]


def limited(limit: Callable[[Any], None]) -> Callable[[Session], object]:
    def act(session: Session) -> None:
        with transaction(session) as cursor:
            limit(cursor)
            slowly(cursor)

    return act


ACTS: dict[str, Callable[[Session], object]] = {
    "reading patiently": lambda session: PatientSession(session, LIMITS, LockWatch()).read("Looking", slowly),
    "writing patiently": lambda session: PatientSession(session, LIMITS, LockWatch()).write("Writing", slowly),
    "a step": lambda session: attempt_step(session, STEP, [], LIMITS),
    "what a step has pending": lambda session: count_pending(session, STEP, LIMITS),
    "what surrounds a step": limited(lambda cursor: limit_lock_waits(cursor, LIMITS)),
    "a look": limited(lambda cursor: limit_statements(cursor, 60_000)),
    "anything": limited(without_timeouts),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_it_takes_its_time(hasty: Session, act: Callable[[Session], object]) -> None:
    act(hasty)


def test_they_are_short_indeed(hasty: Session) -> None:
    with pytest.raises(psycopg2.Error):
        limited(lambda cursor: None)(hasty)


@pytest.mark.parametrize("name", SET[:2])
def test_a_whole_session_may_be_without(hasty: Session, name: str) -> None:
    with hasty.cursor() as cursor:
        without_timeouts(cursor, local=False)
        cursor.execute(f"SHOW {name}")
        assert cursor.fetchone() == ("0",)


def test_the_lock_timeout_stays(hasty: Session) -> None:
    limits: list[Callable[[Any], None]] = [
        lambda cursor: limit_lock_waits(cursor, LockLimits(timeout_ms=70)),
        lambda cursor: limit_statements(cursor, 60_000, lock_timeout=70),
    ]
    for limit in limits:
        with transaction(hasty) as cursor:
            limit(cursor)
            assert select(cursor, "SHOW lock_timeout") == [{"lock_timeout": "70ms"}]
