#!/usr/bin/python
"""Open a run of a release on a target."""

from __future__ import annotations

DOCUMENTATION = r"""
module: run
short_description: Open a run of a release on a target
description:
  - Asks the container engine about the containers that the inventory names, and finds the address of the database. A
    container that is missing or stopped is a fact, not a failure; the address is then empty and RV(address_problem)
    says why. Without containers the engine is not asked.
  - Then gives the run its identifier and writes to the journal (C(journal.jsonl) in the state directory) that it began.
  - A run that changes anything is opened O(exclusive). It claims the target by C(run.lock) in the state directory, and
    until the closing report of its run the modules of other runs refuse to act. The claim of a run that has died counts
    nothing, and a module of it that still works is ended. Where another run lives, this one is journalled as refused,
    and RV(refused) is true; ending the play with a report is left to whoever asks.
  - Refuses, also in check mode and before it looks at anything, a state directory in which anybody but the deploying
    user and root could exchange a file. That is one that is a link or belongs to another user, one that its group or
    others may write, and one beneath a folder of which any of this is true. Above it a folder such as C(/tmp) may be
    written by others if it is sticky, and a link is followed if root made it in a folder that only root may write.
  - Refuses a journal of more than 128 MiB or a million lines, or with O(exclusive) of more than 1,000 runs without an
    end, which no runs have written.
  - Apart from that it fails only if containers are named and the container engine cannot be
    reached, or the journal cannot be written.
  - An action plugin refuses names that cannot be a folder's, before anything is asked of the target. Of RV(run) it
    takes only the identifier from the target; the rest is what was given here.
options:
  release:
    description: Name of the release. Like O(environment) and O(playbook) without a slash or a control character.
    type: str
    required: true
  environment:
    description: Name of the environment; a folder of the artifacts has it, and the entry of the schedule.
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
  exclusive:
    description: Whether the run claims the target for itself.
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
  asked:
    description: The outcomes that are asked for, for whoever has to report the run should it be interrupted.
    type: list
    elements: str
    default: []
  containers:
    description: The container of each service. A service that is not named here is absent from the result.
    type: dict
    default: {}
  db_host:
    description:
      - Where the database is, if the target says so itself.
      - By default found from the container of the service V(db), which is its published port, else its address on its
        network (of several networks the first on which the port answers).
    type: str
  db_port:
    description: The port at O(db_host), or inside the container. By default 5432.
    type: int
attributes:
  check_mode:
    description: Looks, and gives an identifier. Nothing is written or claimed, nor refused.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Open the run
  run:
    release: "2026_04"
    environment: staging
    playbook: deploy
    state_dir: /srv/shop/releases
    exclusive: true
    asked: [deployed]
    controller: "{{ lookup('controller') }}"
    containers:
      backend: shop_backend
      db: shop_postgres
  register: opened
"""

RETURN = r"""
run:
  description: The run, to hand to the other modules.
  type: dict
  returned: always
message:
  description: With O(exclusive) one sentence on the run that holds the target or held it, if there is one.
  type: str
  returned: always
refused:
  description: Whether another run holds the target, so that this one may not act.
  type: bool
  returned: always
unsettled:
  description: Whether interrupted runs left anything for this one to settle; false unless O(exclusive).
  type: bool
  returned: always
services:
  description:
    - What is known of each named service, by its name. C(container), C(status) (the engine's word, or V(missing)),
      C(health) (V(healthy), V(unhealthy), V(starting), or V(none) without a health check), C(since) (when it came to
      that status, UTC, ISO 8601) and C(image).
  type: dict
  returned: always
  sample:
    db:
      container: shop_postgres
      status: running
      health: healthy
      since: "2026-01-02T03:04:05.000+00:00"
      image: "postgres:14"
login_host:
  description: Where the database answers; empty if that could not be found.
  type: str
  returned: always
  sample: 172.18.0.2
login_port:
  description: The port there.
  type: int
  returned: always
  sample: 5432
address_problem:
  description: One sentence on why there is no address and what to do; empty if there is one.
  type: str
  returned: always
  sample: ""
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.options import Options
from ansible.module_utils.dbrelease.core.own_files import demand_own_folder
from ansible.module_utils.dbrelease.host import inspect
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.runs.open import open_run

OPTIONS: Options = {
    **{key: {"type": "str", "required": True} for key in ("release", "environment", "playbook")},
    "state_dir": {"type": "path", "required": True},
    "exclusive": {"type": "bool", "default": False},
    "controller": {
        "type": "dict",
        "default": {},
        "options": {
            **{key: {"type": "str"} for key in ("user", "host", "started", "boot_id", "pid_namespace")},
            "pid": {"type": "int"},
        },
    },
    "asked": {"type": "list", "elements": "str", "default": []},
    "containers": {"type": "dict", "default": {}},
    "db_host": {"type": "str"},
    "db_port": {"type": "int"},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Look at the target, then open the run; first of all, whether what it keeps would be kept for us alone."""
    demand_own_folder(params["state_dir"])
    seen = inspect.inspect_target(params["containers"], params["db_host"], params["db_port"])
    return {**open_run(params, check_mode), **seen}


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
