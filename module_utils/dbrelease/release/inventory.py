"""The variables of an inventory, judged together by their schema."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .schema_errors import Schemas

NAME = "inventory.schema.json"
CONTAINER = re.compile(r"[a-z][a-z0-9_]*_container")
# One of them says where the database is.
DATABASE = ("db_container", "db_host", "compose_project")
# Of Ansible itself.
MAGIC = re.compile(
    r"(ansible|inventory|group|host|play|playbook|role|omit|environment|vars|discovered)(_|$)|groups|hostvars|.*_names$"
)
# How near an unknown name must be to one of ours: `db_pasword`, but not `db_users_file`.
NEAR = 0.85


def problems(
    values: Mapping[str, Any],
    unreadable: Mapping[str, str],
    names: Iterable[str],
    schemas: Schemas,
) -> list[str]:
    """One sentence for each variable that is missing or wrong.

    values: by name, as they are for one target; unreadable: those that could not be read, with why; names: all that
    are set.
    """
    known: Mapping[str, Mapping[str, Any]] = schemas.content(NAME)["properties"]
    found = [
        _missing(name, known[name], unreadable.get(name, ""), names)
        for name in schemas.content(NAME)["required"]
        if values.get(name) in (None, "") and not (name == "db_password" and name in values)
    ]
    if not any(values.get(name) for name in DATABASE) and not any(name in unreadable for name in DATABASE):
        said = "; ".join(f"{name}: {known[name]['description'].rstrip('.')}" for name in DATABASE)
        found.append(f"One of {', '.join(DATABASE)} is required, to find the database ({said}).")
    found += [
        _unreadable(name, reason)
        for name, reason in unreadable.items()
        if name in known and name not in schemas.content(NAME)["required"]
    ]
    return [*found, *(text for name, value in values.items() if name in known for text in _wrong(name, value, schemas))]


def unknown(names: Iterable[str], schemas: Schemas, roles: Iterable[str]) -> dict[str, str]:
    """The variables that are not ours, but nearly spelled like one, each with that."""
    known = [*schemas.content(NAME)["properties"], *roles]
    others = [name for name in names if name not in known and not MAGIC.match(name) and not CONTAINER.fullmatch(name)]
    near = {name: difflib.get_close_matches(name, known, n=1, cutoff=NEAR) for name in others}
    return {name: found[0] for name, found in near.items() if found}


def _missing(name: str, part: Mapping[str, Any], reason: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, [one for one in names if one != name], n=1, cutoff=NEAR)
    spelled = f" The variable {near[0]} exists; is it misspelled?" if near else ""
    example, said = ("", f" {reason.rstrip('.')}.") if reason else (_example(part), "")
    return f"{name} is missing{example}: {part['description']}{said}{spelled}"


def _example(part: Mapping[str, Any]) -> str:
    return f" (for example `{part['examples'][0]}`)"


def _unreadable(name: str, reason: str) -> str:
    return f"{name} cannot be read ({reason.rstrip('.')})."


def _wrong(name: str, value: Any, schemas: Schemas) -> Iterator[str]:
    part: Mapping[str, Any] = schemas.content(NAME)["properties"][name]
    if value is None or value == "":  # as if it were omitted
        return
    for problem in schemas.problems_of(value, part, NAME):
        shown = "another value" if part.get("writeOnly") else problem.found
        place = f"{name}.{problem.key}" if problem.key else name
        yield f"{place}: expected {problem.expected}{_example(part)}, found {shown}."
