"""payload_info works on the target; a claim that does not hold fails the task: nothing is migrated without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.action import DeclaredAction, declared_by  # noqa: E402


class ActionModule(DeclaredAction):
    """See library/payload_info.py."""

    declared = declared_by(__file__)

    def judged(self, result: dict[str, Any]) -> dict[str, Any]:
        """A failure where there is a message."""
        if result.get("failed") or not result.get("message"):
            return result
        return {**result, "failed": True, "msg": result["message"], "message": ""}
