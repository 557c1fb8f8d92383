"""payload works on the target; the content of the files is read here, where the release is.

A failed claim fails the task: nothing is migrated without the files.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.action import DeclaredAction, declared_by  # noqa: E402
from ansible.module_utils.dbrelease.core.errors import ReleaseError  # noqa: E402
from ansible.module_utils.dbrelease.release.files import UnfitError, read_file  # noqa: E402


class ActionModule(DeclaredAction):
    """See library/payload.py."""

    declared = declared_by(__file__)

    def refuse(self) -> None:
        """Add the content of each file; raises ReleaseError where one has changed since the release was read."""
        payload, missing = self._task.args["payload"], self._task.args.get("copy")
        filled = [
            {**item, "content": content_of(item)} if missing is None or item["destination"] in missing else item
            for item in payload
        ]
        self._task.args = {**self._task.args, "payload": filled}

    def judged(self, result: dict[str, Any]) -> dict[str, Any]:
        """A failure where there is a message."""
        if result.get("failed") or not result.get("message"):
            return result
        return {**result, "failed": True, "msg": result["message"], "message": ""}


def content_of(item: Mapping[str, Any]) -> str:
    """The content of a file of the release, in base64."""
    path = Path(item["path"])
    try:
        content = read_file(path.parent, path.name)
        why = "" if hashlib.sha256(content).hexdigest() == item["sha256"] else "it has changed since the run started"
    except UnfitError as error:
        why = f"found {error}"
    except OSError as error:
        why = error.strerror or "it cannot be read"
    if why:
        raise ReleaseError(
            f"Reading {path} was refused ({why}), and nothing was copied: rerun the playbook.", refused=True
        )
    return base64.b64encode(content).decode()
