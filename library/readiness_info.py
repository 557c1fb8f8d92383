#!/usr/bin/python
"""Decide whether the next release may begin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: readiness_info
short_description: Decide whether the next release may begin
description:
  - Judges each criterion by the journal (samples, deployment, backup), by the backup's file and by the live database,
    which it only reads. With O(restore) it also creates a temporary database beside it, and drops it again.
  - The answer is yes only if every criterion passes or is not declared. An inconclusive criterion is a no.
  - It journals step C(readiness), C(passed) for yes and C(refused) for no, and never fails for a no.
extends_documentation_fragment: [login, run, db_container]
options:
  release:
    description: The validated release that was deployed.
    type: dict
    required: true
  next_release:
    description: The release that would follow, for the message.
    type: str
    default: ""
  restore:
    description: Whether to restore the backup into a temporary database now, and compare it with its manifest.
    type: bool
    default: false
  timeout_seconds:
    description: How long the restore may take.
    type: int
    default: 3600
attributes:
  check_mode:
    description: Judges as usual, but restores nothing; the journal is not written.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: May the next release begin?
  readiness_info:
    login_host: 172.18.0.2
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    release: "{{ release }}"
  register: readiness
"""

RETURN = r"""
ready:
  description: The answer.
  type: bool
  returned: always
proofs:
  description: One for each criterion, C(readiness.<criterion>), and C(backup.restorable), which a restore shows.
  type: list
  elements: dict
  returned: always
message:
  description: The reasons for a no, one sentence for each criterion that is not met; empty for yes.
  type: str
  returned: always
"""

import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.options import (
    DB_CONTAINER_OPTIONS,
    LOGIN_OPTIONS,
    RUN_OPTIONS,
    Options,
)
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.monitor.readiness.answer import answer, judge
from ansible.module_utils.dbrelease.monitor.readiness.backup import claims
from ansible.module_utils.dbrelease.runs.work import Work

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **DB_CONTAINER_OPTIONS,
    "release": {"type": "dict", "required": True},
    "next_release": {"type": "str", "default": ""},
    "restore": {"type": "bool", "default": False},
    "timeout_seconds": {"type": "int", "default": 3600},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Judge, and journal the answer."""
    work = Work.of(params, check_mode)
    with work.journal.step("readiness") as step:
        proofs = judge(
            work.journal.read(),
            work.run,
            work.login,
            params["release"],
            restore=params["restore"] and not check_mode,
            db_container=params["db_container"],
            timeout_s=params["timeout_seconds"],
            now_ns=time.time_ns(),
        )
        ready, message = answer(proofs)
        proofs += claims(proofs)
        step.prove(*proofs)
        step.facts.update(message=message, ready=ready, next_release=params["next_release"])
        if not ready:
            step.refuse()
    return {"ready": ready, "proofs": [proof.as_dict() for proof in proofs], "message": message}


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
