"""The output of a program in a container is complete, however the engine's answer is cut into packets."""

from __future__ import annotations

import io
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

import pytest
from ansible.module_utils.dbrelease.host.commands import ContainerCommands, Engine

ENGINE_HOLDS_S = 20
PRINTED = b"pg_dump (PostgreSQL) 15.9\n"


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(data)) + data


class Answers(BaseHTTPRequestHandler):
    """An engine whose program has ended before the client reads: its output comes in one packet with the head."""

    protocol_version = "HTTP/1.1"
    let_go = threading.Event()
    created = b""

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/start"):
            head = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
            self.wfile.write(head + frame(1, PRINTED[:7]) + frame(2, b"a warning") + frame(1, PRINTED[7:]))
            self.close_connection = True
            if b'"AttachStdin": true' in self.created:  # which the program did not read, and the engine holds back
                self.connection.shutdown(socket.SHUT_WR)
                self.let_go.wait(ENGINE_HOLDS_S)
        else:
            type(self).created = asked
            self._answer({"Id": "a1"})

    def do_GET(self) -> None:
        self._answer({"ExitCode": 0})

    def _answer(self, content: dict[str, object]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "a client"

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    path = str(tmp_path / "engine.sock")
    with Server(path, Answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield Engine(base_url=f"unix://{path}", version="1.44")
        server.shutdown()


def test_output_that_comes_with_the_head_of_the_answer_is_not_lost(engine: Engine) -> None:
    finished = ContainerCommands(engine, "shop_postgres").run(["pg_dump", "--version"], timeout_s=5)
    assert (finished.status, finished.stdout, finished.stderr) == (0, PRINTED.decode(), "a warning")


def test_input_that_a_program_did_not_read_is_not_waited_for(engine: Engine) -> None:
    begun = time.monotonic()
    unread = io.BytesIO(bytes(32 << 20))
    finished = ContainerCommands(engine, "shop_postgres").run(["pg_restore", "--list"], timeout_s=60, stdin=unread)
    assert (finished.status, finished.stdout) == (0, PRINTED.decode())
    assert time.monotonic() - begun < ENGINE_HOLDS_S / 2
    Answers.let_go.set()
