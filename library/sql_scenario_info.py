#!/usr/bin/python
"""Play declared scenarios on a live database, in transactions that are always rolled back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sql_scenario_info
short_description: Play declared scenarios, and leave nothing of them
description:
  - Plays each scenario in one transaction that is always rolled back, and compares what its steps return with what they
    must.
  - A step is one SELECT, INSERT, UPDATE, DELETE or MERGE. The server refuses everything else before any of it has run,
    a second statement and a COMMIT among it. What names a function that reaches beyond the database is refused, too.
  - After the rollback a new transaction that cannot write proves that the scenario's transaction was aborted and that
    none of its rows is left. The numbers that it took from sequences are gone.
  - Waits for locks of other sessions only as long as O(lock_timeout_ms), and is tried three times. If one is still in
    its way, the proof is C(inconclusive).
  - A scenario that is red is a failed proof and never a failed module. Fails only if the database cannot be asked, or
    the journal cannot be written.
extends_documentation_fragment: [login, run]
options:
  scenarios:
    description: The scenarios that a release declares.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the scenario; its proof is C(scenario.<name>).
        type: str
        required: true
      title:
        description: The claim, in words.
        type: str
        required: true
      steps:
        description: What is done and seen, in this order.
        type: list
        elements: dict
        required: true
        suboptions:
          title:
            description: What the step does, in words.
            type: str
            required: true
          sql:
            description:
              - One statement. C(%(name\)s) stands for a value that an earlier step saved.
              - Other percent signs are themselves.
            type: str
            required: true
          save:
            description: Columns of the one row that the statement returns, kept under their names.
            type: list
            elements: str
            default: []
          expect:
            description:
              - Columns of the one row that the statement returns, and the value that each must have.
              - What is no number, truth or null is compared by its text, an interval as C(P1DT2H).
            type: dict
            default: {}
      leaves_nothing:
        description: A SELECT of one row with one column, how many rows of the scenario are left, which must be 0.
        type: str
        required: true
  statement_timeout_ms:
    description:
      - How long a step may run, in milliseconds.
      - As long at most does the server keep the transaction of a caller that is gone.
    type: int
    default: 30000
  lock_timeout_ms:
    description: How long a step may wait for a lock of another session, in milliseconds.
    type: int
    default: 1000
attributes:
  check_mode:
    description: What is written is rolled back, so that it does the same; the journal is not written.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Show that an account takes its orders with it
  sql_scenario_info:
    login_host: 172.18.0.2
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    scenarios:
      - name: cascade_on_account_delete
        title: Deleting an account removes its orders
        steps:
          - title: Create an account
            sql: INSERT INTO accounts (name) VALUES ('test') RETURNING id AS account
            save: [account]
          - title: Give it an order
            sql: INSERT INTO orders (account_id) VALUES (%(account)s)
          - title: Delete the account
            sql: DELETE FROM accounts WHERE id = %(account)s
          - title: The order is gone
            sql: SELECT count(*) AS orders FROM orders WHERE account_id = %(account)s
            expect: {orders: 0}
        leaves_nothing: SELECT count(*) AS rows_left FROM accounts WHERE id = %(account)s
  register: scenarios
"""

RETURN = r"""
proofs:
  description:
    - One proof for each scenario, in their order.
    - Its C(sample) is the list of the steps as far as they came, each with C(title), C(expected), C(observed) and
      C(problem).
  returned: always
  type: list
  elements: dict
  sample:
    - name: scenario.cascade_on_account_delete
      title: Deleting an account removes its orders
      status: pass
      expected: {"steps": 4, "rows_left": 0, "transaction": "aborted"}
      observed: {"steps": 4, "rows_left": 0, "transaction": "aborted"}
      detail: All 4 steps did what they must; rolled back, and no row of it is left.
      remedy: ""
      sql: INSERT INTO accounts (name) VALUES ('test') RETURNING id AS account; ...
      sample: [{"title": "The order is gone", "expected": {"orders": 0}, "observed": {"orders": 0}, "problem": ""}]
      duration_ms: 21
message:
  description: One sentence for each failed proof; empty when none failed.
  returned: always
  type: str
duration_ms:
  description: How long all of them took.
  returned: always
  type: int
  sample: 24
"""

from ansible.module_utils.dbrelease.core.options import LOGIN_OPTIONS, RUN_OPTIONS, Options
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.verify import scenarios

OPTIONS: Options = {**LOGIN_OPTIONS, **RUN_OPTIONS, **scenarios.OPTIONS}
act = scenarios.act


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
