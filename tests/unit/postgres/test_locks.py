"""Locks: literals are masked, blockers are named, and retries are bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.postgres.lock_retry import (
    ContendedError,
    LockLimits,
    LockWatch,
    blockers,
    mask_literals,
    pause_before,
    retrying,
    watch_blockers,
)
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.postgres.trusted_roles import trusted_roles
from own_sessions import connect

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
    ("attempts", LockLimits(attempts=3, deadline_seconds=100), "gave up after 3 attempts"),
    ("deadline", LockLimits(attempts=1000, deadline_seconds=0.01), "gave up after 1 attempt in"),
    ("no attempt allowed", LockLimits(attempts=0), "was given no attempt"),
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
    with watch_blockers(database, "migrator") as watch:
        time.sleep(0.6)
    claim_worker_is_named(watch.seen)


def test_the_watch_stays_empty_where_it_cannot_look() -> None:
    with watch_blockers(Login("127.0.0.1", 1, "u", "d"), "migrator") as watch:
        time.sleep(0.05)
    assert watch.seen == []
