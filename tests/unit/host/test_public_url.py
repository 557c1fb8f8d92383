"""A copy of a service is asked as the service itself is: under its public name, as a proxy in front of it would."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible.module_utils.dbrelease.host.http import HttpSession

PUBLIC = "https://drawings.example:8443/api"


class Particular(BaseHTTPRequestHandler):
    """Refuses any other host, and plain HTTP; redirects to its public name."""

    def do_GET(self) -> None:
        known = self.headers["Host"] == "drawings.example:8443" and self.headers["X-Forwarded-Proto"] == "https"
        if not known:
            self.send_response(400)
        elif not self.path.endswith("/"):
            self.send_response(301)
            host = "elsewhere.example" if "away" in self.path else "drawings.example:8443"
            self.send_header("Location", f"https://{host}{self.path}/")
        else:
            self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Particular) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/api"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("public_url", "path", "status", "note"),
    [
        (PUBLIC, "/items/", 200, ""),
        (PUBLIC, "/items", 200, ""),
        (PUBLIC, "/away", 301, "elsewhere.example"),
        ("", "/items/", 400, ""),
        ("http://drawings.example:8443/api", "/items/", 400, ""),
    ],
)
def test_it_is_asked_under_its_public_name(url: str, public_url: str, path: str, status: int, note: str) -> None:
    with HttpSession(url, 5, public_url=public_url) as session:
        answer = session.get(path)
    assert answer.status == status
    assert note in answer.note
