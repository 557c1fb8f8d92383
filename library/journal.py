#!/usr/bin/python
"""Write the journal of a run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: journal
short_description: Write the journal of a run
description:
  - The journal (C(journal.jsonl) in the state directory of a target) is append-only, with one JSON object per line, and
    each line is on disk before the module returns.
  - The other modules journal their own steps; this one records what happens outside them, and judges a stage by its
    proofs.
extends_documentation_fragment: [run]
options:
  state:
    description:
      - V(recorded) writes one line.
      - V(judged) writes that a stage passed; or that it failed and why, and then fails.
    type: str
    choices: [recorded, judged]
    required: true
  step:
    description: The step that the line is about.
    type: str
    required: true
  event:
    description: What happened; needed with O(state=recorded).
    type: str
    choices: [started, passed, failed, refused, skipped]
  facts:
    description: The facts of the line.
    type: dict
    default: {}
  proofs:
    description: The proofs that O(state=judged) judges by.
    type: list
    elements: dict
    default: []
attributes:
  check_mode:
    description: Nothing is written.
    support: full
  diff_mode:
    description: A journal line is not a configuration to compare.
    support: none
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Judge the stage
  journal:
    state: judged
    run: "{{ opened.run }}"
    step: verify
    proofs: "{{ checks.proofs + api.proofs }}"
"""

RETURN = r"""
line:
  description: The line as it was written (in check mode, as it would have been).
  type: dict
  returned: always
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.journal import Journal
from ansible.module_utils.dbrelease.core.options import RUN_OPTIONS, Options, run_of
from ansible.module_utils.dbrelease.module import run_module

OPTIONS: Options = {
    **RUN_OPTIONS,
    "state": {"type": "str", "choices": ["recorded", "judged"], "required": True},
    "step": {"type": "str", "required": True},
    "event": {"type": "str", "choices": ["started", "passed", "failed", "refused", "skipped"]},
    "facts": {"type": "dict", "default": {}},
    "proofs": {"type": "list", "elements": "dict", "default": []},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Write the line that the state asks for; a stage with a red proof ends in ReleaseError."""
    journal = Journal(run_of(params), dry=check_mode)
    if params["state"] == "judged":
        line = journal.judge(params["step"], params["proofs"], params["facts"])
    else:
        line = journal.append(params["step"], params["event"], params["facts"])
    return {"line": line}


def main() -> None:
    """Ansible's way in."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
