"""A throttle: steps in batches pause while a standby lags or the API is slow, for a bounded time, and say why."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

import psycopg2.extensions
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.migrate import throttle
from ansible.module_utils.dbrelease.postgres.could_not_run import could_not_run
from ansible.module_utils.dbrelease.postgres.session import Login, connect, select
from preflight_world import serve
from psycopg2.extras import RealDictCursor
from sql_step import act

STEP = {
    "name": "copy",
    "title": "Copy what is missing",
    "sql": "INSERT INTO copies SELECT id FROM accounts a WHERE NOT EXISTS (SELECT FROM copies c WHERE c.id = a.id) "
    "LIMIT nullif(current_setting('dbrelease.batch_rows', true), '')::bigint",
    "pending": "SELECT count(*) AS pending FROM accounts a WHERE NOT EXISTS (SELECT FROM copies c WHERE c.id = a.id)",
    "batch_rows": 300,
}
# What the server shows of its standbys at the first, second, ... reading.
READING = "(SELECT nextval('public.readings') AS number) AS reading"
LAGS = f"""
SELECT 'one' AS name, 'streaming' AS state, CASE WHEN {{}} THEN 99.0 ELSE 0.5 END AS lag_seconds FROM {READING}
"""
HIDDEN = f"SELECT 'one' AS name, NULL AS state, NULL::float AS lag_seconds FROM {READING}"
LOST = f"""
SELECT name, 'streaming' AS state, 0.0 AS lag_seconds FROM {READING}
CROSS JOIN LATERAL unnest(CASE WHEN number IN (2, 3) THEN ARRAY['one'] ELSE ARRAY['one', 'two'] END) AS name
"""


@pytest.fixture(autouse=True)
def _at_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "POLL_S", 0.01)
    monkeypatch.setattr(throttle, "CHECK_EVERY_S", 0.0)


@pytest.fixture
def cursor(session: psycopg2.extensions.connection) -> psycopg2.extensions.cursor:
    cursor = session.cursor()
    cursor.execute(
        "CREATE TABLE accounts (id int PRIMARY KEY); CREATE TABLE copies (id int PRIMARY KEY);"
        "INSERT INTO accounts SELECT generate_series(1, 1000); CREATE SEQUENCE readings"
    )
    return cursor


@pytest.fixture
def params(login_parameters: dict[str, Any], run_parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        **login_parameters,
        "run": run_parameters,
        "steps": [STEP],
        "checks": [],
        "lock": {},
        "throttle": {"lag_seconds": 10.0, "pause_seconds": 60.0},
        "api": {"endpoints": [{"path": "/orders"}]},
        "application_name": "dbrelease finalize",
        "services": {"guards": [], "containers": {}, "api_base_url": "", "timeout_seconds": 5.0},
        "tables": [],
        "budget": {"write_wait_ms": 1000},
    }


def copied(cursor: Any) -> int:
    cursor.execute("SELECT count(*) FROM copies")
    return int(cursor.fetchall()[0][0])


def proof_of(result: Any, name: str = throttle.PROOF) -> Any:
    (found,) = [proof for proof in result["proofs"] if proof["name"] == name]
    return found


def test_a_step_pauses_while_a_standby_lags(
    params: dict[str, Any], cursor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "STANDBYS", LAGS.format("number IN (2, 3, 4)"))
    result = act(params, False)
    (pause,) = result["pauses"]
    assert (pause["step"], pause["resumed"]) == ("copy", True) and pause["duration_ms"] >= 30
    assert pause["cause"] == "standby one lags by 99.0 s, above the limit of 10 s"
    proof = proof_of(result)
    assert proof["status"] == "pass" and proof["detail"].startswith("Paused 1 times, for 0.")
    assert copied(cursor) == 1000


def test_a_step_stops_between_two_batches_when_the_pauses_last_too_long(
    params: dict[str, Any], cursor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "STANDBYS", LAGS.format("number > 2"))
    params["throttle"]["pause_seconds"] = 0.1
    with pytest.raises(ReleaseError, match=r"stopped between two batches, after pauses of 0\.\d s: standby") as c:
        act(params, False)
    assert could_not_run(c.value), "the release is held, not rolled back"
    assert copied(cursor) == 600, "what was committed stays"
    assert proof_of(c.value.facts)["status"] == "inconclusive"
    assert proof_of(c.value.facts, "migrate.finalize.copy")["status"] == "inconclusive"
    monkeypatch.setattr(throttle, "STANDBYS", LAGS.format("false"))
    assert [step["rows"] for step in act(params, False)["steps"]] == [400]


def test_a_standby_that_is_lost_pauses_the_step(
    params: dict[str, Any], cursor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "STANDBYS", LOST)
    (pause,) = act(params, False)["pauses"]
    assert pause["cause"] == "1 standbys are connected, 2 were before"


def test_a_lag_that_is_hidden_is_reported(params: dict[str, Any], cursor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "STANDBYS", HIDDEN)
    result = act(params, False)
    proof = proof_of(result)
    assert result["pauses"] == [] and proof["status"] == "inconclusive" and "Grant pg_monitor" in proof["remedy"]


class SlowApi:
    """Answers slowly to the requests of these numbers."""

    def __init__(self, slow: range) -> None:
        self.slow, self.requests, self.lock = slow, 0, threading.Lock()

    def answers(self) -> dict[str, tuple[int, str]]:
        with self.lock:
            self.requests += 1
            number = self.requests
        if number in self.slow:
            time.sleep(0.4)  # plays: a slow API
        return {"/orders": (200, "[]")}


@pytest.fixture
def api(request: pytest.FixtureRequest, params: dict[str, Any]) -> Iterator[ThreadingHTTPServer]:
    server = serve(SlowApi(request.param).answers)
    params["throttle"] = {"latency_ms": 300.0, "pause_seconds": 60.0}
    params["services"]["api_base_url"] = f"http://127.0.0.1:{server.server_address[1]}"
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("api", [range(1, 4)], indirect=True)
def test_a_step_pauses_while_the_api_is_slow(params: dict[str, Any], cursor: Any, api: Any) -> None:
    (pause,) = act(params, False)["pauses"]
    assert pause["cause"].startswith("GET /orders takes 4") and pause["cause"].endswith("above the limit of 300 ms")
    assert copied(cursor) == 1000


@pytest.mark.parametrize("api", [range(2, 3)], indirect=True)
def test_one_slow_answer_is_no_slow_api(params: dict[str, Any], cursor: Any, api: Any) -> None:
    result = act(params, False)
    assert (result["pauses"], proof_of(result)["detail"]) == ([], "No pause was needed.")


@pytest.mark.parametrize("api", [range(0)], indirect=True)
def test_an_api_that_does_not_answer_stops_the_step(params: dict[str, Any], cursor: Any, api: Any) -> None:
    params["services"]["api_base_url"] = "http://127.0.0.1:1"
    params["throttle"]["pause_seconds"] = 0.05
    with pytest.raises(ReleaseError, match=r"stopped between two batches.*: GET /orders "):
        act(params, False)
    assert copied(cursor) == 0


def test_without_an_api_in_the_inventory_its_latency_is_reported_as_unknown(
    params: dict[str, Any], cursor: Any
) -> None:
    params["throttle"] = {"latency_ms": 300.0, "pause_seconds": 60.0}
    proof = proof_of(act(params, False))
    assert proof["status"] == "inconclusive" and proof["remedy"] == "Set api_base_url."


@pytest.mark.parametrize("declared", [None, {"pause_seconds": 60.0}])
def test_without_a_limit_nothing_is_checked(params: dict[str, Any], cursor: Any, declared: Any) -> None:
    params["throttle"] = declared
    result = act(params, False)
    assert result["pauses"] == [] and [proof["name"] for proof in result["proofs"]] == ["migrate.finalize.copy"]


def test_a_step_without_batches_is_not_paused(
    params: dict[str, Any], cursor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "STANDBYS", LAGS.format("true"))
    params["steps"] = [{key: value for key, value in STEP.items() if key != "batch_rows"}]
    assert act(params, False)["pauses"] == []


def test_the_server_knows_the_lag_of_its_standbys(database: Login) -> None:
    connection = connect(database, "dbrelease throttle")
    with connection.cursor(cursor_factory=RealDictCursor) as reading:
        rows = select(reading, throttle.STANDBYS)
        assert [column.name for column in reading.description or ()] == ["name", "state", "lag_seconds"]
        assert isinstance(rows, list)
    connection.close()
