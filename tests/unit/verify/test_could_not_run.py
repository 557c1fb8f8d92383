"""A claim that the server kept from being looked at does not fail: it is inconclusive, and the release is held."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import psycopg2
import psycopg2.extensions
import pytest
import server_in_container
from ansible.module_utils.dbrelease.backup import baseline
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.postgres.could_not_run import could_not_run
from ansible.module_utils.dbrelease.postgres.declared_checks import read_checks
from ansible.module_utils.dbrelease.postgres.fingerprints import read_tables
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from ansible.module_utils.dbrelease.rollback import back_to_baseline
from ansible.module_utils.dbrelease.rollback.back_to_baseline import prove_observation
from ansible.module_utils.dbrelease.verify.plans import read_plans
from ansible.module_utils.dbrelease.verify.scenarios import Limits, play_scenarios
from own_sessions import connect
from verification_info import act

engine = server_in_container.engine

# It ends as a server does that cannot answer; of a constant that is while the statement is planned.
ENDS = """
CREATE FUNCTION ends(code text, said text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN RAISE EXCEPTION USING ERRCODE = code, MESSAGE = said; END $$;
CREATE TABLE orders (id int CONSTRAINT orders_key PRIMARY KEY);
INSERT INTO orders SELECT generate_series(1, 10);
"""
UNANSWERED = {
    "shared memory": (
        "53100",
        "could not resize shared memory segment to 1 bytes: No space on device",
        "shm_size",
    ),
    "memory": ("53200", "out of memory", "work_mem"),
    "connections": ("53300", "too many connections", "max_connections"),
    "temporary files": ("53400", "temporary file size exceeds temp_file_limit (1kB)", "temp_file_limit"),
    "a limit or a cancel, in another language": (
        "57014",
        "storniere Anfrage wegen Zeitüberschreitung der Anfrage",
        "If no one did, it exceeded its time limit",
    ),
    "a cancel": ("57014", "canceling statement due to user request", "cancelled the statement"),
    "a disk": ("58030", "could not read block 0 in file: Input/output error", "its disk"),
    "a connection": ("08006", "connection failure", "the connection"),
}
LIMITS = Limits(5_000, 500)
HOLDS = {"name": "holds", "title": "It holds", "violations": "SELECT id FROM orders WHERE id > 10"}
NOTHING = dict.fromkeys(("structure", "checks", "scenarios", "plans", "untouched", "api"))


@pytest.fixture
def shop(session: psycopg2.extensions.connection) -> psycopg2.extensions.connection:
    with session.cursor() as cursor:
        cursor.execute(ENDS)
    return session


def check(sql: str) -> dict[str, Any]:
    return {"name": "declared", "title": "Declared", "violations": sql}


def looks(*checks: dict[str, Any]) -> dict[str, Any]:
    options = {"drift": "inconclusive", "statement_timeout_ms": 9000, "sample_size": 5, "reconcile_command": ""}
    return {**NOTHING, "left_out": {}, "checks": {"checks": list(checks), **options}}


def read(login: Login, *checks: dict[str, Any]) -> list[Any]:
    return read_checks(login, checks, proved={}, drift="fail", statement_timeout_ms=60_000, sample_size=5)[0]


def claims(login: Login, sql: str) -> list[Any]:
    """Of each kind of declared statement the proof."""
    scenario = {
        **{"name": "declared", "title": "Declared", "leaves_nothing": "SELECT 0 AS n"},
        "steps": [{"title": "One", "sql": sql}],
    }
    counted = {**scenario, "name": "counted", "leaves_nothing": sql, "steps": [{"title": "One", "sql": "SELECT 1"}]}
    plan = {"name": "p", "title": "P", "table": "orders", "index": "orders_key", "row_floor": 1, "sql": sql}
    return [
        *read(login, check(sql), {"name": "e", "title": "E", "equal": sql}),
        *play_scenarios(login, [scenario, counted], LIMITS),
        *read_plans(login, [plan], 5_000),
    ]


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(("code", "said", "advice"), UNANSWERED.values(), ids=UNANSWERED.keys())
def test_what_the_server_could_not_answer_is_inconclusive(database: Login, code: str, said: str, advice: str) -> None:
    proofs = claims(database, f"SELECT ends('{code}', '{said}') AS n")
    assert [(proof.status, proof.could_not_run) for proof in proofs] == [("inconclusive", True)] * len(proofs)
    for proof in proofs:
        assert f"could not run: {said} ({code})." in proof.detail
        assert advice in proof.remedy and "nothing that was observed speaks against the release" in proof.remedy
        assert "Declare" not in proof.remedy and "Correct" not in proof.remedy


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("code", ["22012", "42P01", "XX000"])
def test_what_is_wrong_with_the_statement_is_still_red(database: Login, code: str) -> None:
    assert {proof.status for proof in claims(database, f"SELECT ends('{code}', 'no') AS n")} == {"fail"}


def test_a_check_that_did_not_end_in_time_speaks_neither_for_the_release_nor_against_it(
    shop: Any, database: Login
) -> None:
    options: dict[str, Any] = {"proved": {}, "drift": "fail", "sample_size": 5}
    ((proof,), _) = read_checks(database, [check("SELECT pg_sleep(30)")], statement_timeout_ms=200, **options)
    assert (proof.status, proof.could_not_run) == ("inconclusive", True)
    assert "statement timeout" in proof.detail and "raise statement_timeout_ms" in proof.remedy
    assert "Declare one SELECT" not in proof.remedy


def test_a_check_that_a_lock_of_another_session_stops_is_inconclusive(
    shop: psycopg2.extensions.connection, database: Login
) -> None:
    options: dict[str, Any] = {"proved": {}, "drift": "fail", "sample_size": 5}
    with shop.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE orders")
        ((proof,), _) = read_checks(database, [check("SELECT id FROM orders")], statement_timeout_ms=300, **options)
        cursor.execute("ROLLBACK")
    assert (proof.status, proof.could_not_run) == ("inconclusive", True)
    assert "a session that holds a lock" in proof.remedy


def interrupt(login: Login, how: str) -> threading.Thread:
    """Somebody ends what sleeps in the database."""

    def act() -> None:
        with closing(connect(login, "somebody")) as other, other.cursor() as cursor:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                cursor.execute(
                    f"SELECT {how}(pid) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND wait_event = 'PgSleep'"
                )
                if cursor.fetchall():
                    return

    thread = threading.Thread(target=act)
    thread.start()
    return thread


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
def test_an_interrupted_verification_ends_without_a_red_claim(
    shop: Any, login_parameters: dict[str, Any], run_parameters: dict[str, Any], database: Login, how: str
) -> None:
    thread = interrupt(database, how)
    sleeping = check("SELECT pg_sleep(20)")
    with pytest.raises(ReleaseError) as raised:
        act({**login_parameters, "run": run_parameters, **looks(sleeping)}, False)
    thread.join()
    assert raised.value.facts["could_not_run"] is True
    assert [proof["status"] for proof in raised.value.facts["proofs"]] == ["inconclusive"]
    lines = (Path(run_parameters["state_dir"]) / "journal.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert (last["step"], last["event"], last["facts"]["red"]) == ("verify", "failed", [])
    assert (
        last["facts"]["not_run"] and "nothing that was observed speaks against the release" in last["facts"]["message"]
    )


@pytest.mark.usefixtures("shop")
def test_a_red_claim_beside_it_is_what_counts(login_parameters: dict[str, Any], run_parameters: dict[str, Any]) -> None:
    unanswered = {**check("SELECT ends('53100', 'full') AS n"), "name": "unanswered"}
    with pytest.raises(ReleaseError) as raised:
        act({**login_parameters, "run": run_parameters, **looks(unanswered, check("SELECT id FROM orders"))}, False)
    assert raised.value.facts["could_not_run"] is False


def test_a_server_that_refuses_every_session_is_no_red_claim(
    login_parameters: dict[str, Any], run_parameters: dict[str, Any]
) -> None:
    away = {**login_parameters, "login_port": 1}
    with pytest.raises(ReleaseError) as raised:
        act({**away, "run": run_parameters, **looks(HOLDS)}, False)
    assert raised.value.facts["could_not_run"] is True
    assert (
        "“The declared checks can be read” could not be checked: It could not run: Connecting to"
        in raised.value.message
    )


@pytest.mark.usefixtures("shop")
def test_an_inconclusive_check_makes_no_drift_of_the_one_that_follows_it(database: Login) -> None:
    unanswered = {**check("SELECT ends('53100', 'full') AS n"), "name": "first"}
    differs = {"name": "then", "title": "Then", "equal": "SELECT 1 AS a, 2 AS b", "follows": ["first"]}
    assert [proof.status for proof in read(database, unanswered, differs)] == ["inconclusive", "fail"]


@pytest.fixture
def small(engine: docker.DockerClient) -> Iterator[Login]:
    """A server with hardly any shared memory for workers, where the database wants as many as it can have."""
    image = engine.containers.get("drawing_postgres").attrs["Config"]["Image"]
    made = engine.containers.run(
        image,
        name=f"test_small_memory_{secrets.token_hex(4)}",
        detach=True,
        shm_size="2m",
        environment={"POSTGRES_USER": "keeper", "POSTGRES_PASSWORD": "keeper", "POSTGRES_DB": "keeper"},
    )
    try:
        made.reload()
        address = made.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        login = Login(address, 5432, "keeper", "keeper", "keeper")
        server_in_container.wait_for(login)
        with closing(connect(login, "tests")) as connection, connection.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE a AS SELECT i, md5(i::text) AS t FROM generate_series(1, 200000) i; "
                "CREATE TABLE b AS SELECT i, md5(i::text) AS t FROM generate_series(1, 200000) i; ANALYZE a, b"
            )
            for setting in (
                *("max_parallel_workers_per_gather = 2", "min_parallel_table_scan_size = 0", "work_mem = '64MB'"),
                *("parallel_setup_cost = 0", "parallel_tuple_cost = 0", "enable_mergejoin = off"),
            ):
                cursor.execute(f"ALTER DATABASE keeper SET {setting}")
        yield login
    finally:
        made.remove(force=True, v=True)


def test_small_shared_memory_makes_no_check_red(small: Login) -> None:
    joins = "SELECT a.i FROM a LEFT JOIN b ON b.i = a.i AND b.t = a.t WHERE b.i IS NULL"
    application = psycopg2.connect(
        host=small.host, port=small.port, user=small.user, password=small.password, dbname=small.database
    )
    with closing(application), application.cursor() as cursor, pytest.raises(psycopg2.Error) as raised:
        cursor.execute(joins)
    assert raised.value.pgcode == "53100" and could_not_run(raised.value), "the server has too much memory for the test"
    (proof,) = read(small, check(joins))
    assert (proof.status, proof.detail) == ("pass", "No row breaks it.")


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("code", ["53100", "53200", "57014", "08006", "58030", "40P01"])
def test_no_sentence_blames_a_query_for_what_the_server_could_not_do(database: Login, code: str) -> None:
    observed = {"name": "orders", "title": "Orders", "sql": f"SELECT ends('{code}', 'no') AS n", "rows": []}
    with (
        closing(connect(database, "tests")) as connection,
        transaction(connection, read_only=True, isolation="REPEATABLE READ", commit=False) as cursor,
    ):
        proof = prove_observation(observed, back_to_baseline._observe(cursor, observed), written=False)
        with pytest.raises(ReleaseError) as raised:
            baseline._observe(cursor, observed)
    assert (proof.status, proof.could_not_run) == ("inconclusive", True)
    assert raised.value.message.endswith("Then rerun the playbook.") and "correct its SQL" not in raised.value.message
    assert could_not_run(raised.value)


@pytest.mark.usefixtures("shop")
def test_a_query_that_is_wrong_is_still_blamed(database: Login) -> None:
    observed = {"name": "orders", "title": "Orders", "sql": "SELECT n FROM missing", "rows": []}
    with (
        closing(connect(database, "tests")) as connection,
        transaction(connection, read_only=True, isolation="REPEATABLE READ", commit=False) as cursor,
    ):
        proof = prove_observation(observed, back_to_baseline._observe(cursor, observed), written=False)
        with pytest.raises(ReleaseError, match="correct its SQL in the release's checks"):
            baseline._observe(cursor, observed)
    assert (proof.status, proof.could_not_run) == ("fail", False)


def test_too_little_room_for_temporary_files_is_no_red_check_and_stops_no_fingerprint(
    shop: Any, database: Login
) -> None:
    with shop.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {database.database} SET temp_file_limit = '64kB'")
        cursor.execute("CREATE TABLE wide AS SELECT i, repeat('x', 200) AS t FROM generate_series(1, 20000) i")
    # More than the memory that a check has.
    wide = "SELECT i, repeat('x', 4000) AS t FROM generate_series(1, 40000) i ORDER BY t, i OFFSET 1"
    sorts = f"SELECT i FROM ({wide}) s WHERE i < 0"
    (proof,) = read(database, check(sorts))
    assert (proof.status, proof.could_not_run) == ("inconclusive", True)
    assert "temporary file size exceeds temp_file_limit" in proof.detail and "temp_file_limit" in proof.remedy
    with (
        closing(connect(database, "tests")) as connection,
        transaction(connection, read_only=True, isolation="REPEATABLE READ", commit=False) as cursor,
    ):
        assert read_tables(cursor)["public.wide"]["rows"] == 20000
