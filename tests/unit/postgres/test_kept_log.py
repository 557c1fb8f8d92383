"""A log that the server keeps, for a slot that nothing reads or an archive that fails, is reported with its cause."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import docker
import psycopg2.extensions
import pytest
from ansible.module_utils.dbrelease.postgres.kept_log import kept_log
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from own_sessions import connect
from server_in_container import container, engine, own_server, wait_for
from waits import until

__all__ = ["container", "engine", "own_server"]

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


@pytest.fixture
def failing_archive(engine: docker.DockerClient, container: str, own_server: Login) -> Login:
    """A server whose archive_command fails."""
    with closing(connect(own_server, "archive")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("ALTER SYSTEM SET archive_mode = on")
        cursor.execute("ALTER SYSTEM SET archive_command = 'false'")
    made = engine.containers.get(container)
    made.restart()
    made.reload()
    login = replace(own_server, host=made.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])
    wait_for(login)
    return login


def test_an_archive_that_fails_is_named_until_it_succeeds(failing_archive: Login) -> None:
    with closing(connect(failing_archive, "archive")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("CREATE TABLE written AS SELECT 1 AS x")
        cursor.execute("SELECT pg_switch_wal()")
        until(lambda: reason(connection), "no failure of the archive was reported")
        assert re.search(r"does not reuse it: archiving of 0{7}\w+ failed \d+ time\(s\), last at 2", reason(connection))
        cursor.execute("ALTER SYSTEM SET archive_command = 'true'")
        cursor.execute("SELECT pg_reload_conf()")
        until(lambda: not reason(connection), "the archive did not succeed")
