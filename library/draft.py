#!/usr/bin/python
"""A release drafted from what an Alembic revision did on a restored copy."""

from __future__ import annotations

DOCUMENTATION = r"""
module: draft
short_description: Draft a release from what an Alembic revision does on a restored copy
description:
  - Restores the last backup into a throwaway server, as M(rehearsal) does, and runs the change there by the
    application's own image, from the revision of the live database to O(to_revision), back, and there again.
  - It compares the catalog and the rows before and after, and returns the declarations of a release. They are tables,
    a guard for each table that a downgrade drops and for each column that the upgrade fills, checks that the rows
    suggest, plans of new indexes, and a step for each constraint that is left unvalidated.
  - The action of this module writes them on the controller, to O(directory), which must not exist.
  - The live database is only read. Container, data and network are removed in every outcome.
extends_documentation_fragment: [login, run, db_container, backend, environment]
options:
  directory:
    description: The folder of the release to be written, on the controller.
    type: path
    required: true
  title:
    description: What the release does, for people.
    type: str
    required: true
  services:
    description: The services of the release; each is a container of the inventory.
    type: list
    elements: str
    default: []
  containers:
    description: The containers by service, for the example of an inventory.
    type: dict
    default: {}
  migration_container:
    description: The service in whose container Alembic runs.
    type: str
    default: backend
  command:
    description: The program that starts Alembic, and its first arguments.
    type: list
    elements: str
    default: [python3, -m, alembic]
  to_revision:
    description: The revision to which the change leads.
    type: str
    required: true
  payload:
    description:
      - Revision files that the application's container does not have. Each has a C(source), a path on the controller,
        and a C(destination), a path in the container. The action of this module adds their content.
    type: list
    elements: dict
    default: []
  label:
    description: The release as it is written in the names of files.
    type: str
    required: true
  cpus:
    description: How many processors the throwaway server may use.
    type: float
    default: 1.0
  memory_mib:
    description: How much memory the throwaway server may use, in MiB.
    type: int
    default: 1024
  start_seconds:
    description: How long the throwaway server may take to start.
    type: int
    default: 120
  lifetime_seconds:
    description: How long the throwaway server runs at most, also when the module is killed.
    type: int
    default: 14400
  jobs:
    description: How many tables and indexes C(pg_restore) restores at once.
    type: int
    default: 2
  timeout_seconds:
    description: Longest time for the restore, and again for the upgrade, in seconds.
    type: int
    default: 3600
attributes:
  check_mode:
    support: full
    description: Starts, restores and writes nothing; every proof is V(skipped).
  diff_mode:
    support: none
    description: The folder that is written is new.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Draft a release
  draft:
    login_host: 172.18.0.2
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    label: coupons
    title: Orders may have coupons
    directory: "{{ playbook_dir }}/../releases/coupons"
    to_revision: 4f2a9c1d7e30
    db_container: shop_postgres
    backend_container: shop_backend
"""

RETURN = r"""
proofs:
  description:
    - C(restore.backup), C(rehearse.restored), C(rehearse.settings), C(rehearse.sequences) and C(backup.restorable),
      as M(rehearsal) returns them, and C(rehearse.upgrade), C(rehearse.downgrade), C(rehearse.back) and
      C(rehearse.upgrade_again). Of the last three one that was not seen to be true is V(inconclusive).
  type: list
  elements: dict
  returned: always
message:
  description: Empty, because a failed claim fails the module.
  type: str
  returned: always
from_revision:
  description: The revision of the live database.
  type: str
  returned: always
preview:
  description: The SQL of the change as Alembic prints it without running it; empty where it cannot.
  type: str
  returned: always
draft:
  description: The declarations, as they are written to RV(directory); empty in check mode.
  type: dict
  returned: always
directory:
  description: The folder that was written on the controller; empty in check mode.
  type: str
  returned: always
files:
  description: The names of the files in it.
  type: list
  elements: str
  returned: always
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.options import (
    BACKEND_OPTIONS,
    DB_CONTAINER_OPTIONS,
    ENVIRONMENT_OPTIONS,
    LOGIN_OPTIONS,
    RUN_OPTIONS,
    Options,
)
from ansible.module_utils.dbrelease.draft.draft import draft
from ansible.module_utils.dbrelease.module import run_module

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **DB_CONTAINER_OPTIONS,
    **BACKEND_OPTIONS,
    **ENVIRONMENT_OPTIONS,
    "directory": {"type": "path", "required": True},
    "title": {"type": "str", "required": True},
    "services": {"type": "list", "elements": "str", "default": []},
    "containers": {"type": "dict", "default": {}},
    "migration_container": {"type": "str", "default": "backend"},
    "command": {"type": "list", "elements": "str", "default": ["python3", "-m", "alembic"]},
    "to_revision": {"type": "str", "required": True},
    "payload": {"type": "list", "elements": "dict", "default": []},
    "label": {"type": "str", "required": True},
    "cpus": {"type": "float", "default": 1.0},
    "memory_mib": {"type": "int", "default": 1024},
    "start_seconds": {"type": "int", "default": 120},
    "lifetime_seconds": {"type": "int", "default": 14400},
    "jobs": {"type": "int", "default": 2},
    "timeout_seconds": {"type": "int", "default": 3600},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Restore, walk, and remove; in check mode do nothing."""
    return draft(params, check_mode)


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
