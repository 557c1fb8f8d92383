"""api_contract_info works on the target; before a release a failed claim fails the task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.action import DeclaredAction, declared_by  # noqa: E402


class ActionModule(DeclaredAction):
    """See library/api_contract_info.py."""

    declared = declared_by(__file__)

    def judged(self, result: dict[str, Any]) -> dict[str, Any]:
        """A failure where there is a message and no later step judges it together with others."""
        observed = self._task.args.get("mode") == "observe"
        if not observed or result.get("failed") or not result.get("message"):
            return result
        return {**result, "failed": True, "msg": result["message"], "message": ""}
