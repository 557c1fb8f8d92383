"""Sessions that block a release: what it declares is done to them, to no others, and each is named."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extras
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.postgres.blocker_policy import Acts, BlockerPolicy
from ansible.module_utils.dbrelease.postgres.declared_sql import limit_statements
from ansible.module_utils.dbrelease.postgres.lock_retry import (
    ContendedError,
    LockLimits,
    LockWatch,
    Retried,
    retrying,
    watch_blockers,
)
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from ansible.module_utils.dbrelease.postgres.trusted_roles import trusted_roles
from own_sessions import connect
from sql_step import act
from waits import until

NAME = "dbrelease waits"
LIMITS = LockLimits(timeout_ms=400, attempts=3, deadline_seconds=60)
SINCE = "SELECT extract(epoch FROM clock_timestamp() - state_change) > %s FROM pg_stat_activity WHERE pid = %s"
HOLD = "BEGIN; LOCK TABLE accounts IN ROW EXCLUSIVE MODE"
ENDS_AFTER_1_S = BlockerPolicy(end_idle_in_transaction=1)


@pytest.fixture
def cursor(session: Any) -> Any:
    cursor = session.cursor()
    cursor.execute("CREATE TABLE accounts (id int PRIMARY KEY, note text)")
    return cursor


def unchanged_for(cursor: Any, pid: int, seconds: float) -> bool:
    cursor.execute(SINCE, (seconds, pid))
    found = cursor.fetchall()
    return bool(found and found[0][0])


def is_there(cursor: Any, pid: int) -> bool:
    cursor.execute("SELECT FROM pg_stat_activity WHERE pid = %s", (pid,))
    return bool(cursor.rowcount)


@contextmanager
def holding(
    database: Login, cursor: Any, *, name: str = "worker", idle_s: float = 1.2, then: str = ""
) -> Iterator[int]:
    """A session that holds a lock, and has been idle since, or at work with `then`, for so long."""
    with closing(connect(database, name)) as session:
        session.cursor().execute(HOLD + "; INSERT INTO accounts VALUES (pg_backend_pid(), 'secret')" * (not then))
        pid = session.info.backend_pid

        def work() -> None:
            with suppress(psycopg2.Error):
                session.cursor().execute(then)

        thread = threading.Thread(target=work)
        if then:
            thread.start()
        until(lambda: unchanged_for(cursor, pid, idle_s), "the session changed its state again")
        try:
            yield pid
        finally:
            if then:
                cursor.execute("SELECT pg_terminate_backend(%s)", (pid,))
                thread.join()


def lock(
    database: Login, policy: BlockerPolicy, *, watching: Login | None = None
) -> tuple[LockWatch, Callable[[], Retried[None]]]:
    """Take a lock as a migration does; the watch has what was done when it returns."""
    limits = replace(LIMITS, blockers=policy)
    found = LockWatch()

    def take() -> Retried[None]:
        with (
            closing(connect(database, NAME)) as connection,
            watch_blockers(watching or database, NAME, limits=limits) as watch,
        ):
            found.acts = watch.acts

            def attempt() -> None:
                try:
                    with transaction(connection) as inner:
                        limit_statements(inner, 0, lock_timeout=watch.timeout_ms(limits))
                        inner.execute("LOCK TABLE accounts IN SHARE ROW EXCLUSIVE MODE")
                except psycopg2.errors.LockNotAvailable as error:
                    raise ContendedError("lock timeout") from error

            return retrying(attempt, limits, what="Locking", watch=watch)

    return found, take


def test_each_session_that_blocks_and_was_idle_for_long_enough_is_ended_and_named(database: Login, cursor: Any) -> None:
    with (
        holding(database, cursor) as first,
        holding(database, cursor, name="batch") as second,
        closing(connect(database, "bystander")) as bystander,
    ):
        bystander.cursor().execute("BEGIN; LOCK TABLE accounts IN ACCESS SHARE MODE")
        until(lambda: unchanged_for(cursor, bystander.info.backend_pid, 1.2), "it changed its state again")
        watch, take = lock(database, ENDS_AFTER_1_S)
        assert take().attempts <= 2
        assert not is_there(cursor, first) and not is_there(cursor, second)
        assert is_there(cursor, bystander.info.backend_pid), "it blocked nothing"
    rows = {row["pid"]: row for row in watch.acts.rows}
    assert rows.keys() == {first, second}
    for row in rows.values():
        assert (row["action"], row["ended"], row["user"]) == ("terminated", True, database.user)
        assert row["idle_seconds"] >= 1 and "secret" not in row["query"] and "INSERT INTO accounts" in row["query"]
    (proof,) = watch.acts.proofs("migrate.blockers")
    assert proof.status == "pass" and f"Session pid {first} (user" in proof.detail and '"batch"' in proof.detail


KEPT: dict[str, dict[str, Any]] = {
    "at work": {"then": "SELECT pg_sleep(60)"},
    "idle for a shorter time": {"idle_s": 0.0},
    "ours": {"name": "dbrelease-upgrade-x"},
}


@pytest.mark.parametrize("kind", KEPT)
def test_no_other_session_is_ended(kind: str, database: Login, cursor: Any) -> None:
    policy = BlockerPolicy(end_idle_in_transaction=3600) if kind.startswith("idle") else ENDS_AFTER_1_S
    with holding(database, cursor, **KEPT[kind]) as pid:
        watch, take = lock(database, policy)
        with pytest.raises(ReleaseError, match=f"stopped after 3 attempts.*pid {pid}"):
            take()
        assert is_there(cursor, pid)
    assert not watch.acts.rows and not watch.acts.proofs("migrate.blockers")


def test_nothing_is_ended_where_nothing_is_declared(database: Login, cursor: Any) -> None:
    with holding(database, cursor) as pid:
        watch, take = lock(database, BlockerPolicy(cancel_autovacuum=True))
        with pytest.raises(ReleaseError, match="stopped after 3 attempts"):
            take()
        assert is_there(cursor, pid) and not watch.acts.rows


def test_a_session_that_began_to_work_since_it_was_read_is_not_terminated(database: Login, cursor: Any) -> None:
    stale = {"state": "idle in transaction", "since": None, "query": "", "user": "x", "application": "worker"}
    with ExitStack() as held, closing(connect(database, NAME)) as waiting:
        pid = held.enter_context(holding(database, cursor, then="SELECT pg_sleep(60)"))
        thread = threading.Thread(target=lambda: _wait_for_the_lock(waiting))
        thread.start()
        until(lambda: _is_blocked(cursor, waiting.info.backend_pid), "the waiter waits for nothing")
        acts = Acts(ENDS_AFTER_1_S)
        with cursor.connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as reading:
            trusted = trusted_roles(reading, database.database)
            acts.act(reading, [{**stale, "pid": pid}], NAME, trusted, may_cancel=False)
        assert is_there(cursor, pid) and not acts.rows
        held.close()
        thread.join()


def _wait_for_the_lock(waiting: Any) -> None:
    waiting.cursor().execute("BEGIN; LOCK TABLE accounts IN SHARE ROW EXCLUSIVE MODE; ROLLBACK")


def _is_blocked(cursor: Any, pid: int) -> bool:
    cursor.execute("SELECT pg_blocking_pids(%s) <> '{}'", (pid,))
    return bool(cursor.fetchall()[0][0])


def test_where_db_user_may_not_end_it_the_failure_says_so(database: Login, cursor: Any) -> None:
    role = f"monitoring_{secrets.token_hex(4)}"
    cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'monitoring' IN ROLE pg_monitor")
    try:
        with holding(database, cursor) as pid:
            watching = replace(database, user=role, password="monitoring")
            watch, take = lock(database, ENDS_AFTER_1_S, watching=watching)
            with pytest.raises(ReleaseError, match=f"allows to terminate pid {pid}, but db_user may not: grant"):
                take()
            assert is_there(cursor, pid) and not watch.acts.rows
    finally:
        cursor.execute(f"DROP ROLE {role}")


def test_waiting_is_limited_by_the_deadline_alone() -> None:
    calls = 0

    def attempt() -> None:
        nonlocal calls
        calls += 1
        if calls < 9:
            raise ContendedError("locked")

    limits = replace(LIMITS, blockers=BlockerPolicy(wait=True))
    assert retrying(attempt, limits, what="Locking", watch=LockWatch(), pause=lambda _: None).attempts == 9
    calls = 0
    with pytest.raises(ReleaseError, match="stopped after 1 attempt in"):
        retrying(attempt, replace(limits, deadline_seconds=0.01), what="Locking", watch=LockWatch())


STEP = {
    "name": "mark",
    "title": "Mark the accounts",
    "sql": "UPDATE accounts SET note = 'marked'",
    "pending": "SELECT count(*) AS pending FROM accounts WHERE note IS DISTINCT FROM 'marked'",
}


@pytest.fixture
def params(login_parameters: dict[str, Any], run_parameters: dict[str, Any], cursor: Any) -> dict[str, Any]:
    cursor.execute("INSERT INTO accounts VALUES (1, '')")
    blockers = {"wait": False, "cancel_autovacuum": False, "end_idle_in_transaction": 1}
    return {
        **login_parameters,
        "run": run_parameters,
        "steps": [STEP],
        "checks": [],
        "lock": {"timeout_ms": 400, "attempts": 3, "deadline_seconds": 60, "blockers": blockers},
        "application_name": "dbrelease finalize",
        "services": {"guards": [], "containers": {}, "api_base_url": "", "timeout_seconds": 5.0},
        "tables": [],
        "budget": {"write_wait_ms": 1000},
    }


def test_a_finalize_step_ends_what_is_declared_and_the_result_names_it(
    params: dict[str, Any], database: Login, cursor: Any
) -> None:
    with holding(database, cursor, name="importer") as pid, closing(connect(database, "importer")) as other:
        other.cursor().execute("BEGIN; UPDATE accounts SET note = 'theirs'")
        until(lambda: unchanged_for(cursor, other.info.backend_pid, 1.2), "it changed its state again")
        result = act(params, False)
        assert is_there(cursor, pid), "it does not block the step"
        (ended,) = result["ended_sessions"]
        assert (ended["pid"], ended["application"], ended["ended"]) == (other.info.backend_pid, "importer", True)
    proofs = {proof["name"]: proof["status"] for proof in result["proofs"]}
    assert proofs == {"migrate.finalize.mark": "pass", "migrate.finalize_blockers": "pass"}


def test_check_mode_ends_no_session(params: dict[str, Any], database: Login, cursor: Any) -> None:
    with closing(connect(database, "importer")) as other:
        other.cursor().execute("BEGIN; LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
        until(lambda: unchanged_for(cursor, other.info.backend_pid, 1.2), "it changed its state again")
        with pytest.raises(ReleaseError, match="stopped after 3 attempts"):
            act(params, True)
        assert is_there(cursor, other.info.backend_pid)
