"""The stack is what the runbook describes, and its scripts refuse what they cannot do."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
import requests
from docker.models.containers import Container

from .conftest import ROOT, execute, host_port, wait_for

API = "http://localhost:8001"


def test_postgres_publishes_no_port(containers: dict[str, Container]) -> None:
    assert not any(containers["drawing_postgres"].ports.values())


def test_backend_publishes_port_8001(backend: Container) -> None:
    assert host_port(backend, "8000/tcp") == "8001"


def test_nothing_of_the_stack_listens_beyond_this_machine(containers: dict[str, Container]) -> None:
    published = [
        port for container in containers.values() for ports in container.ports.values() for port in ports or ()
    ]
    assert published
    assert {port["HostIp"] for port in published} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("name", "command", "expected"),
    [
        ("drawing_postgres", ["psql", "-U", "user", "-d", "drawing_index", "-c", "SELECT version();"], "PostgreSQL"),
        ("drawing_postgres", ["pg_dump", "--version"], "pg_dump"),
        ("drawing_postgres", ["pg_restore", "--version"], "pg_restore"),
        ("drawing_backend", ["python3", "-m", "alembic", "heads"], "(head)"),
        ("drawing_redis", ["redis-cli", "ping"], "PONG"),
    ],
)
@pytest.mark.usefixtures("containers")
def test_the_runbooks_programs_work(name: str, command: list[str], expected: str) -> None:
    assert expected in execute(name, *command)


@pytest.mark.usefixtures("containers")
def test_migrations_are_the_targets_folder() -> None:
    listed = execute("drawing_backend", "ls", "/app/migrations/versions")
    assert set(listed.split()) >= {p.name for p in (ROOT / "stack/backend/migrations/versions").glob("*.py")}


def test_password_is_private_and_in_no_log(containers: dict[str, Container]) -> None:
    file = ROOT / ".stack/db_password"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    password = file.read_text()
    assert len(password) >= 32
    for container in containers.values():
        assert password not in container.logs().decode(errors="replace")
    for log in (ROOT / ".stack").glob("*.log"):
        assert password not in log.read_text(errors="replace")


@pytest.mark.usefixtures("containers")
def test_passwords_are_asked_for_over_tcp() -> None:
    with pytest.raises(AssertionError, match="no password supplied"):
        execute(
            "drawing_postgres", "psql", "-h", "127.0.0.1", "-U", "user", "-d", "drawing_index", "-w", "-c", "SELECT"
        )


@pytest.mark.parametrize(("suffix", "outcome"), [(".pdf", "completed"), (".txt", "failed")])
def test_worker_processes_a_new_drawing(containers: dict[str, Container], suffix: str, outcome: str) -> None:
    body = {"title": "Processed by the stack's tests", "file_path": f"/tests/one{suffix}"}
    created = requests.post(f"{API}/api/v1/drawings", json=body, timeout=10).json()
    url = f"{API}/api/v1/drawings/{created['id']}"

    def processed() -> bool:
        return bool(requests.get(url, timeout=10).json()["processing_status"] == outcome)

    try:
        wait_for(processed, f"the drawing to be {outcome}", containers["drawing_celery_worker"])
    finally:
        requests.delete(url, timeout=10)


@pytest.mark.parametrize(
    "setting",
    [
        "ROWS=0",
        "ROWS=-1",
        "ROWS=ten",
        "ROWS=1.5",
        "ROWS=1000000000000",
        "APP_PHASE=C",
        "DB_OWNER=pg_owner",
        "DB_OWNER=a'b",
        "POSTGRES_SUITE=sarge",
    ],
)
def test_up_refuses_a_wrong_setting_in_one_sentence(setting: str) -> None:
    name, value = setting.split("=")
    result = up({name: value})
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {setting} is no ")


def test_up_names_a_missing_engine(tmp_path: Path) -> None:
    """A client without an engine, and no right to install one."""
    for name, text in {"docker": "exit 1", "docker-compose": "exit 1", "id": "echo 1000"}.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    result = up({"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert result.returncode == 1
    assert result.stderr.startswith("error: Looked for a running container engine, but none answers")


def up(settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "stack/bin/up")], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
