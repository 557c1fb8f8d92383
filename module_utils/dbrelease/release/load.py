"""Load a release: read it, validate it as a whole before anything is touched, and add the content of its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.errors import ReleaseError
from .defaults import filled, named
from .documents import Parts
from .files import UnfitError, place_of, read_file
from .payload_folders import checked_folders, folder_of, strays
from .rules import RULES
from .schema_errors import Schemas
from .yaml_reader import LIMIT_PROBLEMS, Problem, read

RELEASE_FILE = "release.yml"
CHECKS_FILE = "checks.yml"
SCHEMA_OF = {RELEASE_FILE: "release.schema.json", CHECKS_FILE: "checks.schema.json"}
Release = dict[str, Any]


def load(directory: Path, schemas: Path, payload_folders: Sequence[str] | None = None) -> Release:
    """Return the release of a folder; raises ReleaseError with all its problems.

    `payload_folders`: the folders below which its payload may be copied; each payload item has its own as `folder`.
    Without them, its destinations are not confined.

    What it omits has the default of the schemas, and so do `release`, `label` and `title` (defaults.py); a section
    without a default, such as `api`, stays omitted. `omitted` names the sections that release.yml omits. checks.yml
    may be missing. An omitted `migration.success_pattern` and `rollback.sql` are empty text, an omitted
    `migration.throttle` has no key. Each payload item has its `sha256` and absolute `path`, each finalize step its
    `sql`; `migration.revision_files` has the name and content of each revision of the payload, for a preview where
    Alembic does not have it yet. `rollback.script` is the content of its `sql` file. `migration.lock` has the declared
    `blockers` as a mapping.
    """
    directory = directory.resolve()
    if not directory.is_dir():
        raise ReleaseError(_missing(directory), refused=True)
    folders = () if payload_folders is None else checked_folders(payload_folders)
    known = Schemas(schemas)
    release, checks, problems = _validated(directory, known)
    if payload_folders is not None:
        problems += strays(release, folders, _shown(directory, RELEASE_FILE))
    if problems:
        more = len(problems) - LIMIT_PROBLEMS
        said = [*map(str, problems[:LIMIT_PROBLEMS]), *([f"There are {more} more problems."] if more > 0 else [])]
        raise ReleaseError(
            " ".join(said),
            refused=True,
            problems=[vars(problem) for problem in problems[:LIMIT_PROBLEMS]],
        )
    schema = known.content(SCHEMA_OF[RELEASE_FILE])
    omitted = [key for key in schema["properties"] if key not in release]
    release = filled(named(release, directory.name), schema, known)
    checks = filled(checks, known.content(SCHEMA_OF[CHECKS_FILE]), known)
    return _completed(directory, {**release, "omitted": omitted}, checks, folders)


def releases_in(folder: Path) -> list[str]:
    """The names of the releases in a folder."""
    return sorted(path.parent.name for path in folder.glob(f"*/{RELEASE_FILE}"))


def _missing(directory: Path) -> str:
    there = ", ".join(releases_in(directory.parent)) or "none"
    return (
        f"Reading the release {directory.name} failed (there is no folder {directory}): "
        f"name one of the existing releases ({there})."
    )


def _shown(directory: Path, name: str) -> str:
    return f"{directory.parent.name}/{directory.name}/{name}"


def _validated(directory: Path, schemas: Schemas) -> tuple[Release, Release, list[Problem]]:
    documents: list[Release] = []
    problems: list[Problem] = []
    shown = [_shown(directory, name) for name in (RELEASE_FILE, CHECKS_FILE)]
    for name, file in zip((RELEASE_FILE, CHECKS_FILE), shown, strict=True):
        if name == CHECKS_FILE and not os.path.lexists(directory / name):
            documents.append({})
            continue
        document, unreadable = read(directory, name, file)
        problems += unreadable
        if document is not None or not unreadable:
            problems += schemas.problems(SCHEMA_OF[name], document, file)
        documents.append(document if isinstance(document, dict) else {})
    release, checks = documents
    parts = Parts(directory, release, checks, *shown)
    # Without an unreadable document, every name in the other would seem undeclared.
    if release and (checks or not os.path.lexists(directory / CHECKS_FILE) or (directory / CHECKS_FILE).is_file()):
        problems += [problem for rule in RULES for problem in rule(parts)]
    return release, checks, problems


def _text(directory: Path, name: str) -> str:
    try:
        return _content(directory, name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(directory, name, "it is not UTF-8 text") from error


def _content(directory: Path, name: str) -> bytes:
    """Read a file that the rules have accepted: it may have been replaced since."""
    try:
        return read_file(directory, name)
    except UnfitError as error:
        raise _unreadable(directory, name, f"found {error}") from error
    except OSError as error:
        raise _unreadable(directory, name, error.strerror or "it cannot be read") from error


def _unreadable(directory: Path, name: str, reason: str) -> ReleaseError:
    return ReleaseError(
        f"Reading {directory / name} failed ({reason}): correct the file, and rerun the playbook.", refused=True
    )


def _blockers(declared: str | dict[str, Any] | None) -> dict[str, Any]:
    """`migration.blockers`, a word or a mapping, as the mapping that modules take; give_up is all of it false."""
    given = {declared: True} if isinstance(declared, str) else declared or {}
    return {"wait": False, "cancel_autovacuum": False, "end_idle_in_transaction": 0} | {
        key: value for key, value in given.items() if key != "give_up"
    }


def _completed(directory: Path, release: Release, checks: Release, folders: Sequence[str]) -> Release:
    migration = {"success_pattern": "", "throttle": {}, **release["migration"]}
    migration["lock"] = {**migration["lock"], "blockers": _blockers(migration.get("blockers"))}
    for item in migration["payload"]:
        sha256 = hashlib.sha256(_content(directory, item["source"])).hexdigest()
        item |= {"path": str(place_of(directory, item["source"])), "sha256": sha256}
        if folder := folder_of(item["destination"], folders):
            item["folder"] = folder
    migration["revision_files"] = [
        {"name": Path(item["source"]).name, "content": _text(directory, item["source"])}
        for item in migration["payload"]
        if item["source"].endswith(".py")
    ]
    for step in migration["finalize"]:
        if "file" in step:
            step["sql"] = _text(directory, step["file"])
    rollback = {"sql": "", **release["rollback"]}
    rollback["script"] = _text(directory, rollback["sql"]) if rollback["sql"] else ""
    return {**release, **checks, "migration": migration, "rollback": rollback, "directory": str(directory)}
