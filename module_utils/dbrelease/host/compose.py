"""Find the containers of a Compose project by the labels that Compose writes; its names differ by version."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..core.errors import ReleaseError
from .inspect import ONE_OFF, asking

COMPOSE_PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
NUMBER = "com.docker.compose.container-number"
FOLDER = "com.docker.compose.project.working_dir"
SHOWN = 20

Container = Mapping[str, Any]


def containers_of(compose_project: str, services: Mapping[str, str], optional: Collection[str] = ()) -> dict[str, str]:
    """The container of each service of the Compose project: of several the first one that runs, by its number.

    services: the wanted ones, by their names in the release, with their names in the Compose file; the other services
    of it are in the result under the names of the Compose file. optional: those that may be missing.
    Raises ReleaseError where a service has no container, or those of two Compose projects of one name.
    """
    with asking(f"Listing the containers of the Compose project {compose_project}") as client:
        found = client.api.containers(all=True, filters={"label": [f"{COMPOSE_PROJECT}={compose_project}"]})
        others = [] if found else client.api.containers(all=True, filters={"label": [COMPOSE_PROJECT]})
    return chosen(compose_project, services, optional, found, others)


def chosen(
    compose_project: str,
    services: Mapping[str, str],
    optional: Collection[str],
    found: Sequence[Container],
    others: Sequence[Container],
) -> dict[str, str]:
    """The choice among the engine's containers; others: those of others, where this one has none."""
    by_service: dict[str, list[Container]] = {}
    for one in found:
        if _label(one, SERVICE) and _label(one, ONE_OFF) != "True" and one.get("Names"):
            by_service.setdefault(_label(one, SERVICE), []).append(one)
    if not by_service:
        known = sorted({_label(one, COMPOSE_PROJECT) for one in others} - {""})
        raise _refused(
            compose_project,
            f"no container there has its label; Compose projects: {_listed(known)}",
            "correct compose_project",
        )
    missing = [name for name, service in services.items() if service not in by_service and name not in optional]
    if missing:
        absent = ", ".join(
            name if services[name] == name else f"{name} (in Compose {services[name]})" for name in missing
        )
        raise _refused(
            compose_project,
            f"it has no container of the service {absent}; its services: {_listed(sorted(by_service))}",
            f"create it, name the Compose service in compose_services ({{{missing[0]}: NAME}}), or name the container "
            f"in {missing[0]}_container, where empty text says that the target has none",
        )
    for name, service in services.items():
        _demand_one_compose_project(compose_project, name, by_service.get(service, []))
    rest = {service: service for service in by_service if service not in {*services, *services.values()}}
    names = {**services, **rest}
    return {name: _first(by_service[service]) for name, service in names.items() if service in by_service}


def _demand_one_compose_project(compose_project: str, service: str, containers: Sequence[Container]) -> None:
    folders = sorted({_label(one, FOLDER) for one in containers} - {""})
    if len(folders) > 1:
        raise _refused(
            compose_project,
            f"the service {service} has containers of {len(folders)} Compose projects of that name, in "
            f"{' and '.join(folders)}",
            f"name its container in {service}_container, or remove the containers of the other one",
        )


def _first(containers: Sequence[Container]) -> str:
    def rank(one: Container) -> tuple[bool, int, str]:
        number = _label(one, NUMBER)
        return one.get("State") != "running", int(number) if number.isdigit() else 0, _name(one)

    return _name(min(containers, key=rank))


def _label(one: Container, name: str) -> str:
    return str((one.get("Labels") or {}).get(name) or "")


def _name(one: Container) -> str:
    return str(one["Names"][0]).removeprefix("/")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) or "none"


def _refused(compose_project: str, reason: str, remedy: str) -> ReleaseError:
    return ReleaseError(
        f"Finding the containers of the Compose project {compose_project} on the target was refused ({reason}), "
        f"and nothing was started: {remedy}.",
        refused=True,
    )
