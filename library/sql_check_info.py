#!/usr/bin/python
"""Judge declared SQL checks on a live database, without being able to write."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sql_check_info
short_description: Judge declared SQL checks on a live database
description:
  - Runs every check in one transaction that is REPEATABLE READ and READ ONLY and is always rolled back, so that all of
    them describe the same instant.
  - The text of a check reaches the server as a value, which the server plans read-only. A check that would write is
    refused by the server and is a failed proof. So is one that names a function which reaches beyond the database (its
    server's files, other servers, other sessions), and any where it could call what a role made that is not trusted.
  - A check that is red, broken, forbidden or too slow is a failed proof and never a failed module, and it hides no
    other check. Fails only if the database cannot be asked, or the journal cannot be written.
  - The journal of O(run) knows at which instant a check was proved, right after the release was finalized or brought
    in line. Of such a check, rows that break it now and were written since (O(checks[].written_in)) are drift, as the
    application's old code makes it. Where all of them are, O(drift) is the proof's status, and it says how many they
    are; where one is not, it is red. A check that cannot run is red all the same.
extends_documentation_fragment: [login, run]
options:
  checks:
    description: The checks that a release declares.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the check; its proof is C(checks.<name>).
        type: str
        required: true
      title:
        description: The claim, in words.
        type: str
        required: true
      violations:
        description: A SELECT of the rows that break the claim, so that none may come.
        type: str
      equal:
        description:
          - A SELECT of one row with two or more columns, which must all be equal.
          - The server compares them. Numbers are equal as numbers, and null equals null.
        type: str
      written_in:
        description: The column of O(checks[].violations) that holds the C(xmin) of the row that the application writes.
        type: str
      follows:
        description: Checks whose rows make the difference of O(checks[].equal); where those are all drift, it is.
        type: list
        elements: str
        default: []
  drift:
    description: The status of a check that nothing breaks but drift.
    type: str
    choices: [inconclusive, fail]
    default: inconclusive
  statement_timeout_ms:
    description: How long a check may run, in milliseconds.
    type: int
    default: 60000
  sample_size:
    description: How many of the rows that break a claim are shown.
    type: int
    default: 5
  reconcile_command:
    description:
      - What the remedy of a red check that could run tells the operator to type.
      - C({environment}) in it stands for the environment of O(run).
    type: str
    default: ""
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
- name: Judge the data
  sql_check_info:
    login_host: 172.18.0.2
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    checks:
      - name: no_order_without_account
        title: No order without its account
        violations: SELECT o.id FROM orders o LEFT JOIN accounts a ON a.id = o.account_id WHERE a.id IS NULL
      - name: every_line_was_copied
        title: Every line of an order was copied
        equal: >-
          SELECT (SELECT sum(lines) FROM orders) AS lines_of_orders, (SELECT count(*) FROM order_items) AS items
  register: checks
"""

RETURN = r"""
proofs:
  description: One proof for each check, in their order. Its C(sample) holds some of the rows that break the claim.
  returned: always
  type: list
  elements: dict
  sample:
    - name: checks.no_order_without_account
      title: No order without its account
      status: fail
      expected: 0
      observed: 1
      detail: 1 row breaks it.
      remedy: Correct the rows (the sample shows some of them), and verify again.
      sql: SELECT o.id FROM orders o LEFT JOIN accounts a ON a.id = o.account_id WHERE a.id IS NULL
      sample: [{"id": 7}]
      duration_ms: 12
message:
  description: One sentence for each failed proof; empty when none failed.
  returned: always
  type: str
held:
  description: Of the failed proofs, the names of those that held when they were proved, after the migration.
  returned: always
  type: list
  elements: str
taken_at:
  description: The instant that every check describes, UTC, ISO 8601.
  returned: always
  type: str
  sample: "2026-01-02T03:04:05.678901+00:00"
duration_ms:
  description: How long the database took for all of them.
  returned: always
  type: int
  sample: 240
"""

from ansible.module_utils.dbrelease.core.options import LOGIN_OPTIONS, RUN_OPTIONS, Options
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.verify import checks

OPTIONS: Options = {**LOGIN_OPTIONS, **RUN_OPTIONS, **checks.OPTIONS}
act = checks.act


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
