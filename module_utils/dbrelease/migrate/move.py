"""Migrate the database by one engine: within time limits, with short lock waits; save its output, read it back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..core.journal import Run, Step, utc_now
from ..core.progress import progress_of
from ..core.proof import Proof
from ..observe.live import LiveObserver
from ..observe.observation import Observation
from ..postgres.commit_wait import REMEDY
from ..postgres.fingerprints import position, write_counters
from ..postgres.invalid_indexes import invalid_words, left_invalid, removal
from ..postgres.lock_retry import ContendedError, LockLimits, LockWatch, retrying, watch_blockers
from ..postgres.progress_meters import ChangeMeter
from ..postgres.revision import asking, revisions_or_none
from ..postgres.session import Login, Row, select
from ..postgres.terminate import end_sessions, sessions_left
from ..postgres.writers import WriterWatch
from .log import MigrationLog
from .outcome import Move, Outcome, judge
from .over_budget import OverBudget

BLOCKERS_PROOF = "migrate.blockers"
# A server restarts all its processes when one was killed, and accepts connections once it has recovered.
RECOVERY_S = 15.0
# What remains of the time limit must suffice to begin an attempt.
SHORTEST_S = 0.5
# A busy session reports its writes once a second.
LATE_S = 1.2
# Writes of others after a position count as made during the move: an old position would hide who wrote.
OLDEST_S = 3.0
# In an older server the statistics collector publishes reports half a second later.
TELLS_AT_ONCE = 150000
# An unprivileged role does not see the kind of other roles' sessions.
OTHERS = """
SELECT count(*) AS sessions FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@dataclass(frozen=True)
class Task:
    """One migration: the move, its database, its limits, and where its output goes."""

    move: Move
    login: Login
    table: str
    limits: LockLimits
    timeout_s: int
    run: Run
    log: MigrationLog
    settings: Mapping[str, str]
    observed: Sequence[str] | None = None  # tables of a live upgrade, which is then observed
    write_wait_ms: float | None = None  # it is stopped where others wait longer for it

    @property
    def name(self) -> str:
        """The application_name of the sessions of the move, by which they are watched and terminated."""
        return session_name(self.move.direction, self.run)


def session_name(direction: str, run: Run) -> str:
    """The application_name of the sessions of a run's move in this direction."""
    return f"dbrelease-{direction}-{run.run_id}"[:63]


class Engine(Protocol):
    """What migrates: Alembic's program, or a session of this process with a SQL file."""

    def start(self) -> list[str]:
        """Let it write what it writes before any migration, and name the objects that appeared."""

    def look(self, cursor: Cursor, blocked_by: list[Row]) -> None:
        """Observe its sessions while it runs."""

    def attempt(self, header: str, remaining_s: float, watch: LockWatch) -> None:
        """Migrate once; raises ContendedError for a lock, and ReleaseError where another attempt is pointless."""

    def end(self) -> None:
        """Stop what an unsuccessful attempt left running, apart from its sessions."""

    def outcome(self, cause: str) -> Outcome:
        """How the last attempt ended, without the revisions and the time."""

    def proofs(self) -> list[Proof]:
        """What else it observed."""


@dataclass(frozen=True)
class Moved:
    """What the migration did, for the result and the journal."""

    proofs: list[Proof]
    revisions: list[str] | None
    started_at: str
    duration_ms: int
    attempts: int
    lock_waits: list[Row]
    before: Row
    after: Row | None
    ended_sessions: list[Row]  # what the release allows to do to sessions that blocked
    writers: Row  # whose transactions those of that time were, from WriterWatch.facts()
    made_when_started: list[str]  # before the migration, as pg_dump names it
    observation: Observation | None
    longest_wait: Row | None  # of a session of others, for it


def migrate(task: Task, engine: Engine, first: Position | None = None, *, step: Step | None = None) -> Moved:
    """Run the migration until its end is known; the proofs report what happened.

    first: a position read early. step: of the journal, which gets the series of its progress.
    """
    login, move = task.login, task.move
    made = engine.start()
    before = read_counters_before(login, first)
    begun, started_at = time.monotonic(), utc_now().isoformat(timespec="milliseconds")
    watch, cause, attempts = LockWatch(), "", 0
    writers = WriterWatch(task.name, login.database, task.table)
    observer = LiveObserver(login, task.name, task.observed or ())
    budget = OverBudget(
        login, task.name, task.table, move.from_revision, before["since"], task.write_wait_ms, writers.observed
    )

    def look(cursor: Cursor, blocked_by: list[Row]) -> None:
        if task.observed is not None:
            observer.look(cursor)
            budget.look(cursor)
        writers.look(cursor)
        engine.look(cursor, blocked_by)

    def attempt() -> None:
        nonlocal attempts
        remaining_s = begun + task.timeout_s - time.monotonic()
        if remaining_s < SHORTEST_S:
            raise ReleaseError(f"{move.title} was stopped (its {task.timeout_s} s are used up)")
        attempts += 1
        budget.begin()
        try:
            engine.attempt(f"{utc_now().isoformat(timespec='seconds')} attempt {attempts}: ", remaining_s, watch)
        except ContendedError as error:
            if budget.stopped:
                return  # which says why it ended
            # It may have committed before it met the lock: it is tried again only where the revision is unchanged.
            if revisions_or_none(login, task.table) != [move.from_revision]:
                if engine.outcome("").status is None:
                    raise ReleaseError(f"{move.title} failed ({error})") from error
                return  # how the program ended says more
            end_sessions(login, task.name)
            raise

    try:
        with (
            progress_of(task.run, move.direction, ChangeMeter(login, task.name), step),
            watch_blockers(login, task.name, look, task.limits) as watch,
        ):
            retrying(attempt, task.limits, what=move.title, watch=watch)
    except ReleaseError as error:
        cause = error.message
    duration_ms = round((time.monotonic() - begun) * 1000)
    ended, unknown = engine.outcome(cause), False
    if ended.status != 0 and budget.stopped:
        cause = f"{move.title} was stopped ({budget.cause()})"
    if watch.commits.reason:
        cause = f"{move.title} stopped: {watch.commits.reason}"
    ended = replace(ended, cause=cause)
    if cause or ended.status != 0:
        engine.end()
        end_sessions(login, task.name)
        unknown = sessions_left(login, task.name)
    revisions = None if unknown else revisions_or_none(login, task.table, RECOVERY_S)
    outcome = replace(ended, revisions=revisions, duration_ms=duration_ms)
    judged = judge(move, outcome)
    if watch.commits.reason:
        judged = replace(judged, remedy=REMEDY)
    proofs = [with_invalid_indexes(judged, login), *engine.proofs(), task.log.close()]
    proofs += watch.acts.proofs(BLOCKERS_PROOF)
    after = read_counters(login) if revisions is not None else None
    return Moved(
        proofs,
        revisions,
        started_at,
        duration_ms,
        attempts,
        lock_waits=list(watch.seen),
        before=before,
        after=after,
        ended_sessions=list(watch.acts.rows),
        writers=writers.facts(),
        made_when_started=made,
        observation=observer.observation(),
        longest_wait=budget.longest(),
    )


def with_invalid_indexes(proof: Proof, login: Login) -> Proof:
    """Return the proof; that of a failure names the invalid indexes that a rerun could not create again."""
    left = left_invalid(login) if proof.status == "fail" else []
    if not left:
        return proof
    return replace(proof, detail=f"{proof.detail} {invalid_words(left)}", remedy=f"{proof.remedy} {removal(left)}")


def read_counters(login: Login) -> Row:
    """Read the write counters of the database, in a session of its own."""
    with asking(login, "dbrelease counters") as cursor:
        if cursor.connection.server_version < TELLS_AT_ONCE:
            time.sleep(LATE_S)
        return write_counters(cursor)


@dataclass(frozen=True)
class Position:
    """The server's transaction position at a moment of this process; late: sessions may report earlier writes later."""

    row: Row
    moment: float
    late: bool


def read_position(login: Login) -> Position:
    """Read the current position; read early, the wait before a move passes during other work."""
    with asking(login, "dbrelease counters") as cursor:
        row = position(cursor)
        others = select(cursor, OTHERS)[0]["sessions"]
        return Position(row, time.monotonic(), others > 0 or cursor.connection.server_version < TELLS_AT_ONCE)


def read_counters_before(login: Login, first: Position | None = None) -> Row:
    """Read the counters before a move; `since` and `running` are of an earlier moment, whose writes are counted by now.

    So each write that the counters add from now on is of a transaction since that moment.
    first: that moment, if it was already read; one that is too old is read again.
    """
    if first is None or time.monotonic() - first.moment > OLDEST_S:
        first = read_position(login)
    if first.late:
        time.sleep(max(0.0, first.moment + LATE_S - time.monotonic()))
    with asking(login, "dbrelease counters") as cursor:
        return {**write_counters(cursor), "since": first.row["xid"], "running": first.row["running"]}
