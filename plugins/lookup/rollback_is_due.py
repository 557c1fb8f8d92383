"""Whether a deploy that failed takes the release back on this target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.lookup import LookupBase  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.rollback.automatic import is_due, is_unknown  # noqa: E402

DOCUMENTATION = r"""
name: rollback_is_due
author: The authors of dbrelease
short_description: Whether a deploy that failed takes the release back on this target
description:
  - For the rescue of a deploy. It reads C(migrate_finalize), the result of the last step of the migration, of each
    target of the play, and on which of them a task has failed.
  - The guards of the release and C(on_failed_verification) decide after it.
  - With the term V(unknown) it is whether all that failed are claims that could not be looked at, which is no reason to
    take a release back.
"""

EXAMPLES = r"""
- name: Roll back, or hold
  ansible.builtin.include_role: {name: rollback, tasks_from: automatic}
  when: lookup('rollback_is_due')
"""

RETURN = r"""
_raw:
  description: Whether it is.
  type: list
  elements: bool
"""

MIGRATED, FAILED, RESULT = "migrate_finalize", "ansible_failed_task", "ansible_failed_result"
UNKNOWN = "unknown"


class LookupModule(LookupBase):  # type: ignore[misc]
    """See DOCUMENTATION."""

    def run(self, terms: list[Any], variables: Mapping[str, Any] | None = None, **kwargs: Any) -> list[bool]:
        """One truth."""
        known = variables or {}
        targets = [known["hostvars"][name] for name in known["ansible_play_hosts_all"]]
        # Where a task has failed. A connection that was lost and came back says nothing about the release.
        failed = [target for target in targets if FAILED in target]
        if UNKNOWN in terms:
            return [is_unknown((target.get(MIGRATED), target.get(RESULT)) for target in failed)]
        where_failed = [target.get(MIGRATED) for target in failed]
        return [is_due(known.get(MIGRATED), where_failed)]
