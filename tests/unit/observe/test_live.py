"""A migration of a live database is observed by samples alone: nobody waits for them, and what fails is only said."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from ansible.module_utils.dbrelease.observe.live import LiveObserver
from ansible.module_utils.dbrelease.observe.waiting import Waiters
from ansible.module_utils.dbrelease.postgres.session import Login, Session
from own_sessions import connect
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import RealDictCursor
from shared_database import database, emptied
from waits import until

__all__ = ["database", "emptied"]

MINE = "SELECT count(*) FROM pg_locks WHERE pid = %s AND locktype = 'relation' AND relation >= 16384"


@pytest.fixture
def login(database: Login) -> Login:
    with closing(connect(database, "tests")) as session, session.cursor() as cursor:
        cursor.execute("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1)")
    return database


@pytest.fixture
def watch(login: Login) -> Iterator[Session]:
    with closing(connect(login, "dbrelease lock watch")) as session:
        yield session


def held_when_looked(observer: LiveObserver, cursor: Cursor) -> bool:
    observer.look(cursor)
    sampler = observer._sampler
    return bool(sampler and sampler.samples.held)


def test_a_lock_is_observed_also_while_the_table_is_locked_from_everyone(login: Login, watch: Session) -> None:
    observer = LiveObserver(login, "migration", ["orders", "nowhere"])
    migration, looking = connect(login, "migration"), watch.cursor(cursor_factory=RealDictCursor)
    with closing(migration), migration.cursor() as cursor:
        observer.look(looking)
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        until(lambda: held_when_looked(observer, looking), "no lock was observed")
        looking.execute(MINE, (watch.info.backend_pid,))
        assert looking.fetchall() == [{"count": 0}]
        cursor.execute("ALTER TABLE orders ADD COLUMN note text; COMMIT")
    observation = observer.observation()
    assert observation is not None
    assert not observation.probed
    assert "ACCESS EXCLUSIVE" in {lock.mode for one in observation.statements for lock in one.locks}
    assert ("public.orders", "column", "note") in {(one.table, one.kind, one.name) for one in observation.changes}


def test_locks_of_others_and_of_another_name_are_not_the_migrations(login: Login, watch: Session) -> None:
    observer, looking = LiveObserver(login, "migration", ["orders"]), watch.cursor(cursor_factory=RealDictCursor)
    with closing(connect(login, "application")) as other, other.cursor() as cursor:
        observer.look(looking)
        cursor.execute("BEGIN; LOCK TABLE orders IN SHARE MODE")
        observer.look(looking)
        cursor.execute("COMMIT")
    observation = observer.observation()
    assert observation is not None
    assert observation.statements == ()
    assert "No statement of a session named migration" in " ".join(observation.not_observed)


def test_a_failure_is_said_and_the_watch_goes_on(login: Login, watch: Session) -> None:
    observer, looking = LiveObserver(login, "migration", ["orders"]), watch.cursor(cursor_factory=RealDictCursor)
    observer.look(looking)
    looking.execute("DEALLOCATE ALL")
    until(lambda: held_when_looked(observer, looking) or observer.problems, "nothing failed")
    looking.execute("SELECT 1 AS one")
    assert looking.fetchall() == [{"one": 1}]
    observation = observer.observation()
    assert observation is not None
    assert "was not observed to the end" in " ".join(observation.not_observed)


@pytest.mark.parametrize("by_row", [True, False])
def test_who_waits_for_it_is_observed_with_the_table_and_the_time(login: Login, watch: Session, by_row: bool) -> None:
    looking = watch.cursor(cursor_factory=RealDictCursor)
    looking.execute("SELECT oid::bigint FROM pg_roles WHERE rolname = current_user")
    trusted = [row["oid"] for row in looking.fetchall()]
    waiters = Waiters("migration", trusted, None)
    migration, second, other = (connect(login, name) for name in ("migration", "application", "application"))
    with closing(migration), closing(second), closing(other), migration.cursor() as cursor:
        assert waiters.look(looking) == ([migration.info.backend_pid], [])
        cursor.execute("BEGIN; UPDATE orders SET id = 1" if by_row else "BEGIN; LOCK TABLE orders IN SHARE MODE")
        threads = [
            threading.Thread(target=session.cursor().execute, args=("UPDATE orders SET id = 1",))
            for session in (second, other)
        ]
        for thread in threads:
            thread.start()
        until(lambda: any(one.held_ms > 100 for one in waiters.look(looking)[1]), "nobody waits")
        cursor.execute("COMMIT")
        for thread in threads:
            thread.join()
        assert waiters.look(looking)[1] == []
    assert waiters.longest is not None
    assert waiters.longest.ms >= 100
    assert waiters.longest.table in ({"public.orders", ""} if by_row else {"public.orders"})
    assert 'application "application"' in waiters.longest.in_words()
