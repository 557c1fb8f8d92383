#!/usr/bin/python
"""Open a run, and write its journal."""

from __future__ import annotations

DOCUMENTATION = r"""
module: journal
short_description: Open a run, and write its journal
description:
  - The journal (C(journal.jsonl) in the state directory of a target) is append-only, one JSON object a line, and each
    line is on disk before the module returns.
  - The other modules journal their own steps; this one opens a run, records what happened outside of them, and judges
    a stage by its proofs.
  - A run that changes anything is opened O(exclusive). It claims the target by C(run.lock) in the state directory, and
    until the closing report of its run the modules of other runs refuse to act. The claim of a run that has died counts
    nothing, and a module of it that still works is ended. Where another run lives, this one is journalled as refused,
    and RV(refused) is true; ending the play with a report is left to whoever asks.
options:
  state:
    description:
      - V(opened) gives the run its identifier and writes that it started.
      - V(recorded) writes one line.
      - V(judged) writes that a stage passed, or that it failed and why, and then fails.
    type: str
    choices: [opened, recorded, judged]
    required: true
  run:
    description: The run; its O(run.run_id) is left out with O(state=opened), which makes one.
    type: dict
    required: true
    suboptions:
      run_id:
        description: Identifier of the run.
        type: str
      release:
        description: Name of the release.
        type: str
        required: true
      environment:
        description: Name of the environment.
        type: str
        required: true
      playbook:
        description: Name of the playbook.
        type: str
        required: true
      state_dir:
        description: Folder on the target that keeps the journal, the backups and the evidence.
        type: path
        required: true
  step:
    description: The step that the line is about; needed unless O(state=opened).
    type: str
  event:
    description: What happened; needed with O(state=recorded).
    type: str
    choices: [started, passed, failed, refused, skipped]
  facts:
    description: What the line says about it.
    type: dict
    default: {}
  proofs:
    description: The proofs that O(state=judged) judges by.
    type: list
    elements: dict
    default: []
  exclusive:
    description: With O(state=opened), whether the run claims the target for itself.
    type: bool
    default: false
  controller:
    description:
      - Who runs the playbook, as the lookup C(controller) returns it. Without it a run counts as dead as soon as
        none of its modules gives a sign of life for three seconds.
    type: dict
    default: {}
    suboptions:
      user:
        description: The user.
        type: str
      host:
        description: The name of the machine.
        type: str
      pid:
        description: Number of the process.
        type: int
      started:
        description: When it started, in clock ticks since the machine's start.
        type: str
      boot_id:
        description: Which start of which machine.
        type: str
      pid_namespace:
        description: What the number belongs to.
        type: str
attributes:
  check_mode:
    description: Nothing is written or claimed, nor refused; an identifier is given all the same.
    support: full
  diff_mode:
    description: A journal line is no configuration to compare.
    support: none
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Open the run
  journal:
    state: opened
    run: {release: "2026_04", environment: staging, playbook: deploy, state_dir: /srv/shop/releases}
    exclusive: true
    controller: "{{ lookup('controller') }}"
  register: opened

- name: Judge the stage
  journal:
    state: judged
    run: "{{ opened.run }}"
    step: verify
    proofs: "{{ checks.proofs + api.proofs }}"
"""

RETURN = r"""
run:
  description: The run, to hand to the other modules.
  type: dict
  returned: always
line:
  description: The line as it was written (in check mode, as it would have been).
  type: dict
  returned: always
message:
  description:
    - One sentence for each proof that does not hold. With O(exclusive) one on the run that holds the target or held it,
      if there is one.
  type: str
  returned: always
refused:
  description: Whether another run holds the target, so that this one may not act.
  type: bool
  returned: always
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ansible.module_utils.dbrelease.claim import CLAIM_STEP
from ansible.module_utils.dbrelease.claiming import claim, holder_of
from ansible.module_utils.dbrelease.errors import ReleaseError
from ansible.module_utils.dbrelease.journal import Journal, Run, new_run_id, utc_now
from ansible.module_utils.dbrelease.module import RUN_OPTIONS, run_module
from ansible.module_utils.dbrelease.proof import failures, sentence

OPTIONS: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["opened", "recorded", "judged"], "required": True},
    "run": {
        "type": "dict",
        "required": True,
        "options": {**RUN_OPTIONS["run"]["options"], "run_id": {"type": "str"}},
    },
    "step": {"type": "str"},
    "event": {"type": "str", "choices": ["started", "passed", "failed", "refused", "skipped"]},
    "facts": {"type": "dict", "default": {}},
    "proofs": {"type": "list", "elements": "dict", "default": []},
    "exclusive": {"type": "bool", "default": False},
    "controller": {
        "type": "dict",
        "default": {},
        "options": {
            **{key: {"type": "str"} for key in ("user", "host", "started", "boot_id", "pid_namespace")},
            "pid": {"type": "int"},
        },
    },
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Write the line that the state asks for; a stage with a red proof ends in ReleaseError."""
    opened = params["state"] == "opened"
    run = Run(**{**params["run"], **({"run_id": new_run_id(utc_now())} if opened else {})})
    journal = Journal(run, dry=check_mode)
    message, refused = sentence(params["proofs"]), False
    if opened:
        line = journal.append("run", "started", {**params["facts"], "controller": params["controller"]})
        if params["exclusive"]:
            message, refused = claimed(run, params["controller"], journal)
    elif params["state"] == "recorded":
        line = journal.append(params["step"], params["event"], params["facts"])
    else:
        red = [proof["name"] for proof in failures(params["proofs"])]
        judged = {**params["facts"], "claims": len(params["proofs"]), "red": red, "message": message}
        line = journal.append(params["step"], "failed" if red else "passed", judged)
        if red:
            raise ReleaseError(message, line=line)
    return {"run": asdict(run), "line": line, "message": message, "refused": refused}


def claimed(run: Run, controller: Mapping[str, Any], journal: Journal) -> tuple[str, bool]:
    """Claim the target and journal what came of it; what there is to say, and whether another run has it."""
    if journal.dry:
        seen = holder_of(run)
        return (f"{seen.message} Check mode goes on, as it only reads.", False) if seen else ("", False)
    came = claim(run, controller)
    facts = {"message": came.message, "holder": asdict(came.holder) if came.holder else None}
    journal.append(CLAIM_STEP, "refused" if came.refused else "passed", facts)
    return came.message, came.refused


def main() -> None:
    """Ansible's way in."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
