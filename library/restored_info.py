#!/usr/bin/python
"""Whether the database is again what it was before the release."""

from __future__ import annotations

DOCUMENTATION = r"""
module: restored_info
short_description: Whether the database is as it was before the release
description:
  - Compares the database with the release's last baseline and backup in the journal, which record every table's rows,
    the results of the release's observations, and a hash of what pg_dump wrote of each object of the database.
  - It names objects that differ. The catalog is V(inconclusive) where it cannot be read, as where C(db_user) may not
    lock a table, and where it differs and another version of the server or of pg_dump described it.
  - A table that the application alone changed since is V(inconclusive), with the numbers, as M(verification_info)
    decides it; an observation that differs is then V(inconclusive), too.
  - Fails only if it could not check. Journals the step V(as_before).
extends_documentation_fragment: [login, run, db_container]
options:
  created:
    description: The tables that the release creates, which must not exist.
    type: list
    elements: str
    default: []
  dropped:
    description: Tables that the release drops. With O(reversible=lossy) their rows are not compared.
    type: list
    elements: str
    default: []
  reversible:
    description:
      - C(migration.reversible) of the release. With V(lossy) only those columns of a changed table are compared that
        the release left alone, and the others are named.
    type: str
    choices: ["true", lossy, "false"]
    default: "true"
  altered:
    description: The tables that the release adds to; of these the migration may have written rows.
    type: list
    elements: str
    default: []
  audit_tables:
    description: Tables to which triggers add rows, as M(verification_info) has them.
    type: list
    elements: str
    default: []
  settle_seconds:
    description: How long to wait for the counters of other sessions before a table fails without them.
    type: float
    default: 11.0
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
- name: Compare with the baseline
  restored_info:
    login_host: 172.18.0.2
    login_user: user
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    created: [order_items]
  register: restored
"""

RETURN = r"""
compared:
  description: Whether there was a baseline to compare with.
  type: bool
  returned: always
proofs:
  description:
    - C(restored.catalog), C(restored.<schema.table>), C(restored.<created table>.absent) and
      C(restored.observation.<name>).
  type: list
  elements: dict
  returned: always
message:
  description: One sentence for each proof that failed, else empty.
  type: str
  returned: always
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.options import DB_CONTAINER_OPTIONS, LOGIN_OPTIONS, RUN_OPTIONS, Options
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.rollback.back_to_baseline import compare_restored
from ansible.module_utils.dbrelease.verify.write_attribution import SETTLE_SECONDS

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **DB_CONTAINER_OPTIONS,
    "created": {"type": "list", "elements": "str", "default": []},
    "altered": {"type": "list", "elements": "str", "default": []},
    "dropped": {"type": "list", "elements": "str", "default": []},
    "reversible": {"type": "str", "choices": ["true", "lossy", "false"], "default": "true"},
    "audit_tables": {"type": "list", "elements": "str", "default": []},
    "settle_seconds": {"type": "float", "default": SETTLE_SECONDS},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Read in both modes."""
    return compare_restored(params, check_mode)


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
