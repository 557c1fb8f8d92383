"""Run a release's SQL file that moves the database from one revision to another, in one transaction of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg2

from .alembic_move import Moved, application_name, read_counters, read_counters_before, revisions_or_none
from .alembic_outcome import Move
from .database import Login, as_declared, connect, server_reason, without_timeouts
from .errors import ReleaseError
from .journal import Run, utc_now
from .locks import RETRYABLE, ContendedError, LockLimits, LockWatch, retrying, watch_blockers
from .migration_log import MigrationLog
from .proof import Proof
from .sessions import end_sessions
from .strangers import refuse_planted

PROOF = "rollback.downgrade"


@dataclass
class Script:
    """One file, and the database that it must move."""

    login: Login
    text: str
    table: str
    limits: LockLimits
    timeout_s: int
    run: Run
    log: MigrationLog
    settings: Mapping[str, str] = field(default_factory=dict)
    _attempts: int = field(default=0, init=False)

    def move(self, move: Move) -> Moved:
        """Run it to an end that is known; whatever happened is in the proofs."""
        name = application_name(move, self.run)
        before = read_counters_before(self.login)
        begun, started_at = time.monotonic(), utc_now().isoformat(timespec="milliseconds")
        watch, cause = LockWatch(), ""
        try:
            with watch_blockers(self.login, name) as watch:
                retrying(
                    lambda: self._attempt(move, name, begun + self.timeout_s),
                    self.limits,
                    what=f"The {move.label} by SQL",
                    watch=watch,
                )
        except ReleaseError as error:
            cause = error.message
            end_sessions(self.login, name)
        revisions = revisions_or_none(self.login, self.table)
        duration_ms = round((time.monotonic() - begun) * 1000)
        proofs = [judge(move, revisions, cause, duration_ms), self.log.close()]
        after = read_counters(self.login) if revisions is not None else None
        return Moved(proofs, revisions, started_at, duration_ms, self._attempts, list(watch.seen), before, after)

    def _attempt(self, move: Move, name: str, deadline: float) -> None:
        remaining_ms = round((deadline - time.monotonic()) * 1000)
        if remaining_ms < 1:
            raise ReleaseError(f"The {move.label} by SQL was given up (its {self.timeout_s} s are used up)")
        self._attempts += 1
        self.log.begin(f"{utc_now().isoformat(timespec='seconds')} attempt {self._attempts}: {move.label} by SQL")
        footer = "its end was not seen"
        with closing(connect(self.login, name)) as connection:
            settings = {
                "lock_timeout": f"{self.limits.timeout_ms}ms",
                "statement_timeout": f"{remaining_ms}ms",
                **self.settings,
            }
            with connection.cursor() as cursor:
                without_timeouts(cursor, local=False)
                for setting, value in settings.items():
                    cursor.execute("SELECT set_config(%s, %s, false)", (setting, value))
                try:
                    # Without parameters the text goes as it is, in one message: one transaction of the server.
                    refuse_planted(cursor)
                    with as_declared(cursor):
                        cursor.execute(self.text)
                    footer = "committed"
                except psycopg2.Error as error:
                    reason = server_reason(error)
                    footer = f"failed: {reason}"
                    if error.pgcode in RETRYABLE and revisions_or_none(self.login, self.table) == [move.from_revision]:
                        raise ContendedError(reason) from error
                    raise ReleaseError(f"The {move.label} by SQL failed ({reason})") from error
                finally:
                    for notice in connection.notices:
                        self.log.feed(notice.encode())
                    self.log.end(footer)


def judge(move: Move, revisions: list[str] | None, cause: str, duration_ms: int) -> Proof:
    """Success is the wanted revision, read back in another session, after a script that did not fail."""
    common: dict[str, Any] = {"expected": [move.revision], "observed": revisions, "duration_ms": duration_ms}
    title = f"The {move.label} by SQL"
    at = "which could not be read back" if revisions is None else " and ".join(revisions) or "none"
    if not cause and revisions == [move.revision]:
        detail = f"The script was committed and the database is at {move.revision}."
        return Proof(PROOF, title, "pass", **common, detail=detail)
    detail = f"{cause.rstrip('.') or 'The script was committed'}; the database is at revision {at}."
    return Proof(
        PROOF, title, "fail", **common, detail=detail, remedy="Read the saved log, remove the cause, and run again."
    )
