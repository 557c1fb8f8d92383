"""A session that waits for locks briefly, again and again, and says in one sentence why it gave up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import psycopg2
from psycopg2.extensions import cursor as Cursor

from .database import Connection, server_reason, transaction
from .errors import ReleaseError
from .locks import RETRYABLE, ContendedError, LockLimits, LockWatch, retrying
from .statement import limit_statements

DEPENDENT_OBJECTS = "2BP01"
Value = TypeVar("Value")


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
                raise _told(what, error) from error

        return retrying(once, self.limits, what=what, watch=self.watch).value


def _told(what: str, error: psycopg2.Error) -> Exception:
    reason = server_reason(error)
    if error.pgcode in RETRYABLE:
        return ContendedError(reason)
    if error.pgcode == DEPENDENT_OBJECTS:
        named = " ".join((error.diag.message_detail or reason).split())
        return ReleaseError(f"{what} was refused by the server ({named}): end what depends on it first.", refused=True)
    return ReleaseError(
        f"{what} failed ({reason}), and nothing of it was kept: correct it and run again.", sqlstate=error.pgcode
    )
