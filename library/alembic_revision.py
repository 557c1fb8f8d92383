#!/usr/bin/python
"""The database at exactly one Alembic revision."""

from __future__ import annotations

DOCUMENTATION = r"""
module: alembic_revision
short_description: The database at exactly one Alembic revision
description:
  - Brings the database from exactly O(from_revision) to exactly O(revision) by running Alembic where the
    application is.
  - Where the bookkeeping table already has O(revision), nothing is run. Where it has anything but O(from_revision),
    the module refuses.
  - First saves the SQL that Alembic would run, as C(migration_preview_<stamp>.sql) in the state directory. Where
    Alembic cannot print it, the proof C(migrate.preview) is V(inconclusive), and the module continues.
  - It waits for every lock briefly. It retries after a lock timeout, with growing pauses, but not after other failures.
  - Alembic gets the lock timeout by C(PGOPTIONS), and the name of its sessions by C(PGAPPNAME). A session of that
    name that waits for one lock three times as long, and 2 s more, is ended, and the move is given up (from
    PostgreSQL 14 on, which tells how long). Where no session of that name was seen, but another one that began since
    and used O(bookkeeping_table), nobody's is ended, and the proof C(migrate.lock_limits) is V(inconclusive).
  - The output of Alembic is saved, without passwords. Its exit status counts, and the revision is read back from
    the database after any end.
  - After a timeout or a lost connection the module ends the server sessions of its own Alembic.
  - While an upgrade runs, its sessions are sampled. Where another session waits longer than C(budget.write_wait_ms)
    for a lock that the upgrade holds, its sessions are terminated and the upgrade fails, unless a part of it may
    already be committed. The revision is then unchanged.
extends_documentation_fragment: [environment, login, run, lock, backend, budget]
options:
  workdir:
    description: Folder to run Alembic in, without O(backend_container).
    type: path
  command:
    description: How Alembic is called there.
    type: list
    elements: str
    default: [python3, -m, alembic]
  from_revision:
    description: The only revision from which the module begins.
    type: str
    required: true
  revision:
    description: The wanted revision.
    type: str
    required: true
  direction:
    description: Whether O(revision) is above or below O(from_revision).
    type: str
    choices: [upgrade, downgrade]
    default: upgrade
  timeout_seconds:
    description: Longest time for all attempts together, in seconds. Then Alembic and its server sessions are ended.
    type: int
    default: 3600
  success_pattern:
    description: Regular expression that Alembic's output must match somewhere.
    type: str
  log_label:
    description: First part of the log's name, C(<log_label>_<stamp>.log).
    type: str
    default: migration_log
  session_settings:
    description:
      - Further settings of Alembic's sessions on the server, for the migration to read. Their values have no white
        space. Left out is none.
    type: dict
    default: {}
  act_as_owner:
    description:
      - Let an upgrade act as the owner of O(bookkeeping_table), so that O(login_user) can finish what it makes.
      - Done where O(login_user) is no superuser and may act as that owner, and where the role that Alembic connects as
        may, too; C(alembic current) is asked for that before.
    type: bool
    default: false
  preview_files:
    description:
      - Revision files for the preview alone, where Alembic does not have them yet (check mode). They are put in a
        temporary folder beside Alembic, which is removed in every outcome. Files other than C(.py) are left out.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the file; a folder in it is left out.
        type: str
        required: true
      content:
        description: The file's text.
        type: str
        required: true
attributes:
  check_mode:
    support: full
    description: Reads the revision and prints the SQL; writes no file and runs no migration.
  diff_mode:
    support: full
    description: The revision before and after, with the SQL between them.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Upgrade the database
  alembic_revision:
    login_host: "{{ target.login_host }}"
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    backend_container: shop_backend
    from_revision: 1a2b3c4d5e6f
    revision: 6f5e4d3c2b1a
    success_pattern: "Migrated [0-9]+ order items"
  register: upgrade
"""

RETURN = r"""
proofs:
  description:
    - C(migrate.preview), C(migrate.upgrade), C(migrate.log); of a downgrade C(rollback.preview), C(rollback.downgrade),
      C(rollback.log). Returned also on failure.
    - C(migrate.lock_limits) or C(rollback.lock_limits) is among them only where it is not proved that the lock timeout
      reached Alembic.
  type: list
  elements: dict
  returned: always
message:
  description: One sentence for each proof that failed; empty if all hold.
  type: str
  returned: always
from_revision:
  description: The revision that the database had, or the one to begin from.
  type: str
  returned: always
revision:
  description: The wanted revision.
  type: str
  returned: always
revisions_before:
  description: What the bookkeeping table said before.
  type: list
  elements: str
  returned: always
revisions_after:
  description: What it said afterwards (in check mode, what it says). Null where it could not be asked.
  type: list
  elements: str
  returned: always
attempts:
  description: How often Alembic was started.
  type: int
  returned: always
lock_waits:
  description: The sessions that stood in the way; C(pid), C(user), C(application), C(state), C(since), C(query).
  type: list
  elements: dict
  returned: always
ended_sessions:
  description:
    - The sessions that blocked, and that were ended because O(lock.blockers) allows it. As RV(lock_waits), with
      C(action) (V(terminated), or V(canceled) for the work of an autovacuum), C(idle_seconds), and C(ended), whether
      the session was observed to have ended.
  type: list
  elements: dict
  returned: always
started_at:
  description: When Alembic was started, UTC, ISO 8601; empty if it was not.
  type: str
  returned: always
duration_ms:
  description: Time for all attempts, in milliseconds.
  type: int
  returned: always
log:
  description: Path of the saved output; empty if Alembic was not run.
  type: str
  returned: always
preview:
  description: Path of the saved SQL; empty if there is none.
  type: str
  returned: always
preview_sql:
  description: The SQL that Alembic would run; empty if it cannot tell, or need not.
  type: str
  returned: always
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.options import (
    BACKEND_OPTIONS,
    BUDGET_OPTIONS,
    ENVIRONMENT_OPTIONS,
    LOCK_OPTIONS,
    LOGIN_OPTIONS,
    RUN_OPTIONS,
    Options,
)
from ansible.module_utils.dbrelease.migrate.to_revision import bring_to_revision
from ansible.module_utils.dbrelease.module import run_module

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **BACKEND_OPTIONS,
    **BUDGET_OPTIONS,
    **ENVIRONMENT_OPTIONS,
    **LOCK_OPTIONS,
    "workdir": {"type": "path"},
    "command": {"type": "list", "elements": "str", "default": ["python3", "-m", "alembic"]},
    "from_revision": {"type": "str", "required": True},
    "revision": {"type": "str", "required": True},
    "direction": {"type": "str", "choices": ["upgrade", "downgrade"], "default": "upgrade"},
    "timeout_seconds": {"type": "int", "default": 3600},
    "success_pattern": {"type": "str"},
    "log_label": {"type": "str", "default": "migration_log"},
    "session_settings": {"type": "dict", "default": {}},
    "act_as_owner": {"type": "bool", "default": False},
    "preview_files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"name": {"type": "str", "required": True}, "content": {"type": "str", "required": True}},
    },
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Move where it is needed; in check mode say what would be run."""
    return bring_to_revision(params, check_mode)


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
