"""A table is read also where its index calls a function that leaves out a schema, unless that is dangerous."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest
import shared_database
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.postgres.fingerprints import read_tables
from ansible.module_utils.dbrelease.postgres.session import Login, connect, transaction

database, emptied = shared_database.database, shared_database.emptied

# The server inlines such a function when it plans a statement on the table, whatever columns that reads.
SCHEMA = """
CREATE FUNCTION fold(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT lower($1) $$;
CREATE FUNCTION plain(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT fold($1) $$;
CREATE TABLE notes (id int PRIMARY KEY, body text);
INSERT INTO notes VALUES (1, 'Ä'), (2, 'b');
CREATE INDEX by_plain_body ON notes (plain(body));
"""


@pytest.fixture
def session(database: Login) -> Iterator[psycopg2.extensions.connection]:
    connection = connect(database, "tests")
    yield connection
    connection.close()


def read(session: psycopg2.extensions.connection) -> dict[str, int]:
    with transaction(session, read_only=True, isolation="REPEATABLE READ", commit=False) as cursor:
        return {key: row["rows"] for key, row in read_tables(cursor).items()}


def test_the_roles_own_path_is_taken_where_an_index_needs_it(
    session: psycopg2.extensions.connection, database: Login
) -> None:
    with transaction(session) as cursor:
        cursor.execute("SET LOCAL search_path = public")
        cursor.execute(SCHEMA)
    assert read(session) == {"public.notes": 2}
    with transaction(session, read_only=True) as cursor:
        cursor.execute("SHOW search_path")
        assert dict(cursor.fetchone() or {})["search_path"].startswith("pg_catalog")


def test_it_is_not_taken_where_another_role_has_made_a_function_there(
    session: psycopg2.extensions.connection, database: Login
) -> None:
    with transaction(session) as cursor:
        cursor.execute("SET LOCAL search_path = public")
        cursor.execute(SCHEMA)
        cursor.execute(
            "CREATE ROLE stranger_of_own_path;CREATE FUNCTION lower(name) RETURNS text LANGUAGE sql AS 'SELECT 1::text'"
        )
        cursor.execute("ALTER FUNCTION lower(name) OWNER TO stranger_of_own_path")
    try:
        with pytest.raises(ReleaseError, match=r"public\.notes .*an object of a role that is not trusted: .*lower"):
            read(session)
    finally:
        with transaction(session) as cursor:
            cursor.execute("DROP OWNED BY stranger_of_own_path; DROP ROLE stranger_of_own_path")
