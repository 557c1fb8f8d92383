"""Whether the last lines on the terminal are the verdict, so that tasks need not repeat it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.lookup import LookupBase  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))  # where ansible.cfg says that it is

from ansible.module_utils.dbrelease.action import verdict_is_shown  # noqa: E402

DOCUMENTATION = r"""
name: verdict_is_shown
author: The authors of dbrelease
short_description: Whether the callback verdict ends the output of this playbook
description:
  - True where C(callbacks_enabled) names the callback C(verdict) and C(stdout_callback) writes for people. A task then
    prints a short form of the verdict.
"""

EXAMPLES = r"""
- name: Fail unless the outcome is good
  ansible.builtin.assert:
    that: evidence.succeeded
    fail_msg: "{{ evidence.summary if lookup('verdict_is_shown') else evidence.headline }}"
"""

RETURN = r"""
_raw:
  description: Whether it is shown.
  type: list
  elements: bool
"""


class LookupModule(LookupBase):  # type: ignore[misc]
    """See DOCUMENTATION."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[bool]:
        """One boolean; the terms are ignored."""
        return [verdict_is_shown()]
