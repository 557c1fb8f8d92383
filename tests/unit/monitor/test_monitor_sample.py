"""monitor_sample: each section sees what is there, and is shown to fail."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.clock import moment
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.monitor.database import connections_allowed
from ansible.module_utils.dbrelease.monitor.queue import sample_queue
from monitor_sample import act
from psycopg2.extensions import connection as Connection
from shown_progress import shown_progress
from waits import until

CHECK = {
    "name": "no_missing_item",
    "title": "Every order has its item",
    "violations": "SELECT o.id FROM orders o WHERE NOT EXISTS (SELECT FROM order_items i WHERE i.order_id = o.id)",
}
DECLARED: dict[str, Any] = {
    "window_seconds": 0,
    "limits": {"failed_samples": 1, "consecutive_failed_samples": 1},
    "latency": {"requests": 3, "factor": 2.0, "floor_ms": 100},
    "connections": {"of_maximum": 1.0},
    "growth": {
        "sql": "SELECT count(*) AS items, max(order_id) AS newest FROM order_items",
        "total": "items",
        "shrink_at_most": 0.5,
        "watched_seconds": 0,
        "largest_gap_seconds": 60,
    },
    "drift": ["no_missing_item"],
    "replication": {"lag_seconds": 10},
    "dead_rows": {"of_table": 0.2, "floor": 10},
}
API = {
    "timeout_seconds": 5,
    "endpoints": [{"name": "orders", "path": "/orders", "status": 200, "kind": "list", "keys": ["id"]}],
}


class Shop(BaseHTTPRequestHandler):
    """Answers as the test says."""

    status, body, pause_s = 200, b'[{"id": 1}]', 0.0

    def do_GET(self) -> None:
        time.sleep(self.pause_s)  # plays: a slow API
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *arguments: Any) -> None: ...


@pytest.fixture
def shop() -> Iterator[type[Shop]]:
    """A local API; what it answers can be changed."""
    handler = type("OwnShop", (Shop,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def params(
    run_parameters: dict[str, Any], login_parameters: dict[str, Any], session: Connection, shop: Any
) -> dict[str, Any]:
    """A sound target, and a baseline of its API."""
    with session.cursor() as cursor:
        cursor.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        cursor.execute("CREATE TABLE order_items (order_id int)")
        cursor.execute("ALTER TABLE order_items SET (autovacuum_enabled = false)")
        cursor.execute("INSERT INTO orders SELECT generate_series(1, 100)")
        cursor.execute("INSERT INTO order_items SELECT id FROM orders")
        cursor.execute("CREATE TABLE alembic_version (version_num text)")
        cursor.execute("INSERT INTO alembic_version VALUES ('bbb2')")
    endpoint = {"status": 200, "kind": "list", "keys": ["id"], "count": 1, "latency_ms": {"p50": 20.0}}
    line = {**run_parameters, "ts": "2026-01-02T03:04:05.678+00:00", "step": "api_baseline", "event": "passed"}
    path = Path(run_parameters["state_dir"])
    path.mkdir(parents=True)
    (path / "journal.jsonl").write_text(json.dumps({**line, "facts": {"endpoints": {"orders": endpoint}}}) + "\n")
    return {
        **login_parameters,
        "run": run_parameters,
        "watch": {"started_at": "2026-01-02T03:04:05Z", "seconds": 0, "interval_seconds": 1},
        "monitoring": DECLARED,
        "revision": "bbb2",
        "checks": [CHECK],
        "tables": {"created": {"order_items": {}}, "existing": {"orders": ["id"]}},
        "api": API,
        "api_base_url": shop.url,
        "containers": {},
    }


def remember(params: dict[str, Any], health: dict[str, Any]) -> None:
    """How well the server was before the release."""
    journal = Path(params["run"]["state_dir"]) / "journal.jsonl"
    facts = {"xid": 1, "tables": {}, "health": health}
    line = {**json.loads(journal.read_text().splitlines()[0]), "step": "baseline", "facts": facts}
    with journal.open("a") as file:
        file.write(json.dumps(line) + "\n")


def test_a_standby_that_disappeared_is_no_pass(params: dict[str, Any]) -> None:
    path = Path(params["run"]["state_dir"]) / "journal.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    for standbys in (2, 0):
        sample = {"verdict": "pass", "claims": [], "replication": {"standbys": standbys}}
        with path.open("a") as file:
            file.write(json.dumps({**line, "step": "sample", "facts": sample}) + "\n")
    verdict, detail = claims(params)["replication"]
    assert (verdict, "0 standbys are connected, 2 were before" in detail) == ("inconclusive", True)


def claims(params: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Each claim of a sample with its verdict and its detail."""
    result = act(params, False)
    found = {claim["name"]: (claim["verdict"], claim["detail"]) for claim in result["sample"]["claims"]}
    assert result["verdict"] in {verdict for verdict, _ in found.values()}
    return found


def test_a_sample_waits_until_it_is_due(params: dict[str, Any]) -> None:
    watch = {"started_at": moment(time.time_ns()), "seconds": 60, "interval_seconds": 2}
    mine, another = params["run"], {**params["run"], "run_id": "20260102T040000Z-0a0b0c"}
    for run, least, most in [(mine, 0.0, 1.5), (mine, 1.0, 3.5), (another, 0.0, 1.5)]:
        begun = time.monotonic()
        assert act({**params, "run": run, "watch": watch}, False)["verdict"] == "pass"
        assert least < time.monotonic() - begun < most


def test_the_wait_for_a_sample_shows_how_much_of_the_watch_has_passed(
    params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = shown_progress(monkeypatch)
    params["watch"] = {"started_at": moment(time.time_ns()), "seconds": 60, "interval_seconds": 1}
    for _ in range(2):
        assert act(params, False)["verdict"] == "pass"
    assert {(state["step"], state.get("unit"), state.get("total")) for state in shown} == {("watch", "seconds", 60)}


def test_a_run_that_was_taken_over_takes_no_sample(params: dict[str, Any]) -> None:
    journal = Path(params["run"]["state_dir"]) / "journal.jsonl"
    line = json.loads(journal.read_text().splitlines()[0])
    with journal.open("a") as file:
        for run_id in (line["run_id"], "20260102T040000Z-0a0b0c"):
            file.write(json.dumps({**line, "run_id": run_id, "step": "claim", "facts": {}}) + "\n")
    before = journal.read_text()
    with pytest.raises(ReleaseError, match="was taken over by run 20260102T040000Z-0a0b0c") as refusal:
        act(params, False)
    assert refusal.value.refused and journal.read_text() == before


def test_a_quiet_sample_passes_and_is_journaled(params: dict[str, Any]) -> None:
    result = act(params, False)
    assert result["verdict"] == "pass", result["line"]
    assert result["ended"] and " pass: " in result["line"] and "drift 0" in result["line"]
    sample = result["sample"]
    assert sample["growth"] == {"items": 100, "newest": 100}
    assert sample["drift"] == {"no_missing_item": 0}
    assert sample["connections"]["total"] >= 1
    assert sample["api"]["orders"]["latency_ms"].keys() == {"p50", "p95", "max"}
    assert sample["replication"]["standbys"] == 0
    assert sample["dead_rows"].keys() == {"order_items", "orders"}
    lines = (Path(params["run"]["state_dir"]) / "journal.jsonl").read_text().splitlines()
    line = json.loads(lines[-1])
    assert (line["step"], line["event"], line["facts"]) == ("sample", "passed", sample)


def test_check_mode_journals_nothing(params: dict[str, Any]) -> None:
    journal = Path(params["run"]["state_dir"]) / "journal.jsonl"
    before = journal.read_text()
    assert act(params, True)["verdict"] == "pass"
    assert journal.read_text() == before


SQL_CASES: list[tuple[str, str, str, str, str]] = [
    ("drift is no failure", "DELETE FROM order_items WHERE order_id < 4", "drift", "inconclusive", "3 rows break it"),
    ("drift that cannot be counted", "DROP TABLE order_items", "drift", "fail", "does not exist"),
    ("growth that cannot be read", "DROP TABLE order_items", "growth", "fail", "does not exist"),
    (
        "taken back by hand",
        "UPDATE alembic_version SET version_num = 'aaa1'",
        "revision",
        "fail",
        "at aaa1, not at",
    ),
    ("no revision", "DELETE FROM alembic_version", "revision", "fail", "at no revision"),
    ("dead rows", "DELETE FROM order_items WHERE order_id < 50", "dead_rows", "fail", "49 dead rows"),
]


def are_reported(cursor: Any) -> bool:
    cursor.execute("SELECT sum(n_dead_tup) >= 49 FROM pg_stat_user_tables WHERE relname = 'order_items'")
    return bool(cursor.fetchone() == (True,))


@pytest.mark.parametrize(
    ("sql", "claim", "verdict", "says"), [case[1:] for case in SQL_CASES], ids=[case[0] for case in SQL_CASES]
)
def test_the_database(
    params: dict[str, Any], session: Connection, sql: str, claim: str, verdict: str, says: str
) -> None:
    with session.cursor() as cursor:
        cursor.execute(sql)
        if claim == "dead_rows":
            until(lambda: are_reported(cursor), "the server did not report the dead rows")
    found = claims(params)
    assert found[claim][0] == verdict and says in found[claim][1], found
    # What cannot be read hides nothing else.
    assert found["connections"][0] == found["api"][0] == "pass"


@pytest.mark.parametrize(
    ("before", "verdict"),
    [
        ({}, "fail"),
        ({"dead_rows": {"public.order_items": 40}}, "pass"),
        ({"dead_rows": {"public.order_items": 30}}, "fail"),
    ],
    ids=["nobody looked", "it was so before", "it has become worse"],
)
def test_what_was_so_before_the_release_is_no_failure_of_it(
    params: dict[str, Any], session: Connection, before: dict[str, Any], verdict: str
) -> None:
    remember(params, before)
    with session.cursor() as cursor:
        cursor.execute("DELETE FROM order_items WHERE order_id < 50")
        until(lambda: are_reported(cursor), "the server did not report the dead rows")
    assert claims(params)["dead_rows"][0] == verdict


def test_bloat_is_reported_once_there_are_statistics(params: dict[str, Any], session: Connection) -> None:
    def bloat() -> int | None:
        seen: int | None = act(params, False)["sample"]["dead_rows"]["order_items"]["bloat_bytes"]
        return seen

    assert bloat() is None
    with session.cursor() as cursor:
        cursor.execute("INSERT INTO order_items SELECT generate_series(1, 50000)")
        cursor.execute("ANALYZE order_items")
    full = bloat()
    with session.cursor() as cursor:
        cursor.execute("DELETE FROM order_items WHERE order_id % 2 = 0")
        cursor.execute("ANALYZE order_items")
        cursor.execute("SELECT pg_relation_size('order_items')")
        (size,) = cursor.fetchone() or (0,)
    half = bloat()
    assert full is not None and half is not None
    assert full < 0.15 * size and 0.4 * size < half < 0.6 * size


def test_a_table_that_loses_its_rows_at_once(params: dict[str, Any], session: Connection) -> None:
    assert claims(params)["growth"][0] == "pass"
    with session.cursor() as cursor:
        cursor.execute("DELETE FROM order_items WHERE order_id > 30")
    verdict, detail = claims(params)["growth"]
    assert verdict == "fail" and "from 100 to 30 since the last sample" in detail


def test_a_table_that_loses_its_rows_little_by_little(params: dict[str, Any], session: Connection) -> None:
    verdicts = [claims(params)["growth"]]
    for left in (60, 40):
        with session.cursor() as cursor:
            cursor.execute("DELETE FROM order_items WHERE order_id > %s", (left,))
        verdicts.append(claims(params)["growth"])
    assert [verdict for verdict, _ in verdicts] == ["pass", "pass", "inconclusive"]
    assert "from 100 to 40 since the first sample" in verdicts[2][1]


@pytest.mark.parametrize(
    ("before", "verdict", "says"),
    [({}, "fail", "above the limit of 0:"), ({"connections": 60}, "pass", "")],
    ids=["nobody looked", "it was so before"],
)
def test_too_many_connections(params: dict[str, Any], before: dict[str, Any], verdict: str, says: str) -> None:
    remember(params, before)
    params["monitoring"] = {**DECLARED, "connections": {"of_maximum": 0.0001}}
    found = claims(params)["connections"]
    assert found[0] == verdict and says in found[1]


@pytest.mark.parametrize(("before", "allowed"), [(0, 80), (80, 80), (81, 90.5), (100, 100)])
def test_how_many_connections_are_allowed(before: int, allowed: float) -> None:
    assert connections_allowed(0.8, 100, before) == allowed


def test_connections_of_others_count_for_a_role_that_may_not_read_their_activity(
    params: dict[str, Any], session: Connection
) -> None:
    role = f"watcher_{secrets.token_hex(4)}"
    with session.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'of-the-tests'")
    try:
        sample = act({**params, "login_user": role, "login_password": "of-the-tests"}, False)["sample"]
    finally:
        with session.cursor() as cursor:
            cursor.execute(f"DROP ROLE {role}")
    assert sample["connections"]["total"] >= 2
    assert sample["connections"]["by_state"]["unknown"] >= 1


def test_what_the_server_could_not_read_is_no_finding(params: dict[str, Any], session: Connection) -> None:
    with session.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION full_disk() RETURNS int LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'No space left on device'; END $$"
        )
    declared = {**DECLARED, "growth": {**DECLARED["growth"], "sql": "SELECT full_disk() AS items"}}
    checks = [{**CHECK, "violations": "SELECT full_disk() AS id"}]
    sample = act({**params, "monitoring": declared, "checks": checks}, False)["sample"]
    found = {claim["name"]: claim for claim in sample["claims"]}
    for claim in (found["growth"], found["drift"]):
        assert (claim["verdict"], claim["could_not_run"]) == ("inconclusive", True)
        assert "No space left on device" in claim["detail"] and "Free space" in claim["detail"]


def test_a_missing_database_is_a_failure_of_its_claims(params: dict[str, Any]) -> None:
    found = claims({**params, "login_port": 9})
    assert {found[name][0] for name in ("connections", "growth", "drift", "dead_rows", "revision")} == {"fail"}
    assert found["api"][0] == "pass" and "db_port" in found["drift"][1]


API_CASES: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("another status", {"status": 500}, "api", "fail", "had status 500"),
    ("another kind", {"body": b'{"id": 1}'}, "api", "fail", "declares list"),
    ("a key more", {"body": b'[{"id": 1, "new": 2}]'}, "api", "fail", "new: new"),
    ("an empty list", {"body": b"[]"}, "api", "inconclusive", "empty list"),
    ("slow", {"pause_s": 0.15}, "latency", "fail", "above the limit of 100"),
    ("no good answer", {"status": 500}, "latency", "inconclusive", "nothing to check"),
]


@pytest.mark.parametrize(
    ("answers", "claim", "verdict", "says"), [case[1:] for case in API_CASES], ids=[case[0] for case in API_CASES]
)
def test_the_api(
    params: dict[str, Any], shop: type[Shop], answers: dict[str, Any], claim: str, verdict: str, says: str
) -> None:
    for name, value in answers.items():
        setattr(shop, name, value)
    found = claims(params)
    assert found[claim][0] == verdict and says in found[claim][1], found


def test_an_api_without_a_baseline_is_inconclusive(params: dict[str, Any]) -> None:
    (Path(params["run"]["state_dir"]) / "journal.jsonl").unlink()
    assert claims(params)["latency"][0] == "inconclusive"


def test_an_api_that_is_down(params: dict[str, Any]) -> None:
    found = claims({**params, "api_base_url": "http://127.0.0.1:9"})
    assert found["api"][0] == "fail" and "nothing listens" in found["api"][1]


@pytest.mark.parametrize("missing", sorted(DECLARED.keys() - {"window_seconds", "limits"}))
def test_what_is_not_declared_is_not_checked(params: dict[str, Any], missing: str) -> None:
    params["monitoring"] = {key: value for key, value in DECLARED.items() if key != missing}
    result = act(params, False)
    assert result["verdict"] == "pass" and missing not in result["sample"]


def test_what_the_target_does_not_have_is_left_out_with_the_reason(params: dict[str, Any]) -> None:
    log = {"name": "app_log", "title": "No errors", "service": "app", "event": "(?P<level>x)", "errors": ["x"]}
    queue = {"service": "broker", "command": ["true"], "limit": 1}
    result = act({**params, "monitoring": {**DECLARED, "logs": [log], "queue": queue}, "api_base_url": ""}, False)
    assert result["verdict"] == "pass"
    assert result["sample"]["left_out"] == {
        "app_log": "The inventory names no container of the service app.",
        "queue": "The inventory names no container of the service broker.",
        "api": "The inventory names no API (api_base_url).",
        "latency": "The inventory names no API (api_base_url).",
    }


@pytest.mark.parametrize(
    ("command", "before", "verdict", "depth", "says"),
    [
        (["echo", "3"], 0, "pass", 3, ""),
        (["echo", "11"], 0, "fail", 11, "above the limit of 10:"),
        (["echo", "11"], 6, "fail", 11, "above the limit of 10:"),
        (["echo", "30"], 20, "pass", 30, ""),
        (["echo", "31"], 20, "fail", 31, "above the limit of 30 (20 waited before the release)"),
        (["echo", "NOAUTH Authentication required."], 20, "fail", None, "NOAUTH"),
        (["false"], 0, "fail", None, "status 1"),
        (["no_such_program"], 0, "fail", None, "no_such_program"),
    ],
)
def test_the_queue(command: list[str], before: int, verdict: str, depth: int | None, says: str) -> None:
    facts, claim = sample_queue({"service": "redis", "command": command, "limit": 10}, "", before)
    assert (claim.verdict, facts["depth"]) == (verdict, depth)
    assert says in claim.detail
