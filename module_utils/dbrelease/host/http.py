"""Read an HTTP API: request a path, and describe the result in one clause."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import requests
import requests.auth

from ..core.errors import ReleaseError
from .json_lists import MISSING, Keys, at, keys_in_lists, keys_of_items

REDIRECTS = {301, 302, 303, 307, 308}
REDIRECTS_AT_MOST = 5
TOO_MANY = 429  # Too Many Requests
ANSWER_BYTES_AT_MOST = 64 * 1024 * 1024
PACKED, GZIP_OR_ZLIB = ("gzip", "x-gzip", "deflate"), 47
START_IT = "Start the service (its log may show why it is down) or correct the base URL, and rerun the playbook."

# Headers by which a cache in front of a service says that the answer is its own; RFC 9111 has only the first.
AGE, CACHE_STATUS = "Age", re.compile(r"(?:^|[\s,;:-])(?:tcp_)?(?:\w+_)?hit\b|\bstale\b|\bupdating\b", re.IGNORECASE)
CACHE_HEADERS = ("X-Cache", "X-Cache-Status", "X-Proxy-Cache", "CF-Cache-Status", "X-Vercel-Cache", "Cache-Status")
NOT_CACHED = (
    "Let api_base_url lead to the service itself, or let the cache pass on requests with `Cache-Control: no-cache`."
)

NOT_TRUSTED = (
    "Put the authority's certificate (PEM) in a file on the target, and set api_ca_file in the inventory to that file; "
    "the system's own list and variables such as REQUESTS_CA_BUNDLE are not used."
)
# OpenSSL's codes of a certificate that is not valid yet or no more, and of one for another name or address.
OUT_OF_DATE, OF_ANOTHER_NAME = (9, 10), (62, 64)


@dataclass(frozen=True)
class Answer:
    """The result of one request.

    problem: a clause (`did not answer within 10 s.`) where no usable answer arrived, with what to do in `remedy`.
    url: the requested URL, without a login.
    kind: `list`, `object`, or what else it was.
    outer: the keys of the object that contains the list, where the list is not the answer itself.
    below: the keys of the objects in an object's lists.
    note: a remark on the status, as a clause with its comma.
    says_nothing: the service did not make this answer, or refused to make one, which says nothing about the release.
    value: the whole answer, only where it was requested as a document.
    """

    duration_ms: float
    status: int | None = None
    kind: str = ""
    items: Keys = ()
    outer: frozenset[str] = frozenset()
    below: frozenset[str] = frozenset()
    note: str = ""
    problem: str = ""
    remedy: str = ""
    url: str = ""
    says_nothing: bool = False
    value: Any = None

    @property
    def kind_label(self) -> str:
        """The kind with its article, for a sentence."""
        return {"list": "a list", "object": "an object"}.get(self.kind, self.kind)


def _split(url: str) -> SplitResult | None:
    """Split a URL; None where it is invalid, such as with an unclosed bracket or an invalid port."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def login_in(url: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """The login in the URL itself, or none; never that of ~/.netrc, which belongs to other programs."""
    parts = _split(url)
    if parts is None or parts.username is None:
        return lambda request: request
    return requests.auth.HTTPBasicAuth(unquote(parts.username), unquote(parts.password or ""))


class HttpSession:
    """Reads from one API: within a deadline, without proxies, never following a redirect to another host."""

    def __init__(self, base_url: str, timeout_s: float, ca_file: str = "", public_url: str = "") -> None:
        """Open no connection yet.

        ca_file: the authorities to trust, in PEM, instead of those that `requests` includes. public_url: under which
        the service knows itself, where that is another one: it may refuse any other host, and redirect to this one.
        """
        parts = _split(base_url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ReleaseError(
                "Reading the API failed: its base URL is not of the form http://host:port; correct it and rerun the "
                "playbook."
            )
        # A login in the URL is used, but never shown.
        place = parts.netloc.rpartition("@")[2]
        self.url = parts._replace(netloc=place, query="", fragment="").geturl().rstrip("/")
        self._timeout_s, self._ca_file = timeout_s, ca_file
        self._session = requests.Session()
        self._session.trust_env = False
        if ca_file:
            if not os.access(ca_file, os.R_OK):
                raise ReleaseError(
                    f"Reading the API's authorities from {ca_file} on the target failed: put the file there, readable "
                    "by the deploying user, or correct api_ca_file in the inventory, and rerun the playbook."
                )
            try:
                ssl.create_default_context(cafile=ca_file)
            except (ssl.SSLError, OSError) as error:
                raise ReleaseError(
                    f"Reading the API's authorities from {ca_file} (api_ca_file) failed: it has no certificate in PEM "
                    "form; put the authority's certificate there, and rerun the playbook."
                ) from error
            self._session.verify = ca_file
        self._session.headers.update(
            {
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "Cache-Control": "no-cache",
                "User-Agent": "dbrelease",
            }
        )
        self._session.auth = login_in(base_url)
        self._public = urlsplit(public_url)
        if self._public.hostname:
            host = self._public.netloc.rpartition("@")[2]
            self._session.headers.update({"Host": host, "X-Forwarded-Proto": self._public.scheme})

    def __enter__(self) -> HttpSession:
        """Return the session itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._session.close()

    def get(self, path: str, items: str | None = None) -> Answer:
        """GET a path; return an answer in every case, within the timeout.

        items: the key or JSON pointer of the list in the answer; None where the answer itself is meant.

        The timeouts of `requests` limit the wait for each byte, not for the whole answer or for the name lookup: the
        requesting thread is therefore abandoned when the time is over.
        """
        return self._within(path, items, keep=False)

    def document(self, path: str) -> Answer:
        """GET a path, and keep the whole answer."""
        return self._within(path, None, keep=True)

    def _within(self, path: str, items: str | None, *, keep: bool) -> Answer:
        answers: list[Answer] = []
        begun = time.monotonic()
        worker = threading.Thread(target=lambda: answers.append(self._ask(path, items, keep=keep)), daemon=True)
        worker.start()
        worker.join(self._timeout_s)
        return answers[0] if answers else self._no_answer(path, begun, requests.Timeout())

    def _ask(self, path: str, place: str | None, *, keep: bool) -> Answer:
        begun = time.monotonic()
        try:
            response, note, body = self._follow(f"{self.url}{path}")
        except (OSError, ValueError, requests.RequestException) as error:
            return self._no_answer(path, begun, error)
        duration_ms = _milliseconds_since(begun)
        if cache := cached(response.headers):
            problem = f"was answered by a cache ({cache}), which does not show how the service answers now."
            where = f"{self.url}{path}"
            return Answer(duration_ms, problem=problem, remedy=NOT_CACHED, url=where, says_nothing=True)
        seen = describe(body, response.headers.get("Content-Type", ""), place)
        value = json.loads(body) if keep and seen.kind in ("list", "object") else None
        return replace(
            seen,
            duration_ms=duration_ms,
            status=response.status_code,
            note=note,
            url=f"{self.url}{path}",
            says_nothing=response.status_code == TOO_MANY,
            value=value,
        )

    def _no_answer(self, path: str, begun: float, error: Exception) -> Answer:
        problem, remedy = explain(error, self._timeout_s, self._ca_file)
        return Answer(_milliseconds_since(begun), problem=problem, remedy=remedy, url=f"{self.url}{path}")

    def _follow(self, url: str) -> tuple[requests.Response, str, bytes]:
        """Return the answer after the redirects that keep scheme, host and port."""
        for _ in range(REDIRECTS_AT_MOST):
            with self._session.get(url, timeout=self._timeout_s, allow_redirects=False, stream=True) as response:
                body = _body_of(response)
            if response.status_code not in REDIRECTS or "Location" not in response.headers:
                return response, "", body
            target = urljoin(url, response.headers["Location"])
            if self._public.hostname and urlsplit(target).hostname == self._public.hostname:
                own = urlsplit(self.url)
                target = urlsplit(target)._replace(scheme=own.scheme, netloc=own.netloc).geturl()
            if urlsplit(target)[:2] != urlsplit(self.url)[:2]:
                return response, f", a redirect to {urlsplit(target).hostname}, which is not followed", body
            url = target
        return response, f", after {REDIRECTS_AT_MOST} redirects", body


def cached(headers: Mapping[str, str]) -> str:
    """The header by which a cache says that an answer is an earlier one of the service; empty without such a header."""
    age = headers.get(AGE, "").strip()
    if age.isdigit() and int(age) > 0:
        return f"{AGE}: {age}"
    found = ((name, headers.get(name, "")) for name in CACHE_HEADERS)
    return next((f"{name}: {value[:40]}" for name, value in found if CACHE_STATUS.search(value)), "")


def _body_of(response: requests.Response) -> bytes:
    """Return the body, decompressed within a limit: a library would expand a few bytes without one, repeatedly."""
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


def describe(body: bytes, content_type: str, place: str | None = None) -> Answer:
    """Describe a body: its kind, and the keys of its items; where `place` is given, of the list there."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        kind = f"no JSON ({content_type.split(';')[0].strip() or 'of no declared type'}, {len(body)} bytes)"
        return Answer(0, kind=kind)
    outer: frozenset[str] = frozenset()
    if place is not None:
        outer = frozenset(value) if isinstance(value, dict) else outer
        there = at(value, place)
        if not isinstance(there, list) and place:
            held = "nothing" if there is MISSING else "an object" if isinstance(there, dict) else "no list"
            return Answer(0, kind=f"{held} at `{place}`, where its list should be", outer=outer)
        value = there
    if isinstance(value, list):
        return Answer(0, kind="list", items=keys_of_items(value), outer=outer)
    if isinstance(value, dict):
        return Answer(0, kind="object", items=(frozenset(value),), below=keys_in_lists(value))
    return Answer(0, kind=f"the JSON value {json.dumps(value)[:40]}")


def _why_no_tls(chain: Sequence[BaseException], ca_file: str) -> tuple[str, str]:
    """Describe why no TLS session came about."""
    verification = next((cause for cause in chain if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if verification is None:
        found = next((cause.reason for cause in chain if isinstance(cause, ssl.SSLError) and cause.reason), "")
        reason = f" ({found.lower().replace('_', ' ')})" if found else ""
        return f"failed: no TLS session was agreed on{reason}.", "Check the scheme and the port of the URL."
    if verification.verify_code in OUT_OF_DATE:
        return "failed: its certificate has expired, or is not valid yet.", "Renew it, or correct the target's clock."
    if verification.verify_code in OF_ANOTHER_NAME:
        return "failed: its certificate is for another host name.", "Use a name in the URL that the certificate has."
    if ca_file:
        return (
            f"failed: its certificate is not trusted by the authorities in {ca_file} (api_ca_file).",
            "Put the certificate (PEM) of the authority that signed it in that file, or correct api_ca_file in the "
            "inventory; the system's own list is not used.",
        )
    return "failed: its certificate is not trusted.", NOT_TRUSTED


def explain(error: BaseException, timeout_s: float, ca_file: str = "") -> tuple[str, str]:
    """Describe what happened and what to do; the error's own text is not shown, because it may contain a login.

    ca_file: the authorities that were trusted, instead of those that `requests` includes.
    """
    chain = list(_causes(error))
    if any(isinstance(cause, (requests.Timeout, TimeoutError)) for cause in chain):
        remedy = "Find out what blocks the service (its log, the locks in the database), and rerun the playbook."
        return f"did not answer within {timeout_s:g} s.", remedy
    if any(isinstance(cause, ConnectionRefusedError) for cause in chain):
        return "was refused: nothing listens there.", START_IT
    if any(isinstance(cause, socket.gaierror) for cause in chain):
        return "failed: the host name is unknown.", START_IT
    if any(isinstance(cause, requests.exceptions.SSLError) for cause in chain):
        return _why_no_tls(chain, ca_file)
    if any(isinstance(cause, requests.exceptions.ContentDecodingError) for cause in chain):
        return "returned too large an answer, or one with an invalid encoding.", "Check the log of the service."
    return f"failed: the connection broke off ({type(chain[-1]).__name__}).", START_IT


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all its causes; urllib3 keeps the reason in `reason` or in its arguments."""
    seen: list[BaseException] = [error]
    for cause in seen:
        inner = [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
        seen += [one for one in inner if isinstance(one, BaseException) and one not in seen]
    return iter(seen)


def _milliseconds_since(begun: float) -> float:
    return round((time.monotonic() - begun) * 1000, 1)
