#!/usr/bin/python
"""Put a restored database in the place of the live one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_swap
short_description: Put a restored database in the place of the live one
description:
  - Stops the application's containers, saves every row that only the live database has, forbids connections,
    terminates every session, renames both databases in one transaction that also allows connections again, starts the
    containers, and waits until they are healthy.
  - The rows are searched for with every table locked against writers, so that none is missed. Tables were read before
    the application stopped, and are read again only if they were written to since. All large objects are read while
    the application is stopped.
  - The rows are saved in C(rows_since_backup_<stamp>/) of the state directory, a file of JSON lines for each table,
    with a script C(replay.sql) that writes all of them or none, and disables the triggers and rules of these tables
    meanwhile. Run it as their owner. It refuses if a row with the key of one of them was written since. A table that
    the incoming database does not have is saved completely, as CSV.
  - Advances each sequence of the incoming database as far as that of the live one, so that no key is returned twice.
    Names the sequences that cannot be advanced, because of a bound or of another direction.
  - In every outcome connections are allowed and the containers that ran before run again; if this process is killed, a
    second one does that. A swap that fails changes no name. A restored copy that was not swapped in is dropped, if a
    run in this target's journal made it.
  - Locks the name of the live database on the server meanwhile, against the runs of all targets that would act on it.
    If such a run is active, the swap is refused, and names it.
  - The previous database is kept, under the name C(<login_db>_before_restore_<stamp>).
  - Proves C(restore.rows_saved), C(restore.swapped) and C(restore.services).
extends_documentation_fragment: [login, run, swap, db_container]
options:
  database:
    description: The database that takes the place of O(login_db), a restored copy or one that a swap has kept.
    type: str
    required: true
  unknown_backup:
    description: Whether O(database) may be one that no run in this target's journal made or kept.
    type: bool
    default: false
  maintenance_db:
    description: A database of the same server to connect to while the others are renamed.
    type: str
    default: postgres
attributes:
  check_mode:
    support: full
    description: Makes the same checks, and may refuse; stops, saves and renames nothing.
  diff_mode:
    support: full
    description: The names of the databases before and after.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Swap back the database that a restore has kept
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
  description: Empty, because a failed proof fails the module.
  type: str
  returned: always
database:
  description: The live database.
  type: str
  returned: always
kept:
  description: The name under which the previous database is kept; empty if there was none.
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
      C(large_objects) how many large objects differ (they are only counted), C(large_objects_unread) for how many this
      cannot be determined, and C(tables) has for each table C(new), C(changed), C(deleted), and C(known), which is
      false for a table that the incoming database does not have.
    - C(columns) has for each table C(names), the columns that the incoming database does not have and that contain a
      value other than their constant default, and C(rows), the number of such rows; these values are not replayed.
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
    """Swap; in check mode report what would be swapped."""
    return swap(RestorePlan.of(params, check_mode), params["database"])


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
