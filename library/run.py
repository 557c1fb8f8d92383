#!/usr/bin/python
"""Open a run of a release on a target."""

from __future__ import annotations

DOCUMENTATION = r"""
module: run
short_description: Open a run of a release on a target
description:
  - Queries the container engine about the containers that the inventory names, and finds the address of the database. A
    missing or stopped container is a fact, not a failure; the address is then empty and RV(address_problem) has the
    reason. Without containers the engine is not queried.
  - Then gives the run its identifier and writes to the journal (C(journal.jsonl) in the state directory) its start.
  - A run that changes anything is opened O(exclusive). It claims the target by C(run.lock) in the state directory, and
    until the closing report of its run the modules of other runs refuse to act. The claim of a run that has died does
    not count, and a module of it that is still running is ended. Where another run is alive, this one is journalled as
    refused, and RV(refused) is true; the caller ends the play with a report.
  - Refuses, also in check mode and before any other check, a state directory in which anybody but the deploying
    user and root could exchange a file. That is one that is a link or belongs to another user, one that its group or
    others may write, and one beneath a folder of which any of this is true. Above it a folder such as C(/tmp) may be
    written by others if it is sticky, and a link is followed if root made it in a folder that only root may write.
  - Refuses a journal of more than 128 MiB or a million lines, or with O(exclusive) one of more than 1,000 runs without
    an end. No sequence of runs writes such a journal.
  - Apart from that it fails only if containers are named and the container engine cannot be reached, or if the journal
    cannot be written.
  - An action plugin refuses names that cannot name a folder, before it contacts the target. Of RV(run) it takes only
    the identifier from the target; the rest are the options given here.
options:
  release:
    description: Name of the release. Like O(environment) and O(playbook) without a slash or a control character.
    type: str
    required: true
  environment:
    description: Name of the environment; a folder of the artifacts and the entry of the schedule contain it.
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
      - The process that runs the playbook, as the lookup C(controller) returns it. Without it a run counts as dead as
        soon as none of its modules shows activity for three seconds.
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
        description: Identifier of the boot of the machine.
        type: str
      pid_namespace:
        description: The namespace of the number.
        type: str
  asked:
    description: The requested outcomes, for the run that reports this one should it be interrupted.
    type: list
    elements: str
    default: []
  containers:
    description: The container of each service. A service that is not named here is absent from the result.
    type: dict
    default: {}
  compose_project:
    description:
      - The Compose project of the application. Then the containers of O(compose_services), and of its other services,
        are found by the labels that Compose writes.
      - A service without a container, and one that has containers of two Compose projects of this name, is refused.
    type: str
    default: ""
  compose_services:
    description:
      - The services to find, by name, with their names in the Compose file. What O(containers) says of them does not
        count; of another service it does, also where that Compose project has one of that name.
    type: dict
    default: {}
  db_host:
    description:
      - Address of the database, if it is configured.
      - By default found from the container of the service V(db), which is its published port, else its address on its
        network (of several networks the first on which the port answers).
    type: str
  db_port:
    description: The port at O(db_host), or inside the container. By default 5432.
    type: int
attributes:
  check_mode:
    description: Observes, and assigns an identifier. Nothing is written, claimed or refused.
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
  description: The run, to pass to the other modules.
  type: dict
  returned: always
message:
  description: With O(exclusive) one sentence on the run that claims or claimed the target, if there is one.
  type: str
  returned: always
refused:
  description: Whether another run claims the target, so that this one may not act.
  type: bool
  returned: always
unsettled:
  description: Whether interrupted runs left anything for this one to clean up; false unless O(exclusive).
  type: bool
  returned: always
containers:
  description: The container of each service, as named in O(containers) or found in O(compose_project).
  type: dict
  returned: always
  sample: {db: shop-db-1}
services:
  description:
    - The state of each named service, by its name. C(container), C(status) (as the engine reports it, or V(missing)),
      C(health) (V(healthy), V(unhealthy), V(starting), or V(none) without a health check), C(since) (when it reached
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
  description: Address of the database; empty if it could not be determined.
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
from ansible.module_utils.dbrelease.host import compose, inspect
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
    "compose_project": {"type": "str", "default": ""},
    "compose_services": {"type": "dict", "default": {}},
    "db_host": {"type": "str"},
    "db_port": {"type": "int"},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Look at the target, then open the run; first of all, whether what it keeps would be kept for us alone."""
    demand_own_folder(params["state_dir"])
    containers = dict(params["containers"])
    if params.get("compose_project"):
        optional = ("db",) if params["db_host"] else ()
        found = compose.containers_of(params["compose_project"], params["compose_services"], optional)
        containers = found | {name: one for name, one in containers.items() if name not in params["compose_services"]}
    seen = inspect.inspect_target(containers, params["db_host"], params["db_port"])
    return {**open_run(params, check_mode), **seen, "containers": containers}


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
