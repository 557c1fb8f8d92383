"""The guards that story 8.1a declares: all hold where it is deployed, and each goes red on what it is there for."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest
import shared_database
import yaml
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from guard_info import act
from preflight_world import serve
from story_8_1a import DRAWING, PROJECT_OF_OTHER, RELEASE, ROWS, SCHEMA, WITHOUT, Session, execute

database, emptied = shared_database.database, shared_database.emptied

DECLARED: dict[str, Any] = yaml.safe_load((RELEASE / "release.yml").read_text())
GUARDS: list[dict[str, Any]] = DECLARED["rollback"]["guards"]
DRAWINGS, SCHEMA_PATH = "/api/v1/drawings?limit=100", "/openapi.json"
PHASE_A = {
    DRAWINGS: [{"id": 1, "project_id": 2, "project": {"id": 2}}],
    SCHEMA_PATH: {
        "paths": {"/api/v1/drawings": {}},
        "components": {"schemas": {"Drawing": {"properties": {"id": {}}}}},
    },
}
REQUEST = 'INFO "GET /api/v1/drawings/7/{} HTTP/1.1" 200'


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, Any]]:
    """Containers that stand for the backend, by its phase."""
    client = docker.from_env()
    made = {
        phase: client.containers.run(
            "drawing-base:bookworm", ["sleep", "300"], name=f"test_{secrets.token_hex(6)}", init=True, detach=True,
            environment={"APP_PHASE": phase},
        )
        for phase in "AB"
    }  # fmt: skip
    yield made
    for container in made.values():
        container.remove(force=True)
    client.close()


Look = Callable[..., dict[str, str]]


@pytest.fixture
def look(
    session: Session, login_parameters: dict[str, Any], run_parameters: dict[str, Any], backends: dict[str, Any]
) -> Iterator[Look]:
    """What each guard says once something was done to what the release left."""
    migration = DECLARED["migration"]
    execute(
        session,
        SCHEMA,
        ROWS.format(rows=100),
        "CREATE TABLE alembic_version (version_num varchar(32))",
        f"INSERT INTO alembic_version VALUES ('{migration['to_revision']}')",
    )
    answers: dict[str, tuple[int, str]] = {}
    server = serve(lambda: answers)
    Journal(Run(**run_parameters)).append("upgrade", "started")

    def look(*statements: str, phase: str = "A", asked_for: str = "components", **changed: Any) -> dict[str, str]:
        # The log of a container is what its first process writes.
        backends[phase].exec_run(["sh", "-c", f"echo '{REQUEST.format(asked_for)}' > /proc/1/fd/1"])
        answers.update({path: (200, json.dumps(body)) for path, body in {**PHASE_A, **changed}.items()})
        execute(session, *statements)
        params = {
            **login_parameters, "run": run_parameters, "guards": GUARDS, "from_revision": migration["from_revision"],
            "revision": migration["to_revision"], "bookkeeping_table": "alembic_version",
            "created": DECLARED["tables"]["created"], "altered": {}, "method": "sql", "revision_files": [],
            "script": (RELEASE / DECLARED["rollback"]["sql"]).read_text(encoding="utf-8"),
            "containers": {"backend": backends[phase].name},
            "api_base_url": f"http://127.0.0.1:{server.server_port}", "accept_loss": None, "accept_log_gap": True,
            "request_timeout_seconds": 5.0, "statement_timeout_ms": 10_000,
        }  # fmt: skip
        return {proof["name"].removeprefix("guard."): proof["status"] for proof in act(params, False)["proofs"]}

    yield look
    server.shutdown()
    server.server_close()


def test_all_hold_where_it_is_deployed(look: Look) -> None:
    of_the_engine = ("revision", "nothing_depends", "no_other_column")
    assert look() == dict.fromkeys([*of_the_engine, *(guard["name"] for guard in GUARDS)], "pass")


def add(drawing: str, by: str) -> str:
    return f"""
        INSERT INTO drawing_project_associations (drawing_id, project_id, assigned_by)
        VALUES ({drawing}, {PROJECT_OF_OTHER}, '{by}')"""


OF_NEW_PROPERTIES: dict[str, Any] = {
    "paths": {},
    "components": {"schemas": {"Drawing": {"properties": {"projects": {}}}}},
}
# What is done, the guard that is there for it, and others that see it too.
BREAKS: list[tuple[str, dict[str, Any], str, set[str]]] = [
    ("", {DRAWINGS: [{"id": 1}, {"id": 2, "projects": []}]}, "phase_b_answers_absent", set()),
    ("", {SCHEMA_PATH: OF_NEW_PROPERTIES}, "phase_b_schema_absent", set()),
    ("", {SCHEMA_PATH: {"paths": {"/api/v1/drawings/{id}/projects": {}}}}, "phase_b_schema_absent", set()),
    ("", {"phase": "B"}, "phase_b_image_absent", set()),
    ("", {"asked_for": "projects"}, "phase_b_traffic_absent", set()),
    (
        "ALTER TABLE drawings RENAME COLUMN project_id TO project_id_away",
        {},
        "project_id_present",
        {"no_association_lost"},
    ),
    (add(DRAWING, "migration_8.1a"), {}, "one_project_per_drawing", {"no_association_lost"}),
    (add(WITHOUT, "someone"), {}, "no_association_lost", set()),
    (
        f"UPDATE drawing_project_associations SET assigned_by = 'someone' WHERE drawing_id = {DRAWING}",
        {},
        "no_association_lost",
        set(),
    ),
    (f"UPDATE drawings SET project_id = NULL WHERE id = {DRAWING}", {}, "no_association_lost", set()),
]


def test_every_declared_guard_is_broken_above() -> None:
    assert {guard for *_, guard, _ in BREAKS} == {guard["name"] for guard in GUARDS}


@pytest.mark.parametrize(("statement", "changed", "guard", "also"), BREAKS, ids=[row[2] for row in BREAKS])
def test_what_is_broken_turns_that_very_guard_red(
    look: Look, statement: str, changed: dict[str, Any], guard: str, also: set[str]
) -> None:
    found = look(*filter(None, [statement]), **changed)
    assert found[guard] == "fail"
    assert {name for name, status in found.items() if status != "pass"} == {guard, *also}


(LOG,) = [guard["log"]["pattern"] for guard in GUARDS if "log" in guard]
# A line of a server's log, and whether it is a request for an endpoint of Phase B.
LINES = [
    ('INFO:     10.0.0.7:5 - "GET /api/v1/drawings/7/projects HTTP/1.1" 200 OK', True),
    ('INFO:     10.0.0.7:5 - "\x1b[1mGET /api/v1/drawings/7/projects HTTP/1.1\x1b[0m" \x1b[32m200 OK\x1b[0m', True),
    ('{"method":"GET","path":"/api/v1/drawings/7/projects","status":200}', True),
    ('{"request": "DELETE /api/v1/drawings/7/projects/9", "status": 204}', True),
    ("GET /api/v1/drawings/7/projects 200", True),
    ("10.0.0.7 'POST /api/v1/drawings/7/projects' 201", True),
    ('10.0.0.7 - - [03/Oct/2025:09:00:00 +0000] "GET /api/v1/drawings/7/projects?limit=5 HTTP/1.1" 200 17', True),
    ("GET http://10.0.0.7:8001/api/v1/drawings/0b1f8c1e-0000-4000-8000-000000000007/projects", True),
    ('INFO:     10.0.0.7:5 - "GET /api/v1/drawings/7 HTTP/1.1" 200 OK', False),
    ('INFO:     10.0.0.7:5 - "GET /api/v1/drawings/7/components HTTP/1.1" 200 OK', False),
    ('INFO:     10.0.0.7:5 - "GET /api/v1/drawings?limit=100 HTTP/1.1" 200 OK', False),
    ('INFO:     10.0.0.7:5 - "GET /api/v1/projects HTTP/1.1" 200 OK', False),
    ('INFO:     10.0.0.7:5 - "GET /api/v1/projects/9/drawings HTTP/1.1" 200 OK', False),
    ('{"method":"GET","path":"/api/v1/drawings/7"} {"method":"GET","path":"/api/v1/projects"}', False),
    ("GET /api/v1/drawings/7/projects_archive 200", False),
    ("GET /api/v1/drawings/7/projects-of-old 200", False),
]


@pytest.mark.parametrize(("line", "hit"), LINES)
def test_a_request_for_phase_b_is_known_in_every_form_of_a_log(line: str, hit: bool) -> None:
    assert (re.search(LOG, line) is not None) is hit
