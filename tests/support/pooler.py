"""A stand-in for a connection pooler: it refuses the startup parameter `options`, or drops it."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NEGOTIATIONS = (80877103, 80877104)  # for TLS and GSS; the answer N declines
REFUSAL = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"


@contextmanager
def pooler(host: str, port: int, *, refuses: bool) -> Iterator[int]:
    """The port of a pooler before that server."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=_session, args=(client, host, port, refuses), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.close()


def _session(client: socket.socket, host: str, port: int, refuses: bool) -> None:
    with client:
        startup = _startup(client)
        words = startup[4:].split(b"\0")
        pairs = dict(zip(words[0::2], words[1::2], strict=False))
        if pairs.pop(b"options", None) is not None and refuses:
            client.sendall(b"E" + struct.pack("!I", len(REFUSAL) + 4) + REFUSAL)
            return
        kept = startup[:4] + b"".join(name + b"\0" + value + b"\0" for name, value in pairs.items() if name) + b"\0"
        with socket.create_connection((host, port)) as server:
            server.sendall(struct.pack("!I", len(kept) + 4) + kept)
            back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
            back.start()
            _pass_on(client, server)
            back.join()


def _startup(client: socket.socket) -> bytes:
    while True:
        (length,) = struct.unpack("!I", client.recv(4, socket.MSG_WAITALL))
        body = client.recv(length - 4, socket.MSG_WAITALL)
        if struct.unpack("!I", body[:4])[0] not in NEGOTIATIONS:
            return body
        client.sendall(b"N")


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return
