#!/usr/bin/python
"""Run the declared SQL steps that follow a migration, each only while something is pending."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sql_step
short_description: Run declared, idempotent SQL steps, each in a transaction of its own
description:
  - Runs the steps in their order. Before each, its C(pending) query counts what is left to do; a step with nothing
    pending is not run. So a rerun continues one that was killed.
  - A step runs in one REPEATABLE READ transaction with a short lock timeout. Afterwards, in the same transaction,
    C(pending) must count 0.
  - A step that C(proves) checks has those run in its transaction instead, so that the checks
    read what it wrote at one instant, while other sessions write. It is committed only if all of them pass. With
    nothing pending only its checks are run.
  - A step with C(batch_rows) changes at most so many rows in one transaction, so that other sessions wait only briefly,
    and is repeated until it changes fewer; only the last transaction proves. Its text reads the number from the setting
    C(dbrelease.batch_rows), which is empty if the text is run manually.
  - An attempt that meets a lock, a serialization failure or a deadlock (SQLSTATE 55P03, 40001, 40P01) is repeated after
    a growing pause, outside any transaction. The failure after the last attempt names the sessions that blocked it.
  - What cannot run in a transaction, like CREATE INDEX CONCURRENTLY or VACUUM, is not supported. A step whose text
    contains BEGIN, COMMIT or ROLLBACK fails.
  - The sessions of the steps are sampled. Where the same run has upgraded, both together are held against O(budget), as
    C(migrate.budget.*), and against what the rehearsal of this run had forecast, as C(migrate.forecast). What is over
    it is V(inconclusive), because it is committed.
  - Fails at the first step that fails, with the proofs of all. Journals the step V(finalize).
extends_documentation_fragment: [login, run, lock, services, budget]
options:
  steps:
    description: The steps, in their order.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Its name. Its proof is C(migrate.finalize.<name>).
        type: str
        required: true
      title:
        description: What it does, in the imperative.
        type: str
        required: true
      sql:
        description: What it runs. Statements separated by semicolons are one transaction.
        type: str
        required: true
      pending:
        description: A SELECT of one integer, the amount of work that is left. It cannot write.
        type: str
        required: true
      proves:
        description: Names of O(checks) that must pass before the step is committed.
        type: list
        elements: str
        default: []
      batch_rows:
        description: The most rows that one transaction changes. By default all.
        type: int
      guarded_by:
        description: Names of O(services.guards). While one of them fails, or all are inconclusive, the step is not run.
        type: list
        elements: str
        default: []
      file:
        description: The file of the release that contains O(steps[].sql). Not read here.
        type: str
  checks:
    description: The release's declared checks. Only those that a step proves are run.
    type: list
    elements: dict
    default: []
  throttle:
    description:
      - When a step with O(steps[].batch_rows) pauses before a batch. The limits are checked between two batches, at
        most once a second; a step without batches is not paused.
    type: dict
    suboptions:
      lag_seconds:
        description: A standby lags by more than this, or a standby that was connected is no longer.
        type: float
      latency_ms:
        description: The median of three answers of an endpoint of O(api) takes longer, or it does not answer.
        type: float
      pause_seconds:
        description:
          - The longest time of all pauses together. Then the step stops between two batches; its proof is inconclusive,
            and a rerun continues.
        type: float
        default: 600
  api:
    description: The release's C(api); the paths of its C(endpoints) are requested for O(throttle.latency_ms).
    type: dict
    default: {}
  application_name:
    description: The name of its session on the server.
    type: str
    default: dbrelease finalize
attributes:
  check_mode:
    support: full
    description: Counts what is pending and names the steps that would run. Runs none of them, nor any check.
  diff_mode:
    support: full
    description: Shows the SQL of the steps that ran, or would run.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Finalize the migration
  sql_step:
    login_host: 172.18.0.2
    login_user: user
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    lock: {timeout_ms: 500, attempts: 10, deadline_seconds: 120}
    steps:
      - name: validate_order_foreign_key
        title: Validate the foreign key to orders
        sql: ALTER TABLE order_items VALIDATE CONSTRAINT order_items_order_id_fkey
        pending: >-
          SELECT count(*) FROM pg_constraint
          WHERE conname = 'order_items_order_id_fkey' AND NOT convalidated
  register: finalized
"""

RETURN = r"""
steps:
  description:
    - What each step did, in their order. C(name), C(changed), C(pending) (counted before; null if check mode could not
      count, because the migration has not created the objects yet), C(rows) (of the last statement), C(attempts) and
      C(duration_ms).
  type: list
  elements: dict
  returned: always
  sample: [{name: analyze, changed: true, pending: 1, rows: 0, attempts: 1, duration_ms: 12}]
proven:
  description:
    - By name, the instant at which a check passed when a step was committed (C(database), C(snapshot), C(transaction)).
    - M(sql_check_info) reads it from the journal, and reports what the application has written since as drift.
  type: dict
  returned: always
unproven:
  description: The names of the checks that a step must prove and that failed; else empty.
  type: list
  elements: str
  returned: always
would_run:
  description: In check mode the names of the steps that would run, else empty.
  type: list
  elements: str
  returned: always
lock_waits:
  description:
    - The sessions that the steps waited for. C(pid), C(user), C(application), C(state), C(since) (UTC, ISO 8601) and
      C(query), its literals as C(?).
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
pauses:
  description:
    - The pauses by O(throttle). C(step), C(cause), C(started_at) (UTC, ISO 8601), C(duration_ms), and C(resumed),
      whether the step continued.
  type: list
  elements: dict
  returned: always
proofs:
  description:
    - One proof per step, C(migrate.finalize.<name>), and one per check that a step proves, C(checks.<name>).
    - C(migrate.finalize_blockers) where sessions were ended, and C(migrate.throttle) where the limits of O(throttle)
      were checked.
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
    BUDGET_OPTIONS,
    LOCK_OPTIONS,
    LOGIN_OPTIONS,
    RUN_OPTIONS,
    SERVICES_OPTIONS,
    Options,
)
from ansible.module_utils.dbrelease.migrate.cost_claims import cost_claims
from ansible.module_utils.dbrelease.migrate.finalize import finalize
from ansible.module_utils.dbrelease.migrate.throttle import Throttle
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.observe.live import LiveObserver
from ansible.module_utils.dbrelease.runs.work import Work

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **LOCK_OPTIONS,
    **SERVICES_OPTIONS,
    **BUDGET_OPTIONS,
    "steps": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "title": {"type": "str", "required": True},
            "sql": {"type": "str", "required": True},
            "pending": {"type": "str", "required": True},
            "proves": {"type": "list", "elements": "str", "default": []},
            "batch_rows": {"type": "int"},
            "guarded_by": {"type": "list", "elements": "str", "default": []},
            "file": {"type": "str"},
        },
    },
    "checks": {"type": "list", "elements": "dict", "default": []},
    "throttle": {
        "type": "dict",
        "options": {
            "lag_seconds": {"type": "float"},
            "latency_ms": {"type": "float"},
            "pause_seconds": {"type": "float", "default": 600},
        },
    },
    "api": {"type": "dict", "default": {}},
    "application_name": {"type": "str", "default": "dbrelease finalize"},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Run the steps, or report which would run."""
    work = Work.of(params, check_mode)
    name = params["application_name"]
    observer = None if check_mode else LiveObserver(work.login, name, params["tables"])
    with work.journal.step("finalize") as step, work.alone_on_database():
        result = finalize(
            work.login,
            params["steps"],
            params["checks"],
            params["lock"],
            params["services"],
            name,
            step,
            check_mode=check_mode,
            throttle=Throttle.of(params.get("throttle"), params.get("api") or {}, params["services"]),
            run=work.run,
            observer=observer,
        )
        if observer:
            claims = cost_claims(work.journal, step, params["budget"])
            step.prove(*claims)
            result["proofs"] += [claim.as_dict() for claim in claims]
    return result


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
