"""Read a container's log: the lines of one exact window, and what would make it unreliable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import docker
import docker.errors

from ..core.clock import SECOND_NS, nanoseconds
from .inspect import SHORTEST_ID
from .log_events import Line

# The engine keeps lines of any length, and a program may write endlessly.
LINE_BYTES_AT_MOST = 16 << 20
# All events of one window are kept in memory.
WINDOW_LINES_AT_MOST, WINDOW_BYTES_AT_MOST = 1_000_000, 256 << 20


class TooMuchError(OSError):
    """The log exceeds a limit, which the text names. A part of it would prove nothing."""


@dataclass(frozen=True)
class Window:
    """From `begin_ns`, inclusive, to `end_ns`, exclusive."""

    begin_ns: int
    end_ns: int


@dataclass(frozen=True)
class Container:
    """A container as the engine describes it, and the time of its oldest remaining line."""

    id: str
    status: str
    created_ns: int
    started_ns: int
    oldest_ns: int | None


def find_container(client: docker.DockerClient, name: str) -> Container | None:
    """Find the container of a name, None where it does not exist; raises DockerException."""
    try:
        attributes = client.api.inspect_container(name)
    except docker.errors.NotFound:
        return None
    by_name = attributes["Name"].removeprefix("/") == name
    if not by_name and not (len(name) >= SHORTEST_ID and attributes["Id"].startswith(name)):
        return None
    return Container(
        id=attributes["Id"][:SHORTEST_ID],
        status=attributes["State"]["Status"],
        created_ns=nanoseconds(attributes["Created"]) or 0,
        started_ns=nanoseconds(attributes["State"]["StartedAt"]) or 0,
        oldest_ns=next((line.at_ns for line in log_lines(client, name)), None),
    )


def window_lines(client: docker.DockerClient, name: str, window: Window) -> Iterator[Line]:
    """Read its lines in the window. The engine returns whole seconds; each line's own timestamp decides.

    Raises TooMuchError where the window exceeds a limit.
    """
    seconds = {"since": window.begin_ns // SECOND_NS, "until": -(-window.end_ns // SECOND_NS)}
    lines = size = 0
    for line in log_lines(client, name, **seconds):
        if window.begin_ns <= line.at_ns < window.end_ns:
            lines, size = lines + 1, size + len(line.text)
            if lines > WINDOW_LINES_AT_MOST or size > WINDOW_BYTES_AT_MOST:
                raise TooMuchError(
                    f"it has more than {WINDOW_LINES_AT_MOST} lines or {WINDOW_BYTES_AT_MOST} bytes in one window: "
                    f"check `docker logs {name}` for what writes so much"
                )
            yield line


def log_lines(
    client: docker.DockerClient, name: str, since: float | None = None, until: float | None = None
) -> Iterator[Line]:
    """Read its lines from the engine, one at a time; `since` and `until` are seconds since 1970."""
    chunks = client.api.logs(
        name, stdout=True, stderr=True, timestamps=True, stream=True, follow=False, since=since, until=until
    )
    try:
        yield from split(chunks)
    finally:
        close = getattr(chunks, "close", None)
        if close:
            close()


def split(chunks: Iterable[bytes]) -> Iterator[Line]:
    """Split chunks into lines; a line without a timestamp gets that of the line before it."""
    at_ns = 0
    for raw in whole_lines(chunks):
        line = _line(raw, at_ns)
        at_ns = line.at_ns
        yield line


def whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Split a stream into whole lines; raises TooMuchError for a line that is too long."""
    rest = bytearray()
    for chunk in chunks:
        *ends, begun = chunk.split(b"\n")
        for end in ends:
            yield bytes(rest + end)
            rest.clear()
        rest += begun
        if len(rest) > LINE_BYTES_AT_MOST:
            raise TooMuchError(f"it has a line of more than {LINE_BYTES_AT_MOST} bytes")
    if rest:
        yield bytes(rest)


def _line(raw: bytes, at_ns: int) -> Line:
    text = raw.decode(errors="replace").rstrip("\r")
    stamp, _, message = text.partition(" ")
    own_ns = nanoseconds(stamp)
    return Line(at_ns, text) if own_ns is None else Line(own_ns, message)
