"""Rules between the parts of a release, which no schema can express: names are declared, files exist.

Each rule reads what has the right type and leaves the rest to the schema, so that one run reports all problems.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from .documents import Parts, items, listed, mapping, names, texts
from .files import UnfitError, read_file
from .guard_kinds import KINDS_OF_SERVICES
from .table_rules import (
    altered_tables_are_there_before,
    changed_tables_are_there_before,
    plans_name_known_tables,
    tables_fit_together,
)
from .yaml_reader import Problem

PLACEHOLDER = re.compile(r"(?<!%)(?:%%)*%\((\w+)\)s")


def folder_is_named_like_the_release(parts: Parts) -> Iterator[Problem]:
    """The folder's name is the release's."""
    release = parts.release.get("release")
    if isinstance(release, str) and release != parts.directory.name:
        yield parts.in_release("release", f"`{parts.directory.name}`, the name of its folder", f"`{release}`")


def revisions_differ(parts: Parts) -> Iterator[Problem]:
    """A release goes from one revision to another."""
    migration = mapping(parts.release, "migration")
    if isinstance(migration.get("to_revision"), str) and migration["to_revision"] == migration.get("from_revision"):
        yield parts.in_release("migration.to_revision", "a revision other than from_revision", "the same")


def names_are_unique(parts: Parts) -> Iterator[Problem]:
    """Each name is unique in its list."""
    places = [
        (parts.in_release, parts.release, ("migration", "finalize")),
        (parts.in_release, parts.release, ("api", "endpoints")),
        (parts.in_release, parts.release, ("monitoring", "logs")),
        (parts.in_release, parts.release, ("rollback", "guards")),
        *((parts.in_checks, parts.checks, (key,)) for key in ("observations", "checks", "scenarios", "plans")),
    ]
    for problem, document, path in places:
        for name, count in Counter(names(document, *path)).items():
            if count > 1:
                yield problem(f"{'.'.join(path)}[{name}].name", "a unique name", f"`{name}` {count} times")


def clients_are_services(parts: Parts) -> Iterator[Problem]:
    """Each client that a swap stops is a service of the release, and not the database."""
    known = [name for name in texts(parts.release.get("services")) if name != "db"]
    for name in texts(parts.release.get("clients")):
        if name not in known:
            yield parts.in_release("clients", listed(known), f"`{name}`")


def alembic_runs_in_a_service(parts: Parts) -> Iterator[Problem]:
    """The container of the migration is that of the backend, or of another declared service."""
    known = ["backend", *(name for name in texts(parts.release.get("services")) if name not in ("backend", "db"))]
    container = mapping(parts.release, "migration").get("container")
    if isinstance(container, str) and container not in known:
        yield parts.in_release("migration.container", listed(known), f"`{container}`")


def payload_is_there(parts: Parts) -> Iterator[Problem]:
    """Each file of the payload exists, and each destination is used once."""
    payload = items(parts.release, "migration", "payload")
    for index, item in enumerate(payload):
        yield from _file_is_there(parts, f"migration.payload[{index}].source", item.get("source"))
    for place, count in Counter(texts([item.get("destination") for item in payload])).items():
        if count > 1:
            yield parts.in_release("migration.payload", "each destination once", f"`{place}` {count} times")


def finalize_files_are_there(parts: Parts) -> Iterator[Problem]:
    """Each finalize file exists and contains a statement."""
    for index, step in enumerate(items(parts.release, "migration", "finalize")):
        key = f"migration.finalize[{step.get('name', index)}].file"
        yield from _sql_is_there(parts, key, step.get("file"), "one SQL statement")


def rollback_fits(parts: Parts) -> Iterator[Problem]:
    """The rollback file contains statements; a guard names services, tables and columns that are declared."""
    yield from _sql_is_there(parts, "rollback.sql", mapping(parts.release, "rollback").get("sql"), "SQL statements")
    created = mapping(parts.release, "tables", "created")
    services = texts(parts.release.get("services"))
    for guard in items(parts.release, "rollback", "guards"):
        key = f"rollback.guards[{guard.get('name')}]"
        for kind in ("container", "log"):
            service = mapping(guard, kind).get("service")
            if isinstance(service, str) and service not in services:
                yield parts.in_release(f"{key}.{kind}.service", listed(services), f"`{service}`")
        for name, columns in mapping(guard, "values_of").items():
            added = [*mapping(parts.release, "tables", "altered", name, "columns")]
            for column in texts(columns):
                if column not in added:
                    yield parts.in_release(f"{key}.values_of.{name}", listed(added), f"`{column}`")
        losses = mapping(guard, "losses")
        table = losses.get("table")
        if isinstance(table, str) and table not in created:
            yield parts.in_release(f"{key}.losses.table", listed([*created]), f"`{table}`")
        elif isinstance(table, str):
            known = [*mapping(created, table, "columns")]
            for column in texts(losses.get("key")):
                if column not in known:
                    yield parts.in_release(f"{key}.losses.key", listed(known), f"`{column}`")


def _sql_is_there(parts: Parts, key: str, source: Any, held: str) -> Iterator[Problem]:
    problems = list(_file_is_there(parts, key, source))
    yield from problems
    if isinstance(source, str) and not problems:
        try:
            empty = not read_file(parts.directory, source).decode("utf-8").strip()
        except UnicodeDecodeError as error:
            yield parts.in_release(key, "a file of UTF-8 text", f"one that cannot be read ({type(error).__name__})")
        else:
            if empty:
                yield parts.in_release(key, f"a file that contains {held}", "an empty one")


def _file_is_there(parts: Parts, key: str, source: Any) -> Iterator[Problem]:
    if not isinstance(source, str) or not source:
        return
    try:
        read_file(parts.directory, source)
    except UnfitError as error:
        yield parts.in_release(key, "a file in the release's folder", str(error))
    except (OSError, ValueError) as error:
        yield parts.in_release(key, "a file that can be read", f"`{source}` ({getattr(error, 'strerror', error)})")


def checks_that_are_named_exist(parts: Parts) -> Iterator[Problem]:
    """`proves` names checks that checks.yml declares, and `follows` those that can detect drift."""
    known = names(parts.checks, "checks")
    checks = items(parts.checks, "checks")
    telling = texts([check.get("name") for check in checks if check.get("written_in")])
    for check in checks:
        for name in texts(check.get("follows")):
            if name not in telling:
                expected = f"{listed(telling)} (a check with written_in)"
                yield parts.in_checks(f"checks[{check.get('name')}].follows", expected, f"`{name}`")
    for index, step in enumerate(items(parts.release, "migration", "finalize")):
        for name in texts(step.get("proves")):
            if name not in known:
                key = f"migration.finalize[{step.get('name', index)}].proves"
                yield parts.in_release(key, listed(known), f"`{name}`")


def guards_of_steps_exist(parts: Parts) -> Iterator[Problem]:
    """`guarded_by` names guards of rollback.guards that read the current state of a service."""
    guards = items(parts.release, "rollback", "guards")
    # A log shows the past, not the current state.
    kinds = set(KINDS_OF_SERVICES) - {"log"}
    known = texts([guard.get("name") for guard in guards if kinds & guard.keys()])
    for index, step in enumerate(items(parts.release, "migration", "finalize")):
        for name in texts(step.get("guarded_by")):
            if name not in known:
                key = f"migration.finalize[{step.get('name', index)}].guarded_by"
                yield parts.in_release(key, f"{listed(known)} (a guard that reads the API or a container)", f"`{name}`")


def lists_of_guards_are_those_of_the_api(parts: Parts) -> Iterator[Problem]:
    """A guard that reads a path of api.endpoints names the same place of its list as that endpoint."""
    declared = {
        endpoint["path"].partition("?")[0]: endpoint["items"]
        for endpoint in items(parts.release, "api", "endpoints")
        if isinstance(endpoint.get("path"), str) and isinstance(endpoint.get("items"), str)
    }
    for index, guard in enumerate(items(parts.release, "rollback", "guards")):
        answers = mapping(guard, "answers")
        path = answers.get("path")
        place = declared.get(path.partition("?")[0]) if isinstance(path, str) else None
        if place is not None and answers.get("items") != place:
            key = f"rollback.guards[{guard.get('name', index)}].answers.items"
            yield parts.in_release(key, f"`{place}`, as api.endpoints has it", f"`{answers.get('items', 'nothing')}`")


def repairs_name_what_exists(parts: Parts) -> Iterator[Problem]:
    """Repairs name created tables, and steps of migration.finalize."""
    created, steps = mapping(parts.release, "tables", "created"), names(parts.release, "migration", "finalize")
    for table in mapping(parts.release, "repairs", "leftover"):
        if table not in created:
            yield parts.in_release(f"repairs.leftover.{table}", listed([*created]), f"`{table}`")
    for name in texts(mapping(parts.release, "repairs").get("steps")):
        if name not in steps:
            yield parts.in_release("repairs.steps", listed(steps), f"`{name}`")


def checklist_names_what_exists(parts: Parts) -> Iterator[Problem]:
    """A proof without * that names a part of this release names a declared one."""
    owners: dict[str, list[str]] = {
        "guard.": names(parts.release, "rollback", "guards"),
        "checks.": names(parts.checks, "checks"),
        "scenario.": names(parts.checks, "scenarios"),
        "plans.": names(parts.checks, "plans"),
        "api.": names(parts.release, "api", "endpoints"),
        "migrate.finalize.": names(parts.release, "migration", "finalize"),
        "structure.": [
            "revision",
            *(str(table) for kind in ("created", "altered") for table in mapping(parts.release, "tables", kind)),
        ],
    }
    for section in items(parts.release, "checklist"):
        for item in items(section, "items"):
            for proof in texts(item.get("proofs")):
                for prefix, known in owners.items():
                    name = proof.removeprefix(prefix).split(".")[0]
                    if proof.startswith(prefix) and "*" not in name and name not in known:
                        key = f"checklist[{section.get('section')}][{item.get('item')}].proofs"
                        yield parts.in_release(key, f"after `{prefix}` {listed(known)}", f"`{proof}`")


def scenario_values_are_saved_first(parts: Parts) -> Iterator[Problem]:
    """%(name)s names a value that an earlier step saves."""
    for scenario in items(parts.checks, "scenarios"):
        saved: set[str] = set()
        key = f"scenarios[{scenario.get('name')}]"
        uses = [(f"{key}.steps[{index}]", step) for index, step in enumerate(items(scenario, "steps"))]
        for place, step in [*uses, (key, {"sql": scenario.get("leaves_nothing")})]:
            place = f"{place}.{'leaves_nothing' if place == key else 'sql'}"
            for name in PLACEHOLDER.findall(step["sql"]) if isinstance(step.get("sql"), str) else ():
                if name not in saved:
                    yield parts.in_checks(place, "values that an earlier step saves", f"%({name})s")
            saved.update(texts(step.get("save")))


def monitoring_names_what_exists(parts: Parts) -> Iterator[Problem]:
    """Drift names checks that list violations; latency and logs need a declared API and declared services."""
    monitoring = mapping(parts.release, "monitoring")
    known = [str(check["name"]) for check in items(parts.checks, "checks") if "violations" in check and "name" in check]
    for name in texts(monitoring.get("drift")):
        if name not in known:
            yield parts.in_release("monitoring.drift", f"a check with violations, {listed(known)}", f"`{name}`")
    services = texts(parts.release.get("services"))
    used = [(f"monitoring.logs[{log.get('name')}].service", log.get("service")) for log in items(monitoring, "logs")]
    used.append(("monitoring.queue.service", mapping(monitoring, "queue").get("service")))
    for key, service in used:
        if isinstance(service, str) and services and service not in services:
            yield parts.in_release(key, listed(services), f"`{service}`")
    if "latency" in monitoring and not mapping(parts.release, "api"):
        yield parts.in_release("monitoring.latency", "nothing, because the release declares no api", "a mapping")


def throttle_has_what_it_checks(parts: Parts) -> Iterator[Problem]:
    """It pauses between the batches of a step, and reads endpoints that are declared."""
    migration = mapping(parts.release, "migration")
    throttle = mapping(migration, "throttle")
    if not throttle:
        return
    if not {"lag_seconds", "latency_ms"} & throttle.keys():
        yield parts.in_release("migration.throttle", "lag_seconds or latency_ms", "neither")
    if not any("batch_rows" in step for step in items(migration, "finalize")):
        yield parts.in_release("migration.throttle", "nothing, because no step of finalize has batch_rows", "a mapping")
    if "latency_ms" in throttle and not items(mapping(parts.release, "api"), "endpoints"):
        yield parts.in_release(
            "migration.throttle.latency_ms", "nothing, because the release declares no endpoint in api", "a number"
        )


RULES: tuple[Callable[[Parts], Iterator[Problem]], ...] = (
    folder_is_named_like_the_release,
    revisions_differ,
    names_are_unique,
    clients_are_services,
    alembic_runs_in_a_service,
    payload_is_there,
    finalize_files_are_there,
    rollback_fits,
    checks_that_are_named_exist,
    guards_of_steps_exist,
    lists_of_guards_are_those_of_the_api,
    repairs_name_what_exists,
    checklist_names_what_exists,
    tables_fit_together,
    altered_tables_are_there_before,
    changed_tables_are_there_before,
    plans_name_known_tables,
    scenario_values_are_saved_first,
    monitoring_names_what_exists,
    throttle_has_what_it_checks,
)
