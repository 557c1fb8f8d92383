#!/usr/bin/python
"""Settle what interrupted runs left on a target."""

from __future__ import annotations

DOCUMENTATION = r"""
module: leftovers
short_description: Clean up after interrupted runs on a target
description:
  - A run that was killed leaves steps without an end in the journal, and possibly a running program in a container, a
    session on the server, a partially written file or a temporary database. The run that has the claim cleans up all
    of this before it starts.
  - The result of an interrupted step is unknown, and determined by querying the database. The journal then gets an end
    for every step of that run, and for the run.
  - It removes only files whose name ends with the id of a run (C(*.tmp.<run id>)), dumps of interrupted runs without a
    manifest, databases that an interrupted restore or rehearsal created for itself, and the containers and networks of
    this target's rehearsals.
  - Databases and services that a killed restore left closed or stopped stay so while another run, of any target, uses
    the database; that is not a failure.
  - A database or a container engine that does not answer is not a failure here (preflight reports it); the runs then
    stay open for the next one.
  - Journals the step V(recovery).
extends_documentation_fragment: [login, run, db_container, backend]
options:
  from_revision:
    description: The revision before the release.
    type: str
    required: true
  revision:
    description: The revision of the release.
    type: str
    required: true
requirements: [psycopg2, docker]
attributes:
  check_mode:
    support: full
    description: Reports what is left. Ends, removes and journals nothing.
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
      outcomes with which its report compares; empty where it has a report. The newest 20, if there are more.
    - A run appears again if the run that cleaned up after it was killed before it wrote the report.
    - Of more than 20 runs with C(asked) the older ones lose it, with a warning.
  type: list
  elements: dict
  returned: always
more_interrupted:
  description: The number of further interrupted runs. They are cleaned up as well, but get no report.
  type: int
  returned: always
notice:
  description:
    - A message for the operator; empty where no run was interrupted. For a restore that had already swapped, it names
      the database that it kept and the folder with the rows written since the backup.
  type: str
  returned: always
revisions:
  description: The revisions of the database; null where it was not queried, or did not answer.
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
  description: The repairs after a killed restore, one sentence each.
  type: list
  elements: str
  returned: always
databases_dropped:
  description: Names of the databases that were dropped.
  type: list
  elements: str
  returned: always
settled:
  description: Whether the cleanup was complete.
  type: bool
  returned: always
proofs:
  description: The claim C(recovery.settled), where anything was left.
  type: list
  elements: dict
  returned: always
message:
  description: Empty, since nothing that is left prevents the run from continuing.
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
    """Inspect and clean up; in check mode only inspect."""
    return settle(params, run_of(params), check_mode)


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
