"""Migrate the database by Alembic: within time limits, with short lock waits; save its output, read the result back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..core.journal import Run, utc_now
from ..core.proof import Proof
from ..host.commands import Commands, Finished, missing_program
from ..host.orphan_programs import end_programs
from ..postgres.fingerprints import position, write_counters
from ..postgres.invalid_indexes import invalid_words, left_invalid, removal
from ..postgres.lock_retry import ContendedError, LockLimits, LockWatch, retrying, watch_blockers
from ..postgres.revision import _asking, revisions_or_none
from ..postgres.session import LOST_CLIENT_OPTIONS, NO_WORKERS, TIMEOUTS, TRANSACTIONS, Login, Row, select
from ..postgres.terminate import end_sessions
from ..postgres.writers import WriterWatch
from .alembic import libpq_options
from .env_py import let_it_write
from .limits import Reach
from .log import MigrationLog
from .outcome import Move, Outcome, judge, lock_timeout

# One stream in the order of writing, with the command's own exit status.
MERGED = ("sh", "-c", 'exec "$@" 2>&1', "sh")
# A server restarts all its processes when one was killed, and accepts connections once it has recovered.
RECOVERY_S = 15.0
POLL_S = 0.5
# A busy session reports its writes once a second.
LATE_S = 1.2
# Writes of others after a position count as made during the move: an old position would hide who wrote.
OLDEST_S = 3.0
# In an older server the statistics collector publishes reports half a second later.
TELLS_AT_ONCE = 150000
# The cause of an attempt that was allowed to wait for an autovacuum and met another session's lock.
OVERDUE = "it waited for another session's lock until its limit"
# An unprivileged role does not see the kind of other roles' sessions.
OTHERS = """
SELECT count(*) AS sessions FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


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
    writers: Row  # whose transactions those of that time were, from WriterWatch.facts()
    made_when_started: list[str] = field(default_factory=list)  # before the migration, as pg_dump names it


@dataclass
class Alembic:
    """Where Alembic runs, and the database that it migrates."""

    login: Login
    commands: Commands
    command: Sequence[str]
    table: str
    limits: LockLimits
    timeout_s: int
    run: Run
    log: MigrationLog
    settings: Mapping[str, str] = field(default_factory=dict)
    position: Position | None = None
    starting_writes: bool = False  # env.py writes whenever Alembic is started
    _last: Finished | None = field(default=None, init=False)
    _output: str = field(default="", init=False)
    _attempts: int = field(default=0, init=False)

    def move(self, move: Move) -> Moved:
        """Run the migration until its end is known; the proofs report what happened."""
        name = application_name(move, self.run)
        own = {**TRANSACTIONS, **NO_WORKERS, **unlimited(self.login), **self.settings}
        made = self._made_when_started(name, own) if self.starting_writes else []
        before = read_counters_before(self.login, self.position)
        begun, started_at = time.monotonic(), utc_now().isoformat(timespec="milliseconds")
        watch, reach, cause = LockWatch(), Reach(name, self.table, self.limits), ""
        writers = WriterWatch(name, self.login.database, self.table)

        def look(cursor: Cursor, blocked_by: list[Row]) -> None:
            writers.look(cursor)
            reach.look(cursor, blocked_by)

        try:
            with watch_blockers(self.login, name, look, self.limits) as watch:
                retrying(
                    lambda: self._attempt(move, name, own, begun + self.timeout_s, watch, reach),
                    self.limits,
                    what=f"Alembic's {move.label}",
                    watch=watch,
                )
        except ReleaseError as error:
            cause = error.message
        duration_ms = round((time.monotonic() - begun) * 1000)
        if cause or self._last is None or self._last.status != 0:
            with suppress(ReleaseError):
                # A program whose end was not observed may still be about to connect.
                end_programs(self.commands, [self.run.run_id])
            end_sessions(self.login, name)
        outcome = self._outcome(cause, duration_ms)
        judged = with_invalid_indexes(judge(move, outcome), self.login)
        proofs = [judged, *reach.proofs(), self.log.close()]
        after = read_counters(self.login) if outcome.revisions is not None else None
        return Moved(
            proofs,
            outcome.revisions,
            started_at,
            duration_ms,
            self._attempts,
            list(watch.seen),
            before,
            after,
            writers.facts(),
            made,
        )

    def _made_when_started(self, name: str, settings: Mapping[str, str]) -> list[str]:
        environment = session_environment(self.commands, name, self.limits, settings)
        return let_it_write(self.login, self.commands, self.command, environment)

    def _attempt(
        self, move: Move, name: str, settings: Mapping[str, str], deadline: float, watch: LockWatch, reach: Reach
    ) -> None:
        remaining = round(deadline - time.monotonic())
        if remaining < 1:
            raise ReleaseError(f"Alembic's {move.label} was stopped (its {self.timeout_s} s are used up)")
        self._attempts += 1
        self._last = None
        argv = [*self.command, move.direction, move.revision]
        now = utc_now().isoformat(timespec="seconds")
        waits = replace(self.limits, timeout_ms=watch.timeout_ms(self.limits))
        environment = session_environment(self.commands, name, waits, settings)
        self.log.begin(f"{now} attempt {self._attempts}: {' '.join(argv)} in {self.commands.place}")
        footer = "its end was not observed"
        try:
            finished = self.commands.run(
                [*MERGED, *argv], timeout_s=remaining, environment=environment, on_stdout=self.log.feed
            )
            footer = f"exit status {finished.status} after {finished.duration_ms} ms"
            self._last = finished
        finally:
            self._output = self.log.end(footer)
        if missing_program(finished):
            raise ReleaseError(f"Running {self.command[0]} in {self.commands.place} failed (it was not found)")
        if finished.status != 0 and (cause := reach.given_up(watch.seen)):
            raise ReleaseError(f"Alembic's {move.label} was stopped ({cause})")
        contended = lock_timeout(self._output) if finished.status != 0 else ""
        if finished.status != 0 and watch.cancelled:
            contended = contended or OVERDUE
        # A migration may have committed before it met the lock: it is tried again only where the revision is unchanged.
        if contended and revisions_or_none(self.login, self.table) == [move.from_revision]:
            end_sessions(self.login, name)
            raise ContendedError(contended)

    def _outcome(self, cause: str, duration_ms: int) -> Outcome:
        last = self._last
        return Outcome(
            status=last.status if last else None,
            output=self._output,
            revisions=revisions_or_none(self.login, self.table, RECOVERY_S),
            timed_out=last is not None and last.timed_out,
            cause=cause,
            duration_ms=duration_ms,
        )


def with_invalid_indexes(proof: Proof, login: Login) -> Proof:
    """Return the proof; that of a failure names the invalid indexes that a rerun could not create again."""
    left = left_invalid(login) if proof.status == "fail" else []
    if not left:
        return proof
    return replace(proof, detail=f"{proof.detail} {invalid_words(left)}", remedy=f"{proof.remedy} {removal(left)}")


def read_counters(login: Login) -> Row:
    """Read the write counters of the database, in a session of its own."""
    with _asking(login, "dbrelease counters") as cursor:
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
    with _asking(login, "dbrelease counters") as cursor:
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
    with _asking(login, "dbrelease counters") as cursor:
        return {**write_counters(cursor), "since": first.row["xid"], "running": first.row["running"]}


def unlimited(login: Login) -> dict[str, str]:
    """Settings without timeouts, only those that the server knows: it refuses a session with an unknown setting."""
    with _asking(login, "dbrelease timeouts") as cursor:
        found = select(cursor, "SELECT name FROM pg_settings WHERE name = ANY (%s) ORDER BY 1", (list(TIMEOUTS),))
    return {row["name"]: "0" for row in found}


def application_name(move: Move, run: Run) -> str:
    """The application_name of the sessions of one move, by which they are watched and terminated."""
    return f"dbrelease-{move.direction}-{run.run_id}"[:63]


def session_environment(
    commands: Commands, name: str, limits: LockLimits, settings: Mapping[str, str]
) -> dict[str, str]:
    """The environment that gives a libpq driver short lock waits and a name; existing PGOPTIONS come first.

    `settings`: further settings of the session, which the migration reads.
    """
    more = [f"-c lock_timeout={limits.timeout_ms}", f"-c application_name={name}", LOST_CLIENT_OPTIONS]
    options = libpq_options(commands, settings, *more)
    # PGAPPNAME overrides PGOPTIONS at the server, and the container may set one.
    return {"PGOPTIONS": options, "PGAPPNAME": name, "PYTHONUNBUFFERED": "1"}
