"""The API in both phases, on a database of the tests' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect

from .conftest import Api

NOBODY = "00000000-0000-4000-8000-000000000000"

DRAWING_KEYS = {
    "id", "title", "file_path", "processing_status", "upload_date", "project_id", "project", "metadata",
    "created_at", "updated_at",
}  # fmt: skip
JUNCTION_TABLE = """
CREATE TABLE IF NOT EXISTS drawing_project_associations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    drawing_id uuid NOT NULL REFERENCES drawings ON DELETE CASCADE,
    project_id uuid NOT NULL REFERENCES projects ON DELETE CASCADE,
    assigned_at timestamptz NOT NULL DEFAULT now(),
    assigned_by text,
    UNIQUE (drawing_id, project_id))
"""


@pytest.fixture(scope="module")
def phase_a(start_api: Callable[[str], Api]) -> Any:
    return start_api("A")


@pytest.fixture(scope="module")
def phase_b(start_api: Callable[[str], Api]) -> Any:
    return start_api("B")


@pytest.fixture
def project(phase_a: Any) -> Any:
    return phase_a("POST", "/api/v1/projects", {"name": 'It\'s "new"', "code": "N-1"}, expect=201)


@pytest.fixture
def drawing(phase_a: Any, project: Any) -> Any:
    body = {"title": "Plan 50% 🛠️", "file_path": "/a.pdf", "project_id": project["id"]}
    return phase_a("POST", "/api/v1/drawings", body, expect=201)


def test_drawings_are_a_list_with_project_id_and_project(phase_a: Any) -> None:
    drawings = phase_a("GET", "/api/v1/drawings")
    assert len(drawings) == 100
    for drawing in drawings:
        assert set(drawing) == DRAWING_KEYS
        assert (drawing["project"] or {}).get("id") == drawing["project_id"]
    with_project = next(d for d in drawings if d["project"])
    assert set(with_project["project"]) == {"id", "name", "code"}


def test_pages_are_stable_and_complete(phase_a: Any) -> None:
    whole = [p["id"] for p in phase_a("GET", "/api/v1/projects?limit=90")]
    pages = [p["id"] for offset in (0, 30, 60) for p in phase_a("GET", f"/api/v1/projects?limit=30&offset={offset}")]
    assert pages == whole
    assert len(set(whole)) == 90


def test_a_new_drawing_has_its_project(phase_a: Any, drawing: Any, project: Any) -> None:
    assert drawing["processing_status"] == "pending"
    assert drawing["project"] == {key: project[key] for key in ("id", "name", "code")}
    assert phase_a("GET", f"/api/v1/drawings/{drawing['id']}") == drawing


def test_project_id_can_be_cleared_and_changed(phase_a: Any, drawing: Any, project: Any) -> None:
    path = f"/api/v1/drawings/{drawing['id']}"
    other = phase_a("POST", "/api/v1/projects", {"name": "Other"}, expect=201)
    assert phase_a("PATCH", path, {"title": "Renamed"})["project_id"] == project["id"]
    assert phase_a("PATCH", path, {"project_id": None})["project"] is None
    assert phase_a("PATCH", path, {"project_id": other["id"]})["project"]["name"] == "Other"


def test_a_deleted_project_leaves_its_drawing(phase_a: Any, drawing: Any, project: Any) -> None:
    phase_a("DELETE", f"/api/v1/projects/{project['id']}", expect=204)
    assert phase_a("GET", f"/api/v1/drawings/{drawing['id']}")["project_id"] is None


def test_a_deleted_drawing_is_gone(phase_a: Any, drawing: Any) -> None:
    phase_a("DELETE", f"/api/v1/drawings/{drawing['id']}", expect=204)
    phase_a("GET", f"/api/v1/drawings/{drawing['id']}", expect=404)


def test_a_project_can_be_changed(phase_a: Any, project: Any) -> None:
    changed = phase_a("PATCH", f"/api/v1/projects/{project['id']}", {"code": None, "name": "Renamed"})
    assert (changed["name"], changed["code"]) == ("Renamed", None)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", f"/api/v1/drawings/{NOBODY}", None, 404),
        ("GET", "/api/v1/drawings/no-uuid", None, 422),
        ("GET", "/api/v1/drawings?limit=0", None, 422),
        ("POST", "/api/v1/drawings", {"title": "no file"}, 422),
        ("POST", "/api/v1/drawings", {"title": "t", "file_path": "/a.pdf", "project_id": NOBODY}, 409),
        ("DELETE", f"/api/v1/projects/{NOBODY}", None, 404),
    ],
)
def test_a_wrong_request_is_the_clients_error(phase_a: Any, method: str, path: str, body: Any, status: int) -> None:
    phase_a(method, path, body, expect=status)


def test_the_api_survives_the_loss_of_its_connections(phase_a: Any, seeded: Login) -> None:
    phase_a("GET", "/api/v1/drawings")
    session = connect(seeded, "tests")
    with session.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        (ended,) = cursor.fetchone() or (0,)
    session.close()
    assert ended > 0
    phase_a("GET", "/api/v1/drawings")


@pytest.mark.parametrize("phase", ["A", "B"])
def test_only_phase_b_shows_projects_in_its_schema(phase_a: Any, phase_b: Any, phase: str) -> None:
    api = {"A": phase_a, "B": phase_b}[phase]
    document = api("GET", "/openapi.json")
    answer = document["paths"]["/api/v1/drawings/{drawing_id}"]["get"]["responses"]["200"]
    schema = answer["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
    assert ("projects" in document["components"]["schemas"][schema]["properties"]) == (phase == "B")
    assert ("/api/v1/drawings/{drawing_id}/projects" in document["paths"]) == (phase == "B")


def test_phase_b_adds_projects_and_keeps_the_rest(phase_b: Any) -> None:
    for drawing in phase_b("GET", "/api/v1/drawings?limit=5"):
        assert set(drawing) == DRAWING_KEYS | {"projects"}


def test_phase_b_gives_a_drawing_several_projects(phase_b: Any, drawing: Any, project: Any, seeded: Login) -> None:
    path = f"/api/v1/drawings/{drawing['id']}"
    assert phase_b("GET", path)["projects"] == []  # the junction table is not there yet

    session = connect(seeded, "tests")
    with session.cursor() as cursor:
        cursor.execute(JUNCTION_TABLE)
    session.close()
    other = phase_b("POST", "/api/v1/projects", {"name": "Another"}, expect=201)
    phase_b("POST", path + "/projects", {"project_id": project["id"]}, expect=201)
    phase_b("POST", path + "/projects", {"project_id": other["id"]}, expect=201)
    phase_b("POST", path + "/projects", {"project_id": other["id"]}, expect=201)  # again: no second association
    phase_b("POST", path + "/projects", {"project_id": NOBODY}, expect=404)

    associated = {p["id"] for p in phase_b("GET", path + "/projects")}
    assert associated == {project["id"], other["id"]}
    assert {p["id"] for p in phase_b("GET", path)["projects"]} == associated
