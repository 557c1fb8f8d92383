"""leftovers works on the target; the controller reports the runs that it names, under their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.action import DeclaredAction, declared_by  # noqa: E402
from ansible.module_utils.dbrelease.core.answer import untrusted  # noqa: E402
from ansible.module_utils.dbrelease.core.journal import RUN_ID  # noqa: E402
from ansible.module_utils.dbrelease.core.safe_names import name_problem  # noqa: E402

REPORTED_AT_MOST = 20


class ActionModule(DeclaredAction):
    """See library/leftovers.py."""

    declared = declared_by(__file__)

    def judged(self, result: dict[str, Any]) -> dict[str, Any]:
        """The newest of the interrupted runs, each with a valid name."""
        runs = result.get("interrupted") or []
        if not all(isinstance(run, dict) and is_run(run) for run in runs):
            raise untrusted(self._what(), "it names an interrupted run that is not valid")
        if len({run["run_id"] for run in runs}) < len(runs):
            raise untrusted(self._what(), "it names an interrupted run twice")
        asking = sorted((run for run in runs if run["asked"]), key=lambda run: str(run["run_id"]))
        left = asking[:-REPORTED_AT_MOST]
        if not left:
            return result
        more = f"Only the newest {REPORTED_AT_MOST} interrupted runs are reported; {len(left)} are not."
        kept = [run if run not in left else {**run, "asked": []} for run in runs]
        return {**result, "interrupted": kept, "warnings": [*result.get("warnings", []), more]}


def is_run(run: Mapping[str, Any]) -> bool:
    """Whether a run that a target names can be reported under its name."""
    run_id, playbook, asked = (run.get(key) for key in ("run_id", "playbook", "asked"))
    return (
        isinstance(run_id, str)
        and re.fullmatch(RUN_ID, run_id) is not None
        and isinstance(playbook, str)
        and not name_problem(playbook)
        and isinstance(asked, list)
    )
