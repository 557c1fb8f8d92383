#!/usr/bin/python
"""Whether a release may be rolled back: each of its declared guards, and the verdict."""

from __future__ import annotations

DOCUMENTATION = r"""
module: guard_info
short_description: Whether a release may be rolled back, by its declared guards
description:
  - Checks each guard that the release declares, in the database (all at one instant), at the API, and at the
    container engine. A guard that is inconclusive refuses, like one that failed. A guard of a service that the
    inventory does not name is V(skipped).
  - Also checks whether anything, such as a view, depends on O(created) that is neither theirs nor in O(altered)
    (C(guard.nothing_depends)), and whether they have a column that the release does not know
    (C(guard.no_other_column)). What depends is also an enabled trigger of another table whose function mentions
    O(created) by name, as after the downgrade no write to that table would succeed; unless what rolls the release back
    (O(script), or O(revision_files), as O(method) says) names the trigger or its function, or an extension brought the
    function along. What such a function calls in turn is not checked.
  - Counts the rows that the downgrade would drop and that nothing else knows; of a table of O(created) for which no
    guard has C(losses), all of them (C(guard.no_row_lost.<table>)). A transaction that has written to their
    table, or to a partition of it, and is still open is awaited for five seconds; then the number is unknown.
  - Refuses while a column that the release adds to another table (O(altered)) holds a value other than NULL and its
    constant default, unless a guard answers for it in C(values_of) (C(guard.no_value_lost.<table>)). Either guard is
    undecided where a transaction that went on when the guards were begun, and has written to that table, is awaited
    for five seconds in vain; those that begin later are not awaited, as such a table may always have a writer.
  - What the migration added beyond O(created) and O(altered) is found by the baseline in the journal
    (C(guard.added)). It is guarded in the same way, as the downgrade may drop it. What another session is known to
    have added is not.
  - Reads only, and a refusal is no failure of the module. Journals the step V(guards), as refused where it is not
    allowed.
extends_documentation_fragment: [environment, login, run, api, backend]
options:
  guards:
    description:
      - The guards as the release declares them, with C(name), C(title), C(road) and one of C(violations), C(columns),
        C(losses), C(answers), C(openapi), C(container) and C(log); besides C(violations) also C(values_of).
    type: list
    elements: dict
    required: true
  from_revision:
    description: The revision before the release. There, and without O(created), there is nothing to roll back.
    type: str
    required: true
  revision:
    description: The revision of the release. The guards are checked only there.
    type: str
    required: true
  created:
    description: The tables that the release creates, by name, with their C(columns).
    type: dict
    default: {}
  dropped:
    description: Tables that the release drops, for what a lossy downgrade does not bring back.
    type: list
    elements: str
    default: []
  reversible:
    description:
      - C(migration.reversible) of the release. V(false) refuses every rollback, and V(lossy) an automatic one; the
        message names the restore. With V(lossy) the proof C(guard.lossy) names what the downgrade does not bring back.
    type: str
    choices: ["true", lossy, "false"]
    default: "true"
  changed:
    description: C(tables.changed) of the release. A column with another name is none that the migration added.
    type: dict
    default: {}
  altered:
    description: What the release adds to other tables, by table, with its C(columns) and C(constraints) by name.
    type: dict
    default: {}
  declares_tables:
    description:
      - Whether the release declares its tables. Where it does not, O(created) and O(altered) are empty, and without a
        baseline in the journal the rollback is refused.
    type: bool
    default: true
  method:
    description:
      - What would roll it back, Alembic or O(script). Without a script V(sql) is refused.
      - With V(auto) it is O(script) where there is one and Alembic's sessions do not get their settings, which
        C(alembic current) is asked for; else Alembic.
    type: str
    choices: [auto, alembic, sql]
    default: alembic
  workdir:
    description: The folder in which Alembic runs without O(backend_container).
    type: str
    default: ""
  command:
    description: How Alembic is called there.
    type: list
    elements: str
    default: [python3, -m, alembic]
  script:
    description: The content of the release's SQL file for the rollback; empty where it has none.
    type: str
    default: ""
  revision_files:
    description: The release's revisions, each with its C(content).
    type: list
    elements: dict
    default: []
  containers:
    description: The container of each service, by the service's name; empty where the target has none.
    type: dict
    default: {}
  accept_loss:
    description:
      - The number of rows that may be lost. It must be exactly the counted number, and covers only the guards that
        count rows and those with C(covered_by_losses). Any other number is refused. By default none is accepted.
    type: str
  automatic:
    description:
      - Whether the rollback is automatic. Then a missing table or column of the baseline refuses, unless another
        session dropped it, as no downgrade restores its content; the message names O(restore_command).
    type: bool
    default: false
  restore_command:
    description: The command that restores the backup, for that message. If it is empty, the message describes it.
    type: str
    default: ""
  accept_log_gap:
    description: Whether a log that does not reach back to the deployment, or has no requests, counts as complete.
    type: bool
    default: false
  request_timeout_seconds:
    description: How long one answer of the API may take.
    type: float
    default: 10.0
  statement_timeout_ms:
    description: How long one statement may take, in milliseconds.
    type: int
    default: 600000
attributes:
  check_mode:
    support: full
    description: Reads only. In check mode nothing is journalled either.
  diff_mode:
    support: none
    description: Nothing is changed.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Check whether it may be rolled back
  guard_info:
    login_host: 172.18.0.2
    login_user: user
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    from_revision: a1
    revision: b2
    created: {order_items: {columns: {id: {type: uuid}, order_id: {type: uuid}}}}
    guards:
      - name: nothing_lost
        title: Every item is an order's
        losses: {table: order_items, key: [id], rows: SELECT id FROM order_items WHERE order_id IS NULL}
        road: Keep the release, or restore a backup.
  register: guards
"""

RETURN = r"""
state:
  description: V(allowed), V(refused), or V(not_deployed) where there is nothing to roll back.
  type: str
  returned: always
message:
  description: One sentence for each reason to refuse, with what to do instead; else empty.
  type: str
  returned: always
method:
  description: What would roll it back, V(alembic) or V(sql).
  type: str
  returned: always
rows_lost:
  description: How many rows would be lost.
  type: int
  returned: always
accepted:
  description: Whether rows would be lost and O(accept_loss) is their number.
  type: bool
  returned: always
losses:
  description: What was counted as lost, as M(dropped_rows) takes it; without C(rows) where it is all of a table.
  type: list
  elements: dict
  returned: always
session_settings:
  description: A setting for the downgrade, which makes it refuse rows that were written since the count.
  type: dict
  returned: always
  sample: {dbrelease.counted_at: "1042"}
proofs:
  description:
    - One for each guard, C(guard.<name>), and C(guard.revision); with V(auto) of O(method) C(guard.method).
    - C(guard.counted_again), V(inconclusive), where rows or values were counted and C(dbrelease.counted_at) is nowhere
      in O(script), or O(revision_files), as O(method) says.
  type: list
  elements: dict
  returned: always
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.options import (
    API_OPTIONS,
    BACKEND_OPTIONS,
    ENVIRONMENT_OPTIONS,
    LOGIN_OPTIONS,
    RUN_OPTIONS,
    Options,
)
from ansible.module_utils.dbrelease.migrate.method import method_for
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.rollback.guards import evaluate_guards

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **API_OPTIONS,
    **BACKEND_OPTIONS,
    **ENVIRONMENT_OPTIONS,
    "guards": {"type": "list", "elements": "dict", "required": True},
    "from_revision": {"type": "str", "required": True},
    "revision": {"type": "str", "required": True},
    "created": {"type": "dict", "default": {}},
    "altered": {"type": "dict", "default": {}},
    "changed": {"type": "dict", "default": {}},
    "dropped": {"type": "list", "elements": "str", "default": []},
    "reversible": {"type": "str", "choices": ["true", "lossy", "false"], "default": "true"},
    "declares_tables": {"type": "bool", "default": True},
    "method": {"type": "str", "choices": ["auto", "alembic", "sql"], "default": "alembic"},
    "workdir": {"type": "str", "default": ""},
    "command": {"type": "list", "elements": "str", "default": ["python3", "-m", "alembic"]},
    "script": {"type": "str", "default": ""},
    "revision_files": {"type": "list", "elements": "dict", "default": []},
    "containers": {"type": "dict", "default": {}},
    "accept_loss": {"type": "str"},
    "accept_log_gap": {"type": "bool", "default": False},
    "automatic": {"type": "bool", "default": False},
    "restore_command": {"type": "str", "default": ""},
    "request_timeout_seconds": {"type": "float", "default": 10.0},
    "statement_timeout_ms": {"type": "int", "default": 600000},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Read in both modes."""
    method, reason = method_for(params) if params["method"] == "auto" else (params["method"], "")
    return evaluate_guards({**params, "method": method, "method_reason": reason}, check_mode)


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
