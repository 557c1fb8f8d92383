"""One database for the tests of a file, emptied before each: making and dropping one takes longer than most tests.

A test file that names both fixtures has them in the place of the one of tests/conftest.py.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from ansible.module_utils.dbrelease.postgres.fingerprints import write_counters
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from own_sessions import connect


@pytest.fixture(scope="module")
def database(server: Login) -> Iterator[Login]:
    """A database that is gone when the file's tests are through."""
    name = f"test_{secrets.token_hex(6)}"
    session = connect(server, "tests")
    with session.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    yield replace(server, database=name)
    with session.cursor() as cursor:
        cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    session.close()


@pytest.fixture(autouse=True)
def emptied(database: Login) -> None:
    """No test sees what another left: no object, and no setting of the database."""
    session = connect(database, "tests")
    with session.cursor() as cursor:
        cursor.execute("SET client_min_messages = error")
        cursor.execute(f'ALTER DATABASE "{database.database}" RESET ALL')
        cursor.execute("DROP SCHEMA public CASCADE")
        cursor.execute("CREATE SCHEMA public")
        cursor.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
    session.close()


def await_inserts(login: Login, **rows: int) -> None:
    """So many rows of each table are counted: a baseline before that would take the tests' own set-up for later.

    What a session wrote is counted a moment after its end, by a server before version 15 half a second after.
    """
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with closing(connect(login, "tests")) as connection, transaction(connection, read_only=True) as cursor:
            tables = write_counters(cursor)["tables"]
        if all(tables[f"public.{table}"]["inserted"] >= count for table, count in rows.items()):
            return
        time.sleep(0.05)
    raise AssertionError(f"The server does not count what was written: {rows}.")
