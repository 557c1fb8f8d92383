"""target: real containers for what the engine says, tables for what follows from it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest
import server_in_container
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.host import inspect
from ansible.module_utils.dbrelease.host.inspect import Address, Service, container_address, moment, service_of
from preflight_world import POSTGRES_IMAGE

Start = Callable[..., str]
SLEEP = ["sleep", "60"]
EVERYWHERE = "0.0.0.0"  # noqa: S104


def look(**given: Any) -> dict[str, Any]:
    return inspect.inspect_target(**{"containers": {}, "db_host": None, "db_port": None, **given})


engine = server_in_container.engine


@pytest.fixture
def start(engine: docker.DockerClient) -> Iterator[Start]:
    """Starts throwaway containers."""
    made = []

    def run(**options: Any) -> str:
        name = f"test_preflight_{secrets.token_hex(4)}"
        made.append(
            engine.containers.run(
                POSTGRES_IMAGE, SLEEP, name=name, entrypoint="", init=True, detach=True, network_mode="none", **options
            )
        )
        return name

    yield run
    for container in made:
        container.remove(force=True, v=True)


def test_running_database_is_found_on_its_network() -> None:
    found = look(containers={"db": "drawing_postgres"})
    assert found["services"]["db"]["status"] == "running"
    assert found["services"]["db"]["health"] == "healthy"
    assert found["address_problem"] == ""
    assert inspect.reachable(found["login_host"], found["login_port"])


def test_same_answer_twice() -> None:
    containers = {"db": "drawing_postgres", "cache": "drawing_redis"}
    assert look(containers=containers) == look(containers=containers)


def test_stopped_and_missing_containers_are_facts(start: Start, engine: docker.DockerClient) -> None:
    name = start()
    engine.containers.get(name).stop(timeout=0)
    found = look(containers={"db": name, "worker": "test_preflight_absent", "cache": ""})
    assert found["services"]["db"]["status"] == "exited"
    assert found["services"]["db"]["since"].endswith("+00:00")
    assert found["services"]["worker"]["status"] == "missing"
    assert set(found["services"]) == {"db", "worker"}
    assert found["login_host"] == ""
    assert f"docker start {name}" in found["address_problem"]


def test_paused_container_is_said_with_its_remedy(start: Start, engine: docker.DockerClient) -> None:
    name = start()
    engine.containers.get(name).pause()
    assert f"docker unpause {name}" in look(containers={"db": name})["address_problem"]
    engine.containers.get(name).unpause()


def test_health_is_reported(start: Start) -> None:
    check = {"test": ["CMD", "true"], "interval": 3_600 * 10**9}
    found = look(containers={"sick": start(healthcheck=check), "plain": start()})
    assert found["services"]["sick"]["health"] in ("starting", "healthy")
    assert found["services"]["plain"]["health"] == "none"


def test_beginning_of_an_id_is_no_name(start: Start, engine: docker.DockerClient) -> None:
    short = str(engine.containers.get(start()).id)[:6]
    assert look(containers={"web": short})["services"]["web"]["status"] == "missing"


def test_database_that_has_no_address_is_a_problem(start: Start) -> None:
    assert "has no address" in look(containers={"db": start()})["address_problem"]


def test_given_address_wins_over_the_container() -> None:
    found = look(containers={"db": "drawing_postgres"}, db_host="db.example.org", db_port=6432)
    assert (found["login_host"], found["login_port"], found["address_problem"]) == ("db.example.org", 6432, "")


def test_without_containers_the_engine_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert look(db_host="db.example.org") == {
        "services": {},
        "login_host": "db.example.org",
        "login_port": 5432,
        "address_problem": "",
    }
    assert "set db_container or db_host" in look()["address_problem"]


def test_unreachable_engine_is_an_error_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(ReleaseError, match="container engine on the target failed"):
        look(containers={"db": "drawing_postgres"})


def attributes(ports: Any = None, networks: Any = None, mode: str = "bridge") -> dict[str, Any]:
    return {
        "Name": "/db",
        "Config": {"Image": "postgres:14"},
        "State": {"Status": "running", "StartedAt": "2026-01-02T03:04:05.123456789Z"},
        "HostConfig": {"NetworkMode": mode},
        "NetworkSettings": {"Ports": ports or {}, "Networks": networks or {}},
    }


def binding(host: str, port: str = "15432") -> dict[str, str]:
    return {"HostIp": host, "HostPort": port}


ADDRESSES = {
    "published everywhere": (attributes({"5432/tcp": [binding(EVERYWHERE), binding("::")]}), "127.0.0.1", 15432),
    "published over IPv6 only": (attributes({"5432/tcp": [binding("::")]}), "::1", 15432),
    "IPv4 before IPv6": (attributes({"5432/tcp": [binding("::", "1"), binding(EVERYWHERE, "2")]}), "127.0.0.1", 2),
    "published on one address": (attributes({"5432/tcp": [binding("192.0.2.7")]}), "192.0.2.7", 15432),
    "exposed, not published": (attributes({"5432/tcp": None}, {"a": {"IPAddress": "10.0.0.2"}}), "10.0.0.2", 5432),
    "another port published": (
        attributes({"80/tcp": [binding("")]}, {"a": {"IPAddress": "10.0.0.2"}}),
        "10.0.0.2",
        5432,
    ),
    "the host's network": (attributes(None, {"host": {"IPAddress": ""}}, "host"), "127.0.0.1", 5432),
    "first that answers": (
        attributes(None, {"a": {"IPAddress": "10.0.0.2"}, "b": {"IPAddress": "10.0.1.2"}}),
        "10.0.1.2",
        5432,
    ),
    "none answers": (
        attributes(None, {"b": {"IPAddress": "10.0.9.3"}, "a": {"IPAddress": "10.0.9.2"}}),
        "10.0.9.2",
        5432,
    ),
    "IPv6 network": (attributes(None, {"a": {"IPAddress": "", "GlobalIPv6Address": "fd00::2"}}), "fd00::2", 5432),
}


@pytest.mark.parametrize(("given", "host", "port"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_address_of_a_container(given: dict[str, Any], host: str, port: int) -> None:
    found = container_address(service_of("db", given), given, 5432, lambda host, _: host == "10.0.1.2")
    assert found == Address(host, port)


MOMENTS = [
    ("2026-01-02T03:04:05.123456789Z", "2026-01-02T03:04:05.123+00:00"),
    ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000+00:00"),
    ("2026-01-02T05:04:05.5+02:00", "2026-01-02T03:04:05.500+00:00"),
    ("0001-01-01T00:00:00Z", ""),
    ("", ""),
]


@pytest.mark.parametrize(("text", "expected"), MOMENTS)
def test_moments_are_utc_and_iso(text: str, expected: str) -> None:
    assert moment(text) == expected


REMEDIES = [
    ("missing", "create it"),
    ("exited", "docker start"),
    ("paused", "docker unpause"),
    ("restarting", "docker logs"),
]


@pytest.mark.parametrize(("status", "remedy"), REMEDIES)
def test_container_that_does_not_run_comes_with_what_to_do(status: str, remedy: str) -> None:
    assert remedy in inspect.not_running("db", Service("shop_postgres", status))
