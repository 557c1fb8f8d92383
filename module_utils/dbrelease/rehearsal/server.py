"""A throwaway database server: a container of the live server's image in a network of its own, removed afterwards."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import docker
import docker.errors
import psycopg2

from ..core.display import last_words
from ..core.errors import ReleaseError
from ..core.journal import Run
from ..core.redaction import Secret, learn
from ..host.commands import docker_client, engine_reason
from ..host.inspect import POSTGRES_PORT, inspect_one, network_hosts
from ..postgres.session import Login, connect, server_reason
from .recipe import Limits, LiveServer, command_of, environment_for, refused

RUN_LABEL, TARGET_LABEL = "dbrelease.rehearsal.run", "dbrelease.rehearsal.target"
SHARED_MEMORY_BYTES = 256 << 20
POLL_S = 0.3
GONE_S = 120.0
LOG_LINES = 20
# Exists in every cluster, whatever the live database is called.
MAINTENANCE = "template1"


@dataclass(frozen=True)
class ThrowawayServer:
    """A running server: its container, its network, and the login of its superuser for the maintenance database."""

    container: str
    network: str
    login: Login = field(repr=False)
    start_ms: int


def name_of(run: Run, what: str = "") -> str:
    """Of the containers and the network of a run's rehearsal."""
    return f"dbrelease_rehearsal_{run.run_id}{what}".lower()


def labels_of(run: Run) -> dict[str, str]:
    """By which a later run of the same target finds what this one left."""
    return {RUN_LABEL: run.run_id, TARGET_LABEL: run.state_dir}


def remove_left(run: Run) -> list[str]:
    """Remove what rehearsals of this target left, of whichever run; returns the names.

    Call it only while this run has the target's claim: then every other run of the target has ended.
    """
    client = docker_client()
    try:
        filters = {"label": f"{TARGET_LABEL}={run.state_dir}"}
        found = client.api.containers(all=True, filters=filters)
        names = [one["Names"][0].removeprefix("/") for one in found if one["Names"]]
        networks = [one["Name"] for one in client.api.networks(filters=filters)]
        remove(client, [one["Id"] for one in found], networks)
    except (docker.errors.DockerException, OSError) as error:
        raise ReleaseError(
            f"Removing what an earlier rehearsal left failed ({engine_reason(error)}): check that the deploying user "
            "can run `docker ps`, and rerun the playbook."
        ) from error
    finally:
        client.close()
    return sorted({*names, *networks})


def create_container(
    client: docker.DockerClient,
    run: Run,
    name: str,
    image: str,
    entrypoint: Sequence[str],
    environment: dict[str, str] | list[str],
    limits: Limits,
    *,
    aliases: Sequence[str] = (),
    user: str = "",
    workdir: str | None = None,
) -> str:
    """Create a throwaway container in the run's network, and in no other, and return its id; it is not started."""
    network = name_of(run)
    api = client.api
    return str(
        api.create_container(
            image,
            name=name,
            command=[],
            entrypoint=list(entrypoint),
            environment=environment,
            labels=labels_of(run),
            user=user or None,
            working_dir=workdir,
            networking_config={"EndpointsConfig": {network: {"Aliases": list(aliases)}}},
            host_config=api.create_host_config(
                auto_remove=True,
                network_mode=network,
                nano_cpus=round(limits.cpus * 1e9),
                mem_limit=limits.memory_bytes,
                shm_size=min(SHARED_MEMORY_BYTES, limits.memory_bytes // 2),
            ),
        )["Id"]
    )


@contextmanager
def throwaway_server(
    run: Run, image: str, live: LiveServer, limits: Limits, aliases: Sequence[str] = ()
) -> Iterator[ThrowawayServer]:
    """A server of that image while the block runs; raises a refusal where it does not start.

    Where its lifetime ends before the block, the error says so, and names the limit.

    image: the id of the live container's image, which exists on the target as long as that container does.
    aliases: the names under which other containers of its network find it.
    """
    client = docker_client()
    name, begun = name_of(run), time.monotonic()
    try:
        try:
            made_of: Any = client.api.inspect_image(image)  # type: ignore[no-untyped-call]
            argv = command_of(made_of, live, limits)
            # Internal: nothing in it reaches another network, and the target reaches what is in it.
            client.api.create_network(name, driver="bridge", internal=True, labels=labels_of(run))
            password = secrets.token_urlsafe(24)
            learn([Secret(password, live.superuser)])
            environment = environment_for(live.superuser, password)
            created = create_container(client, run, name, image, argv, environment, limits, aliases=aliases)
            lines = output_of(client, created)
            client.api.start(created)
            port = int(live.settings.get("port") or POSTGRES_PORT)
            login = _wait(client, created, Login("", port, live.superuser, MAINTENANCE, password), limits, lines)
        except (docker.errors.DockerException, OSError) as error:
            raise refused(f"a container of the image {image} could not be started: {engine_reason(error)}") from error
        try:
            yield ThrowawayServer(name, name, login, round((time.monotonic() - begun) * 1000))
        except (ReleaseError, psycopg2.Error) as error:
            if not _outlived(client, name, limits, begun):
                raise
            said = error.message if isinstance(error, ReleaseError) else server_reason(error)
            raise _lifetime_over(limits, f" The error was: {said}") from error
        if _outlived(client, name, limits, begun):
            raise _lifetime_over(limits)
    finally:
        try:
            remove(client, [name], [name])
        finally:
            client.close()


def _outlived(client: docker.DockerClient, name: str, limits: Limits, begun: float) -> bool:
    """Whether the server has ended because its time was up; the engine removes a container that ends."""
    return time.monotonic() - begun >= limits.lifetime_s and inspect_one(client, name) is None


def _lifetime_over(limits: Limits, said: str = "") -> ReleaseError:
    """No error of a rehearsal that is not possible: what took so long may be the release."""
    return ReleaseError(
        f"The rehearsal did not end within {limits.lifetime_s} s (rehearse_lifetime_seconds), after which its server "
        "is stopped, and the live database was not changed: give it more time with "
        "-e rehearse_lifetime_seconds=SECONDS, or more processors and memory (rehearse_cpus, rehearse_memory_mib), or "
        "rehearse on a staging system."
        f"{said}",
        refused=True,
    )


def output_of(client: docker.DockerClient, container: str) -> deque[str]:
    """What the container prints; the engine removes a container that ends, and its log with it."""
    lines: deque[str] = deque(maxlen=LOG_LINES)
    stream = client.api.attach(container, stdout=True, stderr=True, stream=True, logs=True)

    def read() -> None:
        with suppress(docker.errors.DockerException, OSError, ValueError):
            for chunk in stream:
                lines.extend(chunk.decode(errors="replace").splitlines())

    threading.Thread(target=read, daemon=True).start()
    return lines


def _wait(client: docker.DockerClient, container: str, given: Login, limits: Limits, lines: deque[str]) -> Login:
    """The login, once the server accepts it; raises a refusal where the container ends, or the time is up."""
    deadline, cause = time.monotonic() + limits.start_s, "it has no address"
    while time.monotonic() < deadline:
        attributes = inspect_one(client, container)
        if attributes is None or not attributes["State"]["Running"]:
            raise refused(
                f"a server of the live database's image ended while it started{printed(lines, given.password)}"
            )
        for host in network_hosts(attributes):
            login = replace(given, host=host, ssl_mode="disable")
            try:
                connect(login, "dbrelease rehearsal").close()
            except ReleaseError as error:
                cause = error.message
            else:
                return login
        time.sleep(POLL_S)
    raise refused(
        f"a server of the live database's image did not accept a session from the target within {limits.start_s} s: "
        f"{cause.rstrip('.')}{printed(lines, given.password)}"
    )


def printed(lines: deque[str], password: str | None) -> str:
    """What a container printed last, as the end of a sentence."""
    text = last_words("\n".join(lines), 300, password)
    return f"; it printed: {text.rstrip('.:')}" if text else ""


def remove(client: docker.DockerClient, containers: list[str], networks: list[str]) -> None:
    """Remove them with their anonymous volumes; the engine may be removing a container that has just ended."""
    failed = None
    for container in containers:
        try:
            client.api.remove_container(container, v=True, force=True)
        except docker.errors.NotFound:
            continue
        except (docker.errors.APIError, OSError) as error:  # a large volume may take longer than one answer
            failed = error
        deadline = time.monotonic() + GONE_S
        while inspect_one(client, container) is not None:
            if time.monotonic() > deadline:
                raise ReleaseError(
                    f"Removing the container {container} of a rehearsal failed "
                    f"({engine_reason(failed or 'it still exists')}): "
                    f"remove it with `docker rm --force --volumes {container}`."
                ) from failed
            time.sleep(POLL_S)
    for network in networks:
        with suppress(docker.errors.NotFound):
            try:
                client.api.remove_network(network)
            except docker.errors.APIError as error:
                if error.status_code == 404:
                    continue
                raise ReleaseError(
                    f"Removing the network {network} of a rehearsal failed ({engine_reason(error)}): remove it with "
                    f"`docker network rm {network}`."
                ) from error
