"""Waiting for locks without making others wait: short attempts, bounded retries, and the blockers by name."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import psycopg2
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import RealDictCursor

from ..core.errors import ReleaseError
from .declared_sql import limit_statements
from .session import Connection, Login, Row, connect, select, server_reason, transaction
from .trusted_roles import quoted_text, trusted_roles

# lock_not_available, serialization_failure, deadlock_detected: the same statement may succeed a moment later.
RETRYABLE = ("55P03", "40001", "40P01")
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
POLL_S = 0.05
# What is watched may give up within half a second, so the watch connects before it begins, for as long as this.
READY_S = 2.0
KEPT_QUERY_CHARACTERS = 300

BLOCKERS = """
SELECT DISTINCT blocking.pid, a.usename AS "user",
       coalesce(nullif(a.application_name, ''), a.backend_type) AS application, a.state,
       to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS since, a.query
FROM pg_stat_activity waiting
CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS blocking (pid)
LEFT JOIN pg_stat_activity a ON a.pid = blocking.pid
WHERE waiting.application_name = left(%s, 63) AND waiting.usesysid = ANY (%s::oid[])
  AND waiting.pid <> pg_backend_pid()
  AND waiting.datname = current_database()
ORDER BY 1
"""

_TOKENS = re.compile(
    r"""
    (?P<keep>"(?:[^"]|"")*(?:"|\Z))                      # a quoted identifier says nothing of the data
    | (?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
    | (?P<literal>
        (?<!\w)[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)            # the server cuts long queries: a literal may have no end
        | '(?:[^']|'')*(?:'|\Z)
        | (?P<tag>\$(?:[A-Za-z_]\w*)?\$).*?(?:(?P=tag)|\Z)
        | (?<![\w$])\d+(?:\.\d+)?(?:[eE][+-]?\d+)?
      )
    """,
    re.VERBOSE | re.DOTALL,
)

Value = TypeVar("Value")


class ContendedError(Exception):
    """One attempt met a lock that it may not wait for, or a conflict; its text is the reason."""


@dataclass(frozen=True)
class LockLimits:
    """How long one attempt may wait, how many there may be, and when the last may begin."""

    timeout_ms: int = 500
    attempts: int = 10
    deadline_seconds: float = 120

    @classmethod
    def of(cls, lock: Mapping[str, Any] | None) -> LockLimits:
        """From a release's `lock`; what it leaves out keeps its default."""
        return cls(**{key: value for key, value in (lock or {}).items() if value is not None})


@dataclass
class LockWatch:
    """What stood in the way: each blocking session once."""

    seen: list[Row] = field(default_factory=list)

    def note(self, found: list[Row]) -> None:
        """Keep the blockers that were not met before."""
        known = {(row["pid"], row["since"]) for row in self.seen}
        self.seen.extend(row for row in found if (row["pid"], row["since"]) not in known)


@dataclass(frozen=True)
class Retried(Generic[Value]):
    """What the attempt that succeeded returned, and how many it took."""

    value: Value
    attempts: int


def mask_literals(sql: str) -> str:
    """The statement on one line with every literal as `?` and no comment, so that no one's data reaches a log."""

    def replace(match: re.Match[str]) -> str:
        if match["keep"]:
            return match["keep"]
        return " " if match["comment"] else "?"

    return " ".join(_TOKENS.sub(replace, sql).split())[:KEPT_QUERY_CHARACTERS]


def blockers(cursor: Cursor, application_name: str, trusted: Sequence[int]) -> list[Row]:
    """The sessions that sessions of this name wait for: pid, user, application, state, since, query with `?`.

    trusted: the roles whose sessions have the name rightly. Pid 0 is a prepared transaction. The cursor returns dicts.
    """
    return [
        {
            **row,
            "application": row["application"] or ("prepared transaction" if row["pid"] == 0 else "ended meanwhile"),
            "query": mask_literals(row["query"] or ""),
        }
        for row in select(cursor, BLOCKERS, (application_name, list(trusted)))
    ]


@contextmanager
def watch_blockers(
    login: Login, application_name: str, also: Callable[[Cursor, list[Row]], None] | None = None
) -> Iterator[LockWatch]:
    """Look every 50 ms, from a session of its own, for whom sessions of this name wait; `.seen` holds the answer.

    also: called at each look, with those that are in the way just then.
    It only informs: where it cannot look, it stays empty.
    """
    watch = LockWatch()
    ready, ended = threading.Event(), threading.Event()
    trusted: list[int] = []

    def look(cursor: Cursor) -> None:
        nonlocal trusted
        trusted = trusted or trusted_roles(cursor, login.database)
        found = blockers(cursor, application_name, trusted)
        watch.note(found)
        if also:
            also(cursor, found)

    thread = threading.Thread(target=_poll, args=(login, look, ready, ended), daemon=True)
    thread.start()
    ready.wait(READY_S)
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


def _poll(login: Login, look: Callable[[Cursor], None], ready: threading.Event, ended: threading.Event) -> None:
    try:
        connection = connect(login, "dbrelease lock watch", read_only=True)
    except ReleaseError:
        ready.set()
        return
    try:
        with connection.cursor(cursor_factory=RealDictCursor) as cursor:
            cursor.execute("SET statement_timeout = '5s'")
            look(cursor)
            ready.set()
            while not ended.wait(POLL_S):
                look(cursor)
            # Of what happened after the last look, too.
            look(cursor)
    except psycopg2.Error:
        return
    finally:
        ready.set()
        connection.close()


def retrying(
    attempt: Callable[[], Value],
    limits: LockLimits,
    *,
    what: str,
    watch: LockWatch,
    pause: Callable[[float], None] = time.sleep,
) -> Retried[Value]:
    """Call `attempt` until it returns: again only after a ContendedError, after a growing pause.

    Other errors pass through. `attempt` must hold nothing open when it raises: the pause is slept outside any
    transaction. Raises ReleaseError, naming the blockers, once the attempts or the deadline are used up.
    """
    begun = time.monotonic()
    for number in range(1, limits.attempts + 1):
        try:
            return Retried(attempt(), number)
        except ContendedError as error:
            next_pause = pause_before(number + 1)
            elapsed = time.monotonic() - begun
            if number == limits.attempts or elapsed + next_pause > limits.deadline_seconds:
                raise ReleaseError(
                    f"{what} gave up after {number} attempt{'s' if number > 1 else ''} in {elapsed:.1f} s ({error}): "
                    f"{describe(watch.seen)}; let them end, or end them, and run again.",
                    lock_waits=watch.seen,
                    attempts=number,
                ) from error
            pause(next_pause)
    raise ReleaseError(f"{what} was given no attempt: set lock.attempts to 1 or more.")


def pause_before(attempt: int) -> float:
    """Seconds before the second, third, ... attempt: doubled each time, with jitter so that two never march in step."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (attempt - 2))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads attempts, guards nothing


def describe(seen: list[Row]) -> str:
    """The blockers in words, for one sentence."""
    if not seen:
        return "other sessions held the locks only briefly and were not seen"
    return "it was blocked by " + " and ".join(map(session_in_words, seen))


def session_in_words(row: Row) -> str:
    """One session of a server; its query must be masked."""
    return (
        f"pid {row['pid']} (user {quoted_text(row['user'])}, application {quoted_text(row['application'])}, "
        f"{row['state']}, since {row['since']}, last query: "
        f"{quoted_text(row['query'], KEPT_QUERY_CHARACTERS)})"
    )


DEPENDENT_OBJECTS = "2BP01"


@dataclass(frozen=True)
class PatientSession:
    """Short transactions on one connection; `watch` sees who stands in the way of it."""

    connection: Connection
    limits: LockLimits
    watch: LockWatch

    def read(self, what: str, look: Callable[[Cursor], Value]) -> Value:
        """One read-only transaction of one instant."""

        def attempt() -> Value:
            with transaction(self.connection, read_only=True, isolation="REPEATABLE READ") as cursor:
                limit_statements(cursor, 0, lock_timeout=self.limits.timeout_ms)
                return look(cursor)

        return self._retried(what, attempt)

    def write(self, what: str, act: Callable[[Cursor], None], *, locks: int = 1) -> None:
        """One transaction. Everyone waits as long as it does: the time is shared out over the locks that it needs."""

        def attempt() -> None:
            with transaction(self.connection) as cursor:
                limit_statements(cursor, 0, lock_timeout=max(10, self.limits.timeout_ms // locks))
                act(cursor)

        self._retried(what, attempt)

    def _retried(self, what: str, attempt: Callable[[], Value]) -> Value:
        def once() -> Value:
            try:
                return attempt()
            except psycopg2.Error as error:
                raise _in_words(what, error) from error

        return retrying(once, self.limits, what=what, watch=self.watch).value


def _in_words(what: str, error: psycopg2.Error) -> Exception:
    reason = server_reason(error)
    if error.pgcode in RETRYABLE:
        return ContendedError(reason)
    if error.pgcode == DEPENDENT_OBJECTS:
        named = " ".join((error.diag.message_detail or reason).split())
        return ReleaseError(f"{what} was refused by the server ({named}): end what depends on it first.", refused=True)
    return ReleaseError(
        f"{what} failed ({reason}), and nothing of it was kept: correct it and run again.", sqlstate=error.pgcode
    )
