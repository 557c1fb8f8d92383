"""The application beside the throwaway server: containers of its own image and settings, which reach nothing else.

The network is internal, and the server has in it the names of the live one: so the image finds the copy by its own
settings, and cannot find the live database.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors
import psycopg2

from ..core.errors import ReleaseError
from ..core.journal import Run
from ..core.redaction import learn, secrets_of
from ..host.commands import Commands, commands_in, docker_client, engine_reason
from ..host.inspect import Attributes, inspect, network_hosts
from ..migrate.payload_copy import copy_to_container
from ..postgres.session import Login, select, server_reason, session
from .files import NewFile, copy_files, hidden_in, roots_of
from .recipe import Limits, bounded, refused
from .server import create_container, name_of, output_of, printed, remove

# nginx-proxy and its companion for certificates read these of every container of the engine.
ROUTED = ("VIRTUAL_", "LETSENCRYPT_", "ACME_")
APPLICATION_NAME = "dbrelease rehearsal"
GATEWAY = "host-gateway"
# The passwords of the application's roles are in no dump, and its container is the only one with this address.
TRUSTED = "host all all {address}/{bits} trust"
READ_HBA = """
SELECT quote_literal(current_setting('hba_file')) AS file,
       regexp_split_to_array(pg_read_file(current_setting('hba_file')), '\\n') AS lines
"""
WRITE_HBA = """
COPY (SELECT line FROM unnest(%(lines)s) WITH ORDINALITY AS lines (line, number) ORDER BY number) TO {file}
"""


def aliases_of(database: Attributes, application: Attributes | None) -> list[str]:
    """The names by which the application may find the live database's container."""
    networks = (database["NetworkSettings"].get("Networks") or {}).values()
    config = database.get("Config") or {}
    names = {
        database["Name"].removeprefix("/"),
        config.get("Hostname") or "",
        ((config.get("Labels") or {}).get("com.docker.compose.service")) or "",
        *(name for network in networks for key in ("Aliases", "DNSNames") for name in network.get(key) or ()),
    }
    if application is not None:
        host = application.get("HostConfig") or {}
        addresses = {GATEWAY, *network_hosts(database)}
        for line in host.get("ExtraHosts") or ():
            name, _, address = line.partition("=" if "=" in line else ":")
            if address in addresses:
                names.add(name)
        for line in host.get("Links") or ():
            linked, _, alias = line.partition(":")
            if linked.removeprefix("/") == database["Name"].removeprefix("/"):
                names.add(alias.rpartition("/")[2])
    return sorted(name for name in names if name)


@dataclass(frozen=True)
class Recipe:
    """What a rehearsing container is made of: the running one, what it may use, and where the runs keep their state."""

    run: Run
    live: Attributes
    limits: Limits

    @classmethod
    def of(cls, run: Run, container: str, limits: Limits) -> Recipe:
        """Inspect the running container; raises a refusal where there is none."""
        attributes = inspect({"application": container})["application"]
        if attributes is None:
            raise refused(f"there is no container {container}", "correct its name in the inventory")
        lines = ((attributes.get("Config") or {}).get("Env")) or ()
        learn(secrets_of({"environment": dict(line.partition("=")[::2] for line in lines)}, ["environment"]))
        return cls(run, attributes, limits)


@dataclass(frozen=True)
class Rehearsing:
    """A running container beside the copy; left_out: folders that it lacks, with the reason."""

    name: str
    addresses: tuple[str, ...]
    commands: Commands
    left_out: tuple[str, ...] = ()


def settings_of(lines: Sequence[str]) -> list[str]:
    """The environment of the application, without what asks a proxy to route its users to the container."""
    return [line for line in lines if not line.startswith(ROUTED)]


@contextmanager
def rehearsing(
    recipe: Recipe,
    what: str,
    payload: Sequence[NewFile],
    server: Login,
    *,
    serves: bool = False,
    environment: dict[str, str] | None = None,
) -> Iterator[Rehearsing]:
    """A container of the application's image while the block runs; raises a refusal where it does not start.

    serves: it runs the application's own command, else it waits for programs to run in it. server: the superuser's
    login, which lets the container in without a password.
    """
    client = docker_client()
    name = name_of(recipe.run, f"_{what}")
    config = recipe.live.get("Config") or {}
    try:
        try:
            argv = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())] if serves else []
            command = argv or ["sleep", str(recipe.limits.lifetime_s)]
            created = create_container(
                client,
                recipe.run,
                name,
                recipe.live["Image"],
                [*bounded(recipe.limits.lifetime_s), *command],
                settings_of(config.get("Env") or ()),
                recipe.limits,
                user=config.get("User") or "",
                workdir=config.get("WorkingDir") or None,
            )
            roots = roots_of(recipe.live, config.get("WorkingDir") or "/", [file.item for file in payload])
            hidden = hidden_in(recipe.live, recipe.run.state_dir)
            left_out = copy_files(client, recipe.live["Id"], created, roots, hidden)
            for file in payload:
                copy_to_container(file.item, file.content, created)
            lines = output_of(client, created)
            client.api.start(created)
            attributes: Any = client.api.inspect_container(created)
        except (docker.errors.DockerException, OSError, ReleaseError) as error:
            raise refused(
                f"a container of the application's image {recipe.live['Image']} could not be started: "
                f"{engine_reason(error)}"
            ) from error
        addresses = tuple(network_hosts(attributes))
        if not attributes["State"]["Running"] or not addresses:
            raise refused(f"a container of the application's image ended while it started{printed(lines, None)}")
        let_in(server, addresses)
        yield Rehearsing(name, addresses, commands_in(name, environment=environment), tuple(left_out))
    finally:
        try:
            remove(client, [name], [])
        finally:
            client.close()


def let_in(server: Login, addresses: Sequence[str]) -> None:
    """Let every role of these addresses in: the copy's roles have the live names, and not the live passwords."""
    own = [TRUSTED.format(address=one, bits=128 if ":" in one else 32) for one in addresses]
    try:
        with session(server, APPLICATION_NAME) as cursor:
            (row,) = select(cursor, READ_HBA)  # first: COPY empties the file before its query is run
            kept = [line.replace("\t", " ") for line in row["lines"] if line.strip() and not line.startswith("#")]
            cursor.execute(WRITE_HBA.format(file=row["file"]), {"lines": [*own, *kept]})
            cursor.execute("SELECT pg_reload_conf()")
    except psycopg2.Error as error:
        raise refused(f"the throwaway server could not let the application in: {server_reason(error)}") from error


def api_port(attributes: Attributes, published: int | None) -> int | None:
    """The port in the container that is published as this one, else the only one that it exposes; None if unknown."""
    ports = attributes["NetworkSettings"].get("Ports") or {}
    for name, bindings in ports.items():
        if any(int(binding["HostPort"]) == published for binding in bindings or ()):
            return int(name.partition("/")[0])
    exposed = {*ports, *((attributes.get("Config") or {}).get("ExposedPorts") or {})}
    inside = sorted({int(name.partition("/")[0]) for name in exposed if name.endswith("/tcp")})
    if published in inside:
        return published
    return inside[0] if len(inside) == 1 else None


def unreachable(error: ReleaseError) -> ReleaseError:
    """The refusal where the image does not find the copy by its own settings."""
    return refused(
        f"Alembic in a container of the application's image did not reach the copy by its own settings: "
        f"{error.message.rstrip('.')}"
    )
