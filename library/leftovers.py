#!/usr/bin/python
"""Settle what interrupted runs left on a target."""

from __future__ import annotations

DOCUMENTATION = r"""
module: leftovers
short_description: Settle what interrupted runs left on a target
description:
  - A run that was killed leaves steps in the journal without an end, and maybe a program in a container that still
    works for it, a session on the server, a file half written or a database of its own. The run that has the claim
    settles all of it before it begins.
  - What an interrupted step came to is unknown, and settled by asking the database. The journal then gets an end for
    every step of that run, and for the run.
  - Removed are only files that carry the id of a run in their name's end (C(*.tmp.<run id>)), dumps of interrupted runs
    without a manifest, and databases that an interrupted restore or rehearsal made for itself.
  - What a killed restore left closed or stopped stays so where another run, of whatever target, is at work on the
    database; that is no failure here either.
  - A database or a container engine that does not answer is no failure here (the preflight reports it); the runs then
    stay open for the next one to settle.
  - Journals the step V(recovery).
extends_documentation_fragment: [login, run, db_container, backend]
options:
  from_revision:
    description: The revision that the release starts from.
    type: str
    required: true
  revision:
    description: The revision that the release leads to.
    type: str
    required: true
requirements: [psycopg2, docker]
attributes:
  check_mode:
    support: full
    description: Says what is left. Ends, removes and journals nothing.
  diff_mode:
    support: none
    description: There is nothing to compare.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Remove what interrupted runs left
  leftovers:
    run: "{{ opened.run }}"
    login_host: "{{ target.login_host }}"
    login_user: shop
    login_password: "{{ shop_password }}"
    login_db: shop
    backend_container: shop_backend
    db_container: shop_postgres
    from_revision: 3f1c0a9b7d52
    revision: 9b7d523f1c0a
"""

RETURN = r"""
changed:
  description: Whether anything was left.
  type: bool
  returned: always
interrupted:
  description:
    - The runs that were interrupted, each with C(run_id), C(playbook), C(steps) without an end, and C(asked), the
      outcomes that its report is to be held against; empty where it has a report. The newest 20, if there are more.
    - A run whose settling run was killed before it reported it is there again.
    - Of more than 20 runs with C(asked) the older ones have none, and a warning says so.
  type: list
  elements: dict
  returned: always
more_interrupted:
  description: How many were interrupted besides. They are settled as well, and get no report.
  type: int
  returned: always
notice:
  description:
    - What the operator should know, in plain words; empty where no run was interrupted. Of a restore that had swapped
      before, it names the database that it kept and the folder with the rows written since the backup.
  type: str
  returned: always
revisions:
  description: Where the database was found; null where it was not asked, or did not answer.
  type: list
  elements: str
  returned: always
programs_ended:
  description: Number of programs in containers that were ended; 0 in check mode.
  type: int
  returned: always
sessions_ended:
  description: Number of server sessions that were ended.
  type: int
  returned: always
files_removed:
  description: Paths of the files that were removed.
  type: list
  elements: str
  returned: always
restore_repaired:
  description: What a killed restore had left and was put right, a sentence each.
  type: list
  elements: str
  returned: always
databases_dropped:
  description: Names of the databases that were dropped.
  type: list
  elements: str
  returned: always
settled:
  description: Whether everything that was left could be settled.
  type: bool
  returned: always
proofs:
  description: The claim C(recovery.settled), where anything was left.
  type: list
  elements: dict
  returned: always
message:
  description: Empty, since nothing that is left here forbids to go on.
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
    run_of,
)
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.recovery.recovery import settle

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **BACKEND_OPTIONS,
    **DB_CONTAINER_OPTIONS,
    "from_revision": {"type": "str", "required": True},
    "revision": {"type": "str", "required": True},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Look and clean; in check mode only look."""
    return settle(params, run_of(params), check_mode)


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
