"""A server that admits db_user to the application's database only: its restore fails, and that is reported before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.restore_names import copy_name
from ansible.module_utils.dbrelease.postgres.admitted import not_admitted
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect
from run_ids import run_id as new_run_id

Reject = Callable[[str], None]
WRITE = """
DO $do$
BEGIN
  EXECUTE format('COPY (SELECT unnest(%%L::text[])) TO %%L (DELIMITER E''\\x01'')', string_to_array(%s, E'\\n'),
                 current_setting('hba_file'));
  PERFORM pg_reload_conf();
END $do$
"""


@pytest.fixture
def reject(server: Login) -> Iterator[Reject]:
    """Make the server admit nobody to the database of a name, while the test lasts."""
    with closing(connect(server, "rules")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("SELECT rtrim(pg_read_file(current_setting('hba_file')), E'\\n')")
        ((before,),) = cursor.fetchall()

        def add(name: str) -> None:
            cursor.execute(WRITE, (f'host "{name}" all all reject\n{before}',))
            cursor.execute("SELECT count(*) FROM pg_hba_file_rules WHERE database = ARRAY[%s]", (name,))
            assert cursor.fetchall() == [(1,)]
            _until_rejected(replace(server, database=name))

        yield add
        cursor.execute(WRITE, (before,))


def _until_rejected(login: Login) -> None:
    for _ in range(1000):
        try:
            connect(login, "tests").close()
        except ReleaseError as error:
            if "pg_hba.conf" in error.message:
                return
    raise AssertionError("the server did not reload its rules")


def test_a_server_that_admits_to_all_databases_stops_nothing(database: Login) -> None:
    assert not_admitted(database, new_run_id()) == ""


def test_the_name_of_a_copy_is_tried(database: Login, reject: Reject) -> None:
    run_id = new_run_id()
    reject(copy_name(database.database, run_id))
    reason = not_admitted(database, run_id)
    assert copy_name(database.database, run_id) in reason
    assert f"admit {database.user} to all databases" in reason


def test_the_maintenance_database_is_tried(database: Login, reject: Reject) -> None:
    reject("kept_for_others")
    reason = not_admitted(database, new_run_id(), "kept_for_others")
    assert "works from the database kept_for_others" in reason and "restore_maintenance_db" in reason
    assert f"let the server's pg_hba.conf admit {database.user} to kept_for_others" in reason
