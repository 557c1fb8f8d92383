#!/usr/bin/python
"""Bring the database back to a revision by a release's SQL file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sql_script
short_description: Bring the database back to a revision by a release's SQL file
description:
  - Runs the file in a session of its own, as one transaction, from exactly one revision to exactly one other.
    A database that is already at O(revision) is not changed; one at any other revision is refused.
  - Lock waits are short. An attempt that meets a lock (SQLSTATE 55P03, 40001, 40P01) is repeated after a growing pause
    while the revision is still O(from_revision). The message of the last attempt names the blocking sessions.
  - The server's notices are saved to a log in the state directory. The revision is read back in another session.
  - Journals the step V(downgrade).
extends_documentation_fragment: [login, run, lock]
options:
  script:
    description: The content of the file.
    type: str
    required: true
  from_revision:
    description: The revision that the database must be at.
    type: str
    required: true
  revision:
    description: The revision that the database is at afterwards.
    type: str
    required: true
  timeout_seconds:
    description: The time limit for all attempts, in seconds.
    type: int
    default: 3600
  session_settings:
    description: Further settings of its session, which the script can read.
    type: dict
    default: {}
  log_label:
    description: The beginning of the log's file name.
    type: str
    default: rollback_log
attributes:
  check_mode:
    support: full
    description: Reads the revision, shows the script, and runs nothing.
  diff_mode:
    support: full
    description: Shows both revisions and the script.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Roll the release back
  sql_script:
    login_host: 172.18.0.2
    login_user: user
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    script: BEGIN; DROP TABLE order_items; UPDATE alembic_version SET version_num = 'a1'; COMMIT;
    from_revision: b2
    revision: a1
"""

RETURN = r"""
revisions_before:
  description: The revisions of the database before.
  type: list
  elements: str
  returned: success
revisions_after:
  description: The revisions afterwards; null where they could not be read.
  type: list
  elements: str
  returned: always
attempts:
  description: The number of times that the script was started.
  type: int
  returned: always
lock_waits:
  description: The sessions for which it waited.
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
duration_ms:
  description: The time of all attempts, in milliseconds.
  type: int
  returned: always
log:
  description: The path of the saved log; empty where nothing was run.
  type: str
  returned: always
proofs:
  description: C(rollback.downgrade) and C(rollback.log).
  type: list
  elements: dict
  returned: always
message:
  description: One sentence for each proof that failed; empty if all passed.
  type: str
  returned: always
diff:
  description: Both revisions, and the script.
  type: dict
  returned: success
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.options import (
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
    **LOCK_OPTIONS,
    "script": {"type": "str", "required": True},
    "from_revision": {"type": "str", "required": True},
    "revision": {"type": "str", "required": True},
    "timeout_seconds": {"type": "int", "default": 3600},
    "session_settings": {"type": "dict", "default": {}},
    "log_label": {"type": "str", "default": "rollback_log"},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Run the script, or show it."""
    return bring_to_revision(params, check_mode)


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
