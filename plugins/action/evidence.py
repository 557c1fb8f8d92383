"""evidence works on the target; what it wrote there is brought here in the same step, and its page is rendered here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.errors import ReleaseError  # noqa: E402
from ansible.module_utils.dbrelease.evidence_page import PAGE_NAME, page_of  # noqa: E402
from ansible.module_utils.dbrelease.private_files import put_command, replace_private  # noqa: E402


class ActionModule(ActionBase):  # type: ignore[misc]
    """See library/evidence.py."""

    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """The module's result; a page that cannot be made is a warning, since the evidence counts."""
        result: dict[str, Any] = self._execute_module(module_name="evidence", task_vars=task_vars)
        texts: dict[str, str] = result.pop("texts", {})
        try:
            self._bring(texts)
        except ReleaseError as error:
            return {**result, "failed": True, "msg": f"{error.message} What came of the run: {result['headline']}"}
        if texts:
            try:
                page = page_of(json.loads(texts["evidence.json"]), Path(self._task.args["templates"]))
                self._bring({PAGE_NAME: page})
                self._put(f"{result['directory']}/{PAGE_NAME}", page)
            except ReleaseError as error:
                result["warnings"] = [error.message]
        return result

    def _bring(self, texts: dict[str, str]) -> None:
        run = self._task.args["run"]
        folder = Path(self._task.args["artifacts"]) / run["environment"] / run["run_id"]
        for name, text in texts.items():
            replace_private(folder / name, text.encode("utf-8", "replace"), run["run_id"], setting="report_artifacts")

    def _put(self, path: str, page: str) -> None:
        """Beside the evidence on the target, whole or absent, without one more module there."""
        command = put_command(path, self._task.args["run"]["run_id"])
        done = self._low_level_execute_command(command, in_data=page.encode("utf-8", "replace"))
        if done["rc"]:
            raise ReleaseError(f"Writing {path} on the target failed ({done['stderr'].strip()}): make room there.")
