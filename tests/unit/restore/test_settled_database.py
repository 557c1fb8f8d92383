"""settled_database: what happens after the application has started is seen, and so is what its next start would do."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import psycopg2.extensions
import pytest
import settled_database
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.host import lifecycle
from ansible.module_utils.dbrelease.host.removed_files import RemovedFiles
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.restore import settled
from ansible.module_utils.dbrelease.restore.settled import MIGRATES, migrating_program, read_left

OLD, NEW = "1a2b3c4d5e6f", "2b3c4d5e6f7a"
SCHEMA = f"""
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('{OLD}');
CREATE TABLE orders (id int PRIMARY KEY);
"""
Read = Callable[..., dict[str, Any]]


def claims(result: dict[str, Any]) -> dict[str, str]:
    return {proof["name"].removeprefix("settled."): proof["status"] for proof in result["proofs"]}


def proof_of(result: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = [proof for proof in result["proofs"] if proof["name"] == f"settled.{name}"]
    return found


@pytest.fixture
def payload(tmp_path: Path) -> list[dict[str, Any]]:
    """A file of the release, on the target itself."""
    path = tmp_path / "versions" / "new.py"
    path.parent.mkdir()
    path.write_text(f"revision = '{NEW}'\n", encoding="utf-8")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return [{"source": "new.py", "destination": str(path), "sha256": sha256}]


@pytest.fixture
def read(
    session: psycopg2.extensions.connection,
    database: Login,
    login_parameters: dict[str, Any],
    run_parameters: dict[str, Any],
    payload: list[dict[str, Any]],
) -> Read:
    """The module, after this run has swapped in what the database holds; the heads are what the files define."""
    session.autocommit = True
    with session.cursor() as cursor:
        cursor.execute(SCHEMA)
    left = read_left(database, "alembic_version", "").facts()
    Journal(Run(**run_parameters)).append("restore.swap", "passed", {"left": left, "proofs": []})
    folder = Path(payload[0]["destination"]).parent
    heads = f"ls {folder}/*.py >/dev/null 2>&1 && echo '{NEW} (head)' || echo '{OLD} (head)'"

    def module(*statements: str, check_mode: bool = False, **options: Any) -> dict[str, Any]:
        with session.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        given = {key: option.get("default") for key, option in settled_database.OPTIONS.items()}
        asked = {**given, **login_parameters, "run": run_parameters, "payload": payload, "command": ["sh", "-c", heads]}
        return settled_database.act({**asked, **options}, check_mode)

    return module


def test_a_database_that_was_migrated_again_after_the_start_is_red(read: Read) -> None:
    result = read(f"UPDATE alembic_version SET version_num = '{NEW}'", "CREATE TABLE order_items (id int)")
    assert claims(result) == {"revision": "fail", "structure": "fail", "payload": "pass"}
    assert f"left it at {OLD}, but it is at {NEW}: " in result["message"]
    assert "-e remove_payload=true" in result["message"]


def test_the_structure_is_read_again_although_the_revision_is_the_same(read: Read) -> None:
    result = read("CREATE INDEX late ON orders (id)")
    assert claims(result)["structure"] == "fail"
    assert "1 object differs (INDEX public.late: new)" in result["message"]


def test_a_structure_that_may_not_be_read_is_not_called_the_same(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise ReleaseError("permission denied for table hidden")

    monkeypatch.setattr(settled, "catalog_of", refused)
    result = read()
    assert claims(result)["structure"] == "inconclusive"
    assert "permission denied for table hidden" in proof_of(result, "structure")["detail"]


def test_what_the_next_start_would_apply_is_reported_and_removed_where_that_is_asked(
    read: Read, payload: list[dict[str, Any]]
) -> None:
    path = Path(payload[0]["destination"])
    result = read()
    assert claims(result) == {"revision": "pass", "structure": "pass", "payload": "inconclusive"}
    proof = proof_of(result, "payload")
    assert str(path) in proof["detail"] and f"end at {NEW}" in proof["detail"]
    assert "run the rollback playbook with `-e remove_payload=true`" in proof["remedy"] and (
        result["changed"],
        path.exists(),
    ) == (False, True)
    planned = read(check_mode=True, remove_payload=True)
    assert (planned["changed"], planned["removed"], path.exists()) == (True, [str(path)], True)
    removed = read(remove_payload=True)
    assert (removed["changed"], removed["removed"], path.exists()) == (True, [str(path)], False)
    assert claims(removed)["payload"] == "pass"
    again = read(remove_payload=True)
    assert (again["changed"], claims(again)["payload"]) == (False, "pass")


def test_a_file_that_is_not_the_releases_is_left(read: Read, payload: list[dict[str, Any]]) -> None:
    path = Path(payload[0]["destination"])
    path.write_text("# somebody else's\n", encoding="utf-8")
    result = read(remove_payload=True)
    assert (result["removed"], path.exists(), claims(result)["payload"]) == ([], True, "inconclusive")


def test_a_run_that_recorded_nothing_is_held_to_the_revision_that_it_is_given(
    read: Read, run_parameters: dict[str, Any]
) -> None:
    other = {**run_parameters, "run_id": "20260102T030406Z-abcdef"}
    assert claims(read(run=other, revision=OLD))["revision"] == "pass"
    assert claims(read(run=other, revision=NEW))["revision"] == "fail"
    assert claims(read(run=other))["revision"] == "inconclusive"


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """A container that stands for the application, with a command of a test's own."""
    monkeypatch.setattr(lifecycle, "STEADY_S", 0.2)
    client = docker.from_env()
    image = client.images.list(filters={"reference": "drawing-redis*"})[0]
    name = f"test_settled_{secrets.token_hex(4)}"
    made = client.containers.run(image, ["sh", "-c", request.param], entrypoint=[], name=name, detach=True)
    yield name
    made.remove(force=True, v=True)
    client.close()


@pytest.mark.parametrize("container", ["(sleep 2; : alembic upgrade head) & exec sleep 600"], indirect=True)
def test_a_migration_that_begins_after_the_start_is_awaited(
    read: Read, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settled, "MIGRATING_S", 30.0)
    result = read(containers=[container, ""])
    assert "programs" not in claims(result)
    assert f"the command of container {container} mentions a migration" in proof_of(result, "payload")["detail"]


@pytest.mark.parametrize("container", ["(sleep 500; : alembic upgrade head) & exec sleep 600"], indirect=True)
def test_a_migration_that_does_not_end_in_time_is_reported(
    read: Read, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settled, "MIGRATING_S", 0.3)
    assert claims(read(containers=[container]))["programs"] == "inconclusive"


@pytest.mark.parametrize("container", ["exec sleep 600"], indirect=True)
def test_files_are_put_back_into_a_container_that_is_stopped(container: str) -> None:
    client = docker.from_env()
    made = client.containers.get(container)
    write = "mkdir -p /srv/versions; echo x > /srv/versions/new.py; echo y > /srv/versions/old.py"
    made.exec_run(["sh", "-c", write], user="root")

    def files() -> list[bytes]:
        output: Any = made.exec_run(["ls", "/srv/versions"]).output
        return [*output.split()]

    removed = RemovedFiles(container)
    removed.remove(["/srv/versions/new.py"])
    assert files() == [b"old.py"]
    made.stop(timeout=0)
    removed.put_back()
    made.start()
    assert files() == [b"new.py", b"old.py"]
    client.close()


SHELL = ["10", "1", "sh -c alembic upgrade head && uvicorn app"]
SERVING, MIGRATING = ["11", "10", "uvicorn app"], ["11", "10", "python -m alembic upgrade head"]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([SHELL], True),
        ([SHELL, MIGRATING], True),
        ([SHELL, SERVING], False),
        ([["10", "1", "uvicorn app"], ["12", "10", "sh -c sleep 20; alembic upgrade head"]], True),
        ([["10", "1", "uvicorn app"]], False),
    ],
)
def test_a_program_that_migrates_is_distinguished_from_a_shell_that_has_done_so(
    rows: list[list[str]], found: bool
) -> None:
    assert bool(migrating_program(rows)) is found


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("python3 -m alembic upgrade head", True),
        ("/entrypoint.sh migrate", True),
        ("flask db upgrade heads", True),
        ("/app/bin/run-migrations", True),
        ("uvicorn --factory app.main:create_app", False),
        ("python /srv/migrations/../app.py", False),
    ],
)
def test_commands_that_mention_a_migration(command: str, found: bool) -> None:
    assert bool(MIGRATES.search(command)) is found
