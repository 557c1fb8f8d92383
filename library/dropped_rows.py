#!/usr/bin/python
"""Save the rows that a rollback will lose."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dropped_rows
short_description: Save the rows that a rollback will lose, with a script to put them back
description:
  - Writes for each table C(lost_rows_<table>_<stamp>.tsv), in the text format of COPY, and beside it the script
    C(lost_rows_<table>_<stamp>_replay.sql), all of one instant of the database, with mode 0600 and synced to disk. The
    script also advances each sequence that a column of the table owns as far as the rows, and never moves it back.
  - Refuses, and leaves no file, unless there are exactly O(expected) rows, or while a transaction that wrote to their
    table, or to a partition of it, is still open.
  - A second call in the same run writes nothing. Journals the step V(lost_rows) with the files and their sha256.
extends_documentation_fragment: [login, run]
options:
  losses:
    description: The tables, and which of their rows will be lost.
    type: list
    elements: dict
    required: true
    suboptions:
      table:
        description: Name of the table.
        type: str
        required: true
      key:
        description: Columns that identify its rows.
        type: list
        elements: str
      rows:
        description: A SELECT that returns at least the key of each of the rows. It cannot write. By default all rows.
        type: str
  expected:
    description: The number of rows that must exist.
    type: int
    required: true
attributes:
  check_mode:
    support: full
    description: Nothing is read or written.
  diff_mode:
    support: none
    description: The rows are in the files.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Save the rows that will be lost
  dropped_rows:
    login_host: 172.18.0.2
    login_user: user
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    losses:
      - {table: order_items, key: [id], rows: SELECT id FROM order_items WHERE order_id IS NULL}
    expected: 3
"""

RETURN = r"""
rows:
  description: How many rows were saved.
  type: int
  returned: always
files:
  description:
    - For each table of which rows were saved C(path), its C(sha256), C(replay) (the script to put them back) and
      C(rows); empty in check mode.
  type: list
  elements: dict
  returned: always
session_settings:
  description: A setting for the sessions of the downgrade, which makes it refuse rows that were written since.
  type: dict
  returned: always
proofs:
  description: C(rollback.lost_rows).
  type: list
  elements: dict
  returned: always
message:
  description: Always empty; an error is a failure.
  type: str
  returned: always
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.options import LOGIN_OPTIONS, RUN_OPTIONS, Options
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.rollback.dropped_rows import save_lost_rows

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    "losses": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "table": {"type": "str", "required": True},
            "key": {"type": "list", "elements": "str", "no_log": False},
            "rows": {"type": "str"},
        },
        "required_together": [["key", "rows"]],
    },
    "expected": {"type": "int", "required": True},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Save, or report what would be saved."""
    return save_lost_rows(params, check_mode)


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
