"""monitor_watch works on the target; the controller computes the maximum number of samples itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.action import DeclaredAction, declared_by  # noqa: E402
from ansible.module_utils.dbrelease.monitor.window import LONGEST_S, most_samples  # noqa: E402


class ActionModule(DeclaredAction):
    """See library/monitor_watch.py."""

    declared = declared_by(__file__)

    def judged(self, result: dict[str, Any]) -> dict[str, Any]:
        """Limit the samples to those that fit into the window: the play takes as many as this result has."""
        seconds, interval_s = (int(self._task.args.get(name) or 0) for name in ("seconds", "interval_seconds"))
        most = most_samples(min(max(seconds, 0), LONGEST_S), max(interval_s, 1))
        return {**result, "samples": min(max(result.get("samples") or 0, 0), most)}
