"""Somebody who answers in the place of the database, of the API or of a receiver: he gets no password."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible.module_utils.dbrelease.backup.dump import tool_environment
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.host import commands
from ansible.module_utils.dbrelease.host.http import HttpSession
from ansible.module_utils.dbrelease.postgres import transport
from ansible.module_utils.dbrelease.postgres.session import Login, connect
from ansible.module_utils.dbrelease.preflight import rules_database
from ansible.module_utils.dbrelease.report.notify_send import post
from preflight_facts import DEMANDS, HEALTHY

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
ASKS_IN_CLEAR = b"R" + struct.pack("!ii", 8, 3)
PASSWORD = "c4nary-c4nary-c4nary"


@dataclass
class Server:
    """A server of a test, and all that it was sent."""

    port: int = 0
    heard: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True)
class Authority:
    """A private authority, and a certificate of a server named `localhost` that it has signed."""

    root: Path
    certificate: Path
    key: Path

    @property
    def context(self) -> ssl.SSLContext:
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        found.load_cert_chain(self.certificate, self.key)
        return found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("authority")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    fresh = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", *fresh, "-subj", "/CN=an authority", "-keyout", "root.key", "-out", "root.crt")
    openssl(
        *("req", *fresh, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        *("-addext", "basicConstraints=critical,CA:FALSE", "-CA", "root.crt", "-CAkey", "root.key"),
        *("-keyout", "server.key", "-out", "server.crt"),
    )
    return Authority(folder / "root.crt", folder / "server.crt", folder / "server.key")


def serve(server: Server, answer: Callable[[socket.socket], None]) -> socket.socket:
    listening = socket.create_server(("127.0.0.1", 0))
    server.port = listening.getsockname()[1]

    def accept() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            client.settimeout(20)
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listening


def opened(client: socket.socket, context: ssl.SSLContext | None) -> socket.socket:
    """The session behind the beginning, in which a client asks for TLS."""
    if client.recv(8, socket.MSG_PEEK) == SSL_REQUEST:
        client.recv(8)
        client.sendall(b"S" if context else b"N")
        return context.wrap_socket(client, server_side=True) if context else client
    return client


@pytest.fixture
def false_server() -> Iterator[Callable[..., Server]]:
    """Takes whoever comes, and asks for the password in clear."""
    listening: list[socket.socket] = []

    def make(context: ssl.SSLContext | None = None) -> Server:
        server = Server()

        def answer(client: socket.socket) -> None:
            with suppress(OSError):
                session = opened(client, context)
                server.heard += session.recv(4096)
                session.sendall(ASKS_IN_CLEAR)
                server.heard += session.recv(4096)
                session.close()

        listening.append(serve(server, answer))
        return server

    yield make
    for one in listening:
        one.close()


@pytest.fixture
def behind_tls(database: Login, authority: Authority) -> Iterator[Login]:
    """The real server, behind what speaks TLS for it."""
    server = Server()

    def answer(client: socket.socket) -> None:
        with suppress(OSError):
            session = opened(client, authority.context)
            behind = socket.create_connection((database.host, database.port))
            threading.Thread(target=copy, args=(behind, session), daemon=True).start()
            copy(session, behind)

    listening = serve(server, answer)
    yield replace(database, host="localhost", port=server.port, ssl_mode="verify-full")
    listening.close()


def copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError), source, target:
        while data := source.recv(65536):
            target.sendall(data)


@pytest.mark.parametrize("encrypted", [False, True], ids=["in clear", "by TLS of nobody"])
@pytest.mark.parametrize("ssl_mode", ["disable", "allow", "prefer", "require"])
def test_a_false_server_does_not_get_the_password(
    false_server: Callable[..., Server], authority: Authority, ssl_mode: str, encrypted: bool
) -> None:
    server = false_server(authority.context if encrypted else None)
    login = Login("127.0.0.1", server.port, "user", "shop", PASSWORD, ssl_mode)
    with pytest.raises(ReleaseError) as raised:
        connect(login, "tests")
    assert PASSWORD.encode() not in server.heard
    if ssl_mode != "require" or encrypted:
        assert b"user" in server.heard
        assert "the password was not sent; configure the server to use scram-sha-256" in raised.value.message
        assert raised.value.message.count("Connecting to") == 1 and "\n" not in raised.value.message


def test_whoever_is_verified_may_ask_in_clear(false_server: Callable[..., Server], authority: Authority) -> None:
    """As a server does that asks a directory (LDAP, PAM) whether a password is right."""
    server = false_server(authority.context)
    login = Login("localhost", server.port, "user", "shop", PASSWORD, "verify-full", str(authority.root))
    with pytest.raises(ReleaseError):
        connect(login, "tests")
    assert PASSWORD.encode() in server.heard


def test_programs_refuse_it_too(authority: Authority) -> None:
    login = Login("db.example.org", 5432, "user", "shop", PASSWORD, "require")
    assert tool_environment(login, "tests", inside=False)["PGREQUIREAUTH"] == "!password"
    verified = replace(login, ssl_mode="verify-full", ssl_root_cert="/etc/ours.crt")
    environment = tool_environment(verified, "tests", inside=False)
    assert environment["PGSSLMODE"] == "verify-full" and environment["PGSSLROOTCERT"] == "/etc/ours.crt"
    assert "PGREQUIREAUTH" not in environment


def test_a_server_that_proves_who_it_is_is_reached(behind_tls: Login, authority: Authority) -> None:
    login = replace(behind_tls, ssl_root_cert=str(authority.root))
    with closing(connect(login, "tests")) as session, session.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert session.info.ssl_in_use
    environment = tool_environment(login, "tests", inside=False)
    dumped = subprocess.run(["pg_dump", "--schema-only"], env={"PATH": "/usr/bin:/bin", **environment}, check=False)
    assert dumped.returncode == 0


@pytest.mark.parametrize(
    ("host", "root", "advice"),
    [
        ("127.0.0.1", "root", "set db_host to a name in the server's certificate"),
        ("localhost", "/nowhere.crt", "set db_sslrootcert to a file on the target"),
        ("localhost", "certificate of another", "set db_sslrootcert to the authority that signed"),
    ],
    ids=["another name", "no authority", "another authority"],
)
def test_a_server_that_does_not_is_one_sentence(
    behind_tls: Login, authority: Authority, tmp_path: Path, host: str, root: str, advice: str
) -> None:
    if root == "certificate of another":
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        argv = ["openssl", "req", "-x509", *key, "-subj", "/CN=another", "-keyout", "x.key", "-out", "x.crt"]
        subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True)
        root = str(tmp_path / "x.crt")
    login = replace(behind_tls, host=host, ssl_root_cert=str(authority.root) if root == "root" else root)
    with pytest.raises(ReleaseError) as raised:
        connect(login, "tests")
    message = raised.value.message
    assert advice in message and message.startswith("Connecting to ") and message.endswith(".") and "\n" not in message


def test_a_server_without_tls_is_one_sentence(false_server: Callable[..., Server], authority: Authority) -> None:
    login = Login("localhost", false_server().port, "user", "shop", PASSWORD, "verify-full", str(authority.root))
    with pytest.raises(ReleaseError, match=r"does not support SSL.*: switch TLS on at the server"):
        connect(login, "tests")


@pytest.mark.parametrize(
    ("host", "chosen", "mode"),
    [
        ("db.example.org", None, "verify-full"),
        ("db.example.org", "", "verify-full"),
        ("10.1.2.3", None, "verify-full"),
        ("127.0.0.1,db.example.org", None, "verify-full"),
        ("127.0.0.1", None, "prefer"),
        ("localhost", "", "prefer"),
        ("::1", None, "prefer"),
        ("/var/run/postgresql", None, "prefer"),
        ("", None, "prefer"),
        ("db.example.org", "require", "require"),
        ("localhost", "verify-full", "verify-full"),
    ],
)
def test_who_must_prove_who_it_is(login_parameters: dict[str, Any], host: str, chosen: str | None, mode: str) -> None:
    assert Login.of({**login_parameters, "login_host": host, "ssl_mode": chosen}).ssl_mode == mode


def test_a_container_on_a_bridge_of_this_machine_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
    routes = [
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0",  # by a gateway, all else
        "eth0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0",  # 10.0.0.0/8, a network with others
        "br-1a2b\t000012AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0",  # 172.18.0.0/16
        "br-vpn\t000013AC\t010012AC\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0",  # 172.19.0.0/16 behind a gateway
    ]
    (tmp_path / "route").write_text(head + "\n".join(routes) + "\n")
    monkeypatch.setattr(transport, "ROUTES", tmp_path / "route")
    local = {host: transport.is_local(host) for host in ("172.18.0.2", "172.19.0.2", "10.1.2.3", "192.0.2.1", "a.b")}
    assert local == {"172.18.0.2": True, "172.19.0.2": False, "10.1.2.3": False, "192.0.2.1": False, "a.b": False}


def test_preflight_says_who_is_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    said = transport.caveat("db.example.org", "require")
    assert said == (
        "db_sslmode is require: the server at db.example.org is not verified, and another host may answer in its place."
        " Set db_sslmode to verify-full, with db_sslrootcert."
    )
    assert transport.caveat("db.example.org", "verify-full") == transport.caveat("localhost", "prefer") == ""
    proof = rules_database.database(DEMANDS, replace(HEALTHY, unverified=said))
    assert (proof.status, proof.detail) == ("pass", said)
    monkeypatch.setattr(transport, "refuses_clear_passwords", lambda: False)
    assert "would also send it the password in clear text" in transport.caveat("db.example.org", "prefer")
    assert "require_auth" not in transport.parameters("prefer", "")


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str | None]]]:
    """An HTTP server to which ~/.netrc has a login; what each request was authorized by."""
    authorized: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            authorized.append(self.headers["Authorization"])
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {PASSWORD}\ndefault login me password {PASSWORD}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    yield f"127.0.0.1:{server.server_address[1]}", authorized
    server.shutdown()


@pytest.mark.parametrize("login", ["", "u:own@"], ids=["no login", "one of its own"])
def test_a_login_of_netrc_goes_to_nobody(receiver: tuple[str, list[str | None]], login: str) -> None:
    place, authorized = receiver
    post(f"http://{login}{place}/hook", {}, 5)
    with HttpSession(f"http://{login}{place}", 5) as session:
        session.get("/")
    expected = f"Basic {b64encode(b'u:own').decode()}" if login else None
    assert authorized == [expected, expected]


def test_nor_to_an_engine_that_is_reached_by_tcp(
    receiver: tuple[str, list[str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, authorized = receiver
    monkeypatch.setenv("DOCKER_HOST", f"tcp://{place}")
    with suppress(ReleaseError, docker.errors.DockerException, Exception):
        commands.docker_client().api.inspect_container("shop")
    assert authorized and not any(authorized)
