"""preflight_info with a real Alembic in a real backend container, on throwaway containers of the stack's images."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import preflight_info
import pytest
import release_info
import server_in_container
from ansible.module_utils.dbrelease.host import inspect
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect
from preflight_world import POSTGRES_IMAGE, red, statuses

ROOT = Path(__file__).resolve().parents[3]
RELEASE = ROOT / "releases/8_1a"
HISTORY = ROOT / "stack/backend/migrations"
PASSWORD = "of-the-tests"
START, OLDER = "0ab370a9afb6", "7e42b9d06c13"


@dataclass
class Stack:
    """A database, and a backend whose migrations are in a folder of the test."""

    backend: Any
    login: Login
    migrations: Path
    parameters: dict[str, Any]

    def alembic(self, *words: str) -> None:
        status, output = self.backend.exec_run(["python3", "-m", "alembic", *words])
        assert status == 0, output.decode()

    def sql(self, text: str) -> None:
        connection = connect(self.login, "tests")
        with connection.cursor() as cursor:
            cursor.execute(text)
        connection.close()

    def look(self) -> dict[str, Any]:
        return preflight_info.act(self.parameters, False)


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any, Path]]:
    engine = docker.from_env()
    name = f"test_preflight_{secrets.token_hex(4)}"
    migrations = tmp_path_factory.mktemp(name) / "migrations"
    migrations.mkdir()
    made = [engine.containers.run(
        POSTGRES_IMAGE, ["postgres", "-c", "fsync=off"], name=f"{name}_db", detach=True,
        environment={"POSTGRES_PASSWORD": PASSWORD},
    )]  # fmt: skip
    try:
        made[0].reload()
        (network,) = made[0].attrs["NetworkSettings"]["Networks"].values()
        made.append(engine.containers.run(
            "drawing-backend:stack", ["sleep", "600"], name=f"{name}_backend", init=True, detach=True,
            environment={"POSTGRES_HOST": network["IPAddress"], "POSTGRES_USER": "postgres", "POSTGRES_DB": "postgres",
                         "POSTGRES_PASSWORD": PASSWORD},
            volumes={str(migrations): {"bind": "/app/migrations", "mode": "rw"}},
        ))  # fmt: skip
        yield made[0], made[1], migrations
    finally:
        for container in made:
            container.remove(force=True, v=True)
        engine.close()


@pytest.fixture
def stack(containers: tuple[Any, Any, Path], run_parameters: dict[str, Any]) -> Stack:
    """At the revision that the release starts from, with no file of the release."""
    database, backend, migrations = containers
    found = inspect.inspect_target({"db": database.name, "backend": backend.name}, "", 5432)
    login = Login(found["login_host"], found["login_port"], "postgres", "postgres", PASSWORD)
    server_in_container.wait_for(login)
    for path in migrations.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(HISTORY, migrations, dirs_exist_ok=True)
    release = release_info.act({"directory": str(RELEASE), "schemas": str(ROOT / "schemas")}, False)["release"]
    release["services"] = ["backend", "db"]
    parameters = {
        "run": run_parameters, "login_host": login.host, "login_port": login.port, "login_user": login.user,
        "login_password": PASSWORD, "login_db": login.database, "ssl_mode": "prefer", "release": release,
        "services": found["services"], "address_problem": found["address_problem"], "backend_container": backend.name,
        "db_container": database.name, "workdir": None, "api_base_url": "", "require_staging_evidence": False,
        "staging_evidence_path": "",
    }  # fmt: skip
    built = Stack(backend, login, migrations, parameters)
    built.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    built.alembic("upgrade", START)
    return built


def copy_payload(stack: Stack) -> None:
    for item in stack.parameters["release"]["migration"]["payload"]:
        shutil.copyfile(item["path"], stack.migrations / Path(item["destination"]).relative_to("/app/migrations"))


def test_release_is_ready_then_deployed(stack: Stack) -> None:
    first = stack.look()
    assert (first["state"], first["message"]) == ("ready", "")
    payload = stack.parameters["release"]["migration"]["payload"]
    assert first["payload_missing"] == [item["destination"] for item in payload]
    copy_payload(stack)
    second = stack.look()
    assert (second["state"], second["payload_missing"]) == ("ready", [])
    stack.alembic("upgrade", stack.parameters["release"]["migration"]["to_revision"])
    third = stack.look()
    assert (third["state"], third["message"]) == ("deployed", "")


def test_older_revision_is_called_older(stack: Stack) -> None:
    stack.alembic("downgrade", OLDER)
    result = stack.look()
    assert "preflight.revision" in {proof["name"] for proof in result["proofs"] if proof["status"] == "fail"}
    assert f"The database is at {OLDER}, which is older than {START}." in result["message"]


def test_unknown_revision_is_called_unknown(stack: Stack) -> None:
    stack.sql("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    result = stack.look()
    assert red(result) == {"revision"}
    assert "not in the backend's history" in result["message"]


def test_second_head_and_different_file_are_refused(stack: Stack) -> None:
    copy_payload(stack)
    payload = stack.migrations / Path(
        stack.parameters["release"]["migration"]["payload"][0]["destination"]
    ).relative_to("/app/migrations")
    text = payload.read_text()
    payload.write_text(text + "# changed\n")
    to_revision = stack.parameters["release"]["migration"]["to_revision"]
    payload.with_name("other.py").write_text(text.replace(to_revision, "abcdefabcdef"))
    result = stack.look()
    assert red(result) == {"history", "payload"}
    assert "2 heads" in result["message"]
    assert "differs from" in result["message"]


def test_backend_on_another_database_is_noticed(stack: Stack) -> None:
    stack.sql("CREATE DATABASE elsewhere TEMPLATE postgres")
    try:
        stack.parameters["login_db"] = "elsewhere"
        other = Login(stack.login.host, stack.login.port, "postgres", "elsewhere", PASSWORD)
        connection = connect(other, "tests")
        connection.cursor().execute("UPDATE alembic_version SET version_num = %s", (OLDER,))
        connection.close()
        stack.parameters["release"]["migration"]["from_revision"] = OLDER
        result = stack.look()
    finally:
        stack.sql("DROP DATABASE elsewhere WITH (FORCE)")
    assert f"The backend reports {START}, but this database is at {OLDER}." in result["message"]


def test_stopped_backend_is_said_once(stack: Stack) -> None:
    stack.backend.stop(timeout=0)
    try:
        services = {name: service["container"] for name, service in stack.parameters["services"].items()}
        found = inspect.inspect_target(services, "", 5432)
        stack.parameters["services"] = found["services"]
        result = stack.look()
    finally:
        stack.backend.start()
    assert red(result) == {"services"}
    assert f"docker start {stack.backend.name}" in result["message"]
    assert {statuses(result)[rule] for rule in ("history", "payload")} == {"skipped"}
