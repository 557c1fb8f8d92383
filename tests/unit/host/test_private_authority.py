"""A private authority of the API: trusted where the inventory names its file, and only then."""

from __future__ import annotations

import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.host.http import HttpSession
from ansible.module_utils.dbrelease.rollback.in_services import Services


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An API on TLS, and the certificate that vouches for it."""
    folder = tmp_path_factory.mktemp("authority")
    key, certificate = folder / "key.pem", folder / "ca.crt"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*argv, *names], check=True, capture_output=True)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'[{"id": 1}]')

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"https://localhost:{server.server_port}", certificate
    server.shutdown()
    server.server_close()


def test_it_is_trusted_where_its_file_is_named(api: tuple[str, Path]) -> None:
    url, certificate = api
    with HttpSession(url, 5, str(certificate)) as session:
        assert (session.get("/orders").status, session.get("/orders").problem) == (200, "")


def test_else_the_advice_names_where_the_certificate_belongs(
    api: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, certificate = api
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with HttpSession(url, 5) as session:
        answer = session.get("/orders")
    assert (answer.status, "is not trusted" in answer.problem, "api_ca_file" in answer.remedy) == (None, True, True)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="correct api_ca_file in the inventory"):
        HttpSession("https://localhost:1", 5, str(tmp_path / "none.crt"))


def _authority(folder: Path, name: str, *more: str) -> tuple[Path, Path]:
    key, certificate = folder / "other.pem", folder / "other.crt"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", *more]
    subprocess.run([*argv, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return key, certificate


def test_a_file_of_another_authority_is_named(api: tuple[str, Path], tmp_path: Path) -> None:
    _, other = _authority(tmp_path, "another", "-days", "2")
    with HttpSession(api[0], 5, str(other)) as session:
        answer = session.get("/orders")
    assert answer.problem == f"failed: its certificate is not trusted by the authorities in {other} (api_ca_file)."
    assert "in that file, or correct api_ca_file" in answer.remedy


def test_a_file_without_a_certificate_is_named(api: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty.crt").write_text("no certificate\n")
    with pytest.raises(ReleaseError, match=r"empty\.crt \(api_ca_file\) failed: it has no certificate in PEM form"):
        HttpSession(api[0], 5, str(tmp_path / "empty.crt"))


def test_a_certificate_for_another_name_is_no_question_of_trust(api: tuple[str, Path]) -> None:
    url, certificate = api
    with HttpSession(url.replace("localhost", "127.0.0.1"), 5, str(certificate)) as session:
        assert session.get("/orders").problem == "failed: its certificate is for another host name."


def test_a_port_without_tls_is_no_question_of_trust(api: tuple[str, Path]) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with HttpSession(f"https://localhost:{server.server_port}", 5) as session:
        answer = session.get("/orders")
    server.shutdown()
    server.server_close()
    assert answer.problem.startswith("failed: no TLS session was agreed on (") and "scheme" in answer.remedy


def test_the_guards_of_the_way_back_trust_it_too(api: tuple[str, Path]) -> None:
    url, certificate = api
    guard = {"name": "a", "title": "A", "answers": {"path": "/orders", "keys": ["items"]}, "road": "R."}
    assert Services(url, {}, 5, ca_file=str(certificate)).look(guard).status == "pass"
    assert Services(url, {}, 5).look(guard).status == "inconclusive"
