#!/usr/bin/python
"""Prove that an index can serve its query, and does where that is the cheaper way."""

from __future__ import annotations

DOCUMENTATION = r"""
module: query_plan_info
short_description: Prove that an index serves its query
description:
  - Asks the planner how it would answer a declared query, first as it is and then with the other ways switched off for
    this question. No query is executed and nothing is analyzed.
  - The index must be there, valid, and I(able) to serve the query; otherwise the proof is red.
  - That it I(does) serve it is demanded only of a table that has been analyzed and has at least C(row_floor) rows by
    the planner's statistics, and only where the query fetches less than a twentieth of the table. Elsewhere another way
    is right.
  - For a table that was never analyzed the proof is C(inconclusive).
  - A plan that is red is a failed proof and never a failed module. Fails only if the database cannot be asked, or the
    journal cannot be written.
extends_documentation_fragment: [login, run]
options:
  plans:
    description: The queries that a release declares, each with the index that was built for it.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the plan; its proof is C(plans.<name>).
        type: str
        required: true
      title:
        description: The claim, in words.
        type: str
        required: true
      index:
        description: Name of the index.
        type: str
        required: true
      table:
        description: The table that the index is on; its schema may stand before it.
        type: str
        required: true
      row_floor:
        description: From how many rows on the index must be used.
        type: int
        required: true
      sql:
        description: One SELECT.
        type: str
        required: true
  statement_timeout_ms:
    description: How long the planner may take for one question, in milliseconds.
    type: int
    default: 60000
attributes:
  check_mode:
    description: Reads only, so that it does the same; the journal is not written.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Show that the orders of an account are found by the index
  query_plan_info:
    login_host: 172.18.0.2
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    plans:
      - name: orders_of_an_account
        title: The orders of an account are found by the index
        index: idx_orders_account_id
        table: orders
        row_floor: 5000
        sql: SELECT * FROM orders WHERE account_id = 7
  register: plans
"""

RETURN = r"""
proofs:
  description:
    - One proof for each plan, in their order.
    - C(observed) holds C(can), C(does), C(valid), C(rows) (by the planner's statistics, -1 if unknown), C(analyzed),
      C(cost) and C(cost_by_index) (the planner's estimates), C(share) (the part of the table's rows that the index
      would fetch) and C(other_indexes).
  returned: always
  type: list
  elements: dict
  sample:
    - name: plans.orders_of_an_account
      title: The orders of an account are found by the index
      status: pass
      expected: {"index": "idx_orders_account_id", "can": true, "does_from_rows": 5000}
      observed:
        can: true
        does: false
        valid: true
        rows: 120
        analyzed: true
        cost: 3.5
        cost_by_index: 8.2
        share: 0.01
        other_indexes: []
      detail: idx_orders_account_id can serve the query; with 120 rows (fewer than 5000) another way is right.
      remedy: ""
      sql: SELECT * FROM orders WHERE account_id = 7
      sample: []
      duration_ms: 9
message:
  description: One sentence for each failed proof; empty when none failed.
  returned: always
  type: str
duration_ms:
  description: How long all of them took.
  returned: always
  type: int
  sample: 9
"""

from ansible.module_utils.dbrelease.core.options import LOGIN_OPTIONS, RUN_OPTIONS, Options
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.verify import plans

OPTIONS: Options = {**LOGIN_OPTIONS, **RUN_OPTIONS, **plans.OPTIONS}
act = plans.act


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
