#!/usr/bin/python
"""Judge declared SQL checks on a live database, in a read-only transaction."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sql_check_info
short_description: Judge declared SQL checks on a live database
description:
  - Runs every check in one transaction that is REPEATABLE READ and READ ONLY and is always rolled back, so that all of
    them describe the same instant.
  - The text of a check is sent to the server as a value, which the server plans read-only. A check that would write is
    refused by the server, and its proof fails. So does the proof of one that names a function which acts beyond the
    database (its server's files, other servers, other sessions), or that could call what an untrusted role made.
  - A check that fails, is invalid, forbidden or too slow never fails the module, and does not hide another check. The
    module fails only if the database cannot be queried, or the journal cannot be written.
  - The journal of O(run) records at which instant a check was proved, directly after the release was finalized or
    reconciled. Of such a check, rows that break it now and were written since (O(checks[].written_in)) are drift, as
    the application's old code causes it. If all of them are drift, O(drift) is the proof's status, and the proof
    reports their number; if one is not, the proof fails. A check that cannot run is never drift.
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
        description: A SELECT of the rows that break the claim; it must return none.
        type: str
      equal:
        description:
          - A SELECT of one row with two or more columns, which must all be equal.
          - The server compares them. Numbers are equal as numbers, and null equals null.
        type: str
      written_in:
        description: The column of O(checks[].violations) with the C(xmin) of the row that the application writes.
        type: str
      follows:
        description: Checks whose rows cause the difference of O(checks[].equal); if all of those are drift, it is.
        type: list
        elements: str
        default: []
  drift:
    description: The status of a check that only drift breaks.
    type: str
    choices: [inconclusive, fail]
    default: inconclusive
  statement_timeout_ms:
    description: How long a check may run, in milliseconds.
    type: int
    default: 60000
  sample_size:
    description: The most rows that are shown of those that break a claim.
    type: int
    default: 5
  reconcile_command:
    description:
      - The command that the remedy of a failed check recommends, if the check could run.
      - C({environment}) in it stands for the environment of O(run).
    type: str
    default: ""
attributes:
  check_mode:
    description: Does the same, because it only reads; the journal is not written.
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
  description: One proof for each check, in their order. Its C(sample) has some of the rows that break the claim.
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
  description: Of the failed proofs, the names of those that passed when they were proved, after the migration.
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
