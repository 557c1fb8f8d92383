"""Whether the guards of the way back could be decided here is said before the release is deployed."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.dbrelease.preflight.way_back import way_back

ANSWERS = {"name": "a", "title": "No items", "answers": {"path": "/orders", "keys": ["items"]}, "road": "It is red."}
OPENAPI = {
    "name": "o",
    "title": "No path",
    "openapi": {"path": "/openapi.json", "paths": ["/items"], "properties": []},
    "road": "It is red.",
}
LOSSES = {"name": "l", "title": "No row", "losses": {"table": "items"}, "road": "It is red."}


@pytest.fixture
def api() -> Iterator[tuple[str, dict[str, Any]]]:
    """An API, and what it answers by path; elsewhere 404."""
    answers: dict[str, Any] = {"/orders": [{"id": 1}]}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    server.server_close()


def release(*guards: dict[str, Any]) -> dict[str, Any]:
    return {"rollback": {"guards": [*guards]}}


def test_a_guard_that_cannot_be_decided_is_named_with_what_to_declare(api: tuple[str, dict[str, Any]]) -> None:
    url, answers = api
    proof = way_back(release(ANSWERS, OPENAPI, LOSSES), {}, url, "", ready=True)
    assert (proof.status, proof.observed) == ("inconclusive", {"a": "pass", "o": "inconclusive"})
    assert "could not be determined" in proof.detail and "status 404" in proof.detail
    assert "declare a guard that can be decided here" in proof.remedy and "It is red" not in proof.remedy
    answers["/openapi.json"] = {"paths": {}}
    assert way_back(release(ANSWERS, OPENAPI), {}, url, "", ready=True).status == "pass"


def test_one_that_is_red_already_is_named_with_its_own_remedy(api: tuple[str, dict[str, Any]]) -> None:
    url, answers = api
    answers["/orders"] = [{"items": 1}]
    proof = way_back(release(ANSWERS), {}, url, "", ready=True)
    assert (proof.status, proof.remedy) == ("inconclusive", "It is red.")


@pytest.mark.parametrize(("guards", "ready"), [([LOSSES], True), ([ANSWERS], False), ([], True)])
def test_it_is_not_checked_where_nothing_is_deployed(guards: list[dict[str, Any]], ready: bool) -> None:
    assert way_back(release(*guards), {}, "http://127.0.0.1:9", "", ready=ready).status == "skipped"
