#!/usr/bin/python
"""Whether the tables of the database hold what they held in the baseline."""

from __future__ import annotations

DOCUMENTATION = r"""
module: untouched_info
short_description: Whether the tables hold what they held in the baseline, and who wrote to those that do not
description:
  - Reads every table of the release's last baseline again, the same columns, in one REPEATABLE READ snapshot, and
    compares number of rows and fingerprint. Baseline and upgrade are read from the journal.
  - An equal table passes. A table that is gone, or lacks a column, or holds rows that a transaction of the migration
    wrote (the one that wrote what O(bookkeeping_tables) hold, and each other one of its sessions), fails. So does one
    that changed although nobody is known to have written to it, that lost more rows than were deleted (it was
    truncated), or of which more rows were deleted while the upgrade ran than other transactions existed then.
  - A table that the application alone changed is V(inconclusive), with the numbers.
  - Rows that the migration's transactions only added to a table are V(inconclusive) where the table is one of
    O(audit_tables), or where an event trigger, or a trigger or a rule of a table that the release is about, inserts
    into it by its name or may do so by a statement that it makes as it runs.
  - A table that was dropped, made anew, emptied or stripped of a column by a transaction that was not the migration's,
    as the catalog or the times at which it was there show, is V(inconclusive). Where a red one may be somebody else's
    doing, C(by) of what was observed is V(unknown), else V(migration).
  - Which transactions are the migration's is seen while it runs. Twenty times a second the sessions of the database are
    read, and the next transaction id; what only the migration's sessions can have been given in between is the
    migration's. A row of a transaction that may have been of either is V(inconclusive), and never called the
    application's; so is one of a migration whose run was interrupted before it was journalled.
  - The server's write counters hold also what was rolled back, and arrive late. Where they would make a table red,
    they are awaited (O(settle_seconds)).
  - Fails only if there is no baseline or a table cannot be read. Journals the step V(untouched).
extends_documentation_fragment: [login, run]
options:
  except_tables:
    description: Tables to leave out, as V(schema.table) or as a name in the search path.
    type: list
    elements: str
    default: []
  altered_tables:
    description:
      - Tables that the release adds columns to, named alike. The migration may write their rows, to fill what it adds;
        what the rows held before must stay, as far as what others wrote meanwhile lets that be told.
    type: list
    elements: str
    default: []
  audit_tables:
    description:
      - Tables to which triggers add rows, in the migration's transactions too, named alike. Rows that were only added
        are V(inconclusive), and reported; those that were there must stay.
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
attributes:
  check_mode:
    support: full
    description: Reads only. In check mode nothing is journalled either.
  diff_mode:
    support: none
    description: The proofs show what was expected and what was seen.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Compare every table with the baseline
  untouched_info:
    login_host: 172.18.0.2
    login_user: user
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    except_tables: [order_items]
  register: untouched
"""

RETURN = r"""
tables:
  description: How many tables were compared.
  type: int
  returned: always
  sample: 7
proofs:
  description:
    - One proof per table, C(untouched.<schema.table>). C(expected) and C(observed) have C(rows) and C(fingerprint).
      Where they differ C(observed) has also the C(inserted), C(updated) and C(deleted) rows since the baseline, and how
      many rows were written C(by_migration). Of a red one C(by) is C(migration) or C(unknown).
  type: list
  elements: dict
  returned: always
message:
  description: One sentence per proof that failed, else empty.
  type: str
  returned: always
  sample: ""
"""

from ansible.module_utils.dbrelease.core.options import LOGIN_OPTIONS, RUN_OPTIONS, Options
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.verify import unchanged

OPTIONS: Options = {**LOGIN_OPTIONS, **RUN_OPTIONS, **unchanged.OPTIONS}
act = unchanged.act


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
