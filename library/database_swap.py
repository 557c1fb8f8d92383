#!/usr/bin/python
"""A restored database in the place of the live one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_swap
short_description: A restored database in the place of the live one
description:
  - Stops the application's containers, saves every row that only the live database has, forbids connections, ends every
    session, renames both databases in one transaction that also allows connections again, starts the containers, and
    waits until they are healthy.
  - The rows are looked for with every table locked against writers, so that none is missed; what was looked at before
    the application stopped is looked at again only where somebody has written since; large objects are read then, each
    one, so that it is away for as long as that takes. The rows are saved in
    C(rows_since_backup_<stamp>/) of the state directory, a file of JSON lines for each table, with a script
    C(replay.sql) that writes them again, all or none of them, while triggers and rules of these tables hold still; it
    is to be run as their owner, and is refused where a row with the key of one of them was written since. A table that
    the incoming database does not know is saved whole, as CSV.
  - Each sequence of the incoming database is set as far as that of the live one, so that no key is given out twice. One
    that cannot be, as its bound is nearer or it goes the other way, is named.
  - In every outcome connections are allowed and the containers that ran before run again; where this process is killed,
    a second one sees to that. A swap that fails changes no name. A restored copy that was not swapped in is dropped, if
    a run of this target's journal made it.
  - The name of the live database is locked on the server meanwhile, against every run of whatever target that would act
    on the database; where one is at work already, the swap is refused, and names it.
  - The database that was live stays, under the name C(<login_db>_before_restore_<stamp>).
  - It proves C(restore.rows_saved), C(restore.swapped) and C(restore.services).
extends_documentation_fragment: [login, run, swap, db_container]
options:
  database:
    description: The database that takes the place of O(login_db), a restored copy or one that a swap has put aside.
    type: str
    required: true
  unknown_backup:
    description: Whether O(database) may be one that no run in this target's journal made or put aside.
    type: bool
    default: false
  maintenance_db:
    description: A database of the same server to connect to while the others change their names.
    type: str
    default: postgres
attributes:
  check_mode:
    support: full
    description: Refuses what it would refuse; stops, saves and renames nothing.
  diff_mode:
    support: full
    description: The names of the databases before and after.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Swap back what a restore has put aside
  database_swap:
    login_host: "{{ target.login_host }}"
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    database: shop_before_restore_20260102_030405
    db_container: shop_postgres
    swap:
      containers: [shop_web, shop_worker]
  register: swap
"""

RETURN = r"""
proofs:
  description: What was proved; V(skipped) in check mode.
  type: list
  elements: dict
  returned: always
message:
  description: Empty, since a red claim fails the module.
  type: str
  returned: always
database:
  description: The live database.
  type: str
  returned: always
kept:
  description: The name under which the database stays that was live; empty where there was none.
  type: str
  returned: always
swap_back_command:
  description: The command that swaps back.
  type: str
  returned: always
drop_command:
  description: The command that drops the kept database.
  type: str
  returned: always
rows:
  description:
    - The rows that only the replaced database has. C(rows) is their number, C(directory) where they are saved,
      C(large_objects) how many large objects differ (they are only counted), C(large_objects_unread) of how many that
      cannot be said, and C(tables) has for each table C(new), C(changed), C(deleted), and C(known), which is false for
      a table that the incoming database does not have.
    - C(columns) has for each table C(names), the columns that the incoming database does not have and that hold a value
      other than their constant default, and C(rows), in how many rows; such values are not replayed.
  type: dict
  returned: always
away_ms:
  description: Time from the first container's stop until all were healthy again, in milliseconds.
  type: int
  returned: always
started:
  description: The containers that were started again, also those that an earlier swap could not start.
  type: list
  elements: str
  returned: always
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.options import (
    DB_CONTAINER_OPTIONS,
    LOGIN_OPTIONS,
    RUN_OPTIONS,
    SWAP_OPTIONS,
    Options,
)
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.restore.plan import RestorePlan
from ansible.module_utils.dbrelease.restore.swap.swap import swap

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **DB_CONTAINER_OPTIONS,
    "database": {"type": "str", "required": True},
    "unknown_backup": {"type": "bool", "default": False},
    "maintenance_db": {"type": "str", "default": "postgres"},
    **SWAP_OPTIONS,
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Swap; in check mode say what would be swapped."""
    return swap(RestorePlan.of(params, check_mode), params["database"])


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
