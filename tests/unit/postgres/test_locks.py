"""Locks: literals are masked, blockers are named, and retries are bounded."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extras
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.postgres.blocker_policy import BlockerPolicy
from ansible.module_utils.dbrelease.postgres.declared_sql import limit_statements
from ansible.module_utils.dbrelease.postgres.lock_retry import (
    ContendedError,
    LockLimits,
    LockWatch,
    PatientSession,
    blockers,
    describe,
    mask_literals,
    pause_before,
    retrying,
    watch_blockers,
)
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from ansible.module_utils.dbrelease.postgres.trusted_roles import quoted_text, trusted_roles
from own_sessions import connect
from waits import until

MASKED = [
    ("plain string", "SELECT 'secret'", "SELECT ?"),
    ("doubled quotes", "SELECT 'it''s secret', 1", "SELECT ?, ?"),
    ("escape string", r"SELECT E'a\'secret', x", "SELECT ?, x"),
    ("dollar quotes", "SELECT $$secret$$, $t$se'cret$t$", "SELECT ?, ?"),
    ("numbers", "UPDATE t1 SET a2 = 3.5e7 WHERE id=42", "UPDATE t1 SET a2 = ? WHERE id=?"),
    ("parameters stay", "SELECT $1, $2", "SELECT $1, $2"),
    ("identifiers stay", 'SELECT "a 1"" b" FROM "T"', 'SELECT "a 1"" b" FROM "T"'),
    ("comments go", "SELECT /* secret */ 1 -- secret 'x\n, 2", "SELECT ? , ?"),
    ("a literal cut off by the server", "INSERT INTO t VALUES ('secr", "INSERT INTO t VALUES (?"),
    ("a dollar literal cut off", "SELECT $$secr", "SELECT ?"),
    ("white space", "SELECT\n   a", "SELECT a"),
]


@pytest.mark.parametrize(("given", "masked"), [row[1:] for row in MASKED], ids=[row[0] for row in MASKED])
def test_literals_are_masked(given: str, masked: str) -> None:
    assert mask_literals(given) == masked


def test_a_long_query_is_cut() -> None:
    assert len(mask_literals("SELECT " + "a," * 900)) == 300


def contended_for(times: int) -> Callable[[], str]:
    left = [times]

    def attempt() -> str:
        if left[0]:
            left[0] -= 1
            raise ContendedError("canceling statement due to lock timeout (55P03)")
        return "done"

    return attempt


def test_an_attempt_that_meets_a_lock_is_repeated_after_growing_pauses() -> None:
    pauses: list[float] = []
    done = retrying(contended_for(4), LockLimits(), what="Testing", watch=LockWatch(), pause=pauses.append)
    assert (done.value, done.attempts) == ("done", 5)
    assert len(pauses) == 4
    assert all(low <= pause <= 2 * low for pause, low in zip(pauses, (0.05, 0.1, 0.2, 0.4), strict=True))


def test_pauses_do_not_grow_for_ever() -> None:
    assert all(pause_before(n) <= 5.0 for n in range(2, 200))


BOUNDS = [
    ("attempts", LockLimits(attempts=3, deadline_seconds=100), "stopped after 3 attempts"),
    ("deadline", LockLimits(attempts=1000, deadline_seconds=0.01), "stopped after 1 attempt in"),
    ("no attempt allowed", LockLimits(attempts=0), "was not attempted"),
]


@pytest.mark.parametrize(("limits", "said"), [row[1:] for row in BOUNDS], ids=[row[0] for row in BOUNDS])
def test_retries_are_bounded_and_name_the_blockers(limits: LockLimits, said: str) -> None:
    watch = LockWatch()
    row = {"pid": 7, "user": "u", "application": "worker", "state": "active", "since": "now", "query": "SELECT ?"}
    watch.note([row])
    watch.note([row])
    with pytest.raises(ReleaseError, match=said) as caught:
        retrying(contended_for(10**6), limits, what="Testing", watch=watch, pause=lambda _: None)
    if limits.attempts:
        assert 'pid 7 (user "u", application "worker"' in caught.value.message
        assert caught.value.facts["lock_waits"] == [row]


def test_a_session_is_named_once_and_only_with_what_is_known_of_it() -> None:
    row = {"pid": 7, "user": "u", "application": "worker", "state": "active", "since": "10:00", "query": "SELECT ?"}
    worker = {**row, "pid": 8, "user": None, "application": "autovacuum worker", "query": "autovacuum: VACUUM a"}
    hidden = {**row, "pid": 9, "user": "v", "state": None, "since": None, "query": ""}
    prepared = {**row, "pid": 0, "user": None, "application": "prepared transaction", "state": None, "since": None}
    assert describe([row, worker, {**row, "since": "11:00"}, hidden, prepared]) == (
        'it was blocked by pid 7 (user "u", application "worker", active, since 11:00, last query: "SELECT ?") and '
        'pid 8 (application "autovacuum worker", active, since 10:00, last query: "autovacuum: VACUUM a") and '
        'pid 9 (user "v", application "worker") and a prepared transaction (pg_prepared_xacts lists them)'
    )
    assert describe([{**row, "pid": pid} for pid in range(1, 10)]).endswith(" and 4 more")


def test_whoever_has_no_name_is_not_called_none() -> None:
    assert (quoted_text(None), quoted_text("None"), quoted_text("")) == ("unknown", '"None"', '""')


def test_other_errors_are_not_repeated() -> None:
    calls: list[int] = []

    def attempt() -> None:
        calls.append(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        retrying(attempt, LockLimits(), what="Testing", watch=LockWatch())
    assert calls == [1]


@pytest.fixture
def blocked(database: Login, session: psycopg2.extensions.connection) -> Any:
    """A session named `migrator` that waits for a lock of a session named `worker`."""
    with session.cursor() as cursor:
        cursor.execute("CREATE TABLE accounts (id int, name text); INSERT INTO accounts VALUES (1, 'a')")
    holder, waiter = connect(database, "worker"), connect(database, "migrator")
    holder.cursor().execute("BEGIN; UPDATE accounts SET name = 'very secret' WHERE id = 1")

    def wait() -> None:
        with waiter.cursor() as cursor:
            cursor.execute("ALTER TABLE accounts ADD COLUMN more int")

    thread = threading.Thread(target=wait)
    thread.start()
    yield holder
    holder.close()
    thread.join()
    waiter.close()


def claim_worker_is_named(found: list[dict[str, Any]]) -> None:
    (row,) = found
    assert row["application"] == "worker"
    assert row["state"] == "idle in transaction"
    assert row["since"].endswith("Z")
    assert row["query"] == "BEGIN; UPDATE accounts SET name = ? WHERE id = ?"


def test_blockers_are_named_with_their_masked_query(session: psycopg2.extensions.connection, blocked: Any) -> None:
    with session.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        deadline, trusted = time.monotonic() + 30, trusted_roles(cursor, session.info.dbname)
        while not (found := blockers(cursor, "migrator", trusted)) and time.monotonic() < deadline:
            time.sleep(0.02)
        claim_worker_is_named(found)
        assert found[0]["pid"] == blocked.get_backend_pid()
        assert blockers(cursor, "somebody else", trusted) == []
        assert blockers(cursor, "migrator", []) == [], "a stranger has the name"


def test_the_watch_sees_blockers_once_each(database: Login, blocked: Any) -> None:
    looks = 0

    def count(_cursor: object, found: list[dict[str, Any]]) -> None:
        nonlocal looks
        looks += bool(found)

    with watch_blockers(database, "migrator", also=count) as watch:
        until(lambda: looks > 2, "the watch did not observe the blocker three times")
    claim_worker_is_named(watch.seen)


def test_the_watch_stays_empty_where_it_cannot_connect() -> None:
    with watch_blockers(Login("127.0.0.1", 1, "u", "d"), "migrator") as watch:
        pass  # it begins when the first attempt to connect has ended
    assert watch.seen == []


# An ordinary autovacuum that needs minutes for a small table, as it does for a large one; and one against wraparound.
SLOWLY_VACUUMED = """
CREATE TABLE big (id int, note text) WITH (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1);
INSERT INTO big SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i;
UPDATE big SET note = repeat('y', 500);
"""
AT_WORK = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND query LIKE %s"
LIMITS = LockLimits(timeout_ms=100, attempts=3, deadline_seconds=30)


@pytest.fixture
def vacuumed(database: Login) -> Iterator[str]:
    """A table that an autovacuum is at work on."""
    with closing(connect(database, "tests")) as session, session.cursor() as cursor:
        cursor.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        cursor.execute("SELECT pg_reload_conf()")
        cursor.execute(SLOWLY_VACUUMED)
        try:
            deadline = time.monotonic() + 60
            while True:
                cursor.execute(AT_WORK, ("%public.big%",))
                if cursor.fetchall() != [(0,)]:
                    break
                assert time.monotonic() < deadline, "no autovacuum came"
                time.sleep(0.1)
            yield "big"
        finally:
            cursor.execute("ALTER SYSTEM RESET autovacuum_naptime")
            cursor.execute("SELECT pg_reload_conf()")


def locking(connection: Any, watch: LockWatch, table: str, limits: LockLimits = LIMITS) -> Callable[[], None]:
    def attempt() -> None:
        try:
            with transaction(connection) as cursor:
                limit_statements(cursor, 0, lock_timeout=watch.timeout_ms(limits))
                cursor.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        except psycopg2.errors.LockNotAvailable as error:
            raise ContendedError(str(error)) from error
        except psycopg2.errors.QueryCanceled as error:
            raise ReleaseError("It was cancelled.") from error

    return attempt


def test_an_autovacuum_that_blocks_is_cancelled_before_writers_wait_for_long(database: Login, vacuumed: str) -> None:
    # Shorter than deadlock_timeout: the server itself cancels nothing for it.
    policy = BlockerPolicy(cancel_autovacuum=True)
    limits = LockLimits(timeout_ms=900, attempts=3, deadline_seconds=30, blockers=policy)
    with (
        closing(connect(database, "dbrelease waits")) as connection,
        watch_blockers(database, "dbrelease waits", limits=limits) as watch,
    ):
        assert (watch.patient, watch.timeout_ms(limits)) == (False, 900)
        done = retrying(locking(connection, watch, vacuumed, limits), limits, what="Locking", watch=watch)
    assert done.attempts == 1
    assert any("autovacuum" in row["application"] for row in watch.seen)
    (proof,) = watch.acts.proofs("migrate.blockers")
    assert (proof.status, {row["action"] for row in watch.acts.rows}) == ("pass", {"canceled"})
    assert "autovacuum worker" in proof.detail and "was canceled" in proof.detail


def test_an_autovacuum_gives_way_to_a_session_that_waits_for_it_where_nothing_is_declared(
    database: Login, vacuumed: str
) -> None:
    with (
        closing(connect(database, "dbrelease waits")) as connection,
        watch_blockers(database, "dbrelease waits", limits=LIMITS) as watch,
    ):
        begun = time.monotonic()
        done = retrying(locking(connection, watch, vacuumed), LIMITS, what="Locking", watch=watch)
    assert done.attempts <= 2 and time.monotonic() - begun < 5
    assert any("autovacuum" in row["application"] for row in watch.seen)
    assert not watch.acts.rows, "the server canceled it: no session of ours did"


def test_no_other_session_is_waited_for_so_long(database: Login, vacuumed: str, session: Any) -> None:
    with session.cursor() as cursor:
        cursor.execute(f"BEGIN; LOCK TABLE {vacuumed} IN ROW EXCLUSIVE MODE")
    waits = []
    with (
        closing(connect(database, "dbrelease waits")) as connection,
        watch_blockers(database, "dbrelease waits", limits=LIMITS) as watch,
    ):
        attempt = locking(connection, watch, vacuumed)

        def timed() -> None:
            begun = time.monotonic()
            try:
                attempt()
            finally:
                waits.append(time.monotonic() - begun)

        with pytest.raises(ReleaseError, match="stopped after 3 attempts"):
            retrying(timed, LIMITS, what="Locking", watch=watch)
    assert len(waits) == 3 and max(waits) < 1, "writers wait behind it"


def test_without_an_autovacuum_every_wait_is_as_short_as_declared(database: Login) -> None:
    with watch_blockers(database, "dbrelease waits", limits=LIMITS) as watch:
        assert (watch.patient, watch.timeout_ms(LIMITS), watch.deadlock_timeout_ms) == (False, 100, 1000)


def test_a_deadlock_timeout_of_minutes_is_not_waited_for() -> None:
    assert LockWatch(patient=True, deadlock_timeout_ms=60_000).timeout_ms(LIMITS) == 100


def test_a_vacuum_against_wraparound_is_named() -> None:
    row = {
        **{"pid": 7, "user": None, "application": "autovacuum worker", "state": "active", "since": "now"},
        "query": "autovacuum: VACUUM public.big (to prevent wraparound)",
    }
    with pytest.raises(ReleaseError, match="wait for the vacuum that prevents wraparound, which the server never"):
        retrying(contended_for(9), LIMITS, what="Locking", watch=LockWatch([row]), pause=lambda _: None)


def test_a_prepared_transaction_is_not_to_be_terminated() -> None:
    row = {"pid": 0, "user": None, "application": "prepared transaction", "state": None, "since": None, "query": ""}
    with pytest.raises(ReleaseError, match=r"pg_prepared_xacts lists them\); commit or roll back that transaction"):
        retrying(contended_for(9), LIMITS, what="Locking", watch=LockWatch([row]), pause=lambda _: None)


def test_a_connection_that_is_lost_before_the_answer_to_its_commit_proves_no_rollback(database: Login) -> None:
    def cut(cursor: psycopg2.extensions.cursor) -> None:
        cursor.execute("CREATE TABLE half (id int)")
        with socket.socket(fileno=os.dup(cursor.connection.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)

    with closing(connect(database, "tests")) as session:
        patient = PatientSession(session, LockLimits(), LockWatch())
        with pytest.raises(ReleaseError, match="it is unknown whether it was committed: check that the server"):
            patient.write("Writing", cut)


@pytest.fixture
def monitoring(database: Login, session: Any) -> Iterator[Login]:
    """A role that sees every session, and may cancel none of another role."""
    name = f"monitoring_{secrets.token_hex(4)}"
    with session.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'monitoring' IN ROLE pg_monitor")
        yield replace(database, user=name, password="monitoring")
        cursor.execute(f"DROP ROLE {name}")


def test_a_watch_that_may_not_cancel_a_session_goes_on(database: Login, monitoring: Login, session: Any) -> None:
    with session.cursor() as cursor:
        cursor.execute("CREATE TABLE big (id int)")

    def blocked_by(pid: int) -> bool:
        """Whether the watch observes that attempts wait behind a session."""
        deadline = time.monotonic() + 15
        while pid not in [row["pid"] for row in watch.seen] and time.monotonic() < deadline:
            with closing(connect(database, "dbrelease waits")) as waiter, waiter.cursor() as attempt:
                attempt.execute("SET lock_timeout = '700ms'")
                with pytest.raises(psycopg2.errors.LockNotAvailable):
                    attempt.execute("BEGIN; LOCK TABLE big IN SHARE ROW EXCLUSIVE MODE")
        return pid in [row["pid"] for row in watch.seen]

    with watch_blockers(monitoring, "dbrelease waits", limits=LIMITS) as watch:
        watch.patient = True
        for _ in range(2):
            with closing(connect(database, "worker")) as holder:
                holder.cursor().execute("BEGIN; LOCK TABLE big IN ROW EXCLUSIVE MODE")
                assert blocked_by(holder.get_backend_pid())
        assert not watch.cancelled
