"""Let Alembic move the database: bounded, with short lock waits, its output saved, and the result read back."""

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
from .limits import Reach
from .log import MigrationLog
from .outcome import Move, Outcome, judge, lock_timeout

# One stream, in the order of writing, and still the command's own exit status.
MERGED = ("sh", "-c", 'exec "$@" 2>&1', "sh")
# A server of which one process was killed takes all sessions down, and is back once it has recovered.
RECOVERY_S = 15.0
POLL_S = 0.5
# A session that is at work all the time reports once a second what it wrote.
LATE_S = 1.2
# What others do after a position counts as if they did it during the move: an old one would hide who wrote.
OLDEST_S = 3.0
# An older server hands what sessions report to a process that tells of it half a second later.
TELLS_AT_ONCE = 150000
# What an attempt that could wait for an autovacuum met instead.
OVERDUE = "it waited for somebody else's lock for as long as it may"
# Their kind would be hidden from whoever may not see what other users do.
OTHERS = """
SELECT count(*) AS sessions FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@dataclass(frozen=True)
class Moved:
    """What was done, for the result and the journal."""

    proofs: list[Proof]
    revisions: list[str] | None
    started_at: str
    duration_ms: int
    attempts: int
    lock_waits: list[Row]
    before: Row
    after: Row | None
    writers: Row  # whose transactions those of that time were, as WriterWatch.facts() says


@dataclass
class Alembic:
    """One place where Alembic runs, and the database that it must move."""

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
    _last: Finished | None = field(default=None, init=False)
    _output: str = field(default="", init=False)
    _attempts: int = field(default=0, init=False)

    def move(self, move: Move) -> Moved:
        """Run it to an end that is known; whatever happened is in the proofs."""
        name = application_name(move, self.run)
        own = {**TRANSACTIONS, **NO_WORKERS, **unlimited(self.login), **self.settings}
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
                # One whose end was not seen, and that has not connected yet, would later.
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
        )

    def _attempt(
        self, move: Move, name: str, settings: Mapping[str, str], deadline: float, watch: LockWatch, reach: Reach
    ) -> None:
        remaining = round(deadline - time.monotonic())
        if remaining < 1:
            raise ReleaseError(f"Alembic's {move.label} was given up (its {self.timeout_s} s are used up)")
        self._attempts += 1
        self._last = None
        argv = [*self.command, move.direction, move.revision]
        now = utc_now().isoformat(timespec="seconds")
        waits = replace(self.limits, timeout_ms=watch.timeout_ms(self.limits))
        environment = session_environment(self.commands, name, waits, settings)
        self.log.begin(f"{now} attempt {self._attempts}: {' '.join(argv)} in {self.commands.place}")
        footer = "its end was not seen"
        try:
            finished = self.commands.run(
                [*MERGED, *argv], timeout_s=remaining, environment=environment, on_stdout=self.log.feed
            )
            footer = f"exit status {finished.status} after {finished.duration_ms} ms"
            self._last = finished
        finally:
            self._output = self.log.end(footer)
        if missing_program(finished):
            raise ReleaseError(f"Running {self.command[0]} in {self.commands.place} failed (it is not there)")
        if finished.status != 0 and (cause := reach.given_up(watch.seen)):
            raise ReleaseError(f"Alembic's {move.label} was given up ({cause})")
        contended = lock_timeout(self._output) if finished.status != 0 else ""
        if finished.status != 0 and watch.cancelled:
            contended = contended or OVERDUE
        # A migration may have committed before it met the lock: only where nothing moved is it tried again.
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
    """The proof; one of a failure names the indexes that no try after it could make again."""
    left = left_invalid(login) if proof.status == "fail" else []
    if not left:
        return proof
    return replace(proof, detail=f"{proof.detail} {invalid_words(left)}", remedy=f"{proof.remedy} {removal(left)}")


def read_counters(login: Login) -> Row:
    """How much was ever written, in a session of its own."""
    with _asking(login, "dbrelease counters") as cursor:
        if cursor.connection.server_version < TELLS_AT_ONCE:
            time.sleep(LATE_S)
        return write_counters(cursor)


@dataclass(frozen=True)
class Position:
    """Where the server was at a moment of this process; late: sessions may report later what they wrote before."""

    row: Row
    moment: float
    late: bool


def read_position(login: Login) -> Position:
    """The present one; read some time before a move, its wait passes while something else is done."""
    with _asking(login, "dbrelease counters") as cursor:
        row = position(cursor)
        others = select(cursor, OTHERS)[0]["sessions"]
        return Position(row, time.monotonic(), others > 0 or cursor.connection.server_version < TELLS_AT_ONCE)


def read_counters_before(login: Login, first: Position | None = None) -> Row:
    """The same before a move; `since` and `running` are of a moment before, whose writes are counted by now.

    So each write that the counters add from here on is of a transaction since then.
    first: that moment, if it was read already; one that is too old is read again.
    """
    if first is None or time.monotonic() - first.moment > OLDEST_S:
        first = read_position(login)
    if first.late:
        time.sleep(max(0.0, first.moment + LATE_S - time.monotonic()))
    with _asking(login, "dbrelease counters") as cursor:
        return {**write_counters(cursor), "since": first.row["xid"], "running": first.row["running"]}


def unlimited(login: Login) -> dict[str, str]:
    """No timeout for a session, of those that the server knows: it lets no session in with another one."""
    with _asking(login, "dbrelease timeouts") as cursor:
        found = select(cursor, "SELECT name FROM pg_settings WHERE name = ANY (%s) ORDER BY 1", (list(TIMEOUTS),))
    return {row["name"]: "0" for row in found}


def application_name(move: Move, run: Run) -> str:
    """The name of the server sessions of one move, by which they are watched and ended."""
    return f"dbrelease-{move.direction}-{run.run_id}"[:63]


def session_environment(
    commands: Commands, name: str, limits: LockLimits, settings: Mapping[str, str]
) -> dict[str, str]:
    """What a libpq driver needs to wait briefly and to be known; the place's own PGOPTIONS stay in front.

    `settings` are further ones of the session, for the migration itself to read.
    """
    more = [f"-c lock_timeout={limits.timeout_ms}", f"-c application_name={name}", LOST_CLIENT_OPTIONS]
    options = libpq_options(commands, settings, *more)
    # PGAPPNAME goes before PGOPTIONS at the server, and the place may have one.
    return {"PGOPTIONS": options, "PGAPPNAME": name, "PYTHONUNBUFFERED": "1"}
