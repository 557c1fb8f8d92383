"""What keeps a dump from being restored is named while the database still has it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from ansible.module_utils.dbrelease.postgres.collations import OF_DATABASES
from ansible.module_utils.dbrelease.postgres.restorable import Obstacles, read_obstacles
from ansible.module_utils.dbrelease.postgres.session import Login, connect, transaction

INNER = "CREATE FUNCTION fold(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT lower($1) $$;"
# One that the planner puts in place of its call, and one that runs only where there is a row.
SQL = f"{INNER} CREATE FUNCTION plain(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT fold($1) $$;"
PLPGSQL = (
    f"{INNER} CREATE FUNCTION plain(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN fold($1); END $$;"
)
PINNED = f"{SQL} ALTER FUNCTION plain(text) SET search_path = public;"
TABLE = "CREATE TABLE t (a text); INSERT INTO t VALUES ('x');"
FOUND = [
    ("an index", f"{SQL} {TABLE} CREATE INDEX folded ON t (plain(a))", "the index folded of public.t"),
    ("an index by plpgsql", f"{PLPGSQL} {TABLE} CREATE INDEX folded ON t (plain(a))", "the index folded of public.t"),
    ("a partial index", f"{PLPGSQL} {TABLE} CREATE INDEX f ON t (a) WHERE plain(a) = 'x'", "the index f of public.t"),
    (
        "a generated column",
        f"{PLPGSQL} CREATE TABLE t (a text, b text GENERATED ALWAYS AS (plain(a)) STORED); INSERT INTO t VALUES ('x')",
        "the generated column b of public.t",
    ),
    ("a constraint", f"{PLPGSQL} {TABLE} ALTER TABLE t ADD CONSTRAINT c CHECK (plain(a) <> '')", "the constraint c"),
    (
        "a domain",
        f"{PLPGSQL} CREATE DOMAIN d AS text CHECK (plain(value) <> ''); CREATE TABLE t (a d);"
        "INSERT INTO t VALUES ('x')",
        "the domain d",
    ),
    (
        "a partition key",
        f"{PLPGSQL} CREATE TABLE t (a text) PARTITION BY LIST (plain(a)); CREATE TABLE u PARTITION OF t DEFAULT;"
        "INSERT INTO t VALUES ('x')",
        "the partition key of public.t",
    ),
    (
        "a materialized view",
        f"{PLPGSQL} {TABLE} CREATE MATERIALIZED VIEW m AS SELECT plain(a) FROM t",
        "the materialized view public.m",
    ),
]


def look(login: Login) -> Obstacles:
    with closing(connect(login, "tests")) as session, transaction(session, read_only=True) as cursor:
        return read_obstacles(cursor)


@pytest.mark.parametrize(("made", "named"), [row[1:] for row in FOUND], ids=[row[0] for row in FOUND])
def test_a_function_without_schema_is_named(session: Any, database: Login, made: str, named: str) -> None:
    session.cursor().execute(made)
    (found,) = look(database).found
    assert named in found
    assert "function fold(text) does not exist" in found
    assert "ALTER FUNCTION ... SET search_path" in found


@pytest.mark.parametrize(
    "made",
    [
        f"{PINNED} {TABLE} CREATE INDEX folded ON t (plain(a))",
        f"{PLPGSQL} CREATE TABLE t (a text, CHECK (plain(a) <> ''))",
        "CREATE TABLE t (a text); CREATE INDEX ON t (lower(a))",
    ],
    ids=["its path is set", "no row is loaded", "the server's own"],
)
def test_what_a_restore_can_compute_is_no_obstacle(session: Any, database: Login, made: str) -> None:
    session.cursor().execute(made)
    assert look(database) == Obstacles()


@pytest.fixture
def role(session: Any, database: Login) -> Iterator[Login]:
    """One that owns the database and is no superuser."""
    name = f"role_{secrets.token_hex(4)}"
    with session.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' CREATEDB")
        cursor.execute(f'ALTER DATABASE "{database.database}" OWNER TO {name}')
        cursor.execute(f"GRANT ALL ON SCHEMA public TO {name}")
        yield replace(database, user=name, password="x")
        cursor.execute(f'ALTER DATABASE "{database.database}" OWNER TO current_user')
        cursor.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def test_what_the_role_may_not_restore_is_named(session: Any, role: Login) -> None:
    assert look(role) == Obstacles()
    session.cursor().execute(
        f"CREATE EXTENSION pageinspect; CREATE TABLE others (a int); CREATE TABLE own (a int);"
        f"ALTER TABLE own OWNER TO {role.user};"
        "CREATE FUNCTION told() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;"
        "CREATE EVENT TRIGGER teller ON sql_drop EXECUTE FUNCTION told()"
    )
    extension, owner, superuser = look(role).found
    assert "may not create the extension pageinspect" in extension
    assert "public.others" in owner
    assert "public.own" not in owner
    assert "event trigger teller" in superuser
    session.cursor().execute("DROP EVENT TRIGGER teller")


def test_rows_that_belong_to_an_extension_are_named(session: Any, database: Login) -> None:
    session.cursor().execute(
        "CREATE EXTENSION unaccent; CREATE TABLE jobs (a int); ALTER EXTENSION unaccent ADD TABLE jobs"
    )
    assert look(database).found == []
    session.cursor().execute("INSERT INTO jobs VALUES (1)")
    (found,) = look(database).found
    assert "public.jobs belongs to the extension unaccent" in found


def test_a_function_of_a_stranger_is_not_called(session: Any, database: Login, role: Login) -> None:
    session.cursor().execute(
        f'ALTER DATABASE "{database.database}" OWNER TO current_user; {PLPGSQL} {TABLE}'
        f"CREATE INDEX folded ON t (plain(a)); ALTER FUNCTION plain(text) OWNER TO {role.user}"
    )
    seen = look(database)
    assert seen.found == []
    assert "the index folded of public.t" in seen.unseen[0]


OTHER_VERSION = "CREATE COLLATION odd (provider = icu, locale = 'de'); CREATE TABLE t (a text COLLATE odd);"


def test_an_index_of_another_version_of_its_collation_is_named(session: Any, database: Login) -> None:
    session.cursor().execute(f"{OTHER_VERSION} UPDATE pg_collation SET collversion = '1' WHERE collname = 'odd'")
    assert look(database).found == [], "no index uses it"
    session.cursor().execute("CREATE UNIQUE INDEX by_a ON t (a)")
    (found,) = look(database).found
    assert "The collation public.odd has version" in found and "its indexes (1) were built with version 1" in found
    assert found.endswith("ALTER COLLATION public.odd REFRESH VERSION.")


def test_a_database_of_another_version_of_its_collation_is_named(server: Login) -> None:
    name = f"test_{secrets.token_hex(6)}"
    with closing(connect(server, "tests")) as keeper, keeper.cursor() as cursor:
        if keeper.server_version < OF_DATABASES:  # it does not record the version
            return
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de'")
        try:
            assert look(server.to(name)).found == []
            with closing(connect(server.to(name), "tests")) as session:
                session.cursor().execute("CREATE TABLE public.t (a text PRIMARY KEY)")
            cursor.execute("UPDATE pg_database SET datcollversion = '1' WHERE datname = %s", (name,))
            (found,) = look(server.to(name)).found
            assert "The default collation of the database has version" in found
            assert found.endswith(f"ALTER DATABASE {name} REFRESH COLLATION VERSION.")
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
