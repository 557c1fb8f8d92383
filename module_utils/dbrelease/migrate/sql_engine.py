"""A release's SQL file as the engine of a migration: one session of this process, one transaction."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field

import psycopg2
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..core.proof import Proof
from ..postgres.lock_retry import RETRYABLE, ContendedError, LockWatch
from ..postgres.session import Row, as_declared, connect, server_reason, without_timeouts
from ..postgres.strangers import refuse_planted
from .move import Task
from .outcome import Outcome


@dataclass
class Script:
    """The file, and the migration."""

    task: Task
    text: str
    _committed: bool = field(default=False, init=False)

    def start(self) -> list[str]:
        """Nothing is written before the file."""
        return []

    def look(self, cursor: Cursor, blocked_by: list[Row]) -> None:
        """Its one session has the lock limits."""

    def attempt(self, header: str, remaining_s: float, watch: LockWatch) -> None:
        """Run the file once."""
        task, footer = self.task, "its end was not observed"
        task.log.begin(f"{header}{task.move.label} by SQL")
        with closing(connect(task.login, task.name)) as connection:
            settings = {
                "lock_timeout": f"{watch.timeout_ms(task.limits)}ms",
                "statement_timeout": f"{round(remaining_s * 1000)}ms",
                **task.settings,
            }
            with connection.cursor() as cursor:
                try:
                    without_timeouts(cursor, local=False)
                    for setting, value in settings.items():
                        cursor.execute("SELECT set_config(%s, %s, false)", (setting, value))
                    # Without parameters the text is sent unchanged in one message: one transaction of the server.
                    refuse_planted(cursor)
                    with as_declared(cursor):
                        cursor.execute(self.text)
                    footer, self._committed = "committed", True
                except psycopg2.Error as error:
                    reason = server_reason(error)
                    footer = f"failed: {reason}"
                    if error.pgcode in RETRYABLE:
                        raise ContendedError(reason) from error
                    raise ReleaseError(f"{task.move.title} failed ({reason})") from error
                finally:
                    for notice in connection.notices:
                        task.log.feed(notice.encode())
                    task.log.end(footer)

    def end(self) -> None:
        """Nothing but its session can be left."""

    def outcome(self, cause: str) -> Outcome:
        """How the script ended."""
        return Outcome(0 if self._committed else None, "", None, cause=cause)

    def proofs(self) -> list[Proof]:
        """Nothing else is observed."""
        return []
