"""Read the target once: slow, independent parts run in parallel."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ..core.errors import ReleaseError
from ..core.own_files import read_own
from ..core.proof import Proof
from ..host.client_programs import tool_versions
from ..host.commands import Commands, commands_in
from ..host.disk import room_at
from ..host.http import Answer
from ..host.inspect import DATABASE_SERVICE, Service, inspect, not_running, service_of
from ..migrate.alembic import Current, WritesError, current_with, script_heads
from ..migrate.alembic_engine import session_environment
from ..migrate.alembic_probe import PROBE_SETTINGS, AlembicSession, probe_name
from ..migrate.role import takes
from ..postgres.admitted import not_admitted
from ..postgres.lock_retry import LockLimits
from ..postgres.session import Connection, Login, connect
from ..postgres.transport import caveat
from ..release.requirements import Demands
from .catalog import read_database, read_missing_rights
from .facts import Database, Facts, Migrator, Payload, Unseen, Writes
from .places import ROOT, ask_api, mounted_into, read_history, read_payload, read_state_dir
from .trial import plan_statements

SETTLE_S = 30.0
POLL_S = 0.5
APPLICATION = "dbrelease preflight"

Value = TypeVar("Value")


@dataclass(frozen=True)
class Target:
    """The target, from the module's options."""

    login: Login
    address_problem: str
    services: Mapping[str, Service]
    backend_container: str
    db_container: str
    workdir: str | None
    api_base_url: str
    state_dir: str
    staging_evidence_path: str | None
    api_ca_file: str = ""
    run_id: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def gather(place: Target, demands: Demands) -> Facts:
    """Read everything that the rules judge; what cannot be read has the reason instead."""

    def backend() -> Commands:
        return commands_in(place.backend_container or None, workdir=place.workdir, environment=place.environment)

    backend_down = stopped(place.services, place.backend_container, demands)
    db_down = stopped(place.services, place.db_container, demands)
    with ThreadPoolExecutor(max_workers=6) as pool:
        current = pool.submit(attempt, lambda: current_of(backend(), demands, place.run_id), backend_down or db_down)
        tools = pool.submit(attempt, lambda: tool_versions(commands_in(place.db_container or None)), db_down)
        payload = pool.submit(attempt, lambda: payload_of(place, demands), backend_down)
        answers = pool.submit(api_of, place, demands, backend_down or db_down)
        near = pool.submit(near_state_dir, place)
        database, planned = read_target_database(place, demands)
        takes_owner = attempt(lambda: takes_owner_of(backend(), demands, database), backend_down or db_down)
        asked = current.result()
        heads = attempt(lambda: heads_of(backend(), demands, asked), backend_down)
        session = None if isinstance(asked, Unseen) else asked.session
        migrator = attempt(lambda: migrator_of(place, demands, database, session, takes_owner))
        room = attempt(lambda: room_on_server(place, database), db_down)
        facts = Facts(
            services=place.services,
            database=database,
            heads=heads,
            current=asked if isinstance(asked, Unseen) else asked.revisions,
            history={},
            tools=tools.result(),
            payload=payload.result(),
            planned=planned,
            state_dir=read_state_dir(place.state_dir, near.result()),
            table_free_bytes=room,
            answers=answers.result(),
            staging=staging_of(place.staging_evidence_path),
            unverified=caveat(place.login.host, place.login.ssl_mode),
            session=session,
            environment=tuple(place.environment),
            session_refused="" if isinstance(asked, Unseen) else asked.refused,
            migrator=None if isinstance(migrator, Unseen) else migrator,
            shared_memory_bytes=shared_memory_of(place),
            backend_takes_owner=None if isinstance(takes_owner, Unseen) else takes_owner,
        )
    return with_history(facts, demands, backend)


def attempt(read: Callable[[], Value], down: Unseen | None = None) -> Value | Unseen:
    """Return the value that was read, or why that failed; not tried where its container is known to be down."""
    if down:
        return down
    try:
        return read()
    except WritesError as error:
        return Writes(error.message)
    except ReleaseError as error:
        return Unseen(error.message)


def near_state_dir(place: Target) -> list[str]:
    """Which of the release's containers can write to the state directory, or that it is unknown."""
    named = {name: service.container for name, service in place.services.items() if service.container}
    try:
        seen = inspect(named)
    except ReleaseError:
        return ["which containers may write to it cannot be determined"]
    mounts = {named[name]: found.get("Mounts") or () for name, found in seen.items() if found}
    return mounted_into(place.state_dir, mounts)


def settle(services: Mapping[str, Service], declared: Sequence[str], wait_s: float = SETTLE_S) -> Mapping[str, Service]:
    """Read the services again until none of the declared ones is starting, or the wait is over."""
    deadline = time.monotonic() + wait_s
    while any(services[name].health == "starting" for name in declared if name in services):
        if time.monotonic() > deadline:
            return services
        time.sleep(POLL_S)
        attributes = inspect({name: service.container for name, service in services.items()})
        services = {name: service_of(service.container, attributes[name]) for name, service in services.items()}
    return services


def stopped(services: Mapping[str, Service], container: str, demands: Demands) -> Unseen | None:
    """Why a container cannot be used, if it is not running; preflight.services reports it for a declared service."""
    for name, service in services.items():
        if container and service.container == container and service.status != "running":
            return Unseen(not_running(name, service), "services" if name in demands.services else "")
    return None


def read_target_database(place: Target, demands: Demands) -> tuple[Database | Unseen, list[Proof] | Unseen]:
    """Read the server, and how it plans the declared queries."""
    try:
        if place.address_problem:
            raise ReleaseError(place.address_problem)
        with closing(connect(place.login, APPLICATION, read_only=True)) as connection:
            database = read_database(connection, demands)
            if stops := not_admitted(place.login, place.run_id):
                obstacles = database.obstacles
                database = replace(database, obstacles=replace(obstacles, found=[stops, *obstacles.found]))
            return database, planned_of(connection, demands, database)
    except ReleaseError as error:
        service = place.services.get(DATABASE_SERVICE)
        down = stopped(place.services, service.container, demands) if service else None
        unseen = down or Unseen(error.message)
        return unseen, unseen


def planned_of(connection: Connection, demands: Demands, database: Database) -> list[Proof] | Unseen:
    """The plans of the declared queries, unless the stand-ins cannot be created there."""
    if database.standby or database.read_only:
        return Unseen("The server accepts no writes, not even ones that are rolled back.", "server")
    if database.planted:
        return Unseen("Planning the queries could call what an untrusted role has created.", "strangers")
    return attempt(lambda: plan_statements(connection, demands, database))


def payload_of(place: Target, demands: Demands) -> Payload:
    """Read the release's files as the user who copies them: root in the container, this user on the target."""
    commands = commands_in(place.backend_container, workdir=place.workdir, user=ROOT)
    return read_payload(commands, demands.payload, demands.to_revision)


def takes_owner_of(commands: Commands, demands: Demands, database: Database | Unseen) -> bool | None:
    """Whether db_user can finish what the migration creates; None where that is not needed."""
    if isinstance(database, Unseen) or not demands.finalizes or not database.rights.owner:
        return None
    return takes(commands, demands.command, database.rights.owner, read_only=True)


def current_of(commands: Commands, demands: Demands, run_id: str) -> Current:
    """Read the revision by Alembic, in a session with the settings of a migration."""
    limits = LockLimits(demands.lock_timeout_ms)
    environment = session_environment(commands, probe_name(run_id), limits, PROBE_SETTINGS)
    return current_with(commands, demands.command, environment)


def heads_of(commands: Commands, demands: Demands, asked: Current | Unseen) -> list[str]:
    """The heads of the revision files; Alembic is started again only where its first start did not read them."""
    known = [] if isinstance(asked, Unseen) else asked.heads
    return known or script_heads(commands, demands.command)


def migrator_of(
    place: Target, demands: Demands, database: Database | Unseen, session: AlembicSession | None, takes_owner: object
) -> Migrator | None:
    """What the migration's role may not do: the owner of Alembic's table where the upgrade acts as that role."""
    if isinstance(database, Unseen) or session is None or not session.role:
        return None
    role = database.rights.owner if takes_owner is True else session.role
    with closing(connect(place.login, APPLICATION, read_only=True)) as connection:
        return Migrator(role, read_missing_rights(connection, demands, role))


def api_of(place: Target, demands: Demands, down: Unseen | None) -> Mapping[str, Answer] | Unseen:
    """Read one answer of each declared endpoint."""
    if not demands.endpoints or not place.api_base_url:
        return {}
    return down or ask_api(place.api_base_url, demands.endpoints, demands.api_timeout_s, place.api_ca_file)


def room_on_server(place: Target, database: Database | Unseen) -> int | Unseen:
    """The free bytes where the server keeps its data."""
    if isinstance(database, Unseen):
        return database
    if not place.db_container:
        return Unseen("The free room on the server's disk cannot be read without its container.")
    if not (folder := database.tables_directory or database.data_directory):
        return Unseen("The server does not show its data_directory to this user.")
    return room_at(commands_in(place.db_container), folder).free


def shared_memory_of(place: Target) -> int | None:
    """The shared memory of the database's container; None without a container, or where it cannot be read."""
    try:
        found = inspect({"db": place.db_container} if place.db_container else {}).get("db")
    except ReleaseError:
        return None
    return int((found or {}).get("HostConfig", {}).get("ShmSize") or 0) or None


def with_history(facts: Facts, demands: Demands, backend: Callable[[], Commands]) -> Facts:
    """Add the backend's history where the database or a head is at another revision: reading it takes a second."""
    if isinstance(facts.heads, Unseen):
        return facts
    others = {*facts.revisions, *facts.heads} - {demands.from_revision, demands.to_revision}
    if not others and len(facts.heads) == 1:
        return facts
    history = attempt(lambda: read_history(backend(), demands.command))
    return facts if isinstance(history, Unseen) else Facts(**{**vars(facts), "history": history})


def staging_of(path: str | None) -> Mapping[str, Any] | Unseen | None:
    """The evidence of the run in staging; None where none is required."""
    if path is None:
        return None
    try:
        evidence = json.loads(read_own(Path(path)))
    except ReleaseError as error:
        return Unseen(error.message)
    except (OSError, ValueError, RecursionError) as error:
        return Unseen(
            f"Reading the evidence of staging at {path} failed ({error}): give the path of its evidence.json."
        )
    if isinstance(evidence, dict):
        return evidence
    return Unseen(f"{path} is not evidence of a run: give the path of an evidence.json.")
