"""Waiting for locks without making others wait: short attempts, bounded retries, and the blockers by name."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Generic, TypeVar

import psycopg2
import psycopg2.errors
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import RealDictCursor

from ..core.errors import ReleaseError
from .blocker_policy import IS_AUTOVACUUM, SIGNALS, Acts, BlockerPolicy
from .commit_wait import REMEDY, CommitWatch
from .declared_sql import limit_statements
from .session import Connection, Login, Row, connect, select, server_reason, transaction
from .trusted_roles import quoted_text, trusted_roles

# lock_not_available, serialization_failure, deadlock_detected: the same statement may succeed a moment later.
RETRYABLE = ("55P03", "40001", "40P01")
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
POLL_S = 0.05
# The watched statement may stop within half a second, so the watch connects before it begins, for at most this time.
READY_S = 2.0
KEPT_QUERY_CHARACTERS = 300
NAMED_AT_MOST = 5

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

# The server cancels an ordinary autovacuum for a session that has waited for its lock for deadlock_timeout, and for
# none that stops sooner. The watch does the same at once, where that is declared and its role may: writers wait behind
# that session. Else the next attempt waits for the server, unless its deadlock_timeout is longer than this.
LONGEST_DEADLOCK_TIMEOUT_MS = 2_000
MARGIN_MS = 500
# Before this version a server does not report since when a session waits, so that no wait could be ended in time.
SAYS_SINCE_WHEN = 140000
WRAPAROUND = "(to prevent wraparound)"
DEADLOCK_TIMEOUT = "SELECT setting::int AS ms FROM pg_settings WHERE name = 'deadlock_timeout'"
AT_WORK = f"""
SELECT EXISTS (SELECT FROM pg_stat_activity a
               WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND {IS_AUTOVACUUM}) AS found
"""
YIELDING = f"""
SELECT coalesce(bool_and(coalesce({IS_AUTOVACUUM}, false)), false) AS found
FROM unnest(%s::int[]) AS blocking (pid) LEFT JOIN pg_stat_activity a ON a.pid = blocking.pid
"""
OVERDUE = """
SELECT waiting.pid FROM pg_stat_activity waiting
JOIN pg_locks l ON l.pid = waiting.pid AND NOT l.granted
WHERE waiting.application_name = left(%s, 63) AND waiting.usesysid = ANY (%s::oid[])
  AND waiting.pid <> pg_backend_pid() AND waiting.datname = current_database() AND l.locktype <> 'virtualxid'
  AND l.waitstart < clock_timestamp() - %s * interval '1 millisecond'
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
    """How long one attempt may wait, how many there may be, when the last may begin, and what blockers are met with."""

    timeout_ms: int = 500
    attempts: int = 10
    deadline_seconds: float = 120
    blockers: BlockerPolicy = field(default_factory=BlockerPolicy)

    @classmethod
    def of(cls, lock: Mapping[str, Any] | None) -> LockLimits:
        """From a release's `lock`; an omitted value keeps its default."""
        given = {key: value for key, value in (lock or {}).items() if value is not None}
        return cls(**{**given, "blockers": BlockerPolicy.of(given.get("blockers"))})

    @property
    def only_reading(self) -> LockLimits:
        """The same limits, where nothing may be done to another session."""
        return replace(self, blockers=BlockerPolicy())


@dataclass
class LockWatch:
    """The sessions that blocked: each once.

    may_cancel: an autovacuum that blocks is cancelled at once. patient: where it is not, an autovacuum blocks, or did,
    so that the next attempt may wait until the server cancels it; any other session is then waited for no longer than
    usual. yielding: nothing else blocks this attempt. cancelled: this attempt waited for another session for too long,
    and was cancelled. acts: what was done to sessions that blocked. commits: whether one waited for a lost standby.
    """

    seen: list[Row] = field(default_factory=list)
    acts: Acts = field(default_factory=lambda: Acts(BlockerPolicy()))
    deadlock_timeout_ms: int = 0
    may_cancel: bool = False
    patient: bool = False
    yielding: bool = False
    cancelled: bool = False
    commits: CommitWatch = field(default_factory=CommitWatch)

    def begin(self) -> None:
        """An attempt begins."""
        self.yielding = self.cancelled = False

    def gave_up(self) -> None:
        """It met a lock that it may not wait for."""
        self.patient = self.yielding and not self.may_cancel

    def timeout_ms(self, limits: LockLimits) -> int:
        """How long this attempt may wait for a lock."""
        if not self.patient or not 0 < self.deadlock_timeout_ms <= LONGEST_DEADLOCK_TIMEOUT_MS:
            return limits.timeout_ms
        return max(limits.timeout_ms, self.deadlock_timeout_ms + MARGIN_MS)

    def note(self, found: list[Row]) -> None:
        """Add the blockers that were not observed before."""
        known = {(row["pid"], row["since"]) for row in self.seen}
        self.seen.extend(row for row in found if (row["pid"], row["since"]) not in known)


@dataclass(frozen=True)
class Retried(Generic[Value]):
    """What the attempt that succeeded returned, and how many it took."""

    value: Value
    attempts: int


def mask_literals(sql: str) -> str:
    """The statement on one line with every literal as `?` and no comment, so that no data reaches a log."""

    def replace(match: re.Match[str]) -> str:
        if match["keep"]:
            return match["keep"]
        return " " if match["comment"] else "?"

    return " ".join(_TOKENS.sub(replace, sql).split())[:KEPT_QUERY_CHARACTERS]


def blockers(cursor: Cursor, application_name: str, trusted: Sequence[int]) -> list[Row]:
    """The sessions that sessions of this name wait for: pid, user, application, state, since, query with `?`.

    trusted: the roles that may use the name. Pid 0 is a prepared transaction. The cursor returns dicts.
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
    login: Login,
    application_name: str,
    also: Callable[[Cursor, list[Row]], None] | None = None,
    limits: LockLimits | None = None,
) -> Iterator[LockWatch]:
    """Check every 50 ms, from a separate session, which sessions block those of this name; `.seen` has the result.

    also: called at each check, with the present blockers.
    limits: of attempts that take their `timeout_ms` from the watch, and may be patient. What they declare is done to
    the sessions that block.
    Where it cannot check, it stays empty, does nothing, and no attempt is patient.
    """
    watch = LockWatch(acts=Acts(limits.blockers if limits else BlockerPolicy()))
    ready, ended = threading.Event(), threading.Event()
    trusted: list[int] = []

    def look(cursor: Cursor) -> None:
        nonlocal trusted
        trusted = trusted or trusted_roles(cursor, login.database)
        found = blockers(cursor, application_name, trusted)
        watch.note(found)
        watch.commits.look(cursor, application_name, trusted)
        if also:
            also(cursor, found)
        if found and limits:
            watch.acts.act(cursor, found, application_name, trusted, may_cancel=watch.may_cancel)
            watch.yielding = select(cursor, YIELDING, ([row["pid"] for row in found],))[0]["found"]
            if watch.patient and not watch.yielding:
                overdue = [
                    row["pid"] for row in select(cursor, OVERDUE, (application_name, trusted, limits.timeout_ms))
                ]
                before, watch.cancelled = watch.cancelled, watch.cancelled or bool(overdue)  # the attempt ends at once
                try:
                    cursor.execute("SELECT pg_cancel_backend(pid) FROM unnest(%s::int[]) AS overdue (pid)", (overdue,))
                except psycopg2.errors.InsufficientPrivilege:
                    watch.cancelled = before  # another role's session, which its own lock_timeout ends

    def begin(cursor: Cursor) -> None:
        if limits and limits.blockers.cancel_autovacuum:
            may = select(cursor, SIGNALS)[0]
            watch.may_cancel = may["superuser"] or may["vacuums"]
        if limits and cursor.connection.server_version >= SAYS_SINCE_WHEN:
            watch.deadlock_timeout_ms = select(cursor, DEADLOCK_TIMEOUT)[0]["ms"]
            watch.patient = not watch.may_cancel and select(cursor, AT_WORK)[0]["found"]

    poll = (login, begin, look, watch.acts.confirm, ready, ended)
    thread = threading.Thread(target=_poll, args=poll, daemon=True)
    thread.start()
    ready.wait(READY_S)
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


def _poll(
    login: Login,
    begin: Callable[[Cursor], None],
    look: Callable[[Cursor], None],
    confirm: Callable[[Cursor], bool],
    ready: threading.Event,
    ended: threading.Event,
) -> None:
    try:
        connection = connect(login, "dbrelease lock watch", read_only=True)
    except ReleaseError:
        ready.set()
        return
    try:
        with connection.cursor(cursor_factory=RealDictCursor) as cursor:
            cursor.execute("SET statement_timeout = '5s'")
            begin(cursor)
            look(cursor)
            ready.set()
            while not ended.wait(POLL_S):
                # On a busy server one look may take too long; the next one may not.
                with suppress(psycopg2.errors.QueryCanceled):
                    look(cursor)
            # What happened after the last check counts, too.
            look(cursor)
            deadline = time.monotonic() + READY_S
            while not confirm(cursor) and time.monotonic() < deadline:
                time.sleep(POLL_S)
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

    Other errors pass through. `attempt` must leave nothing open when it raises: the pause is outside any transaction.
    Raises ReleaseError, naming the blockers, once the attempts or the deadline are used up.
    """
    begun = time.monotonic()
    waits = limits.blockers.wait and limits.attempts > 0
    for number in count(1) if waits else range(1, limits.attempts + 1):
        watch.begin()
        try:
            return Retried(attempt(), number)
        except (ContendedError, ReleaseError) as error:
            if watch.commits.reason:
                raise ReleaseError(f"{what} stopped: {watch.commits.reason}. {REMEDY}") from error
            if isinstance(error, ReleaseError) and not watch.cancelled:
                raise
            watch.gave_up()
            next_pause = pause_before(number + 1)
            elapsed = time.monotonic() - begun
            if (number == limits.attempts and not waits) or elapsed + next_pause > limits.deadline_seconds:
                raise ReleaseError(
                    f"{what} stopped after {number} attempt{'s' if number > 1 else ''} in {elapsed:.1f} s ({error}): "
                    f"{describe(watch.seen)}; {_advice(watch.seen)}, and rerun the playbook.{_denied(watch)}",
                    lock_waits=watch.seen,
                    ended_sessions=watch.acts.rows,
                    attempts=number,
                ) from error
            pause(next_pause)
    raise ReleaseError(f"{what} was not attempted: set lock.attempts to 1 or more.")


def _denied(watch: LockWatch) -> str:
    if not watch.acts.denied:
        return ""
    pids = ", ".join(map(str, sorted(watch.acts.denied)))
    return f" The release allows to terminate pid {pids}, but db_user may not: grant it pg_signal_backend."


def _advice(seen: Sequence[Row]) -> str:
    if any(row["user"] is None and str(row["query"]).endswith(WRAPAROUND) for row in seen):
        return "wait for the vacuum that prevents wraparound, which the server never cancels for another session"
    if seen and all(row["pid"] == 0 for row in seen):
        return "commit or roll back that transaction (COMMIT PREPARED, ROLLBACK PREPARED)"
    return "wait for them, or terminate them (pg_terminate_backend)"


def pause_before(attempt: int) -> float:
    """Seconds before the second, third, ... attempt: doubled each time, with jitter so that two never march in step."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (attempt - 2))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads attempts, guards nothing


def describe(seen: list[Row]) -> str:
    """The blockers in words, for one sentence."""
    if not seen:
        return "other sessions held the locks only briefly and were not observed"
    # A session that blocked in one transaction after another is named once, with its last one.
    last = list({row["pid"]: row for row in seen}.values())
    more = [f"{len(last) - NAMED_AT_MOST} more"] if len(last) > NAMED_AT_MOST else []
    return "it was blocked by " + " and ".join([*map(session_in_words, last[:NAMED_AT_MOST]), *more])


def session_in_words(row: Row) -> str:
    """One session of a server; its query must be masked. What is not known of it is left out."""
    if row["pid"] == 0:
        return "a prepared transaction (pg_prepared_xacts lists them)"
    known = [
        *([f"user {quoted_text(row['user'])}"] if row["user"] else []),
        f"application {quoted_text(row['application'])}",
        *([str(row["state"])] if row["state"] else []),
        *([f"since {row['since']}"] if row["since"] else []),
        *([f"last query: {quoted_text(row['query'], KEPT_QUERY_CHARACTERS)}"] if row["query"] else []),
    ]
    return f"pid {row['pid']} ({', '.join(known)})"


DEPENDENT_OBJECTS = "2BP01"


@dataclass(frozen=True)
class PatientSession:
    """Short transactions on one connection; `watch` observes which sessions block it."""

    connection: Connection
    limits: LockLimits
    watch: LockWatch

    def read(self, what: str, look: Callable[[Cursor], Value]) -> Value:
        """One read-only transaction of one instant."""

        def attempt() -> Value:
            with transaction(self.connection, read_only=True, isolation="REPEATABLE READ") as cursor:
                limit_statements(cursor, 0, lock_timeout=self.watch.timeout_ms(self.limits))
                return look(cursor)

        return self._retried(what, attempt)

    def write(self, what: str, act: Callable[[Cursor], None], *, locks: int = 1) -> None:
        """One transaction. Everyone waits as long as it does: the time is shared out over the locks that it needs."""

        def attempt() -> None:
            with transaction(self.connection) as cursor:
                waits = self.watch.timeout_ms(self.limits)
                shared = waits if waits > self.limits.timeout_ms else max(10, waits // locks)
                limit_statements(cursor, 0, lock_timeout=shared)
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
        return ReleaseError(
            f"{what} was refused by the server ({named}): remove what depends on it first.", refused=True
        )
    if error.pgcode is None:
        # The connection was lost, perhaps after the server had received the COMMIT.
        return ReleaseError(
            f"{what} failed ({reason}), and it is unknown whether it was committed: check that the server is running, "
            "and rerun the playbook."
        )
    return ReleaseError(
        f"{what} failed ({reason}), and all of it was rolled back: correct the cause, and rerun the playbook.",
        sqlstate=error.pgcode,
    )
