"""sql_script: all of a file or nothing, with short lock waits, and read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest
import shared_database
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.migrate import move as moving
from ansible.module_utils.dbrelease.postgres import commit_wait
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.rollback.in_database import counting_settings
from lock_waits import WAITING, let_go_after_an_attempt, let_go_once
from lost_standby import found_again, lose_it
from own_sessions import connect
from sql_script import act

database, emptied = shared_database.database, shared_database.emptied

SCHEMA = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
CREATE TABLE order_items (id int);
INSERT INTO alembic_version VALUES ('b2');
"""
BACK = (
    "DO $$ BEGIN RAISE NOTICE '100%% back, done'; END $$; DROP TABLE order_items; "
    "UPDATE alembic_version SET version_num = 'a1'"
)
Move = Callable[..., dict[str, Any]]


@pytest.fixture
def move(
    session: psycopg2.extensions.connection, login_parameters: dict[str, Any], run_parameters: dict[str, Any]
) -> Move:
    with session.cursor() as cursor:
        cursor.execute(SCHEMA)

    def move(script: str = BACK, check_mode: bool = False, **options: Any) -> dict[str, Any]:
        params = {
            **login_parameters,
            "run": run_parameters,
            "script": script,
            "from_revision": "b2",
            "revision": "a1",
            "bookkeeping_table": "alembic_version",
            "lock": {"timeout_ms": 100, "attempts": 3, "deadline_seconds": 20},
            "timeout_seconds": 20,
            "session_settings": {},
            "log_label": "rollback_log",
            **options,
        }
        return act(params, check_mode)

    return move


def state(session: psycopg2.extensions.connection) -> tuple[Any, ...]:
    with session.cursor() as cursor:
        cursor.execute("SELECT version_num, to_regclass('order_items') IS NOT NULL FROM alembic_version")
        (row,) = cursor.fetchall()
        return tuple(row)


ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = (ROOT / "docs" / "rollback.md").read_text(encoding="utf-8").partition("```sql\n")[2].partition("```")[0]
NOTES = """
CREATE TABLE notes (id int, written_by text);
INSERT INTO notes VALUES (1, 'migration');
"""


@pytest.mark.parametrize(
    ("since", "reported", "says"),
    [
        ("", {}, ""),
        ("INSERT INTO notes VALUES (2, 'migration')", {}, ""),
        ("INSERT INTO notes VALUES (2, 'ann')", {}, "1 notes that would be lost were written since they were counted"),
        ("", {"dbrelease.counted_in": "1@2@3"}, "counted elsewhere"),
        ("", {"default_transaction_isolation": "repeatable read"}, "cannot see what was written since"),
        ("", {"dbrelease.counted_at": ""}, "did not tell this session when it counted"),
    ],
)
def test_the_example_of_the_docs_drops_no_row_that_was_written_since_the_count(
    move: Move,
    session: psycopg2.extensions.connection,
    database: Login,
    since: str,
    reported: dict[str, str],
    says: str,
) -> None:
    with session.cursor() as cursor:
        cursor.execute(NOTES)
        with closing(connect(database, "guards")) as connection:
            settings = counting_settings(connection, ["notes"])
        if since:
            cursor.execute(since)
        script = f"{EXAMPLE} UPDATE alembic_version SET version_num = 'a1'"
        if says:
            with pytest.raises(ReleaseError, match=says):
                move(script, session_settings={**settings, **reported})
        else:
            assert move(script, session_settings=settings)["changed"]
        cursor.execute("SELECT to_regclass('notes') IS NULL")
        assert cursor.fetchall() == [(not says,)]


def test_no_timeout_of_the_database_ends_it(move: Move, session: psycopg2.extensions.connection) -> None:
    name = "idle_in_transaction_session_timeout"
    with session.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        ((database,),) = cursor.fetchall()
        for setting in ("statement_timeout", name):
            cursor.execute(f"ALTER DATABASE \"{database}\" SET {setting} = '200ms'")
    demand = f"DO $$ BEGIN PERFORM pg_sleep(0.4); ASSERT current_setting('{name}') = '0'; END $$;"
    assert move(demand + BACK)["changed"]


def test_it_moves_once(move: Move, session: psycopg2.extensions.connection, run_parameters: dict[str, Any]) -> None:
    planned = move(check_mode=True)
    assert (planned["changed"], BACK in planned["diff"]["after"], state(session)) == (True, True, ("b2", True))
    assert not Path(run_parameters["state_dir"]).exists()
    first, second = move(), move()
    assert (first["changed"], first["revisions_after"], first["attempts"]) == (True, ["a1"], 1)
    assert {proof["name"]: proof["status"] for proof in first["proofs"]} == {
        "rollback.downgrade": "pass",
        "rollback.log": "pass",
    }
    assert "100% back, done" in Path(first["log"]).read_text()
    assert (second["changed"], second["log"]) == (False, "")
    events = [(line["step"], line["event"]) for line in Journal(Run(**run_parameters)).read()]
    assert events == [("downgrade", "started"), ("downgrade", "passed"), ("downgrade", "skipped")]


RED = [
    ("fails at its end", f"{BACK}; SELECT 1 / 0", {}, "division by zero", ("b2", True)),
    ("forgets the revision", "DROP TABLE order_items", {}, "the database is still at b2", ("b2", False)),
    ("takes too long", f"{BACK}; SELECT pg_sleep(20)", {"timeout_seconds": 1}, "statement timeout", ("b2", True)),
    (
        "reads a setting",
        "SELECT current_setting('x.y')::int / 0",
        {"session_settings": {"x.y": "7"}},
        "division by zero",
        ("b2", True),
    ),
]


@pytest.mark.parametrize(("script", "options", "says", "left"), [row[1:] for row in RED], ids=[row[0] for row in RED])
def test_a_script_that_does_not_arrive_is_red(
    move: Move,
    session: psycopg2.extensions.connection,
    script: str,
    options: dict[str, Any],
    says: str,
    left: tuple[str, bool],
) -> None:
    with pytest.raises(ReleaseError, match=says):
        move(script, **options)
    assert state(session) == left


LATER = "DO $$ BEGIN RAISE EXCEPTION '3 items were written since they were counted'; END $$"


def test_a_script_that_refuses_has_done_nothing_and_says_how_to_go_on(
    move: Move, session: psycopg2.extensions.connection, run_parameters: dict[str, Any]
) -> None:
    with pytest.raises(ReleaseError, match=r"3 items were written since .* Rerun the rollback, .* restore") as raised:
        move(f"DROP TABLE order_items; {LATER}")
    assert (raised.value.refused, state(session)) == (True, ("b2", True))
    assert Journal(Run(**run_parameters)).read()[-1]["event"] == "refused"


def test_a_script_that_moved_and_then_refuses_has_failed(move: Move, run_parameters: dict[str, Any]) -> None:
    with pytest.raises(ReleaseError, match="written since") as raised:
        move(f"{BACK}; COMMIT; {LATER}")
    assert not raised.value.refused
    assert Journal(Run(**run_parameters)).read()[-1]["event"] == "failed"


def test_any_other_revision_is_refused(move: Move, session: psycopg2.extensions.connection) -> None:
    with session.cursor() as cursor:
        cursor.execute("UPDATE alembic_version SET version_num = 'c3'")
    with pytest.raises(ReleaseError, match="the database is at c3, expected exactly b2") as raised:
        move()
    assert raised.value.refused


def test_a_lock_is_waited_for_briefly_and_its_holder_is_named(
    move: Move, session: psycopg2.extensions.connection, database: Login
) -> None:
    holder = connect(database, "reader with tea")
    with holder.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE order_items IN ACCESS SHARE MODE")
        with pytest.raises(ReleaseError, match=r"stopped after 3 attempts.*reader with tea"):
            move()
        assert state(session) == ("b2", True)
        with let_go_after_an_attempt(database, holder):
            result = move(lock={"timeout_ms": 100, "attempts": 200, "deadline_seconds": 120})
    holder.close()
    assert (result["changed"], result["attempts"] > 1) == (True, True)


@pytest.fixture
def loses_its_standby(database: Login, session: psycopg2.extensions.connection) -> Iterator[None]:
    """A synchronous standby is lost when the script has waited for a lock; its commit then waits for ever."""

    def lost(cursor: psycopg2.extensions.cursor) -> bool:
        cursor.execute(WAITING)
        waits = bool(cursor.fetchall()[0][0])
        if waits:
            lose_it(cursor)
        return waits

    with found_again(database), closing(connect(database, "gate")) as holder:
        holder.cursor().execute("BEGIN; LOCK TABLE order_items IN ACCESS SHARE MODE")
        with let_go_once(database, holder, lost):
            yield


def test_a_commit_that_waits_for_a_lost_standby_is_ended_and_read_back(
    move: Move, session: psycopg2.extensions.connection, loses_its_standby: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_wait, "LONGEST_WAIT_S", 0.2)
    says = r"a commit did not return within .*terminated: .*; nevertheless the database is now at a1. Start the missing"
    with pytest.raises(ReleaseError, match=says):
        move(lock={"timeout_ms": 60_000, "attempts": 1, "deadline_seconds": 60})
    assert state(session) == ("a1", False)


def test_nothing_is_claimed_while_a_session_that_may_have_committed_is_left(
    move: Move, session: psycopg2.extensions.connection, loses_its_standby: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_wait, "LONGEST_WAIT_S", 0.2)
    monkeypatch.setattr(moving, "sessions_left", lambda login, name: True)
    with pytest.raises(ReleaseError, match="it is unknown whether the database was migrated") as raised:
        move(lock={"timeout_ms": 60_000, "attempts": 1, "deadline_seconds": 60})
    assert raised.value.facts["revisions_after"] is None
