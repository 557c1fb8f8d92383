"""A server in a container of its own, whose first process it is, for the tests of a file.

A test file that names its fixtures has them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

import docker
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect

PASSWORD = 'c4n4ry/p@ss:w%rd+"x é'


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="module")
def container(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own, of the reference stack's image; its local socket asks for the password too."""
    scripts = tmp_path_factory.mktemp("initdb")
    scripts.chmod(0o755)
    script = scripts / "hba.sh"
    script.write_text("sed -i 's/^local\\(.*\\)trust$/local\\1scram-sha-256/' \"$PGDATA/pg_hba.conf\"\n")
    script.chmod(0o755)
    image = engine.containers.get("drawing_postgres").attrs["Config"]["Image"]
    name = f"test_postgres_{secrets.token_hex(4)}"
    made = engine.containers.run(
        image,
        name=name,
        detach=True,
        environment={"POSTGRES_USER": "keeper", "POSTGRES_PASSWORD": PASSWORD, "POSTGRES_DB": "keeper"},
        volumes={str(scripts): {"bind": "/docker-entrypoint-initdb.d", "mode": "ro"}},
    )
    yield name
    made.remove(force=True, v=True)


@pytest.fixture(scope="module")
def own_server(engine: docker.DockerClient, container: str) -> Login:
    address = engine.containers.get(container).attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    login = Login(address, 5432, "keeper", "keeper", PASSWORD)
    wait_for(login)
    return login


def wait_for(login: Login) -> None:
    """Until the server answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            connect(login, "tests").close()
        except ReleaseError as error:
            assert time.monotonic() < deadline, f"the tests' own server never answered: {error.message}"
            time.sleep(0.2)
        else:
            return
