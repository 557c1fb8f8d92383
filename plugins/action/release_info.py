"""release_info works where Ansible runs: in its process, as starting another would take longer than the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.context as context  # type: ignore[import-untyped]
import ansible.module_utils
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.core.errors import ReleaseError  # noqa: E402
from ansible.module_utils.dbrelease.release.load import load  # noqa: E402
from ansible.module_utils.dbrelease.report.commands import checked_commands  # noqa: E402

OPTIONS = {
    "directory": {"type": "path", "required": True},
    "schemas": {"type": "path", "required": True},
    "payload_folders": {"type": "list", "elements": "str"},
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """See library/release_info.py."""

    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """The release, or one sentence on why it is not valid."""
        _, options = self.validate_argument_spec(OPTIONS)
        try:
            folder, schemas = Path(options["directory"]), Path(options["schemas"])
            release = load(folder, schemas, options["payload_folders"])
            given = list(context.CLIARGS.get("inventory") or ())
            commands = checked_commands(release, folder=Path.cwd(), root=ROOT, inventories=given)
            return {"changed": False, "release": {**release, "commands": commands}}
        except ReleaseError as error:
            return {"failed": True, "msg": error.message, "refused": error.refused, **error.facts}
