"""On a server of our own no statement is too short to be named: its log is switched on, read, and switched off."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing

import docker
import pytest
from ansible.module_utils.dbrelease.observe.observing import observing
from ansible.module_utils.dbrelease.observe.statement_log import SETTINGS, START_SETTINGS
from ansible.module_utils.dbrelease.postgres.session import Login, Session
from own_sessions import connect
from server_in_container import PASSWORD, engine, wait_for

__all__ = ["engine"]

SET = "SELECT name, setting FROM pg_file_settings WHERE name = ANY (%s) AND sourcefile LIKE '%%auto.conf'"


@pytest.fixture(scope="module")
def own_server(engine: docker.DockerClient) -> Iterator[Login]:
    image = engine.containers.get("drawing_postgres").attrs["Config"]["Image"]
    name = f"test_postgres_{secrets.token_hex(4)}"
    made = engine.containers.run(
        image,
        ["postgres", *(part for key, value in START_SETTINGS.items() for part in ("-c", f"{key}={value}"))],
        name=name,
        detach=True,
        environment={"POSTGRES_USER": "keeper", "POSTGRES_PASSWORD": PASSWORD, "POSTGRES_DB": "keeper"},
    )
    try:
        address = engine.containers.get(name).attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        login = Login(address, 5432, "keeper", "keeper", PASSWORD)
        wait_for(login)
        yield login
    finally:
        made.remove(force=True, v=True)


@pytest.fixture
def migration(own_server: Login) -> Iterator[Session]:
    with closing(connect(own_server, "migration")) as session:
        yield session


def execute(session: Session, *statements: str) -> None:
    with session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def test_the_short_statement_that_locks_is_named_and_the_log_is_as_before(
    own_server: Login, migration: Session
) -> None:
    execute(migration, "CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders VALUES (1)")
    short = [f"CREATE INDEX i{n} ON items (order_id)" for n in range(20)]
    with observing(own_server, ["orders"], own_server=True) as seen, migration.cursor() as cursor:
        cursor.execute("SELECT 'earlier'")
        cursor.execute('BEGIN; CREATE TABLE items (order_id int REFERENCES orders, "a ""b" text)')
        for statement in short:
            cursor.execute(statement)
        cursor.execute("INSERT INTO items SELECT %s FROM pg_sleep(0.3)", (1,))
        cursor.execute(
            "SET LOCAL work_mem = '64kB'; SELECT n FROM generate_series(1, 50000) n ORDER BY n DESC OFFSET 40000"
        )
        with pytest.raises(Exception, match="no_such"):
            cursor.execute("SELECT * FROM no_such")
        cursor.execute("ROLLBACK")
    observation = seen.observation
    texts = [one.text for one in observation.statements]
    assert [text for text in texts if text.startswith("CREATE INDEX")] == short
    assert "SELECT 'earlier'" in texts
    assert observation.not_observed == ()
    assert observation.temp_files >= 1
    assert observation.temp_bytes > 100_000
    (wait,) = observation.waits
    assert wait.writer is not None
    named = [observation.statement(number) for number in (wait.writer.statement, wait.writer.through)]
    assert [one and one.text[:20] for one in named] == ["BEGIN; CREATE TABLE ", "INSERT INTO items SE"]
    assert [one and one.tag for one in named] == ["CREATE TABLE", "INSERT"]
    assert {"CREATE INDEX", "SELECT"} <= {one.tag for one in observation.statements}
    starts = [one.start_ms for one in observation.statements]
    assert starts == sorted(starts)
    with migration.cursor() as cursor:
        cursor.execute(SET, (list(SETTINGS),))
        assert cursor.fetchall() == []
