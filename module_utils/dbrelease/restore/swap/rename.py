"""Rename two databases in one transaction, with no session in either, and allow connections again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import RealDictCursor

from ...core.errors import ReleaseError
from ...postgres.commit_wait import CommitWatch, bounded_commits
from ...postgres.session import Login, connect, select, server_reason, session, transaction
from ...postgres.trusted_roles import quoted_text

POLL_S = 0.05
END_DEADLINE_S = 30.0
REOPEN_DEADLINE_S = 90.0
APPLICATION = "dbrelease swap"


@dataclass(frozen=True)
class Names:
    """`incoming` becomes `live`, and the previous `live` becomes `kept`, which is empty without a live database."""

    live: str
    incoming: str
    kept: str


def exchange(
    maintenance: Login, names: Names, reading: int | None, release: Callable[[], None], again: Callable[[], Login]
) -> None:
    """Forbid connections, terminate every session, and, in one transaction, rename both and allow connections.

    `reading` is the session that still locks the live database's tables against writers; `release` ends it after every
    other session was terminated; `again` returns the server's address, which its container may have changed. On any
    failure both have their previous names, and connections are allowed again.
    """
    with bounded_commits(maintenance, APPLICATION) as commits:
        _exchange(maintenance, names, reading, release, again, commits)


def _exchange(
    maintenance: Login,
    names: Names,
    reading: int | None,
    release: Callable[[], None],
    again: Callable[[], Login],
    commits: CommitWatch,
) -> None:
    old = [name for name in (names.live if names.kept else "", names.incoming) if name]
    try:
        with closing(connect(maintenance, APPLICATION)) as connection:
            with connection.cursor(cursor_factory=RealDictCursor) as cursor:
                for name in old:
                    cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
                end_sessions_in(cursor, old, spared=reading)
                release()
                end_sessions_in(cursor, old)
            with transaction(connection) as cursor:
                _rename(cursor, names)
    except BaseException as error:
        allow_connections(maintenance, [*old, *((names.kept,) if names.kept else ())], again)
        if isinstance(error, psycopg2.Error):
            # The answer to a commit may be lost although it succeeded.
            if is_exchanged(again(), names):
                return
            reason = commits.reason or server_reason(error)
            raise ReleaseError(
                f"Renaming the databases failed ({reason}): both have their previous names, and "
                "connections are allowed; remove the cause, and rerun the playbook."
            ) from error
        raise


def is_exchanged(maintenance: Login, names: Names) -> bool | None:
    """Whether the databases have their new names; None if the server does not answer."""
    try:
        with session(maintenance, APPLICATION) as cursor:
            asked = "SELECT datname FROM pg_database WHERE datname IN %s"
            there = {row["datname"] for row in select(cursor, asked, ((*vars(names).values(), ""),))}
    except (psycopg2.Error, ReleaseError):
        return None
    return names.live in there and names.incoming not in there


def _rename(cursor: Cursor, names: Names) -> None:
    """Rename, and allow connections by the same commit, so that a kill cannot leave them forbidden after it."""
    # A rename waits for a session that is starting; it must not wait forever.
    cursor.execute("SET LOCAL lock_timeout = '10s'")
    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    opened = [names.live]
    if names.kept:
        cursor.execute(rename.format(sql.Identifier(names.live), sql.Identifier(names.kept)))
        opened.append(names.kept)
    cursor.execute(rename.format(sql.Identifier(names.incoming), sql.Identifier(names.live)))
    for name in opened:
        cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(name)))


def end_sessions_in(cursor: Cursor, databases: Sequence[str], *, spared: int | None = None) -> None:
    """Terminate every session in these databases but one, and wait; raises ReleaseError, which names the others."""
    deadline = time.monotonic() + END_DEADLINE_S
    while True:
        left = select(
            cursor,
            'SELECT pid, usename AS "user", application_name AS application, pg_terminate_backend(pid) AS asked '
            "FROM pg_stat_activity WHERE datname = ANY(%s) AND pid <> pg_backend_pid() AND pid IS DISTINCT FROM %s "
            # Not every role may terminate these, and the rename does.
            "AND backend_type IS DISTINCT FROM 'autovacuum worker'",
            (list(databases), spared),
        )
        if not left:
            return
        if time.monotonic() > deadline:
            said = ", ".join(
                f"pid {row['pid']} of {quoted_text(row['user'])} ({quoted_text(row['application'])})" for row in left
            )
            raise ReleaseError(
                f"Terminating the sessions in {', '.join(databases)} failed within {END_DEADLINE_S:.0f} s ({said}): "
                "terminate them, and rerun the playbook."
            )
        time.sleep(POLL_S)


def allow_connections(maintenance: Login, databases: Sequence[str], again: Callable[[], Login]) -> None:
    """Allow connections to those that exist; retry until the server answers, or the deadline."""
    deadline = time.monotonic() + REOPEN_DEADLINE_S
    login = maintenance
    while True:
        try:
            with session(login, APPLICATION) as cursor:
                asked = "SELECT datname FROM pg_database WHERE datname = ANY(%s) AND NOT datallowconn"
                for row in select(cursor, asked, (list(databases),)):
                    name = sql.Identifier(row["datname"])
                    cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
                return
        except (psycopg2.Error, ReleaseError) as error:
            if time.monotonic() > deadline:
                raise ReleaseError(
                    f"Allowing connections to {', '.join(databases)} again failed ({' '.join(str(error).split())}): "
                    "rerun the playbook, or run `ALTER DATABASE ... ALLOW_CONNECTIONS true`."
                ) from error
            time.sleep(1)
            login = again()
