"""Read which containers run on the target, and the address of its database."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import docker
import docker.errors

from ..core.errors import ReleaseError
from .commands import docker_client

DATABASE_SERVICE = "db"
POSTGRES_PORT = 5432
REACH_TIMEOUT_S = 1.0
NEVER = "0001-01-01"
SHORTEST_ID = 12
# What Compose and Swarm write on each container of a service, and Compose on one that `run` started.
SERVICE_LABELS = (
    ("com.docker.compose.project", "com.docker.compose.service"),
    ("com.docker.swarm.service.id",),
)
ONE_OFF = "com.docker.compose.oneoff"
STOPPED = ("exited", "dead", "created")

Attributes = Mapping[str, Any]
Reachable = Callable[[str, int], bool]


@dataclass(frozen=True)
class Service:
    """One service of the target: its container, and the container's state.

    status: the engine's word (`running`, `exited`, `paused`, `restarting`, `created`, `dead`), or `missing`.
    health: `healthy`, `unhealthy`, `starting`, or `none` where the container declares no health check.
    since: when that status began.
    """

    container: str
    status: str
    health: str = "none"
    since: str = ""
    image: str = ""


@dataclass(frozen=True)
class Address:
    """The database's address; `problem`: one sentence where it cannot be determined."""

    host: str = ""
    port: int = POSTGRES_PORT
    problem: str = ""


def inspect_target(containers: Mapping[str, str], db_host: str | None, db_port: int | None) -> dict[str, Any]:
    """Return services by name and the database's address; without containers the engine is not used."""
    named = {service: container for service, container in sorted(containers.items()) if container}
    attributes = inspect(named)
    services = {service: service_of(container, attributes[service]) for service, container in named.items()}
    if db_host:
        address = Address(db_host, db_port or POSTGRES_PORT)
    else:
        address = container_address(
            services.get(DATABASE_SERVICE), attributes.get(DATABASE_SERVICE), db_port or POSTGRES_PORT, reachable
        )
    return {
        "services": {service: asdict(state) for service, state in services.items()},
        "login_host": address.host,
        "login_port": address.port,
        "address_problem": address.problem,
    }


def inspect(containers: Mapping[str, str]) -> dict[str, Attributes | None]:
    """Read the engine's attributes of each container, None for one that does not exist."""
    if not containers:
        return {}
    with asking("Inspecting containers by the container engine") as client:
        return {service: inspect_one(client, container) for service, container in containers.items()}


@contextmanager
def asking(what: str) -> Iterator[docker.DockerClient]:
    """The target's engine while the block runs; raises ReleaseError where it does not answer."""
    client = docker_client()
    try:
        yield client
    except (docker.errors.DockerException, OSError) as error:
        raise ReleaseError(
            f"{what} on the target failed ({' '.join(str(error).split())}): "
            "check that the deploying user can run `docker ps` there."
        ) from error
    finally:
        client.close()


def inspect_one(client: docker.DockerClient, container: str) -> Attributes | None:
    """The engine's attributes of a container by its name or id; None for one that does not exist."""
    try:
        attributes: Attributes = client.api.inspect_container(container)
    except docker.errors.NotFound:
        return None
    # The engine also accepts the beginning of an id as a name, and many ids begin with `db`.
    by_name = attributes["Name"].removeprefix("/") == container
    by_id = len(container) >= SHORTEST_ID and attributes["Id"].startswith(container)
    return attributes if by_name or by_id else None


def replicas(container: str, *, stopped: bool = True) -> list[str]:
    """The container, and the other ones that Compose or Swarm runs of the same service.

    stopped: also those that do not run; the named one is in the list in any case. Raises ReleaseError.
    """
    attributes = inspect({"one": container})["one"]
    labels: Mapping[str, str] = ((attributes or {}).get("Config") or {}).get("Labels") or {}
    keys = next((keys for keys in SERVICE_LABELS if all(labels.get(key) for key in keys)), ())
    if attributes is None or not keys or labels.get(ONE_OFF) == "True":
        return [container]
    with asking(f"Listing the containers of the service of {container}") as client:
        found = client.api.containers(all=True, filters={"label": [f"{key}={labels[key]}" for key in keys]})
    others = [
        one["Names"][0].removeprefix("/")
        for one in found
        if one["Id"] != attributes["Id"]
        and (one.get("Labels") or {}).get(ONE_OFF) != "True"
        and (stopped or one["State"] not in STOPPED)
        and one.get("Names")
    ]
    return [container, *sorted(others)]


def service_of(container: str, attributes: Attributes | None) -> Service:
    """A service from the engine's attributes of its container."""
    if attributes is None:
        return Service(container, "missing")
    state = attributes["State"]
    status = state["Status"]
    stopped = status in ("exited", "dead")
    return Service(
        container=container,
        status=status,
        health=(state.get("Health") or {}).get("Status") or "none",
        since=moment(state.get("FinishedAt" if stopped else "StartedAt") or ""),
        image=attributes["Config"]["Image"],
    )


def moment(text: str) -> str:
    """The engine's timestamp in UTC ISO 8601 to the millisecond; empty for its `never`."""
    if not text or text.startswith(NEVER):
        return ""
    # Python reads six digits of a second; the engine writes up to nine, or none.
    whole, _, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    zone = rest[len(digits) :]
    parsed = datetime.fromisoformat(f"{whole}.{digits[:6].ljust(6, '0')}{zone}" if rest else text)
    return parsed.astimezone(UTC).isoformat(timespec="milliseconds")


def container_address(
    service: Service | None, attributes: Attributes | None, port: int, is_reachable: Reachable
) -> Address:
    """The published port, else the address on the container's network; `port` is the one inside the container."""
    if service is None:
        return Address(
            port=port, problem="The database's address is unknown: set db_container or db_host in the inventory."
        )
    if attributes is None or service.status != "running":
        return Address(port=port, problem=not_running(DATABASE_SERVICE, service))
    published = published_address(attributes, port)
    if published is not None:
        return published
    if attributes["HostConfig"].get("NetworkMode") == "host":
        return Address("127.0.0.1", port)
    hosts = network_hosts(attributes)
    if not hosts:
        return Address(
            port=port,
            problem=f"Container {service.container} of the database has no address: publish its port {port}, "
            "attach it to a network, or set db_host in the inventory.",
        )
    if len(hosts) == 1:
        return Address(hosts[0], port)
    # If none is reachable, the first is used: connecting to it then reports the error.
    return Address(next((host for host in hosts if is_reachable(host, port)), hosts[0]), port)


def no_container(service: str) -> str:
    """One sentence on a service that has no container in the inventory."""
    return f"The inventory names no container of the service {service}."


def not_running(service: str, state: Service) -> str:
    """One sentence on a container that is not running: which, since when, and what to do."""
    remedies = {
        "missing": "create it (`docker ps --all` lists the existing ones), or correct its name in the inventory",
        "paused": f"resume it with `docker unpause {state.container}`",
        "restarting": f"check `docker logs {state.container}` for why it does not keep running",
    }
    remedy = remedies.get(state.status, f"start it with `docker start {state.container}`")
    since = f" since {state.since}" if state.since else ""
    return f"Container {state.container} of the service {service} is {state.status}{since}: {remedy}."


def published_address(attributes: Attributes, port: int) -> Address | None:
    """Where the host publishes the container's port, an IPv4 address first."""
    bindings: Sequence[Mapping[str, str]] = attributes["NetworkSettings"]["Ports"].get(f"{port}/tcp") or ()
    for binding in sorted(bindings, key=lambda binding: ":" in binding["HostIp"]):
        host = binding["HostIp"]
        anywhere = not host or ipaddress.ip_address(host).is_unspecified
        loopback = "::1" if ":" in host else "127.0.0.1"
        return Address(loopback if anywhere else host, int(binding["HostPort"]))
    return None


def network_hosts(attributes: Attributes) -> list[str]:
    """The container's addresses, by the name of the network."""
    networks: Mapping[str, Mapping[str, str]] = attributes["NetworkSettings"]["Networks"]
    found = (networks[name].get("IPAddress") or networks[name].get("GlobalIPv6Address") for name in sorted(networks))
    return [host for host in found if host]


def reachable(host: str, port: int) -> bool:
    """True if a connection there succeeds within a second."""
    try:
        socket.create_connection((host, port), REACH_TIMEOUT_S).close()
    except OSError:
        return False
    return True
