#!/usr/bin/python
"""Whether the database stays as a run left it, now that the application runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: settled_database
short_description: Whether the database stays as a run left it, now that the application runs
description:
  - Waits until the application's containers are healthy and no program that migrates is running in them, at most a
    minute longer. Then it reads the revision and the structure again, and compares them with what this run left, by its
    own lines in the journal.
  - It compares the heads of the backend's migrations with the revision, and names the release's files that are still
    there, and the containers whose entrypoint or command mentions a migration.
  - A red claim is a fact, not a failure. Journals the step V(settled).
extends_documentation_fragment: [login, run, backend, db_container]
options:
  revision:
    description: The revision at which the run left the database, where its journal does not say so itself.
    type: str
    default: ""
  containers:
    description: The application's containers. Those that do not run are not waited for; empty names are left out.
    type: list
    elements: str
    default: []
  healthy_seconds:
    description: How long the containers may take to be healthy.
    type: int
    default: 120
  workdir:
    description: The folder in which Alembic runs on a target without that container.
    type: str
    default: ""
  command:
    description: How Alembic is called there.
    type: list
    elements: str
    required: true
  payload:
    description: The release's files as M(release_info) returns them, with C(source), C(destination) and C(sha256).
    type: list
    elements: dict
    default: []
  remove_payload:
    description: Whether to remove them first. A file with another sha256 is not the release's, and is left.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Reads only. Names the files that would be removed.
  diff_mode:
    support: none
    description: The result names the files.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Read the database again
  settled_database:
    login_host: 172.18.0.2
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    revision: 1a2b3c4d5e6f
    containers: [shop_web, shop_worker]
    backend_container: shop_web
    command: [alembic]
    payload: "{{ read.release.migration.payload }}"
  register: settled
"""

RETURN = r"""
removed:
  description: The files that were removed, or would be.
  type: list
  elements: str
  returned: always
proofs:
  description:
    - The claims C(settled.revision), C(settled.structure) and C(settled.payload); C(settled.programs) where one runs.
  type: list
  elements: dict
  returned: always
message:
  description: One sentence for each claim that does not hold.
  type: str
  returned: always
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.options import (
    BACKEND_OPTIONS,
    DB_CONTAINER_OPTIONS,
    LOGIN_OPTIONS,
    RUN_OPTIONS,
    Options,
)
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.restore.settled import settled

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **BACKEND_OPTIONS,
    **DB_CONTAINER_OPTIONS,
    "revision": {"type": "str", "default": ""},
    "containers": {"type": "list", "elements": "str", "default": []},
    "healthy_seconds": {"type": "int", "default": 120},
    "workdir": {"type": "str", "default": ""},
    "command": {"type": "list", "elements": "str", "required": True},
    "payload": {"type": "list", "elements": "dict", "default": []},
    "remove_payload": {"type": "bool", "default": False},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Read; remove files only where that is asked for."""
    return settled(params, check_mode)


def main() -> None:
    """Ansible's way in."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
