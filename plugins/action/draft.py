"""draft works on the target; what it returns becomes the folder of a release here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.action import DeclaredAction, declared_by  # noqa: E402
from ansible.module_utils.dbrelease.core.errors import ReleaseError  # noqa: E402
from ansible.module_utils.dbrelease.draft.write import Source, Wanted, files_of, sha256_of, write  # noqa: E402
from ansible.module_utils.dbrelease.release.load import load  # noqa: E402
from ansible.module_utils.dbrelease.release.payload_content import with_content  # noqa: E402

# What lets an upgrade wait briefly for locks, and try again: see schemas/release.schema.json.
LOCK = {"timeout_ms": 500, "attempts": 10, "deadline_seconds": 120}


class ActionModule(DeclaredAction):
    """See library/draft.py."""

    declared = declared_by(__file__)

    def refuse(self) -> None:
        """Add the content of the revision files; raises ReleaseError where one is missing, or the folder exists."""
        arguments = dict(self._task.args)
        folder = Path(arguments["directory"])
        if folder.exists():
            raise ReleaseError(
                f"Drafting was refused ({folder} exists already, and a draft overwrites nothing): give another name "
                "with -e release=NAME.",
                refused=True,
            )
        self.sources = [
            Source(Path(item["source"]).expanduser().resolve(), item["destination"])
            for item in arguments.get("payload") or []
        ]
        for source in self.sources:
            if not source.path.is_file():
                raise ReleaseError(
                    f"Drafting was refused (there is no file {source.path}): correct draft_payload.", refused=True
                )
        given = [{"path": str(one.path), "sha256": sha256_of(one.path)} for one in self.sources]
        arguments["payload"] = [
            {"source": f"migrations/{one.path.name}", "destination": one.destination, **with_content(item)}
            for one, item in zip(self.sources, given, strict=True)
        ]
        self._task.args = arguments

    def judged(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write the folder, by the names of the operator and with the text of the target as data."""
        drafted = result.get("draft")
        if result.get("failed") or not drafted:
            return result
        # Ansible's texts have tags, which are no YAML.
        arguments, drafted = json.loads(json.dumps([self._task.args, drafted]))
        folder = Path(arguments["directory"])
        migration: dict[str, Any] = {
            "command": list(arguments["command"]),
            "container": arguments["migration_container"],
            "from_revision": str(result["from_revision"]),
            "to_revision": str(arguments["to_revision"]),
            "lock": LOCK,
            "timeout_seconds": 3600,
            "growth_factor": 0.5,
        }
        if arguments.get("bookkeeping_table") not in (None, "", "alembic_version"):
            migration["version_table"] = arguments["bookkeeping_table"]
        if arguments.get("environment"):
            migration["environment"] = sorted(arguments["environment"])
        wanted = Wanted(
            folder.name,
            str(arguments["title"]),
            migration,
            list(arguments.get("services") or []),
            {name: str(one) for name, one in (arguments.get("containers") or {}).items() if one},
            self.sources,
        )
        try:
            names = write(folder, files_of(wanted, drafted, str(result.get("preview") or "")), self.sources)
        except (KeyError, TypeError, AttributeError) as error:
            raise ReleaseError(
                f"Writing the draft failed (the answer of {self.target} is no draft: {type(error).__name__}): find out "
                "which program runs there instead of its Python.",
                refused=True,
            ) from error
        result = {**result, "directory": str(folder), "files": names}
        try:
            load(folder, ROOT / "schemas")
        except ReleaseError as error:
            result["warnings"] = [*result.get("warnings", []), f"The draft is no valid release yet: {error.message}"]
        return result
