"""One run at a time on one database, wherever the runs keep their state: a session's lock, polled, not waited for.

A run that works in a database locks it there. A restore closes and renames the database, and ends every session in it:
it locks the database's name, from another database of the server. Each checks for the other's lock, too.

Any role may take the number of an advisory lock, and give its sessions any name. So only sessions of trusted roles are
counted (see postgres/trusted_roles.py). Where another role has the number, a run continues without it, and the name of
its session marks the database as held; a session of that name of a role that is not trusted does not count.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256

import psycopg2
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import RealDictCursor

from ..core.errors import ReleaseError
from ..core.journal import RUN_ID, Run
from ..core.proof import Proof
from ..postgres.commit_wait import REMEDY, endless_commit
from ..postgres.session import Connection, Login, Row, connect, select, server_reason
from ..postgres.trusted_roles import all_words, session_words, trusted_roles

# The engine's own number; the server counts such locks for each database separately.
KEY = 0x6462_7265_6C65
WAIT_S = 3.0
POLL_S = 0.2
LOCK_NAME = "dbrelease-lock-"
# The name of a session that holds a database without the number, before the database's mark and the run's id.
HELD_NAME = "dbrelease-lock-held-"
FOREIGN_PROOF = "run.database_lock"

WHO = """
SELECT a.pid, a.application_name AS application, a.usename::text AS "user",
       coalesce(host(a.client_addr), 'local') AS host,
       coalesce(to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), 'a hidden time') AS since
"""
# The lock of the name is searched in every database: not every role locks it from the same one.
HOLDERS = f"""{WHO}
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND a.pid <> pg_backend_pid()
  AND (l.classid = %(high)s AND l.objid = %(low)s
         AND l.database = (SELECT oid FROM pg_database WHERE datname = %(database)s)
       OR l.classid = %(name_high)s AND l.objid = %(name_low)s)
  AND coalesce(a.application_name, '') !~ %(own)s AND (a.usesysid = ANY (%(trusted)s::oid[])) = %(are_trusted)s
"""
# Those that go without the number.
ANNOUNCED = f"""{WHO}
FROM pg_stat_activity a
WHERE a.application_name LIKE %(held)s AND a.application_name !~ %(own)s AND a.pid <> pg_backend_pid()
  AND a.usesysid = ANY (%(trusted)s::oid[])
"""
# What a killed module left running: its lock is released, but the session of its program still exists.
WORKERS = f"""{WHO}
FROM pg_stat_activity a
WHERE a.datname = %(database)s AND a.application_name ~ %(pattern)s
  AND a.application_name !~ %(own)s AND a.application_name NOT LIKE %(locks)s
  AND a.usesysid = ANY (%(trusted)s::oid[])
"""
# Not even who has no name.
NOBODY = "x^"


@dataclass(frozen=True)
class _Wanted:
    """What is locked, and for whom; `own` are the runs that do not conflict: this one, and those that are dead."""

    key: int
    login: Login
    run: Run
    own: str

    @property
    def announced(self) -> str:
        """The name of the session that holds it without the number."""
        return f"{HELD_NAME}{name_key(self.login.database):016x}-{self.run.run_id}"[:63]

    def parameters(self, trusted: list[int]) -> dict[str, object]:
        name = name_key(self.login.database)
        return {
            "database": self.login.database,
            "high": KEY >> 32,
            "low": KEY & 0xFFFFFFFF,
            "name_high": name >> 32,
            "name_low": name & 0xFFFFFFFF,
            "pattern": f"^dbrelease-[a-z_]+-{RUN_ID}",
            "locks": f"{LOCK_NAME}%",
            "held": f"{HELD_NAME}{name:016x}-%",
            "own": self.own,
            "trusted": trusted,
            "are_trusted": True,
        }


def name_key(database: str) -> int:
    """The number by which the name of a database is locked."""
    # Of the 64 bits the sign is left out: the server shows the number in two halves without one.
    return int.from_bytes(sha256(f"dbrelease name {database}".encode()).digest()[:8]) >> 1


@contextmanager
def advisory_lock(login: Login, run: Run) -> Iterator[list[Proof]]:
    """Hold the database for a run; raises ReleaseError, naming the holder, where another run has it.

    Its session is idle and holds no snapshot: nothing waits for it. Yields a proof about a session of another role that
    has the number, which blocks no run.
    """
    connection = _session(login, run)
    try:
        with connection.cursor(cursor_factory=RealDictCursor) as cursor:
            _demand_commits(cursor, login, run)
            foreign = _acquire(cursor, _Wanted(KEY, login, run, re.escape(run.run_id)))
        yield [_foreign_proof(foreign, login)] if foreign else []
    finally:
        _end(connection)


class NameLock:
    """The name of a database, held for a run from another database of its server until close().

    A process that this one forks shares the session: where this one is killed, the lock ends with that other.
    """

    def __init__(self, maintenance: Login, database: str, run: Run, dead: Collection[str] = ()) -> None:
        own = "|".join(map(re.escape, (run.run_id, *dead)))
        self._maintenance = maintenance
        self._wanted = _Wanted(name_key(database), replace(maintenance, database=database), run, own)
        self._connection: Connection | None = None

    @property
    def held(self) -> bool:
        """Whether it was taken."""
        return self._connection is not None

    def take(self) -> None:
        """Take it, or check that it is still held; raises ReleaseError where another run is acting on the database."""
        if self._connection is not None:
            self._prove(self._connection)
            return
        connection = _session(self._maintenance, self._wanted.run)
        try:
            with connection.cursor(cursor_factory=RealDictCursor) as cursor:
                _demand_commits(cursor, self._wanted.login, self._wanted.run)
                _acquire(cursor, self._wanted)
        except BaseException:
            _end(connection)
            raise
        self._connection = connection

    def close(self) -> None:
        """Give it back, if it was taken."""
        if self._connection is not None:
            _end(self._connection)

    def _prove(self, connection: Connection) -> None:
        try:
            with connection.cursor(cursor_factory=RealDictCursor) as cursor:
                others = _others(cursor, self._wanted)
        except psycopg2.Error as error:
            raise ReleaseError(
                f"Run {self._wanted.run.run_id} lost its lock on the {self._wanted.login.label} "
                f"({server_reason(error)}): find out who ended its session, and rerun the playbook."
            ) from error
        if others:
            raise _refusal(self._wanted, others)


def _session(login: Login, run: Run) -> Connection:
    return connect(login, f"{LOCK_NAME}{run.run_id}"[:63], read_only=True)


def _end(connection: Connection) -> None:
    with suppress(psycopg2.Error):
        connection.close()


def _demand_commits(cursor: Cursor, login: Login, run: Run) -> None:
    """Raises ReleaseError where a commit would not return: it would keep its locks, and every other session waits."""
    if reason := endless_commit(cursor):
        raise ReleaseError(f"Run {run.run_id} may not act on the {login.label}. {reason} {REMEDY}", refused=True)


def _acquire(cursor: Cursor, wanted: _Wanted) -> list[Row]:
    """Return the sessions of other roles that have the number; the database is then held without it."""
    deadline = time.monotonic() + WAIT_S
    try:
        while True:
            # Before it is taken, so that a run with the other lock never observes this one; and after, as both may be
            # taken at once.
            others = _others(cursor, wanted)
            if not others:
                (row,) = select(cursor, "SELECT pg_try_advisory_lock(%s) AS taken", (wanted.key,))
                others = _others(cursor, wanted) if row["taken"] else _holders(cursor, wanted, NOBODY)
                foreign = _foreign(cursor, wanted) if not row["taken"] and not others else []
                if foreign:
                    # Two that do so at once see each other, and both step back, for a while of their own.
                    _name_session(cursor, wanted.announced)
                    others = _others(cursor, wanted)
                if (row["taken"] or foreign) and not others:
                    return foreign
                if foreign:
                    _name_session(cursor, f"{LOCK_NAME}{wanted.run.run_id}"[:63])
                if row["taken"]:
                    select(cursor, "SELECT pg_advisory_unlock(%s)", (wanted.key,))
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_S * random.uniform(0.5, 1.5))  # noqa: S311 - spreads attempts, guards nothing
    except psycopg2.Error as error:
        raise ReleaseError(
            f"Locking the {wanted.login.label} failed ({server_reason(error)}): rerun the playbook."
        ) from error
    raise _refusal(wanted, others)


def _refusal(wanted: _Wanted, others: list[str]) -> ReleaseError:
    return ReleaseError(
        f"Run {wanted.run.run_id} may not act on the {wanted.login.label}: "
        f"{' and '.join(others) or 'another run'} is running on it; "
        "wait until it ends, or terminate it with pg_terminate_backend, and rerun the playbook.",
        refused=True,
    )


def _others(cursor: Cursor, wanted: _Wanted) -> list[str]:
    parameters = wanted.parameters(trusted_roles(cursor, wanted.login.database))
    found = [row for asked in (HOLDERS, ANNOUNCED, WORKERS) for row in select(cursor, asked, parameters)]
    return [session_words(row) for row in found]


def _holders(cursor: Cursor, wanted: _Wanted, own: str) -> list[str]:
    trusted = trusted_roles(cursor, wanted.login.database)
    return [session_words(row) for row in select(cursor, HOLDERS, {**wanted.parameters(trusted), "own": own})]


def _foreign(cursor: Cursor, wanted: _Wanted) -> list[Row]:
    """The strangers that have one of the numbers."""
    parameters = wanted.parameters(trusted_roles(cursor, wanted.login.database))
    return select(cursor, HOLDERS, {**parameters, "own": NOBODY, "are_trusted": False})


def _name_session(cursor: Cursor, name: str) -> None:
    select(cursor, "SELECT set_config('application_name', %s, false)", (name,))


def _foreign_proof(foreign: list[Row], login: Login) -> Proof:
    return Proof(
        FOREIGN_PROOF,
        "The run holds the lock of its database",
        "inconclusive",
        observed=[{key: str(value) for key, value in row.items()} for row in foreign[:3]],
        detail=f"Another session has taken its number: {all_words(foreign)}. The name of the run's session acts as the "
        "lock instead.",
        remedy=f"Terminate that session with pg_terminate_backend, and check who may connect to {login.database}.",
    )
