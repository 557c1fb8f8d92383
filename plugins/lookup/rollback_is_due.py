"""Whether a failed deploy rolls the release back on this target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.lookup import LookupBase  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.rollback.automatic import broken_by_others, is_due, is_unknown  # noqa: E402

DOCUMENTATION = r"""
name: rollback_is_due
author: The authors of dbrelease
short_description: Whether a failed deploy rolls the release back on this target
description:
  - For the rescue of a deploy. It reads C(migrate_finalize), the result of the last step of the migration, for each
    target of the play, and on which of them a task failed.
  - The guards of the release and C(on_failed_verification) decide after it.
  - With the term V(held) it is the reason why nothing that failed can be the release's doing, and empty where something
    can be. The release is held then.
"""

EXAMPLES = r"""
- name: Roll back, or hold
  ansible.builtin.include_role: {name: rollback, tasks_from: automatic}
  when: lookup('rollback_is_due')
"""

RETURN = r"""
_raw:
  description: Whether it is; with V(held) the reason to hold it.
  type: list
  elements: raw
"""

MIGRATED, FAILED, RESULT = "migrate_finalize", "ansible_failed_task", "ansible_failed_result"
HELD = "held"
UNKNOWN = "the verification reached no verdict: nothing that was observed speaks against the release."


class LookupModule(LookupBase):  # type: ignore[misc]
    """See DOCUMENTATION."""

    def run(self, terms: list[Any], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        """One boolean, or with the term `held` one text."""
        known = variables or {}
        targets = [known["hostvars"][name] for name in known["ansible_play_hosts_all"]]
        # Where a task failed. A connection that was lost and restored is no evidence about the release.
        failed = [target for target in targets if FAILED in target]
        if HELD in terms:
            unknown = is_unknown((target.get(MIGRATED), target.get(RESULT)) for target in failed)
            return [UNKNOWN if unknown else broken_by_others(target.get(RESULT) for target in failed)]
        where_failed = [target.get(MIGRATED) for target in failed]
        return [is_due(known.get(MIGRATED), where_failed)]
