"""The running stack, and copies of its API on databases of the tests' own, so that the stack's data stays as it is."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import docker
import psycopg2
import pytest
import requests
from ansible.module_utils.dbrelease.postgres.session import Login
from docker.models.containers import Container
from own_sessions import connect

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("drawing_postgres", "drawing_redis", "drawing_backend", "drawing_celery_worker")
TESTS_BROKER = "redis://redis:6379/9"  # the stack's own worker listens on database 0

Sql = Callable[[str], list[tuple[object, ...]]]


@pytest.fixture(scope="session")
def containers() -> dict[str, Container]:
    """The stack's four containers, all healthy."""
    client = docker.from_env()
    found = {c.name: c for c in client.containers.list(all=True) if c.name in SERVICES}
    states = {name: found[name].health if name in found else "absent" for name in SERVICES}
    if set(states.values()) != {"healthy"}:
        pytest.fail(f"Looked for the reference stack, but its containers are {states}; run 'make stack' first.")
    return {name: container for name, container in found.items() if name}


@pytest.fixture(scope="session")
def server(stack_server: Login) -> Login:
    """What the stack's containers connect to."""
    return stack_server


@pytest.fixture(scope="session")
def backend(containers: dict[str, Container]) -> Container:
    return containers["drawing_backend"]


@pytest.fixture(scope="module")
def seeded(server: Login, containers: dict[str, Container]) -> Iterator[Login]:
    """A database like the stack's, with 1,000 drawings."""
    yield from seeded_database(server, rows=1000)


def seeded_database(server: Login, rows: int) -> Iterator[Login]:
    name = f"test_stack_{secrets.token_hex(6)}"
    session = connect(server, "tests")
    with session.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    try:
        alembic(name, "upgrade", "0ab370a9afb6")
        psql = ["psql", "-U", server.user, "-d", name, "-q", "--set", f"rows={rows}"]
        execute("drawing_postgres", *psql, feed=(ROOT / "stack/seed.sql").read_text())
        yield replace(server, database=name)
    finally:
        with session.cursor() as cursor:
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        session.close()


def execute(container: str, *command: str, feed: str = "", **environment: str) -> str:
    """The output of a command that succeeds in a container."""
    settings = [f"--env={name}={value}" for name, value in environment.items()]
    call = ["docker", "exec", "--interactive", *settings, container, *command]
    result = subprocess.run(call, input=feed, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def alembic(database: str, *arguments: str) -> str:
    return execute("drawing_backend", "python3", "-m", "alembic", *arguments, POSTGRES_DB=database)


@pytest.fixture
def sql(seeded: Login) -> Iterator[Sql]:
    """Runs SQL in the seeded database; nothing of it stays."""
    session = psycopg2.connect(
        host=seeded.host, port=seeded.port, user=seeded.user, password=seeded.password, dbname=seeded.database
    )

    def run(statement: str) -> list[tuple[object, ...]]:
        with session.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    yield run
    session.rollback()
    session.close()


class Api:
    """A running copy of the API, by its address."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(self, method: str, path: str, body: object = None, expect: int = 200) -> object:
        answer = requests.request(method, self.address + path, json=body, timeout=10)
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None


@pytest.fixture(scope="module")
def start_api(seeded: Login, containers: dict[str, Container]) -> Iterator[Callable[[str], Api]]:
    """Starts a phase of the stack's image on the seeded database."""
    backend = containers["drawing_backend"]
    (network,) = backend.attrs["NetworkSettings"]["Networks"]
    started: list[Container] = []

    def start(phase: str) -> Api:
        container = docker.from_env().containers.run(
            backend.attrs["Image"],
            detach=True,
            environment=[
                f"APP_PHASE={phase}",
                f"POSTGRES_USER={seeded.user}",
                f"POSTGRES_PASSWORD={seeded.password}",
                f"POSTGRES_DB={seeded.database}",
                f"REDIS_URL={TESTS_BROKER}",
            ],
            labels={"drawing.stack": "tests"},
            network=network,
            ports={"8000/tcp": ("127.0.0.1", 0)},
        )
        started.append(container)
        container.reload()
        api = Api(f"http://127.0.0.1:{host_port(container, '8000/tcp')}")
        wait_for(lambda: answers(api), f"the API of phase {phase}", container)
        return api

    yield start
    for container in started:
        container.remove(force=True)
    execute("drawing_redis", "redis-cli", "-n", "9", "FLUSHDB")


def host_port(container: Container, port: str) -> str:
    (binding, *_) = container.ports[port] or [{"HostPort": "none"}]
    return binding["HostPort"]


def answers(api: Api) -> bool:
    try:
        return requests.get(api.address + "/health", timeout=2).ok
    except requests.ConnectionError:
        return False


def wait_for(claim: Callable[[], bool], what: str, container: Container, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > deadline:
            pytest.fail(f"Waited {seconds} s for {what}; {container.name} logged:\n{container.logs(tail=20).decode()}")
        time.sleep(0.2)
