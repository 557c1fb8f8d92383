"""run works on the target; the controller decides which run it is and where its files are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleConnectionFailure  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.action import DeclaredAction, declared_by  # noqa: E402
from ansible.module_utils.dbrelease.core.answer import untrusted  # noqa: E402
from ansible.module_utils.dbrelease.core.errors import ReleaseError  # noqa: E402
from ansible.module_utils.dbrelease.core.journal import RUN_ID  # noqa: E402
from ansible.module_utils.dbrelease.core.plain_text import printable  # noqa: E402
from ansible.module_utils.dbrelease.core.safe_names import line_problem, name_problem  # noqa: E402

GIVEN_BY = {
    "release": (name_problem, "release"),
    "environment": (name_problem, "deploy_environment"),
    "playbook": (name_problem, "playbook"),
    "state_dir": (line_problem, "release_state_dir"),
}

# A service, and a name as engines accept it, with which commands are printed; empty for a target without a container.
CONTAINER = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127} ([A-Za-z0-9][A-Za-z0-9_.-]{0,254})?"


class ActionModule(DeclaredAction):
    """See library/run.py."""

    declared = declared_by(__file__)

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """The result; an unreachable target is a failure like any other, since nothing was started there."""
        try:
            result: dict[str, Any] = super().run(tmp, task_vars)
        except AnsibleConnectionFailure as error:
            reason = printable(str(error)).strip().removesuffix(".")
            message = (
                f"Reaching {self.target} to open the run failed ({reason}), and nothing was started: make it "
                "reachable, and rerun the playbook."
            )
            return {"failed": True, "msg": message, "refused": False}
        return result

    def refuse(self) -> None:
        """Refuse values that cannot name a folder on the controller or appear in its crontab."""
        for name, (problem_of, variable) in GIVEN_BY.items():
            if problem := problem_of(self._given(name)):
                raise ReleaseError(
                    f"Opening the run was refused ({variable} is {self._given(name)!r}, and {problem}), and nothing "
                    f"was started: correct {variable}.",
                    refused=True,
                )

    def judged(self, result: dict[str, Any]) -> dict[str, Any]:
        """The run that later tasks get: only its identifier comes from the target's answer."""
        if result.get("failed"):
            return result
        run_id = (result.get("run") or {}).get("run_id")
        if not (isinstance(run_id, str) and re.fullmatch(RUN_ID, run_id)):
            raise untrusted(self._what(), f"{run_id!r} is not the identifier of a run")
        for service, container in (result.get("containers") or {}).items():
            if not re.fullmatch(CONTAINER, f"{service} {container}"):
                raise untrusted(self._what(), f"{container!r} of {service!r} is not the name of a container")
        return {**result, "run": {"run_id": run_id, **{name: self._given(name) for name in GIVEN_BY}}}

    def _given(self, name: str) -> str:
        return str(self._task.args.get(name, ""))
