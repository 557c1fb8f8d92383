"""payload works on the target; the content of the files is read here, where the release is.

A failed claim fails the task: nothing is migrated without the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.action import DeclaredAction, declared_by  # noqa: E402
from ansible.module_utils.dbrelease.release.payload_content import with_content  # noqa: E402


class ActionModule(DeclaredAction):
    """See library/payload.py."""

    declared = declared_by(__file__)

    def refuse(self) -> None:
        """Add the content of each file; raises ReleaseError where one has changed since the release was read."""
        payload, missing = self._task.args["payload"], self._task.args.get("copy")
        filled = [with_content(item) if missing is None or item["destination"] in missing else item for item in payload]
        self._task.args = {**self._task.args, "payload": filled}

    def judged(self, result: dict[str, Any]) -> dict[str, Any]:
        """A failure where there is a message."""
        if result.get("failed") or not result.get("message"):
            return result
        return {**result, "failed": True, "msg": result["message"], "message": ""}
