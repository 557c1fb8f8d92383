"""Timeouts that somebody has set for the role in the database end none of the engine's transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2.extensions
import pytest
from ansible.module_utils.dbrelease.migrate.steps import Step, attempt_step, count_pending, limit_lock_waits
from ansible.module_utils.dbrelease.postgres.declared_sql import limit_statements
from ansible.module_utils.dbrelease.postgres.lock_retry import LockLimits, LockWatch, PatientSession
from ansible.module_utils.dbrelease.postgres.session import Login, select, transaction, without_timeouts
from ansible.module_utils.dbrelease.postgres.session import connect as engine_connect
from own_sessions import connect
from waits import until_an_idle_session_is_ended

Session = psycopg2.extensions.connection
LIMITS = LockLimits()
SLOW = "SELECT count(*) AS pending FROM (SELECT pg_sleep(0.4)) AS slow WHERE false"
STEP = Step("slow", "Slow", SLOW, SLOW)
# A server tells those that it knows: the last came with version 17.
SET = ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")


@pytest.fixture
def hasty(session: Session, database: Login) -> Iterator[Session]:
    """A session in which all of them are as short as the role's are; without RESET none of them ends it."""
    with session.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_settings WHERE name = ANY (%s)", (list(SET),))
        known = [name for (name,) in cursor.fetchall()]
        for name in known:
            cursor.execute(f'ALTER ROLE "{database.user}" IN DATABASE "{database.database}" SET {name} = \'200ms\'')
    connection = connect(database, "hasty")
    with connection.cursor() as cursor:
        for name in known:
            cursor.execute(f"RESET {name}")
    yield connection
    connection.close()


def slowly(cursor: Any) -> None:
    """Both the server and the client take their time."""
    select(cursor, SLOW)
    info = cursor.connection.info
    login = Login(info.host, info.port, info.user, info.dbname, info.password)
    until_an_idle_session_is_ended(login, in_transaction=True)
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


# What somebody may have set for the role in the database, and what the engine's sessions have nevertheless.
SET_FOR_THE_ROLE = {
    "statement_timeout": ("200ms", "0"),
    "lock_timeout": ("1ms", "0"),
    "idle_in_transaction_session_timeout": ("200ms", "0"),
    "default_transaction_isolation": ("serializable", "read committed"),
    "default_transaction_read_only": ("on", "off"),
    "default_transaction_deferrable": ("on", "off"),
    "session_replication_role": ("replica", "origin"),
    "search_path": ("elsewhere", "pg_catalog, pg_temp"),
    "max_parallel_workers_per_gather": ("8", "0"),
    "max_parallel_maintenance_workers": ("8", "0"),
}


def test_what_is_set_for_the_role_does_not_decide_what_our_sessions_do(session: Session, database: Login) -> None:
    with session.cursor() as cursor:
        for name, (wrong, _) in SET_FOR_THE_ROLE.items():
            cursor.execute(f'ALTER ROLE "{database.user}" IN DATABASE "{database.database}" SET {name} = \'{wrong}\'')
    with closing(engine_connect(database, "ours")) as connection, connection.cursor() as cursor:
        found = {}
        for name in SET_FOR_THE_ROLE:
            cursor.execute(f"SHOW {name}")
            ((found[name],),) = cursor.fetchall()
    assert found == {name: right for name, (_, right) in SET_FOR_THE_ROLE.items()}
