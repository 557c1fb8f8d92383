#!/usr/bin/python
"""Whether everything is true that a release promises."""

from __future__ import annotations

DOCUMENTATION = r"""
module: verification_info
short_description: Verify every claim of a release
description:
  - Runs the given checks, in the order of this page, and then judges all their proofs. It is a single call, not one for
    each check, since a call costs more than a check.
  - Each check runs in its own session, and journals its own step. A check that is not given does not run, and proves
    nothing.
  - Journals V(verify) as passed or failed. Fails if a proof failed or a check cannot run.
extends_documentation_fragment: [login, run]
options:
  structure:
    description:
      - Reads the server's catalogs, in one snapshot, and compares.
      - A table that the release creates has exactly the declared columns and constraints, and at least the declared
        indexes, which are valid and ready. Constraints are validated, and deferrable only if they are declared so. A
        table that existed before still has the columns that the release relies on.
      - All proofs of a missing table fail.
      - Fails only if the catalogs cannot be read. Journals the step V(structure).
    type: dict
    suboptions:
        tables:
          description:
            - The release's tables. Names without a schema are resolved by the search path.
          type: dict
          required: true
          suboptions:
            existing:
              description: The tables that existed before; by table a list of columns.
              type: dict
              default: {}
            created:
              description:
                - The tables that the release creates; by table C(columns), C(indexes) and C(constraints), each by name.
                - A column has C(type), as the server's C(format_type) spells it (V(character varying(255))), and
                  C(nullable).
                - An index has C(columns) in their order (an expression as pg_get_indexdef(index, number, true) writes
                  it), C(unique), and if need be C(method) (else V(btree)) and C(where), the condition of a partial
                  one as pg_get_expr(indpred, indrelid, true) writes it.
                - A constraint has C(type) (V(primary_key), V(unique), V(foreign_key), V(check), V(exclusion)) and
                  C(columns); a V(check) and an V(exclusion) have, in place of these, C(definition) as
                  pg_get_constraintdef() writes it. A foreign key has also C(references) (C(table), C(columns)) and
                  C(on_delete) (V(cascade), V(set_null), V(no_action), V(restrict), V(set_default)), and may have
                  C(on_update) (one of these, else V(no_action)) and C(match) (V(full), else V(simple)). All but a
                  check may have C(deferrable) and C(initially_deferred), which are else V(false).
              type: dict
              default: {}
            altered:
              description:
                - What the release adds to tables that existed before; by table C(columns), C(indexes) and
                  C(constraints), any of them, in the same form. The table may have others besides.
              type: dict
              default: {}
            changed:
              description:
                - What the release changes or removes of tables that existed before, in the same form as it is
                  afterwards. V(null) stands for a part that does not exist any more; C(renamed_from) is the former
                  name of a column.
              type: dict
              default: {}
            dropped:
              description: Tables that the release drops; they must not exist.
              type: dict
              default: {}
            audit:
              description: Not read here, as it says nothing of the structure; see O(untouched.audit_tables).
              type: list
              elements: str
              default: []
        revision:
          description: The one revision that the database must be at.
          type: str
          required: true
        reconcile_command:
          description:
            - The command in the remedy of failed foreign keys.
            - C({environment}) in it stands for the environment of O(run).
          type: str
          default: ""
  checks:
    description: Options of M(sql_check_info).
    type: dict
  scenarios:
    description:
      - Runs each scenario in one transaction that is always rolled back, and compares the results of its steps with
        the expected ones.
      - A step is one SELECT, INSERT, UPDATE, DELETE or MERGE. The server refuses everything else before any of it has
        run, a second statement and a COMMIT among it. What names a function that reaches beyond the database is
        refused, too.
      - After the rollback a new transaction that cannot write proves that the scenario's transaction was aborted and
        that none of its rows is left. The numbers that it took from sequences are lost.
      - Waits for locks of other sessions only as long as C(lock_timeout_ms), and makes three attempts. If one still
        blocks it, the proof is C(inconclusive).
      - A failed scenario is a failed proof and never a failed module. Fails only if the database cannot be
        queried, or the journal cannot be written.
    type: dict
    suboptions:
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
              description: The steps, in this order.
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
            - The server keeps the transaction of a lost client no longer than this.
          type: int
          default: 30000
        lock_timeout_ms:
          description: How long a step may wait for a lock of another session, in milliseconds.
          type: int
          default: 1000
  plans:
    description:
      - Queries the planner for the plan of a declared query, first with the current settings and then with the other
        methods disabled for this query. No query is executed and nothing is analyzed.
      - The index must exist, be valid, and be I(able) to serve the query; otherwise the proof fails.
      - That it I(does) serve it is required only of a table that has been analyzed and has at least C(row_floor) rows
        by the planner's statistics, and only where the query fetches less than a twentieth of the table. Elsewhere
        another plan is right.
      - For a table that was never analyzed the proof is C(inconclusive).
      - A failed plan is a failed proof and never a failed module. Fails only if the database cannot be queried, or
        the journal cannot be written.
    type: dict
    suboptions:
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
  untouched:
    description:
      - Reads every table of the release's last baseline again, the same columns, in one REPEATABLE READ snapshot, and
        compares number of rows and fingerprint. Baseline and upgrade are read from the journal.
      - An equal table passes. A table that is missing, lacks a column, or holds rows that a transaction of the
        migration wrote (the one that wrote what C(bookkeeping_tables) hold, and each other one of its sessions), fails.
        So does one that changed although no session is known to have written to it, that lost more rows than were
        deleted (it was truncated), or of which more rows were deleted during the upgrade than other transactions
        existed.
      - A table that the application alone changed is V(inconclusive), with the numbers.
      - Rows that the migration's transactions only added are V(inconclusive) where the table is one of C(audit_tables),
        or where an event trigger, or a trigger or a rule of a table that the release is about, inserts into it by its
        name or may do so by a statement that it builds when it runs.
      - A table that was dropped, created again, emptied or stripped of a column by a transaction that was not the
        migration's is V(inconclusive). Of a failed one C(by) is V(migration), or V(unknown) where another session may
        have done it.
      - Which transactions are the migration's is observed while it runs. Twenty times a second the sessions of the
        database are read, and the next transaction id. An id that only the migration's sessions can have been given
        is the migration's. A row whose transaction may be of either is V(inconclusive); so is one of a migration whose
        run was interrupted before it was journaled.
      - The server's write counters also include rolled back rows, and arrive late. Where they would fail a table, the
        module waits for them (C(settle_seconds)).
      - Fails only if there is no baseline or a table cannot be read. Journals the step V(untouched).
    type: dict
    suboptions:
        except_tables:
          description: Tables to exclude, as V(schema.table) or as a name in the search path.
          type: list
          elements: str
          default: []
        altered_tables:
          description:
            - Tables that the release adds columns to, named alike. The migration may write their rows, to fill what
              it adds; what the rows held before must stay, as far as the writes of others let that be determined.
          type: list
          elements: str
          default: []
        changed:
          description:
            - C(tables.changed) of the release. Of such a table only the columns are compared that keep their type,
              under their names after the release; the others are named. With C(rows) the migration may insert, update
              and delete as many rows as it declares. More fails, unless others may have written them.
          type: dict
          default: {}
        audit_tables:
          description: Tables to which triggers add rows, also in the migration's transactions, named alike.
          type: list
          elements: str
          default: []
        bookkeeping_tables:
          description: Where the migration tool keeps its revision. Left out, and asked for the migration's transaction.
          type: list
          elements: str
          default: [alembic_version]
        settle_seconds:
          description: How long to await the counters of other sessions before a table is red for want of them.
          type: float
          default: 11.0
  api:
    description: Options of M(api_contract_info).
    type: dict
  left_out:
    description: By journal step, why a check is not given; journalled as skipped, so that the evidence reports it.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Reads only. In check mode nothing is journalled either.
  diff_mode:
    support: none
    description: The proofs show the expected and the observed values.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Verify
  verification_info:
    login_host: 172.18.0.2
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    checks:
      checks:
        - name: no_order_without_account
          title: No order without its account
          violations: SELECT o.id FROM orders o LEFT JOIN accounts a ON a.id = o.account_id WHERE a.id IS NULL
    untouched:
      except_tables: [order_items]
"""

RETURN = r"""
proofs:
  description: The proofs of every check, in order.
  type: list
  elements: dict
  returned: always
held:
  description: Of the proofs that failed, the names of the checks that held when they were proved, after the migration.
  type: list
  elements: str
  returned: always
  sample: []
message:
  description: One sentence per proof that failed, else empty.
  type: str
  returned: always
  sample: ""
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal
from ansible.module_utils.dbrelease.core.options import LOGIN_OPTIONS, RUN_OPTIONS, Options, run_of
from ansible.module_utils.dbrelease.core.proof import Proof
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.postgres.could_not_run import could_not_run, verdict_of
from ansible.module_utils.dbrelease.verify import api, checks, plans, scenarios, structure, unchanged

LOOKS = {
    "structure": structure,
    "checks": checks,
    "scenarios": scenarios,
    "plans": plans,
    "untouched": unchanged,
    "api": api,
}
# Of a claim that stands for a whole look, where the server could not answer at all.
TITLES = {
    "structure": "The structure can be read",
    "checks": "The declared checks can be read",
    "scenarios": "The scenarios can be played",
    "plans": "The plans of the declared queries can be read",
    "untouched": "The tables that the release leaves alone can be compared with the baseline",
    "api": "The API can be compared with its contract",
}
OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **{name: {"type": "dict", "options": look.OPTIONS} for name, look in LOOKS.items()},
    "left_out": {"type": "dict", "default": {}},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Take every look that is given; red proofs end in ReleaseError, and so do claims that could not be looked at."""
    journal = Journal(run_of(params), dry=check_mode)
    proofs: list[dict[str, Any]] = []
    held: list[str] = []
    for name, look in LOOKS.items():
        if params[name] is None:
            continue
        try:
            result = look.act({**params, **params[name]}, check_mode)
        except ReleaseError as error:
            if not could_not_run(error):
                raise
            result = {"proofs": [Proof(f"verify.{name}", TITLES[name], **verdict_of(error, "It")).as_dict()]}
        proofs += result["proofs"]
        held += result.get("held") or ()
    for step, reason in params["left_out"].items():
        journal.append(step, "skipped", {"message": reason})
    try:
        journal.judge("verify", proofs)
    except ReleaseError as error:
        error.facts.update(proofs=proofs, held=held)
        raise
    return {"proofs": proofs, "held": held, "message": ""}


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
