"""sql_step: what is pending is done once, all or nothing, without making others wait."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.postgres.session import Login
from lock_waits import let_go_after_an_attempt
from own_sessions import connect
from preflight_world import serve
from sql_step import act
from waits import until

SCHEMA = """
CREATE TABLE accounts (id int PRIMARY KEY, region int);
CREATE TABLE account_regions (account_id int NOT NULL, region int NOT NULL, UNIQUE (account_id, region));
INSERT INTO accounts SELECT i, i % 7 FROM generate_series(1, 1000) i;
ALTER TABLE account_regions ADD CONSTRAINT account_fk FOREIGN KEY (account_id) REFERENCES accounts NOT VALID;
"""

VALIDATE = {
    "name": "validate",
    "title": "Validate the foreign key",
    "sql": "ALTER TABLE account_regions VALIDATE CONSTRAINT account_fk",
    "pending": "SELECT count(*) AS pending FROM pg_constraint WHERE conname = 'account_fk' AND NOT convalidated",
}
COPY = {
    "name": "copy",
    "title": "Copy what is missing",
    "sql": "-- 100 % of it\nINSERT INTO account_regions SELECT id, region FROM accounts ON CONFLICT DO NOTHING;\n",
    "pending": "SELECT count(*) AS pending FROM accounts a WHERE NOT EXISTS (SELECT FROM account_regions r "
    "WHERE (r.account_id, r.region) = (a.id, a.region))",
}
ANALYZE = {
    "name": "analyze",
    "title": "Gather statistics",
    "sql": "ANALYZE account_regions",
    "pending": "SELECT count(*) AS pending FROM pg_class WHERE oid = to_regclass('account_regions') AND reltuples < 0",
}
COMPLETE = {
    "name": "complete",
    "title": "Each account has its region",
    "violations": "SELECT id, region FROM accounts EXCEPT SELECT account_id, region FROM account_regions",
}
SAME_COUNT = {
    "name": "same_count",
    "title": "As many regions as accounts",
    "equal": "SELECT (SELECT count(*) FROM accounts) AS a, (SELECT count(*) FROM account_regions) AS b",
}
PROVING_COPY = {**COPY, "proves": ["complete", "same_count"]}


@pytest.fixture
def params(login_parameters: dict[str, Any], run_parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        **login_parameters,
        "run": run_parameters,
        "steps": [VALIDATE, PROVING_COPY, ANALYZE],
        "checks": [COMPLETE, SAME_COUNT],
        "lock": {"timeout_ms": 100, "attempts": 3, "deadline_seconds": 20},
        "application_name": "dbrelease finalize",
        "services": {"guards": [], "containers": {}, "api_base_url": "", "timeout_seconds": 5.0},
        "tables": [],
        "budget": {"write_wait_ms": 1000},
    }


@pytest.fixture
def cursor(session: psycopg2.extensions.connection) -> psycopg2.extensions.cursor:
    cursor = session.cursor()
    cursor.execute(SCHEMA)
    return cursor


def value(cursor: Any, sql: str) -> Any:
    cursor.execute(sql)
    return cursor.fetchone()[0]


def statuses(proofs: list[dict[str, Any]]) -> dict[str, str]:
    return {proof["name"]: proof["status"] for proof in proofs}


def closing(params: dict[str, Any]) -> dict[str, Any]:
    return Journal(Run(**params["run"])).read()[-1]


ALL_PASS = {
    "migrate.finalize.validate": "pass",
    "migrate.finalize.copy": "pass",
    "checks.complete": "pass",
    "checks.same_count": "pass",
    "migrate.finalize.analyze": "pass",
}


def test_what_is_pending_is_done_once(params: dict[str, Any], cursor: Any) -> None:
    first = act(params, False)
    assert first["changed"]
    assert statuses(first["proofs"]) == ALL_PASS
    assert [(step["name"], step["changed"], step["rows"]) for step in first["steps"]] == [
        ("validate", True, 0),
        ("copy", True, 1000),
        ("analyze", True, 0),
    ]
    assert list(first["proven"]) == ["complete", "same_count"]
    assert value(cursor, "SELECT convalidated FROM pg_constraint WHERE conname = 'account_fk'")
    assert value(cursor, "SELECT reltuples FROM pg_class WHERE relname = 'account_regions'") == 1000
    line = closing(params)
    assert (line["step"], line["event"], line["facts"]["proven"]) == ("finalize", "passed", first["proven"])

    second = act(params, False)
    assert not second["changed"]
    assert statuses(second["proofs"]) == ALL_PASS
    assert [step["changed"] for step in second["steps"]] == [False, False, False]
    assert list(second["proven"]) == ["complete", "same_count"]
    assert second.keys() == first.keys()


BATCHED: dict[str, Any] = {
    **PROVING_COPY,
    "sql": "INSERT INTO account_regions SELECT id, region FROM accounts a WHERE NOT EXISTS "
    "(SELECT FROM account_regions r WHERE (r.account_id, r.region) = (a.id, a.region)) "
    "LIMIT nullif(current_setting('dbrelease.batch_rows', true), '')::bigint",
    "batch_rows": 300,
}


def test_a_batch_is_committed_by_itself_and_only_the_last_one_proves(params: dict[str, Any], cursor: Any) -> None:
    params["steps"] = [BATCHED]
    result = act(params, False)
    assert [(step["rows"], step["attempts"]) for step in result["steps"]] == [(1000, 4)]
    assert list(result["proven"]) == ["complete", "same_count"]
    cursor.execute("SELECT count(*) FROM account_regions GROUP BY xmin ORDER BY min(ctid)")
    assert [row[0] for row in cursor.fetchall()] == [300, 300, 300, 100]
    assert not act(params, False)["changed"]


def test_batches_that_were_cut_off_are_continued(params: dict[str, Any], cursor: Any) -> None:
    """The third batch fails; what the first two did stays, and is not done twice."""
    stop = "DO $$ BEGIN IF (SELECT count(*) FROM account_regions) >= 600 THEN RAISE 'no more'; END IF; END $$; "
    params["steps"] = [{**BATCHED, "sql": stop + BATCHED["sql"]}]
    with pytest.raises(ReleaseError, match=r"Step copy .* failed .*no more"):
        act(params, False)
    assert value(cursor, "SELECT count(*) FROM account_regions") == 600
    params["steps"] = [BATCHED]
    assert [step["rows"] for step in act(params, False)["steps"]] == [400]


def test_batches_that_come_to_no_end_are_one_sentence(params: dict[str, Any], cursor: Any) -> None:
    params["steps"] = [{**BATCHED, "sql": "UPDATE accounts SET region = region WHERE id <= 300"}]
    with pytest.raises(ReleaseError, match=r"changed 2400 rows in batches of 300, but only 1000 .* never finishes"):
        act(params, False)


def test_check_mode_says_what_would_run_and_writes_nothing(params: dict[str, Any], cursor: Any) -> None:
    planned = act(params, True)
    assert planned["changed"]
    assert planned["would_run"] == ["validate", "copy", "analyze"]
    assert statuses(planned["proofs"]) == {name: "skipped" for name in ALL_PASS if name.startswith("migrate.")}
    assert VALIDATE["sql"] in planned["diff"]["after"]
    assert value(cursor, "SELECT count(*) FROM account_regions") == 0
    assert not Path(params["run"]["state_dir"]).exists()
    act(params, False)
    after = act(params, True)
    assert (after["changed"], after["would_run"], after["diff"]["after"]) == (False, [], "")


def test_check_mode_before_the_migration_made_its_table(params: dict[str, Any], session: Any) -> None:
    planned = act(params, True)
    assert planned["would_run"] == ["copy"]  # the others ask the catalogs, which know of nothing to do
    assert planned["steps"][1]["pending"] is None


def test_a_red_check_rolls_the_step_back_and_stops(params: dict[str, Any], cursor: Any) -> None:
    half = {**PROVING_COPY, "sql": "INSERT INTO account_regions SELECT id, region FROM accounts WHERE id > 10"}
    params["steps"] = [VALIDATE, half, ANALYZE]
    with pytest.raises(
        ReleaseError, match=r"Step copy .* failed its checks, and its last transaction was rolled back"
    ) as caught:
        act(params, False)
    assert statuses(caught.value.facts["proofs"]) == {
        "migrate.finalize.validate": "pass",
        "migrate.finalize.copy": "fail",
        "checks.complete": "fail",
        "checks.same_count": "fail",
        "migrate.finalize.analyze": "skipped",
    }
    assert caught.value.facts["proven"] == {}
    assert caught.value.facts["unproven"] == ["complete", "same_count"]
    assert value(cursor, "SELECT count(*) FROM account_regions") == 0
    assert value(cursor, "SELECT convalidated FROM pg_constraint WHERE conname = 'account_fk'")
    assert closing(params)["event"] == "failed"
    assert closing(params)["facts"]["steps"][0]["name"] == "validate"

    params["steps"] = [VALIDATE, PROVING_COPY, ANALYZE]
    again = act(params, False)
    assert [step["changed"] for step in again["steps"]] == [False, True, True]


def test_a_red_check_is_red_also_where_nothing_is_pending(params: dict[str, Any], cursor: Any) -> None:
    act(params, False)
    cursor.execute("ALTER TABLE account_regions DROP CONSTRAINT account_fk; INSERT INTO account_regions VALUES (0, 0)")
    params["steps"] = [PROVING_COPY]
    with pytest.raises(ReleaseError, match=r"nothing was pending.*As many regions as accounts"):
        act(params, False)


GUARDS = [
    {"name": "old", "title": "The API is the old one", "answers": {"path": "/a", "keys": ["regions"]}, "road": "Wait."},
    {
        "name": "schema",
        "title": "So is its schema",
        "openapi": {"path": "/s", "paths": [], "properties": ["regions"]},
        "road": "Wait.",
    },
]
GUARDED = {**COPY, "guarded_by": ["old", "schema"]}
OLD_SCHEMA = json.dumps({"paths": {}, "components": {}})
# What the API answers, and what is said where the step must not run.
GUARDED_BY: list[tuple[dict[str, tuple[int, str]], str]] = [
    ({"/a": (200, '[{"id": 1}]'), "/s": (200, OLD_SCHEMA)}, ""),
    ({"/a": (500, ""), "/s": (200, OLD_SCHEMA)}, ""),  # one that is decided is enough
    ({"/a": (200, '[{"regions": []}]'), "/s": (200, OLD_SCHEMA)}, "“The API is the old one” failed: "),
    ({}, "“The API is the old one” could not be determined: GET http://"),
]


@pytest.mark.parametrize(("answers", "said"), GUARDED_BY)
def test_a_step_is_not_run_where_its_rows_may_be_somebody_elses(
    params: dict[str, Any], cursor: Any, answers: dict[str, tuple[int, str]], said: str
) -> None:
    server = serve(lambda: answers)
    params["services"].update(guards=GUARDS, api_base_url=f"http://127.0.0.1:{server.server_port}")
    params["steps"] = [VALIDATE, GUARDED]
    for check_mode in (True, False):
        if not said:
            assert act(params, check_mode)["steps"][1]["changed"]
            continue
        with pytest.raises(ReleaseError) as caught:
            act(params, check_mode)
        assert caught.value.message.startswith("Step copy (Copy what is missing) was not run: its rows may no longer")
        # The guard's own advice is for what was seen; of one that cannot be determined nothing was.
        assert said in caught.value.message
        assert caught.value.message.endswith("Wait.") is ("could not be determined" not in caught.value.message)
    assert value(cursor, "SELECT count(*) FROM account_regions") == (0 if said else 1000)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("has_an_api", [False, True])
def test_nobody_is_asked_who_is_not_there_or_where_nothing_is_pending(
    params: dict[str, Any], cursor: Any, has_an_api: bool
) -> None:
    params["services"].update(guards=GUARDS, api_base_url="http://127.0.0.1:9" if has_an_api else "")
    params["steps"] = [GUARDED]
    if has_an_api:
        cursor.execute(COPY["sql"].replace("%", "%%"))
    assert act(params, False)["changed"] == (not has_an_api)


BROKEN: list[tuple[str, dict[str, Any], str, str]] = [
    ("bad SQL", {"sql": "ALTER TABLE nowhere ADD a int"}, "failed (relation", "Step validate"),
    ("does not do it", {"sql": "SELECT 1"}, "left 1 pending, and was rolled back", "Step validate"),
    ("commits", {"sql": VALIDATE["sql"] + "; COMMIT"}, "ended its own transaction", "Step validate"),
    ("commits and begins", {"sql": "COMMIT; BEGIN; " + VALIDATE["sql"]}, "ended its own transaction", "Step validate"),
    ("cannot run in a transaction", {"sql": "VACUUM account_regions"}, "cannot run inside", "Step validate"),
    ("pending fails", {"pending": "SELECT count(*) FROM nowhere"}, "Counting what step validate", "correct its"),
    ("pending of two", {"pending": "SELECT 1 AS a, 2 AS b"}, "returned [1, 2], not one whole number", "validate"),
    ("pending of no row", {"pending": "SELECT 1 AS a WHERE false"}, "returned [], not one whole number", "validate"),
    ("pending is no number", {"pending": "SELECT 'x' AS a"}, "returned ['x'], not one whole number", "validate"),
    ("pending writes", {"pending": "DELETE FROM accounts RETURNING 1 AS a"}, "Counting what", "validate"),
    ("proves what is not declared", {"proves": ["nothing"]}, "the release has no check nothing", "nothing"),
]


@pytest.mark.parametrize(("wrong", "said", "also"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_broken_step_is_one_sentence(
    params: dict[str, Any], cursor: Any, wrong: dict[str, Any], said: str, also: str
) -> None:
    params["steps"] = [{**VALIDATE, **wrong}, ANALYZE]
    with pytest.raises(ReleaseError) as caught:
        act(params, False)
    assert said in caught.value.message
    assert also in caught.value.message
    assert caught.value.facts["proofs"] == [] or statuses(caught.value.facts["proofs"]) == {
        "migrate.finalize.validate": "fail",
        "migrate.finalize.analyze": "skipped",
    }
    assert value(cursor, "SELECT count(*) FROM accounts") == 1000


@contextmanager
def held_lock(login: Login) -> Iterator[psycopg2.extensions.connection]:
    """Another session, named, holds a lock on the table."""
    connection = connect(login, "worker")
    connection.cursor().execute("BEGIN; LOCK TABLE account_regions IN ACCESS EXCLUSIVE MODE; SELECT 'secret'")
    try:
        yield connection
    finally:
        connection.close()


def test_a_short_lock_is_waited_out(params: dict[str, Any], cursor: Any, database: Login) -> None:
    params["lock"] |= {"attempts": 200, "deadline_seconds": 120}
    params["steps"] = [VALIDATE]
    with held_lock(database) as holder, let_go_after_an_attempt(database, holder):
        result = act(params, False)
    assert result["steps"][0]["attempts"] > 1
    assert result["lock_waits"][0]["application"] == "worker"
    assert "secret" not in str(result)


def test_a_long_lock_ends_it_and_names_the_blocker(params: dict[str, Any], cursor: Any, database: Login) -> None:
    params["lock"]["timeout_ms"] = 300
    params["steps"] = [VALIDATE]
    with (
        held_lock(database),
        pytest.raises(
            ReleaseError, match=r'stopped after 3 attempts .* application "worker", idle in transaction'
        ) as c,
    ):
        act(params, False)
    assert "secret" not in c.value.message
    assert c.value.facts["lock_waits"][0]["user"] == database.user
    assert act(params, False)["changed"]


def test_counting_what_is_pending_does_not_wait_for_ever(params: dict[str, Any], cursor: Any, database: Login) -> None:
    params["steps"] = [PROVING_COPY]
    for check_mode in (True, False):
        with held_lock(database), pytest.raises(ReleaseError, match=r'stopped after .* application "worker"'):
            act(params, check_mode)


def test_a_serialization_failure_is_tried_again(params: dict[str, Any], cursor: Any, database: Login) -> None:
    """The writer commits between the step's snapshot and its update of the same row."""
    params["lock"] |= {"attempts": 5, "timeout_ms": 5000}
    params["steps"] = [
        {
            "name": "raise_regions",
            "title": "Raise all regions",
            "sql": "SELECT pg_sleep(0.5); UPDATE accounts SET region = region + 100 WHERE region < 100",
            "pending": "SELECT count(*) AS pending FROM accounts WHERE region < 100",
        }
    ]
    writer = connect(database, "writer")

    def write() -> None:
        with writer.cursor() as writing:

            def sleeps() -> bool:
                writing.execute(
                    "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
                )
                return writing.rowcount > 0

            until(sleeps, "the step did not begin")
            writing.execute("UPDATE accounts SET region = 9 WHERE id = 5")

    writing = threading.Thread(target=write)
    writing.start()
    result = act(params, False)
    writing.join()
    writer.close()
    assert result["steps"][0]["attempts"] == 2
    assert value(cursor, "SELECT region FROM accounts WHERE id = 5") == 109


def test_the_step_and_its_checks_describe_one_instant_under_load(
    params: dict[str, Any], cursor: Any, database: Login
) -> None:
    params["steps"] = [PROVING_COPY]
    ended, written = threading.Event(), 0

    def write() -> None:
        nonlocal written
        connection = connect(database, "application")
        while not ended.is_set():
            connection.cursor().execute("INSERT INTO accounts VALUES (%s, 1)", (2000 + written,))
            written += 1
        connection.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(5):
            result = act(params, False)
            assert result["steps"][0]["changed"]
            assert list(result["proven"]) == ["complete", "same_count"]
            enough = written + 3
            until(lambda: written >= enough, "the application did not write")  # noqa: B023
    finally:
        ended.set()
        thread.join()


def test_a_killed_run_is_continued(params: dict[str, Any], cursor: Any, database: Login) -> None:
    """The server session ends in the middle of the second step, as when the process is killed."""
    slow = {**COPY, "sql": COPY["sql"] + "SELECT pg_sleep(30)"}
    params["steps"] = [VALIDATE, slow, ANALYZE]

    def kill() -> None:
        session = connect(database, "killer")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with session.cursor() as killer:
                killer.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND application_name = 'dbrelease finalize' AND wait_event = 'PgSleep'"
                )
                if killer.fetchall():
                    break
            time.sleep(0.05)
        session.close()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(ReleaseError, match=r"Step copy .* lost its session"):
        act(params, False)
    thread.join()
    assert value(cursor, "SELECT count(*) FROM account_regions") == 0
    params["steps"] = [VALIDATE, PROVING_COPY, ANALYZE]
    assert [step["changed"] for step in act(params, False)["steps"]] == [False, True, True]


# A server that cannot answer, as where its disk or its shared memory is full.
FULL = """
CREATE FUNCTION full() RETURNS int LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'No space left on device'; END $$
"""
PROVING = {**PROVING_COPY, "proves": ["complete"]}
UNANSWERED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "its text": ({**COPY, "sql": "INSERT INTO account_regions SELECT full(), 1"}, COMPLETE),
    "what is pending": ({**COPY, "pending": "SELECT full() AS pending"}, COMPLETE),
    "what it proves": (PROVING, {**COMPLETE, "violations": "SELECT full() AS n"}),
    "what it proves, with nothing pending": (
        {**PROVING, "pending": "SELECT 0 AS pending"},
        {**COMPLETE, "violations": "SELECT full() AS n"},
    ),
}


@pytest.mark.parametrize(("step", "check"), UNANSWERED.values(), ids=UNANSWERED.keys())
def test_a_step_that_the_server_could_not_run_says_nothing_of_the_release(
    params: dict[str, Any], cursor: Any, step: dict[str, Any], check: dict[str, Any]
) -> None:
    cursor.execute(FULL)
    with pytest.raises(ReleaseError) as raised:
        act({**params, "steps": [step], "checks": [check, SAME_COUNT]}, False)
    found = raised.value.facts
    assert found["unproven"] == [], "nobody takes a release back for it"
    assert (
        statuses(found["proofs"])["migrate.finalize.copy"] == "inconclusive" and "No space left" in raised.value.message
    )
    assert "nothing that was observed speaks against the release" in raised.value.message
    assert value(cursor, "SELECT count(*) FROM account_regions") == 0, "what is not proved is not kept"


def test_a_failure_names_the_index_that_is_in_the_way(params: dict[str, Any], cursor: Any) -> None:
    with pytest.raises(psycopg2.Error):
        cursor.execute("CREATE UNIQUE INDEX CONCURRENTLY by_region ON accounts (region)")
    step = {
        **{"name": "index", "title": "Index", "pending": "SELECT 1 AS pending"},
        "sql": "CREATE INDEX by_region ON accounts (region)",
    }
    with pytest.raises(ReleaseError) as raised:
        act({**params, "steps": [step]}, False)
    assert "already exists" in raised.value.message
    assert "The index public.by_region on public.accounts is invalid" in raised.value.message
    assert "DROP INDEX CONCURRENTLY public.by_region;" in raised.value.message
