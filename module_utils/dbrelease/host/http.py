"""The thin session with an HTTP API: ask for a path, and say in one clause what came of it."""

from __future__ import annotations

import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import requests
import requests.auth

from ..core.errors import ReleaseError

REDIRECTS = {301, 302, 303, 307, 308}
REDIRECTS_AT_MOST = 5
ANSWER_BYTES_AT_MOST = 64 * 1024 * 1024
PACKED, GZIP_OR_ZLIB = ("gzip", "x-gzip", "deflate"), 47
START_IT = "Start the service (its log says why it is down) or correct the base URL, and run again."

# One answer's keys: of each item of a list, or of the object itself; None for an item that is no object.
Keys = tuple[frozenset[str] | None, ...]


@dataclass(frozen=True)
class Answer:
    """What came of one request.

    problem: a clause (`did not answer within 10 s.`) if nothing usable came, with what to do in `remedy`.
    url: what was asked, without a login.
    kind: `list`, `object`, or what else it was.
    note: more to say of the status, as a clause with its comma.
    value: the whole answer, only where it was asked for as a document.
    """

    duration_ms: float
    status: int | None = None
    kind: str = ""
    items: Keys = ()
    note: str = ""
    problem: str = ""
    remedy: str = ""
    url: str = ""
    value: Any = None

    @property
    def kind_label(self) -> str:
        """The kind with its article, for a sentence."""
        return {"list": "a list", "object": "an object"}.get(self.kind, self.kind)


def _split(url: str) -> SplitResult | None:
    """None where it cannot be told what is what, as of a bracket that is never closed or a port that is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def login_in(url: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """The login that a URL itself has, or none; never that of ~/.netrc, which is for somebody else's programs."""
    parts = _split(url)
    if parts is None or parts.username is None:
        return lambda request: request
    return requests.auth.HTTPBasicAuth(unquote(parts.username), unquote(parts.password or ""))


class HttpSession:
    """Reads from one API: within a deadline, without proxies, never following a redirect to another place."""

    def __init__(self, base_url: str, timeout_s: float) -> None:
        """Opens no connection yet."""
        parts = _split(base_url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ReleaseError(
                "Reading the API failed: its base URL is not of the form http://host:port; correct it and run again."
            )
        # A login in the URL is used, and shown nowhere.
        place = parts.netloc.rpartition("@")[2]
        self.url = parts._replace(netloc=place, query="", fragment="").geturl().rstrip("/")
        self._timeout_s = timeout_s
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.update(
            {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "dbrelease"}
        )
        self._session.auth = login_in(base_url)

    def __enter__(self) -> HttpSession:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._session.close()

    def get(self, path: str) -> Answer:
        """GET a path; whatever happens becomes an answer, within the timeout.

        The timeouts of `requests` bound the wait for each byte, not for the whole answer nor for the host's name: the
        thread that asks is therefore left behind when the time is over.
        """
        return self._within(path, keep=False)

    def document(self, path: str) -> Answer:
        """GET a path, and keep what it answers."""
        return self._within(path, keep=True)

    def _within(self, path: str, *, keep: bool) -> Answer:
        answers: list[Answer] = []
        begun = time.monotonic()
        worker = threading.Thread(target=lambda: answers.append(self._ask(path, keep=keep)), daemon=True)
        worker.start()
        worker.join(self._timeout_s)
        return answers[0] if answers else self._no_answer(path, begun, requests.Timeout())

    def _ask(self, path: str, *, keep: bool) -> Answer:
        begun = time.monotonic()
        try:
            response, note, body = self._follow(f"{self.url}{path}")
        except (OSError, ValueError, requests.RequestException) as error:
            return self._no_answer(path, begun, error)
        duration_ms = _milliseconds_since(begun)
        kind, items = describe(body, response.headers.get("Content-Type", ""))
        value = json.loads(body) if keep and kind in ("list", "object") else None
        return Answer(duration_ms, response.status_code, kind, items, note, url=f"{self.url}{path}", value=value)

    def _no_answer(self, path: str, begun: float, error: Exception) -> Answer:
        problem, remedy = explain(error, self._timeout_s)
        return Answer(_milliseconds_since(begun), problem=problem, remedy=remedy, url=f"{self.url}{path}")

    def _follow(self, url: str) -> tuple[requests.Response, str, bytes]:
        """The answer after the redirects that stay at this scheme, host and port."""
        for _ in range(REDIRECTS_AT_MOST):
            with self._session.get(url, timeout=self._timeout_s, allow_redirects=False, stream=True) as response:
                body = _body_of(response)
            if response.status_code not in REDIRECTS or "Location" not in response.headers:
                return response, "", body
            target = urljoin(url, response.headers["Location"])
            if urlsplit(target)[:2] != urlsplit(self.url)[:2]:
                return response, f", a redirect to {urlsplit(target).hostname}, which is not followed", body
            url = target
        return response, ", redirect after redirect", body


def _body_of(response: requests.Response) -> bytes:
    """What was sent, unpacked here: libraries unpack a few bytes to whatever they stand for, and again and again."""
    coding = response.raw.headers.pop("Content-Encoding", "identity").strip().lower()
    if coding not in ("identity", *PACKED):
        raise requests.exceptions.ContentDecodingError
    unpacked = zlib.decompressobj(GZIP_OR_ZLIB) if coding in PACKED else None
    body = bytearray()
    try:
        for chunk in response.iter_content(65536):
            body += unpacked.decompress(chunk, ANSWER_BYTES_AT_MOST + 1 - len(body)) if unpacked else chunk
            if len(body) > ANSWER_BYTES_AT_MOST:
                raise requests.exceptions.ContentDecodingError
    except zlib.error as error:
        raise requests.exceptions.ContentDecodingError from error
    if unpacked and not unpacked.eof and body:
        raise requests.exceptions.ContentDecodingError
    return bytes(body)


def describe(body: bytes, content_type: str) -> tuple[str, Keys]:
    """The kind of a body, and the keys of its items."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return f"no JSON ({content_type.split(';')[0].strip() or 'of no declared type'}, {len(body)} bytes)", ()
    if isinstance(value, list):
        return "list", tuple(frozenset(item) if isinstance(item, dict) else None for item in value)
    if isinstance(value, dict):
        return "object", (frozenset(value),)
    return f"the JSON value {json.dumps(value)[:40]}", ()


def explain(error: BaseException, timeout_s: float) -> tuple[str, str]:
    """What happened and what to do; of the error itself nothing is repeated, for it may hold a login."""
    chain = list(_causes(error))
    if any(isinstance(cause, (requests.Timeout, TimeoutError)) for cause in chain):
        remedy = "Find out what holds the service up (its log, the locks in the database), and run again."
        return f"did not answer within {timeout_s:g} s.", remedy
    if any(isinstance(cause, ConnectionRefusedError) for cause in chain):
        return "was refused: nothing listens there.", START_IT
    if any(isinstance(cause, socket.gaierror) for cause in chain):
        return "failed: the host name is unknown.", START_IT
    if any(isinstance(cause, requests.exceptions.SSLError) for cause in chain):
        return "failed: its certificate is not trusted.", "Give the target the authority's certificate, and run again."
    if any(isinstance(cause, requests.exceptions.ContentDecodingError) for cause in chain):
        return "answered more than can be read, or in a broken encoding.", "Read the log of the service."
    return f"broke off ({type(chain[-1]).__name__}).", START_IT


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that it was raised for; urllib3 keeps the reason in `reason` or in its arguments."""
    seen: list[BaseException] = [error]
    for cause in seen:
        inner = [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
        seen += [one for one in inner if isinstance(one, BaseException) and one not in seen]
    return iter(seen)


def _milliseconds_since(begun: float) -> float:
    return round((time.monotonic() - begun) * 1000, 1)
