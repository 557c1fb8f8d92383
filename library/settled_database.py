#!/usr/bin/python
"""Check that the database is still as a run left it, with the application running."""

from __future__ import annotations

DOCUMENTATION = r"""
module: settled_database
short_description: Check that the database is still as a run left it, with the application running
description:
  - Waits until the application's containers are healthy and, at most a minute longer, until no program that migrates is
    running in them. Then it reads the revision and the structure again, and compares them with what this run left,
    according to its own lines in the journal.
  - Compares the heads of the backend's migrations with the revision, and names the release's files that still exist
    there, and the containers whose entrypoint or command mentions a migration.
  - A failed proof does not fail the module. Journals the step V(settled).
extends_documentation_fragment: [login, run, backend, db_container]
options:
  revision:
    description: The revision at which the run left the database, if its journal does not record it.
    type: str
    default: ""
  containers:
    description: The application's containers. Those that are not running are not awaited; empty names are ignored.
    type: list
    elements: str
    default: []
  healthy_seconds:
    description: How long to wait for the containers to be healthy, in seconds.
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
    description: Whether to remove them first. A file with another sha256 is not the release's, and is kept.
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
    - The proofs C(settled.revision), C(settled.structure) and C(settled.payload); also C(settled.programs) if a
      program that migrates is still running.
  type: list
  elements: dict
  returned: always
message:
  description: One sentence for each proof that failed.
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
    """Read; remove files only if requested."""
    return settled(params, check_mode)


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
