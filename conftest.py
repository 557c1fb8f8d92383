"""A real Postgres for every test that asks a question about Postgres."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "library"))
import ansible.module_utils  # noqa: E402

# The engine is found where Ansible would find it: as ansible.module_utils.dbrelease.
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))

from ansible.module_utils.dbrelease.postgres.session import Login  # noqa: E402
from declared_answers import pytest_collection_modifyitems  # noqa: E402, F401
from own_sessions import connect  # noqa: E402
from run_ids import RUN_ID  # noqa: E402


@pytest.fixture(scope="session")
def stack_server() -> Login:
    """The reference stack's server."""
    import docker

    client = docker.from_env()
    try:
        container = client.containers.get("drawing_postgres")
    except docker.errors.NotFound:
        pytest.fail(
            "Looked for the reference stack's server, but there is no drawing_postgres; run 'make stack' first."
        )
    finally:
        client.close()
    environment = dict(item.split("=", 1) for item in container.attrs["Config"]["Env"])
    (network,) = container.attrs["NetworkSettings"]["Networks"].values()
    return Login(network["IPAddress"], 5432, environment["POSTGRES_USER"], "postgres", environment["POSTGRES_PASSWORD"])


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Login]:
    """The server that TEST_POSTGRES (host:port:user:password) names; else one of the worker's own, if this is one.

    Alone, a test is asked on the reference stack's: that is there at once.
    """
    if named := os.environ.get("TEST_POSTGRES"):
        host, port, user, password = named.split(":", 3)
        yield Login(host, int(port), user, "postgres", password)
    elif os.environ.get("PYTEST_XDIST_WORKER"):
        import worker_server

        with worker_server.started(os.environ.get("POSTGRES_IMAGE") or "drawing-postgres:bookworm") as login:
            yield login
    else:
        yield request.getfixturevalue("stack_server")


@pytest.fixture
def database(server: Login) -> Iterator[Login]:
    """A database of its own, empty, gone afterwards."""
    name = f"test_{secrets.token_hex(6)}"
    session = connect(server, "tests")
    with session.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    yield replace(server, database=name)
    with session.cursor() as cursor:
        cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    session.close()


@pytest.fixture
def session(database: Login) -> Iterator[psycopg2.extensions.connection]:
    """A session in that database, in autocommit."""
    connection = connect(database, "tests")
    yield connection
    connection.close()


@pytest.fixture
def run_parameters(tmp_path: Path) -> dict[str, Any]:
    """The `run` option of a module, its state in a folder of the test's own."""
    return {
        "run_id": RUN_ID,
        "release": "sample",
        "environment": "test",
        "playbook": "tests",
        "state_dir": str(tmp_path / "state"),
    }


@pytest.fixture
def login_parameters(database: Login) -> dict[str, Any]:
    """The `login_*` options of a module, for that database."""
    return {
        "login_host": database.host,
        "login_port": database.port,
        "login_user": database.user,
        "login_password": database.password,
        "login_db": database.database,
        "ssl_mode": database.ssl_mode,
    }
