#!/usr/bin/python
"""Bring what a release made in line again."""

from __future__ import annotations

DOCUMENTATION = r"""
module: reconcile
short_description: Repair the tables of a release, after diagnosing each problem
description:
  - The database is at O(from_revision), and a table of O(created) already exists, left by an interrupted run or created
    by another user. It is reported, and dropped if no row is lost with it, or if O(accept_loss) is exactly the number
    of rows that would be lost; those are saved first, with a script that restores them. Several tables are dropped
    together or not at all. A table is refused if another object depends on it, such as a view, or a trigger of a
    remaining table whose function mentions it by name. Where the release's C(losses) cannot judge a table (its columns
    are not the declared ones, or the query fails or does not return all columns), all of its rows count as lost.
  - The database is at O(to_revision), and a declared foreign key is missing, not as declared, or has an undeclared one
    beside it on the same columns. It is rebuilt as NOT VALID, in one short transaction that drops the keys that it
    replaces. Then O(repairs.steps) repair the rows. Then the key is validated, in another transaction, which blocks
    no writer. Rows that violate it are counted first; while there are any, it stays not validated, and the run fails.
    A constraint of another type (a key, a check, an exclusion) is never rebuilt, and a table that the release only
    alters is not changed. Before PostgreSQL 18 a partitioned table cannot have a NOT VALID key; that is refused, with
    the statement to run in a quiet period.
  - A step is kept even if a check that it proves still fails, provided that it completed its count. The rows that fail
    then are those of other writers; the module only reports them, and fails.
  - It waits for locks briefly and repeatedly, within O(lock); the final failure names the blocking sessions. The wait
    is divided among the locks that a transaction needs, so that no session behind it waits longer than
    C(lock.timeout_ms). The rows that would be lost with a leftover table are counted again before each attempt to lock
    it, and checked once more when no session can write to it. Where that takes longer, it is locked alone for the
    check, for C(lock.deadline_seconds) at most, and the tables that it references are locked after it.
  - Objects that are as declared are not changed. Any other revision is refused. Journals the step V(reconcile).
extends_documentation_fragment: [login, run, lock, services]
options:
  from_revision:
    description: The revision before the release.
    type: str
    required: true
  to_revision:
    description: The revision of the release.
    type: str
    required: true
  created:
    description: The tables that the release creates, as in C(tables.created) of C(release.yml).
    type: dict
    required: true
  repairs:
    description: Further declarations, as in C(repairs) of C(release.yml).
    type: dict
    default: {}
    suboptions:
      leftover:
        description:
          - How to judge the rows of a leftover table, by table.
          - C(writers), a SELECT of who wrote them, and C(losses), a SELECT of complete rows that exist nowhere else.
        type: dict
        default: {}
      steps:
        description: Names of O(steps) that repair the rows.
        type: list
        elements: str
        default: []
  steps:
    description: The release's steps, as M(sql_step) takes them. Only those that O(repairs.steps) names are run.
    type: list
    elements: dict
    default: []
  checks:
    description: The release's declared checks. Only those that a step proves are run.
    type: list
    elements: dict
    default: []
  accept_loss:
    description: How many rows may be lost with a leftover table. A number that differs from the count is refused.
    type: str
  label:
    description: The release, as it appears in the names of files.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: Diagnoses, refuses what the run would refuse, and shows the SQL. Writes nothing.
  diff_mode:
    support: full
    description: Shows the SQL that ran, or would run.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Bring the release in line again
  reconcile:
    login_host: 172.18.0.2
    login_user: user
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    from_revision: 1a2b3c4d5e6f
    to_revision: 9b1c7d2e4f60
    created:
      order_items:
        columns: {id: {type: uuid, nullable: false}, order_id: {type: uuid, nullable: false}}
        constraints:
          order_items_order_id_fkey:
            {type: foreign_key, columns: [order_id], references: {table: orders, columns: [id]}, on_delete: cascade}
    repairs:
      leftover:
        order_items:
          writers: SELECT written_by, count(*) FROM order_items GROUP BY 1
          losses: SELECT i.* FROM order_items i WHERE NOT EXISTS (SELECT FROM orders o WHERE o.item_id = i.id)
    accept_loss: 3
  register: reconciled
"""

RETURN = r"""
state:
  description: V(before) if the database is at O(from_revision), V(deployed) at O(to_revision), empty at neither.
  type: str
  returned: always
  sample: deployed
leftovers:
  description:
    - The leftover tables. C(table), C(kind), C(owner), C(columns), C(references), C(rows), C(writers),
      C(sample), C(losses), C(unjudged) (why every row counts as lost; else empty) and C(dependents), besides others.
  type: list
  elements: dict
  returned: always
repaired:
  description: The repairs, in words and in order. Empty if there was nothing to do, and in check mode.
  type: list
  elements: str
  returned: always
  sample: [rebuilt order_items_order_id_fkey, validated order_items_order_id_fkey]
saved:
  description: The rows that were lost. C(path), C(replay) (the script), C(rows) and C(sha256) of the file.
  type: list
  elements: dict
  returned: always
proven:
  description:
    - By name, the instant at which a check passed when a step was committed (C(database), C(snapshot), C(transaction)).
    - M(sql_check_info) reads it from the journal, and reports rows that the application wrote since as drift.
  type: dict
  returned: always
lock_waits:
  description:
    - The sessions that it waited for. C(pid), C(user), C(application), C(state), C(since) and C(query), its literals as
      C(?).
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
proofs:
  description:
    - C(reconcile.<table>.leftover) for each table where the state is V(before), else C(reconcile.<foreign key>),
      C(migrate.finalize.<step>) and C(checks.<name>).
  type: list
  elements: dict
  returned: always
message:
  description: One sentence per proof that failed, else empty.
  type: str
  returned: always
diff:
  description: The SQL, in C(before) (empty) and C(after).
  type: dict
  returned: success
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.options import (
    LOCK_OPTIONS,
    LOGIN_OPTIONS,
    RUN_OPTIONS,
    SERVICES_OPTIONS,
    Options,
)
from ansible.module_utils.dbrelease.migrate.step_guards import StepGuards
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.postgres.lock_retry import LockLimits
from ansible.module_utils.dbrelease.reconcile.plan import Wanted
from ansible.module_utils.dbrelease.reconcile.reconcile import reconcile
from ansible.module_utils.dbrelease.runs.work import Work

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **LOCK_OPTIONS,
    **SERVICES_OPTIONS,
    "from_revision": {"type": "str", "required": True},
    "to_revision": {"type": "str", "required": True},
    "created": {"type": "dict", "required": True},
    "repairs": {
        "type": "dict",
        "default": {},
        "options": {
            "leftover": {"type": "dict", "default": {}},
            "steps": {"type": "list", "elements": "str", "default": []},
        },
    },
    "steps": {"type": "list", "elements": "dict", "default": []},
    "checks": {"type": "list", "elements": "dict", "default": []},
    "accept_loss": {"type": "str"},
    "label": {"type": "str", "default": ""},
}
WANTED = ("from_revision", "to_revision", "created", "checks", "label")


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Diagnose and repair, or say what would be done."""
    work = Work.of(params, check_mode)
    with work.journal.step("reconcile") as step, work.alone_on_database():
        return reconcile(
            work.login,
            work.run,
            wanted_of(params),
            LockLimits.of(params["lock"]),
            params["accept_loss"],
            step,
            check_mode=check_mode,
        )


def wanted_of(params: Mapping[str, Any]) -> Wanted:
    """What the options say of the release."""
    repairs = params["repairs"] or {}
    names = repairs.get("steps") or ()
    return Wanted(
        **{name: params[name] for name in WANTED},
        leftover=repairs.get("leftover") or {},
        guards=StepGuards.of(params["services"]),
        steps=[step for step in params["steps"] if step["name"] in names],
    )


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
