"""api_contract_info: a real HTTP server on this machine, whose answers can be broken one way at a time."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import api_contract_info
import pytest
import yaml
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.verify.api import percentile

Proofs = dict[str, dict[str, Any]]
ORDERS = [{"id": n, "title": f"o'{n} | 🧾", "account_id": n % 3} for n in range(5)]


@dataclass
class Site:
    """A server; `bodies` and `statuses` are what it answers, and it can be slow."""

    port: int = 0
    bodies: dict[str, Any] = field(default_factory=lambda: {"/orders": list(ORDERS), "/health": {"state": "up"}})
    statuses: list[int] = field(default_factory=list)  # of the next answers, then 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0
    byte_delay_s: float = 0
    hang_up: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    uncached: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            site.asked.append((self.path, self.headers.get("Authorization", "")))
            site.uncached.append(self.headers.get("Cache-Control", ""))
            time.sleep(site.delay_s)  # plays: a slow API
            if site.hang_up:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            body = site.bodies.get(self.path, "")
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(site.statuses.pop(0) if site.statuses else 200)
            self.send_header("Content-Type", "text/html" if isinstance(body, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in site.headers.items():
                self.send_header(name, value)
            self.end_headers()
            for byte in data if site.byte_delay_s else ():
                self.wfile.write(bytes([byte]))
                time.sleep(site.byte_delay_s)  # plays: a slow API
            if not site.byte_delay_s:
                self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(OSError):
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.port = server.server_address[1]
    thread = threading.Thread(target=lambda: server.serve_forever(0.01), daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()


ENDPOINTS = [
    {"name": "orders", "path": "/orders", "status": 200, "kind": "list", "keys": ["id", "title"]},
    {"name": "health", "path": "/health", "status": 200, "kind": "object", "keys": ["state"]},
]

Call = Callable[..., dict[str, Any]]


@pytest.fixture
def call(site: Site, run_parameters: dict[str, Any]) -> Call:
    def call(
        mode: str,
        *,
        check_mode: bool = False,
        base_url: str = "",
        other_rows: bool = False,
        judge_latency: bool = True,
        **api: Any,
    ) -> dict[str, Any]:
        latency = {"requests": 3, "factor": 3.0, "floor_ms": 250}
        contract = {"timeout_seconds": 5, "latency": latency, "endpoints": ENDPOINTS, **api}
        where = {"run": run_parameters, "base_url": base_url or site.url}
        judged = {"other_rows": other_rows, "judge_latency": judge_latency}
        options = {**where, "api": contract, "mode": mode, **judged}
        return api_contract_info.act(options, check_mode)

    return call


def by_name(result: dict[str, Any]) -> Proofs:
    return {proof["name"]: proof for proof in result["proofs"]}


def statuses(result: dict[str, Any], prefix: str = "api.orders.") -> dict[str, str]:
    return {name.removeprefix(prefix): proof["status"] for name, proof in by_name(result).items() if prefix in name}


ALL_PASS = {"status": "pass", "shape": "pass", "count": "pass", "latency": "pass"}


def test_unchanged_api_holds_its_contract(call: Call) -> None:
    observed = call("observe")
    assert statuses(observed, "api_baseline.orders.") == {"status": "pass", "shape": "pass"}
    verified = call("verify")
    assert statuses(verified) == ALL_PASS
    assert statuses(verified, "api.health.") == {"status": "pass", "shape": "pass", "latency": "pass"}
    assert (verified["changed"], verified["message"], verified["compared"]) == (False, "", True)


ENVELOPE = {"name": "orders", "path": "/page", "status": 200, "kind": "list", "items": "rows", "keys": ["id", "title"]}
AROUND = {**ENVELOPE, "kind": "object", "keys": ["rows", "total"]}


def page(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"rows": list(rows), "total": len(rows), **more}


@pytest.mark.parametrize(
    ("endpoint", "after", "shape", "words"),
    [
        (ENVELOPE, page(*ORDERS), "pass", ""),
        (ENVELOPE, page({**ORDERS[0], "parts": []}), "fail", "new: parts"),
        (ENVELOPE, page({"id": 1}), "fail", "missing: account_id, title"),
        (ENVELOPE, page(), "inconclusive", "empty list"),
        (ENVELOPE, {"data": ORDERS}, "fail", "nothing at `rows`, where its list should be"),
        (ENVELOPE, {"rows": {"id": 1}}, "fail", "an object at `rows`"),
        (ENVELOPE, list(ORDERS), "fail", "nothing at `rows`"),
        (AROUND, page(*ORDERS), "pass", ""),
        (AROUND, page({**ORDERS[0], "parts": []}), "fail", "new: parts"),
        (AROUND, {"rows": ORDERS}, "fail", "without total around its list"),
    ],
)
def test_the_items_of_a_wrapped_list_are_held_to_the_contract(
    call: Call, site: Site, endpoint: dict[str, Any], after: Any, shape: str, words: str
) -> None:
    site.bodies["/page"] = page(*ORDERS)
    observed = call("observe", endpoints=[endpoint])
    assert statuses(observed, "api_baseline.orders.") == {"status": "pass", "shape": "pass"}
    assert observed["endpoints"]["orders"]["count"] == len(ORDERS)
    site.bodies["/page"] = after
    proof = by_name(call("verify", endpoints=[endpoint]))["api.orders.shape"]
    assert (proof["status"], words in proof["detail"]) == (shape, True), proof


def test_a_list_that_is_not_declared_leaves_its_shape_open_where_its_keys_change(call: Call, site: Site) -> None:
    endpoint = {key: value for key, value in AROUND.items() if key != "items"}
    site.bodies["/page"] = page(*ORDERS)
    call("observe", endpoints=[endpoint])
    assert statuses(call("verify", endpoints=[endpoint]))["shape"] == "pass"
    site.bodies["/page"] = page({**ORDERS[0], "parts": []})
    proof = by_name(call("verify", endpoints=[endpoint]))["api.orders.shape"]
    assert (proof["status"], "parts" in proof["detail"], "`items`" in proof["remedy"]) == ("inconclusive", True, True)


def test_facts_are_numbers_with_units(call: Call) -> None:
    facts = call("observe")["endpoints"]["orders"]
    assert (facts["status"], facts["kind"], facts["count"], facts["requests"]) == (200, "list", 5, 3)
    assert facts["keys"] == ["account_id", "id", "title"] and facts["optional_keys"] == []
    assert 0 < facts["latency_ms"]["p50"] <= facts["latency_ms"]["p95"] <= facts["latency_ms"]["max"]


def test_every_endpoint_is_requested_as_often_as_declared(call: Call, site: Site) -> None:
    call("observe")
    assert [path for path, _ in site.asked] == ["/orders"] * 3 + ["/health"] * 3


def test_facts_and_proofs_are_journaled(call: Call, run_parameters: dict[str, Any]) -> None:
    call("observe")
    call("verify")
    lines = Journal(Run(**run_parameters)).read()
    assert [(line["step"], line["event"]) for line in lines] == [
        ("api_baseline", "started"),
        ("api_baseline", "passed"),
        ("api", "started"),
        ("api", "passed"),
    ]
    assert lines[1]["facts"]["endpoints"]["orders"]["count"] == 5
    assert lines[3]["facts"]["proofs"]


def test_check_mode_reads_and_writes_nothing(call: Call, run_parameters: dict[str, Any]) -> None:
    result = call("verify", check_mode=True)
    assert by_name(result)["api.orders.status"]["status"] == "pass"
    assert not Path(run_parameters["state_dir"]).exists()


def test_without_a_baseline_the_declared_contract_is_judged(call: Call) -> None:
    result = call("verify")
    assert statuses(result) == {"status": "pass", "shape": "pass", "count": "skipped", "latency": "skipped"}
    assert "no baseline" in by_name(result)["api.orders.count"]["detail"]
    assert result["compared"] is False


def test_a_baseline_of_another_environment_is_not_used(call: Call, run_parameters: dict[str, Any]) -> None:
    call("observe")
    run_parameters["environment"] = "elsewhere"
    assert call("verify")["compared"] is False


def test_a_red_baseline_is_not_used(call: Call, site: Site) -> None:
    site.statuses = [500]
    assert statuses(call("observe"), "api_baseline.orders.")["status"] == "fail"
    assert call("verify")["compared"] is False


def test_the_newest_baseline_is_used(call: Call, site: Site) -> None:
    call("observe")
    site.bodies["/orders"] = ORDERS[:2]
    call("observe")
    assert by_name(call("verify"))["api.orders.count"]["expected"] == 2


def test_baseline_demands_no_declared_key_and_no_item(call: Call, site: Site) -> None:
    site.bodies["/orders"] = []
    site.bodies["/health"] = {}
    assert {proof["status"] for proof in call("observe")["proofs"]} == {"pass"}


def without(key: str) -> list[dict[str, Any]]:
    return [*ORDERS[:4], {name: value for name, value in ORDERS[4].items() if name != key}]


BODIES = [  # what the list becomes after the baseline, the claim that it breaks, its verdict, words of its detail
    ("a declared key is missing in one item", without("title"), "shape", "fail", "missing: title"),
    ("a key of the baseline only is missing", without("account_id"), "shape", "fail", "missing: account_id"),
    ("a key is new", [{**order, "accounts": []} for order in ORDERS], "shape", "fail", "new: accounts"),
    ("a key is new in one item", [*ORDERS[:4], {**ORDERS[4], "x": 1}], "shape", "fail", "new: x"),
    ("an item is no object", [*ORDERS[:4], "text"], "shape", "fail", "Items of GET /orders are no objects"),
    ("the list became an object", {"items": ORDERS}, "shape", "fail", "an object, where the release declares list"),
    ("the answer is a page", "<html>no</html>", "shape", "fail", "no JSON (text/html, 15 bytes)"),
    ("the answer is empty", "", "shape", "fail", "no JSON"),
    ("the answer is a scalar", 7, "shape", "fail", "the JSON value 7"),
    ("the list is empty", [], "shape", "inconclusive", "empty list"),
    ("the list is shorter", ORDERS[:4], "count", "fail", "lists 4 items, and listed 5"),
    ("the list is longer", [*ORDERS, ORDERS[0]], "count", "pass", "1 more than in the baseline"),
]


@pytest.mark.parametrize(("_", "body", "claim", "verdict", "words"), BODIES, ids=[row[0] for row in BODIES])
def test_changed_answer_is_seen(
    call: Call, site: Site, _: str, body: Any, claim: str, verdict: str, words: str
) -> None:
    call("observe")
    site.bodies["/orders"] = body
    proof = by_name(call("verify"))[f"api.orders.{claim}"]
    assert (proof["status"], words in proof["detail"]) == (verdict, True), proof
    assert verdict != "fail" or proof["remedy"]


def table_proof(status: str, *, fingerprint: str = "1", **counters: int) -> dict[str, Any]:
    return {"status": status, "observed": {"rows": 9, "fingerprint": fingerprint, **counters}}


WRITTEN = [  # what the run saw in the tables, whether it restored other rows, the verdict on a list 2 items shorter
    ("nothing changed", [table_proof("pass")], False, "fail"),
    ("it did not look", None, False, "fail"),
    ("fewer were deleted", [table_proof("inconclusive", deleted=1, updated=0)], False, "fail"),
    ("as many were deleted", [table_proof("inconclusive", deleted=2, updated=0)], False, "inconclusive"),
    ("in two tables", [table_proof("inconclusive", deleted=1, updated=0)] * 2, False, "inconclusive"),
    ("they were marked as deleted", [table_proof("inconclusive", deleted=0, updated=2)], False, "inconclusive"),
    ("who wrote cannot be determined", [table_proof("inconclusive")], False, "inconclusive"),
    ("another proof is open", [{"status": "inconclusive", "observed": [{"n": 1}]}], False, "fail"),
    ("the rows are another time's", None, True, "inconclusive"),
]


@pytest.mark.parametrize("step", ["untouched", "as_before"])
@pytest.mark.parametrize(("_", "proofs", "other_rows", "verdict"), WRITTEN, ids=[row[0] for row in WRITTEN])
def test_a_shorter_list_is_red_unless_others_wrote(
    call: Call,
    site: Site,
    run_parameters: dict[str, Any],
    _: str,
    proofs: list[dict[str, Any]] | None,
    other_rows: bool,
    verdict: str,
    step: str,
) -> None:
    call("observe")
    older = {**run_parameters, "run_id": "20260102T030405-0000"}
    Journal(Run(**older)).append(step, "passed", {"proofs": [table_proof("inconclusive", deleted=9, updated=9)]})
    if proofs is not None:
        Journal(Run(**run_parameters)).append(step, "passed", {"proofs": proofs})
    site.bodies["/orders"] = ORDERS[:3]
    proof = by_name(call("verify", other_rows=other_rows))["api.orders.count"]
    assert (proof["status"], proof["expected"], proof["observed"]) == (verdict, 5, 3)
    assert "lists 3 items, and listed 5 in the baseline" in proof["detail"]


def test_a_key_that_only_some_items_had_may_be_absent_from_an_item(call: Call, site: Site) -> None:
    site.bodies["/orders"] = without("account_id")
    call("observe")
    site.bodies["/orders"] = without("account_id")[::-1]
    assert statuses(call("verify")) == ALL_PASS
    site.bodies["/orders"] = [{"id": order["id"], "title": ""} for order in ORDERS]
    assert statuses(call("verify"))["shape"] == "inconclusive"


def test_one_odd_status_among_many_is_red(call: Call, site: Site) -> None:
    site.statuses = [200, 503, 200]
    result = call("verify")
    status = by_name(result)["api.orders.status"]
    assert (status["status"], status["observed"]) == ("fail", [200, 503])
    assert "1 of 3 answers" in status["detail"] and "log of the service" in status["remedy"]
    assert statuses(result)["shape"] == "pass"


@pytest.mark.parametrize(
    ("codes", "headers", "said"),
    [
        ([429], {}, "refused with status 429"),
        ([200, 429], {}, "refused with status 429"),
        ([], {"Age": "17"}, "answered by a cache (Age: 17)"),
        ([], {"X-Cache": "Hit from cloudfront"}, "answered by a cache (X-Cache: Hit from cloudfront)"),
        ([], {"CF-Cache-Status": "STALE"}, "answered by a cache (CF-Cache-Status: STALE)"),
        ([], {"X-Cache": "TCP_MEM_HIT from squid"}, "answered by a cache"),
        ([502], {"X-Cache": "HIT"}, "answered by a cache"),
    ],
)
def test_what_the_service_did_not_answer_itself_is_no_verdict_on_the_release(
    call: Call, site: Site, codes: list[int], headers: dict[str, str], said: str
) -> None:
    call("observe")
    site.statuses, site.headers = codes, headers
    proof = by_name(call("verify"))["api.orders.status"]
    assert (proof["status"], proof["could_not_run"], said in proof["detail"]) == ("inconclusive", True, True), proof
    assert "speaks against the release" in proof["remedy"]


@pytest.mark.parametrize(
    ("codes", "headers"), [([500, 429], {}), ([500], {"Age": "0", "X-Cache": "MISS", "CF-Cache-Status": "DYNAMIC"})]
)
def test_what_the_service_answers_itself_is_judged(
    call: Call, site: Site, codes: list[int], headers: dict[str, str]
) -> None:
    call("observe")
    site.statuses, site.headers = codes, headers
    assert by_name(call("verify"))["api.orders.status"]["status"] == "fail"


def test_a_cache_is_asked_to_pass_a_request_on(call: Call, site: Site) -> None:
    call("observe")
    assert site.uncached == ["no-cache"] * 6


def test_slow_answers_are_red_beyond_factor_and_floor(call: Call, site: Site) -> None:
    latency = {"requests": 3, "factor": 0.001, "floor_ms": 100}  # the factor: whatever the machine does meanwhile
    call("observe", latency=latency)
    site.delay_s = 0.15
    slow = by_name(call("verify", latency=latency))["api.orders.latency"]
    assert (slow["status"], slow["expected"]) == ("fail", {"median_ms_at_most": 100})
    assert statuses(call("verify", latency=latency, judge_latency=False)) == {**ALL_PASS, "latency": "inconclusive"}
    patient = {**latency, "floor_ms": 60_000}
    assert statuses(call("verify", latency=patient))["latency"] == "pass", "the floor forgives it"
    call("observe", latency=latency)
    as_before = {**latency, "factor": 100.0}
    assert statuses(call("verify", latency=as_before))["latency"] == "pass", "so does a baseline that was as slow"


@pytest.mark.parametrize("tasks", ["rollback/tasks/prove.yml", "restore/tasks/main.yml"])
def test_a_role_that_takes_a_release_back_holds_no_slowness_against_it(tasks: str) -> None:
    listed = yaml.safe_load((Path(__file__).parents[3] / "roles" / tasks).read_text())
    assert [task["api_contract_info"]["judge_latency"] for task in listed if "api_contract_info" in task] == [False]


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def down(site: Site) -> None:
    site.port = unused_port()


def silent(site: Site) -> None:
    site.delay_s = 30


def trickling(site: Site) -> None:
    site.byte_delay_s = 0.2


def hanging_up(site: Site) -> None:
    site.hang_up = True


def redirecting(site: Site) -> None:
    site.statuses, site.headers = [302] * 9, {"Location": f"http://localhost:{site.port}/orders"}


def going_round(site: Site) -> None:
    site.statuses, site.headers = [302] * 99, {"Location": "/orders"}


FAULTS = [
    (down, "nothing listens there", "Start the service"),
    (silent, "did not answer within 0.5 s", "what blocks the service"),
    (trickling, "did not answer within 0.5 s", "what blocks the service"),
    (hanging_up, "failed: the connection broke off (", "Start the service"),
    (redirecting, "a redirect to localhost, which is not followed", "base URL"),
    (going_round, "after 5 redirects", "base URL"),
]


@pytest.mark.parametrize(("fault", "words", "remedy"), FAULTS)
def test_no_usable_answer_is_red_with_what_to_do(
    call: Call, site: Site, fault: Callable[[Site], None], words: str, remedy: str
) -> None:
    call("observe")
    fault(site)
    begun = time.monotonic()
    result = call("verify", timeout_seconds=0.5)
    assert statuses(result) == {"status": "fail", "shape": "skipped", "count": "skipped", "latency": "skipped"}
    proof = by_name(result)["api.orders.status"]
    assert words in proof["detail"] and remedy in proof["remedy"], proof
    assert f"GET {site.url}/orders" in result["message"]
    assert time.monotonic() - begun < 4, "an API that does not answer is asked once for each endpoint"


def test_unknown_host_is_red(call: Call) -> None:
    detail = by_name(call("verify", base_url="http://host.invalid"))["api.orders.status"]["detail"]
    assert "host name is unknown" in detail


def test_redirect_within_the_api_is_followed(call: Call, site: Site) -> None:
    site.bodies["/new"] = ORDERS
    site.statuses, site.headers = [307], {"Location": "/new"}
    assert statuses(call("verify"))["status"] == "pass"
    assert [path for path, _ in site.asked[:2]] == ["/orders", "/new"]


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://localhost", "", "http://", "http://[::1:80", "http://a:port"])
def test_base_url_that_is_none_is_one_sentence(call: Call, run_parameters: dict[str, Any], url: str) -> None:
    options = {"run": run_parameters, "base_url": url, "mode": "verify", "other_rows": False, "judge_latency": True}
    contract = {"timeout_seconds": 1, "latency": {"requests": 1, "factor": 1, "floor_ms": 1}, "endpoints": ENDPOINTS}
    with pytest.raises(ReleaseError, match="not of the form http://host:port"):
        api_contract_info.act({**options, "api": contract}, False)


def test_login_in_the_url_is_used_and_shown_nowhere(call: Call, site: Site, run_parameters: dict[str, Any]) -> None:
    url = f"http://reader:ge%40heim@127.0.0.1:{site.port}"
    result = call("observe", base_url=url)
    assert site.asked[0][1].startswith("Basic ")
    site.statuses = [500] * 6
    result = call("verify", base_url=url)
    journal = (Path(run_parameters["state_dir"]) / "journal.jsonl").read_text()
    assert "geheim" not in json.dumps(result) + journal


def test_proxies_of_the_environment_are_not_used(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port()}")
    assert statuses(call("verify"))["status"] == "pass"


@pytest.mark.parametrize(
    ("numbers", "percent", "expected"),
    [([], 95, None), ([4.0], 95, 4.0), (list(range(1, 101)), 95, 95), ([1, 2], 50, 1)],
)
def test_percentile_is_the_nearest_rank(numbers: list[float], percent: float, expected: float | None) -> None:
    assert percentile(numbers, percent) == expected


def test_a_lone_surrogate_in_an_answer_is_a_value_like_others(site: Site, call: Call) -> None:
    site.bodies["/orders"] = [{"id": "\ud800", "title": "a\udfffb", "k\udc80": ["\ud83d"]}]
    site.bodies["/health"] = {"state": "\ud800"}
    assert call("observe")["message"] == ""
    assert call("verify")["message"] == ""
    site.bodies["/orders"] = [{"id\ud800": 1}]
    assert "id" in call("verify")["message"]
