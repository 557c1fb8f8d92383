"""Containers of a Compose project: found by the labels of every version, all replicas as one, and never by guess."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import run as run_module
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.host import compose
from ansible.module_utils.dbrelease.host.compose import chosen, containers_of

WANTED = {"backend": "api", "db": "db"}


def container(name: str, service: str, state: str = "running", **more: str) -> dict[str, Any]:
    """As the engine lists it; `more`: number, folder, project, oneoff."""
    labels = {
        compose.COMPOSE_PROJECT: more.get("project", "shop"),
        compose.SERVICE: service,
        compose.NUMBER: more.get("number", "1"),
        compose.FOLDER: more.get("folder", "/srv/shop"),
        "com.docker.compose.oneoff": more.get("oneoff", "False"),
    }
    return {
        "Id": name * 8,
        "Names": [f"/{name}"],
        "State": state,
        "Labels": {key: one for key, one in labels.items() if one},
    }


V1 = [container("shop_api_1", "api"), container("shop_db_1", "db")]
V2 = [container("shop-api-1", "api"), container("shop-db-1", "db"), container("shop-search-1", "search")]
FOUND: dict[str, tuple[list[dict[str, Any]], dict[str, str]]] = {
    "Compose v1": (V1, {"backend": "shop_api_1", "db": "shop_db_1"}),
    "Compose v2": (V2, {"backend": "shop-api-1", "db": "shop-db-1", "search": "shop-search-1"}),
    "a container_name": (
        [container("front", "api"), container("store", "db")],
        {"backend": "front", "db": "store"},
    ),
    "three replicas": (
        [
            *V1,
            container("shop_api_10", "api", number="10"),
            container("shop_api_2", "api", number="2"),
        ],
        {"backend": "shop_api_1", "db": "shop_db_1"},
    ),
    "the first replica is stopped": (
        [
            container("shop-api-1", "api", "exited"),
            container("shop-api-10", "api", number="10"),
            container("shop-api-2", "api", number="2"),
            container("shop-db-1", "db", "exited"),
        ],
        {"backend": "shop-api-2", "db": "shop-db-1"},
    ),
    "a one-off container": (
        [*V1, container("shop_api_run_1", "api", number="0", oneoff="True")],
        {"backend": "shop_api_1", "db": "shop_db_1"},
    ),
    "Podman, without the folder and the number": (
        [container("shop_api_1", "api", number="", folder=""), container("shop_db_1", "db", number="", folder="")],
        {"backend": "shop_api_1", "db": "shop_db_1"},
    ),
    "services of one project from two folders": (
        [container("shop_api_1", "api", folder="/srv/releases/2"), container("shop_db_1", "db")],
        {"backend": "shop_api_1", "db": "shop_db_1"},
    ),
}


@pytest.mark.parametrize(("listed", "found"), FOUND.values(), ids=FOUND.keys())
def test_each_service_has_its_container(listed: list[dict[str, Any]], found: dict[str, str]) -> None:
    assert chosen("shop", WANTED, (), listed, []) == found
    assert chosen("shop", WANTED, (), listed[::-1], []) == found


REFUSED: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], str]] = {
    "no such project": (
        [],
        [container("a", "x", project="blog"), container("b", "x", project="blog"), container("c", "x", project="wiki")],
        "(no container there has its label; Compose projects: blog, wiki), and nothing was started: correct "
        "compose_project.",
    ),
    "no project at all": ([], [], "Compose projects: none), and nothing was started: correct compose_project."),
    "no such service": (
        [container("shop_db_1", "db"), container("shop_web_1", "web")],
        [],
        "(it has no container of the service backend (in Compose api); its services: db, web), and nothing was "
        "started: create it, name the Compose service in compose_services ({backend: NAME}), or name the container in "
        "backend_container, where empty text says that the target has none.",
    ),
    "a one-off container alone": (
        [container("shop_db_1", "db"), container("shop_api_run_1", "api", oneoff="True")],
        [],
        "it has no container of the service backend",
    ),
    "two projects of one name": (
        [*V1, container("other_api_1", "api", folder="/opt/shop")],
        [],
        "(the service backend has containers of 2 Compose projects of that name, in /opt/shop and /srv/shop), and "
        "nothing was started: name its container in backend_container, or remove the containers of the other one.",
    ),
}


@pytest.mark.parametrize(("listed", "others", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_clear_container_is_refused_in_one_sentence(
    listed: list[dict[str, Any]], others: list[dict[str, Any]], says: str
) -> None:
    with pytest.raises(ReleaseError) as caught:
        chosen("shop", WANTED, (), listed, others)
    assert caught.value.refused
    assert caught.value.message.startswith(
        "Finding the containers of the Compose project shop on the target was refused ("
    )
    assert says in caught.value.message


def test_what_the_inventory_has_elsewhere_may_be_missing() -> None:
    assert chosen("shop", WANTED, ("db",), [container("shop_api_1", "api")], []) == {"backend": "shop_api_1"}


class Engine:
    """Answers as the engine's SDK does, by labels alone."""

    def __init__(self, *listed: dict[str, Any]) -> None:
        self.api, self.listed = self, listed

    def containers(self, *, all: bool, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
        """The engine's own filter."""
        (wanted,) = filters["label"]
        name, _, value = wanted.partition("=")
        return [one for one in self.listed if name in one["Labels"] and (not value or one["Labels"][name] == value)]

    def inspect_container(self, name: str) -> dict[str, Any]:
        """What the state of a service is read from."""
        network = {"Ports": {}, "Networks": {"shop": {"IPAddress": "172.18.0.9"}}}
        state = {"Status": "running", "StartedAt": "2026-01-02T03:04:05Z"}
        config = {"Image": "x", "Labels": {}}
        return {
            "Id": name,
            "Name": f"/{name}",
            "State": state,
            "Config": config,
            "HostConfig": {},
            "NetworkSettings": network,
        }


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def asking(_what: str) -> Any:
        yield Engine(*V2, container("blog_api_1", "api", project="blog"))

    monkeypatch.setattr(compose, "asking", asking)
    monkeypatch.setattr("ansible.module_utils.dbrelease.host.inspect.asking", asking)


@pytest.mark.usefixtures("engine")
def test_only_the_projects_own_containers_are_asked_for() -> None:
    assert containers_of("blog", {"api": "api"}) == {"api": "blog_api_1"}
    with pytest.raises(ReleaseError, match="Compose projects: blog, shop"):
        containers_of("shops", WANTED)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("named", "composed", "found"),
    [
        ({"backend": "", "db": ""}, WANTED, {"backend": "shop-api-1", "db": "shop-db-1"}),
        ({"backend": "", "db": "other_db"}, {"backend": "api"}, {"backend": "shop-api-1", "db": "other_db"}),
        ({"backend": "", "db": ""}, {"db": "db"}, {"backend": "", "db": "shop-db-1"}),
        ({"backend": "", "db": "", "search": ""}, WANTED, {"backend": "shop-api-1", "db": "shop-db-1", "search": ""}),
    ],
    ids=["found", "a name wins", "empty text says that there is none", "also where the project has one"],
)
def test_a_run_is_opened_with_the_containers_that_are_named_or_found(
    named: dict[str, str], composed: dict[str, str], found: dict[str, str], run_parameters: dict[str, Any]
) -> None:
    asked = {name: run_parameters[name] for name in ("release", "environment", "playbook", "state_dir")}
    params = {**asked, "exclusive": False, "controller": {}, "asked": [], "db_host": None, "db_port": None}
    given = {"containers": named, "compose_project": "shop", "compose_services": composed}
    result = run_module.act({**params, **given}, True)
    assert {name: result["containers"][name] for name in found} == found
    assert result["services"]["db"]["container"] == found["db"]
    assert result["login_host"] == "172.18.0.9"
