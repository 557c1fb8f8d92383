"""A log that the server keeps, for a slot that nothing reads or an archive that fails, is reported with its cause."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2.extensions
from ansible.module_utils.dbrelease.postgres.kept_log import kept_log
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from own_sessions import connect

Session = psycopg2.extensions.connection


@contextmanager
def slot(server: Login, *, keeps: bool) -> Iterator[str]:
    """A replication slot that has no reader."""
    name = f"unread_{secrets.token_hex(4)}"
    with closing(connect(server, "slots")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("SELECT pg_create_physical_replication_slot(%s, %s)", (name, keeps))
        yield name
        cursor.execute("SELECT pg_drop_replication_slot(%s)", (name,))


def reason(session: Session) -> str:
    with transaction(session, read_only=True) as cursor:
        return kept_log(cursor)


def test_a_slot_without_a_reader_is_named(session: Session, server: Login) -> None:
    with slot(server, keeps=True) as name:
        assert name in reason(session) and "nothing reads the replication slots" in reason(session)
    assert name not in reason(session)


def test_a_slot_that_keeps_nothing_is_not_named(session: Session, server: Login) -> None:
    with slot(server, keeps=False) as name:
        assert name not in reason(session)
