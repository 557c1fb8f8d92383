"""rehearsal works on the target; the content of the release's files is read here, where the release is."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.action import DeclaredAction, declared_by  # noqa: E402
from ansible.module_utils.dbrelease.release.payload_content import with_content  # noqa: E402


class ActionModule(DeclaredAction):
    """See library/rehearsal.py."""

    declared = declared_by(__file__)

    def refuse(self) -> None:
        """Add the content of each file; raises ReleaseError where one has changed since the release was read."""
        release = self._task.args.get("release")
        if release:
            migration = release["migration"]
            filled = {**migration, "payload": [with_content(item) for item in migration["payload"]]}
            self._task.args = {**self._task.args, "release": {**release, "migration": filled}}
