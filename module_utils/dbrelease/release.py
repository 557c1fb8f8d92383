"""A release as data: read, validated as a whole before anything is touched, and completed with what its files hold."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from .errors import ReleaseError
from .release_parts import Parts
from .release_rules import RULES
from .release_schema import Schemas
from .release_yaml import Problem, read

RELEASE_FILE = "release.yml"
CHECKS_FILE = "checks.yml"
RELEASE_LISTS = ("services", "checklist", "ways_back")
CHECK_LISTS = ("observations", "checks", "scenarios", "plans")
Release = dict[str, Any]


def load(directory: Path, schemas: Path) -> Release:
    """The release of a folder; raises ReleaseError with every problem that it has.

    Lists that may be left out are empty then, `migration.success_pattern` is empty text; `api` stays left out. Each
    payload item has its `sha256` and absolute `path`, each finalize step its `sql`; `migration.revision_files` holds
    the name and content of each revision of the payload, for a preview where Alembic does not have it yet.
    `rollback` has the list `guards`, and in `script` what its `sql` file holds; both are empty where it is left out,
    and so is `tables.altered`.
    """
    directory = directory.resolve()
    if not directory.is_dir():
        raise ReleaseError(_missing(directory), refused=True)
    release, checks, problems = _validated(directory, Schemas(schemas))
    if problems:
        raise ReleaseError(
            " ".join(str(problem) for problem in problems),
            refused=True,
            problems=[vars(problem) for problem in problems],
        )
    return _completed(directory, release, checks)


def releases_in(folder: Path) -> list[str]:
    """The names of the releases in a folder."""
    return sorted(path.parent.name for path in folder.glob(f"*/{RELEASE_FILE}"))


def _missing(directory: Path) -> str:
    there = ", ".join(releases_in(directory.parent)) or "none"
    return (
        f"Reading the release {directory.name} failed (there is no folder {directory}): "
        f"name one of the releases there are ({there})."
    )


def _validated(directory: Path, schemas: Schemas) -> tuple[Release, Release, list[Problem]]:
    documents: list[Release] = []
    problems: list[Problem] = []
    shown = [f"{directory.parent.name}/{directory.name}/{name}" for name in (RELEASE_FILE, CHECKS_FILE)]
    for name, file in zip((RELEASE_FILE, CHECKS_FILE), shown, strict=True):
        document, unreadable = read(directory / name, file)
        problems += unreadable
        if document is not None or not unreadable:
            problems += schemas.problems(name.replace(".yml", ".schema.json"), document, file)
        documents.append(document if isinstance(document, dict) else {})
    release, checks = documents
    parts = Parts(directory, release, checks, *shown)
    # Without one of the documents, every name in the other would seem to lead nowhere.
    if release and (checks or (directory / CHECKS_FILE).is_file()):
        problems += [problem for rule in RULES for problem in rule(parts)]
    return release, checks, problems


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise ReleaseError(
            f"Reading {path} failed ({reason}): correct the file, and run again.", refused=True
        ) from error


def _completed(directory: Path, release: Release, checks: Release) -> Release:
    migration = {"payload": [], "finalize": [], "success_pattern": "", **release["migration"]}
    for item in migration["payload"]:
        path = directory / item["source"]
        item |= {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    migration["revision_files"] = [
        {"name": Path(item["path"]).name, "content": _text(Path(item["path"]))}
        for item in migration["payload"]
        if item["path"].endswith(".py")
    ]
    for step in migration["finalize"]:
        if "file" in step:
            step["sql"] = _text(directory / step["file"])
    rollback = {"guards": [], "sql": "", **release.get("rollback", {})}
    rollback["script"] = _text(directory / rollback["sql"]) if rollback["sql"] else ""
    empty: Release = {section: [] for section in (*RELEASE_LISTS, *CHECK_LISTS)}
    completed = {
        "migration": migration,
        "rollback": rollback,
        "tables": {"altered": {}, **release["tables"]},
        "directory": str(directory),
    }
    return {**empty, **release, **checks, **completed}
