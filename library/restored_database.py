#!/usr/bin/python
"""A backup as a database of its own, beside the live one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: restored_database
short_description: A backup as a database of its own, beside the live one
description:
  - V(present) finds the backup, refuses anything but a complete backup of this release and database, restores it into a
    new database beside the live one, applies what no dump holds (owner, rights, comment, settings of the database and
    of roles in it), gathers statistics, and compares every table with the manifest.
  - "Refused before anything is touched are: a file that is missing, cut, changed or no custom-format dump, one without
    a manifest, another release's, environment's or database's, a newer server's, and one for which there is no room:
    for the second database, for the server's log (as much again, up to C(max_wal_size)), and for the dump in the
    container. A server with another system identifier is no reason to refuse: after its volume is lost there is no
    other."
  - Refused are also files that others than the deploying user and root may write, and a dump of which the journal of
    this target has no backup with the same sha256, unless O(unknown_backup).
  - A copy that is not exactly what the manifest says is dropped again. The live database is only read.
  - Nothing is restored where the live database holds exactly this already (rows, sequences, settings and schema).
  - The name of the live database is locked on the server from the first check to the end of the swap. A second restore
    of it is refused meanwhile, whatever target it is of, and so is every other run that would act on the database.
  - What a restore left that was killed (a copy, a dump in the container) is removed first, if this target's journal
    knows its run. Other copies stay, and C(restore.foreign_copies) reports them.
  - With O(state=live) the copy then takes the place of the live database, as M(database_swap) does it. The longer part
    of saving the rows that only the live database has is then done while the copy is restored.
  - It proves C(restore.backup), C(restore.room), C(restore.verified) and C(restore.settings).
extends_documentation_fragment: [login, run, swap, db_container]
options:
  state:
    description:
      - V(present) makes the copy. V(live) also lets it take the place of the live database. V(absent) drops the
        database O(name).
    type: str
    choices: [present, live, absent]
    default: present
  name:
    description: A database that a restore of O(login_db) made. Only with O(state=absent).
    type: str
    default: ""
  backup:
    description:
      - The dump, as a path or as a name in the state directory. One elsewhere is refused.
      - By default the last backup of the release in the environment, as the journal has it.
    type: str
    default: ""
  unknown_backup:
    description:
      - Whether to restore a dump that no backup in this target's journal made, such as one that was copied from another
        machine. Its files must be those of the deploying user or of root all the same.
      - Restoring a dump runs the code in it as O(login_user), on the server too where that is a superuser.
    type: bool
    default: false
  label:
    description: The release as it stands in the names of files.
    type: str
    default: ""
  maintenance_db:
    description: A database of the same server to connect to while databases are made and dropped.
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
    description: Everything that refuses is checked; nothing is restored, copied into a container or dropped.
  diff_mode:
    support: full
    description: The live database as it is, and as it would be once the copy takes its place.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Restore the last backup beside the live database
  restored_database:
    login_host: "{{ target.login_host }}"
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    label: "2.4"
    db_container: shop_postgres
  register: restored

- name: The same, and put it in place
  restored_database:
    state: live
    login_host: "{{ target.login_host }}"
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    label: "2.4"
    db_container: shop_postgres
    swap:
      containers: [shop_web, shop_worker]

- name: Drop it
  restored_database:
    state: absent
    name: "{{ restored.database }}"
    login_host: "{{ target.login_host }}"
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
"""

RETURN = r"""
proofs:
  description: What was proved; what was not done in check mode is V(skipped).
  type: list
  elements: dict
  returned: always
message:
  description: Empty, since a red claim fails the module.
  type: str
  returned: always
database:
  description: Name of the restored copy (in check mode, as it would be); empty where the live database needs none.
  type: str
  returned: always
dump:
  description: Path of the dump.
  type: str
  returned: always
snapshot_at:
  description: The instant that the backup describes, in UTC.
  type: str
  returned: always
revision:
  description: The revision of the backed-up database.
  type: str
  returned: always
tables:
  description: The backup's tables.
  type: list
  elements: str
  returned: always
started:
  description:
    - The containers that were started again. With O(state=live) also where there was nothing to swap, and an earlier
      swap could not start them.
  type: list
  elements: str
  returned: always
swap:
  description: What M(database_swap) returns, of the swap.
  type: dict
  returned: with O(state=live), where there was anything to swap
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.options import (
    DB_CONTAINER_OPTIONS,
    LOGIN_OPTIONS,
    RUN_OPTIONS,
    SWAP_OPTIONS,
    Options,
)
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.restore.plan import RestorePlan
from ansible.module_utils.dbrelease.restore.restore import remove, restore

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **DB_CONTAINER_OPTIONS,
    "state": {"type": "str", "choices": ["present", "live", "absent"], "default": "present"},
    "name": {"type": "str", "default": ""},
    "backup": {"type": "str", "default": ""},
    "unknown_backup": {"type": "bool", "default": False},
    "label": {"type": "str", "default": ""},
    "maintenance_db": {"type": "str", "default": "postgres"},
    "jobs": {"type": "int", "default": 2},
    "timeout_seconds": {"type": "int", "default": 3600},
    **SWAP_OPTIONS,
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Restore, or drop; in check mode only check everything that refuses."""
    plan = RestorePlan.of(params, check_mode)
    return remove(plan, params["name"]) if params["state"] == "absent" else restore(plan)


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
