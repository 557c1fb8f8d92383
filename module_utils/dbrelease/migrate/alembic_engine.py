"""Alembic as the engine of a migration: a program on the target, with short lock waits in its sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..core.proof import Proof
from ..host.commands import Commands, Finished, missing_program
from ..host.orphan_programs import end_programs
from ..postgres.lock_retry import ContendedError, LockLimits, LockWatch
from ..postgres.revision import asking
from ..postgres.session import LOST_CLIENT_OPTIONS, NO_WORKERS, TIMEOUTS, TRANSACTIONS, Login, Row, select
from .alembic import libpq_options
from .env_py import let_it_write
from .limits import Reach
from .move import Task
from .outcome import Outcome, lock_timeout

# One stream in the order of writing, with the command's own exit status.
MERGED = ("sh", "-c", 'exec "$@" 2>&1', "sh")
# The cause of an attempt that was allowed to wait for an autovacuum and met another session's lock.
OVERDUE = "it waited for another session's lock until its limit"


@dataclass
class Alembic:
    """Where Alembic runs, and the migration."""

    task: Task
    commands: Commands
    command: Sequence[str]
    starting_writes: bool = False  # env.py writes whenever Alembic is started
    _settings: Mapping[str, str] = field(init=False)
    _reach: Reach = field(init=False)
    _last: Finished | None = field(default=None, init=False)
    _output: str = field(default="", init=False)

    def __post_init__(self) -> None:
        """Read which timeouts the server knows."""
        task = self.task
        self._settings = {**TRANSACTIONS, **NO_WORKERS, **unlimited(task.login), **task.settings}
        self._reach = Reach(task.name, task.table, task.limits)

    def start(self) -> list[str]:
        """Let env.py write what it writes whenever Alembic is started."""
        if not self.starting_writes:
            return []
        environment = session_environment(self.commands, self.task.name, self.task.limits, self._settings)
        return let_it_write(self.task.login, self.commands, self.command, environment)

    def look(self, cursor: Cursor, blocked_by: list[Row]) -> None:
        """Observe how its sessions wait."""
        self._reach.look(cursor, blocked_by)

    def attempt(self, header: str, remaining_s: float, watch: LockWatch) -> None:
        """Run Alembic once."""
        task, self._last = self.task, None
        argv = [*self.command, task.move.direction, task.move.revision]
        waits = replace(task.limits, timeout_ms=watch.timeout_ms(task.limits))
        environment = session_environment(self.commands, task.name, waits, self._settings)
        task.log.begin(f"{header}{' '.join(argv)} in {self.commands.place}")
        footer = "its end was not observed"
        try:
            finished = self.commands.run(
                [*MERGED, *argv], timeout_s=max(1, round(remaining_s)), environment=environment, on_stdout=task.log.feed
            )
            footer = f"exit status {finished.status} after {finished.duration_ms} ms"
            self._last = finished
        finally:
            self._output = task.log.end(footer)
        if missing_program(finished):
            raise ReleaseError(f"Running {self.command[0]} in {self.commands.place} failed (it was not found)")
        if finished.status != 0 and (cause := self._reach.given_up(watch.seen)):
            raise ReleaseError(f"{task.move.title} was stopped ({cause})")
        contended = lock_timeout(self._output) if finished.status != 0 else ""
        if finished.status != 0 and watch.cancelled:
            contended = contended or OVERDUE
        if contended:
            raise ContendedError(contended)

    def end(self) -> None:
        """Stop its programs: one whose end was not observed may still be about to connect."""
        with suppress(ReleaseError):
            end_programs(self.commands, [self.task.run.run_id])

    def outcome(self, cause: str) -> Outcome:
        """How Alembic ended."""
        last = self._last
        return Outcome(last.status if last else None, self._output, None, last is not None and last.timed_out, cause)

    def proofs(self) -> list[Proof]:
        """The remaining doubt whether the lock limits reached its sessions."""
        return self._reach.proofs()


def unlimited(login: Login) -> dict[str, str]:
    """Settings without timeouts, only those that the server knows: it refuses a session with an unknown setting."""
    with asking(login, "dbrelease timeouts") as cursor:
        found = select(cursor, "SELECT name FROM pg_settings WHERE name = ANY (%s) ORDER BY 1", (list(TIMEOUTS),))
    return {row["name"]: "0" for row in found}


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
