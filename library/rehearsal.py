#!/usr/bin/python
"""A backup restored into a throwaway server, and compared with its baseline."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rehearsal
short_description: A backup restored into a throwaway server, and compared with its baseline
description:
  - Restores the release's last backup into a throwaway server, and compares every table with the baseline, the
    database's owner, rights and settings with those of the backup, and the sequences with their recorded values. This
    proves the backup. It is recorded in the backup's manifest with the time it took, C(restored.restore_ms).
  - The throwaway server is a container of the image that O(db_container) was created from, with limits on CPU and
    memory, on no published port, in an internal network of its own. The roles of the live server are created in it;
    they are in no dump. Its superuser has a random password.
  - Container, data and network are removed in every outcome. If the module is killed, the container ends when
    O(lifetime_seconds) are over, and the next run removes what is left.
  - Refused, before anything is restored, are a backup that is not as the journal and its manifest have it, an image
    whose server does not start or cannot be reached from the target, and a server without room for the database.
  - The live database is only read, in read-only sessions.
  - The server runs without fsync and with limits of its own, so the measured time is not that of a restore on the live
    server.
extends_documentation_fragment: [login, run, db_container, backend, environment, services]
options:
  release:
    description:
      - The release as M(release_info) returns it. The action of this module adds the content of its files. Without it
        only the backup is proved.
      - Containers of the images of O(backend_container) and of the service C(backend) are started in the internal
        network, with the environment of the running ones and a copy of their working folder, of what is mounted in them
        and of the release's files. The throwaway server has the names of the live one there.
      - Alembic upgrades the copy, the declared steps run, everything that the release declares is verified, Alembic
        downgrades the copy, which must then be what it was, and upgrades it again. On the downgraded and on the
        upgraded copy the application answers the declared API.
      - The locks of the upgrade and the waits of others are observed, and held against the release's
        C(migration.budget).
      - Each declared check, and each guard of the database, those of every release included, is made to fail by one
        broken row of the copy, or by one object (a view, a column), in a transaction that is rolled back. One that
        nothing makes fail is V(inconclusive).
      - A release that declares no C(rollback) is only upgraded.
      - Inconclusive with O(rehearsal=same_server), and where Alembic runs on the target itself.
      - Where the program C(squawk) is installed on the target, the report also has what it says of the statements. It
        is advice, and no claim.
    type: dict
  required:
    description:
      - Refuse where a rehearsal is not possible, such as with an image whose server does not start, or an application
        that does not find the copy by its own settings.
      - Without it the step is skipped then, with the reason, which the report shows as a warning. A claim that was
        observed to fail refuses in any case.
    type: bool
    default: false
  audit_tables:
    description: Tables to which triggers add rows, besides those that the release names.
    type: list
    elements: str
    default: []
  rehearsal:
    description:
      - Where to restore. V(container) needs a container of the database, and its engine.
      - V(same_server) restores into a temporary database beside the live one, which needs a role that may create
        databases, and drops it afterwards. It uses room, memory and processors of the live server.
      - V(off) rehearses nothing, and the report warns of it.
    type: str
    choices: [container, same_server, "off"]
    default: container
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
  maintenance_db:
    description: With V(same_server), a database of the server to connect to while the copy is created and dropped.
    type: str
    default: postgres
  jobs:
    description: How many tables and indexes C(pg_restore) restores at once.
    type: int
    default: 2
  timeout_seconds:
    description: Longest time for copying the dump, and again for restoring it, in seconds.
    type: int
    default: 3600
attributes:
  check_mode:
    support: full
    description: Starts and restores nothing; every proof is V(skipped).
  diff_mode:
    support: none
    description: The proofs show the expected and the observed values.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Prove the backup by a restore
  rehearsal:
    login_host: 172.18.0.2
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    label: "2.4"
    db_container: shop_postgres
"""

RETURN = r"""
proofs:
  description:
    - C(restore.backup), C(rehearse.restored), C(rehearse.settings), C(rehearse.sequences), and C(backup.restorable),
      which the backup itself leaves inconclusive. Returned also where one failed.
    - With O(release) also C(rehearse.upgrade), C(rehearse.finalize), C(rehearse.budget.*), C(rehearse.verified),
      C(rehearse.untouched), C(rehearse.can_fail.*), C(rehearse.guards), C(rehearse.downgrade), C(rehearse.back),
      C(rehearse.api_downgraded), C(rehearse.upgrade_again) and C(rehearse.api_upgraded).
  type: list
  elements: dict
  returned: always
message:
  description: Empty, because a failed claim fails the module.
  type: str
  returned: always
rehearsal:
  description: Where the backup was restored, as in O(rehearsal).
  type: str
  returned: always
dump:
  description: Path of the dump; empty in check mode.
  type: str
  returned: always
start_ms:
  description: How long the throwaway server took to start, in milliseconds.
  type: int
  returned: always
restore_ms:
  description: How long restoring and comparing took, in milliseconds.
  type: int
  returned: always
upgrade_ms:
  description: How long Alembic's upgrade took on the copy, in milliseconds; 0 where it did not run.
  type: int
  returned: always
finalize_ms:
  description: How long the steps after the upgrade took on the copy, in milliseconds.
  type: int
  returned: always
downgrade_ms:
  description: How long Alembic's downgrade took on the copy, in milliseconds.
  type: int
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
    SERVICES_OPTIONS,
    Options,
)
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.rehearsal.rehearse import RehearsalPlan, rehearse

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **DB_CONTAINER_OPTIONS,
    **BACKEND_OPTIONS,
    **ENVIRONMENT_OPTIONS,
    **SERVICES_OPTIONS,
    "release": {"type": "dict"},
    "required": {"type": "bool", "default": False},
    "audit_tables": {"type": "list", "elements": "str", "default": []},
    "rehearsal": {"type": "str", "choices": ["container", "same_server", "off"], "default": "container"},
    "label": {"type": "str", "required": True},
    "cpus": {"type": "float", "default": 1.0},
    "memory_mib": {"type": "int", "default": 1024},
    "start_seconds": {"type": "int", "default": 120},
    "lifetime_seconds": {"type": "int", "default": 14400},
    "maintenance_db": {"type": "str", "default": "postgres"},
    "jobs": {"type": "int", "default": 2},
    "timeout_seconds": {"type": "int", "default": 3600},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Restore, compare, rehearse, and remove; in check mode do nothing."""
    return rehearse(RehearsalPlan.of(params, check_mode))


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
