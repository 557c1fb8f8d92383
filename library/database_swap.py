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
  - The rows are looked for with every table locked against writers, so that none is missed. They are saved in
    C(rows_since_backup_<stamp>/) of the state directory, a file of JSON lines for each table, with a script
    C(replay.sql) that writes them again. A table that the incoming database does not know is saved too, and marked.
  - In every outcome connections are allowed and the containers that ran before run again; where this process is killed,
    a second one sees to that. A swap that fails changes no name. A restored copy that was not swapped in is dropped.
  - The database that was live stays, under the name C(<login_db>_before_restore_<stamp>).
  - It proves C(restore.rows_saved), C(restore.swapped) and C(restore.services).
extends_documentation_fragment: [login, run]
options:
  database:
    description: The database that takes the place of O(login_db), a restored copy or one that a swap has put aside.
    type: str
    required: true
  containers:
    description: The application's containers. Only those that run are stopped and started; empty names are left out.
    type: list
    elements: str
    default: []
  db_container:
    description: The database's container, to find the server again if it restarts meanwhile.
    type: str
    default: ""
  maintenance_db:
    description: A database of the same server to connect to while the others change their names.
    type: str
    default: postgres
  bookkeeping_table:
    description: The table that holds the database's revision. Its row is saved, and left out of the script.
    type: str
    default: alembic_version
  stop_seconds:
    description: How long a container may take to stop before it is killed.
    type: int
    default: 10
  healthy_seconds:
    description: How long the containers may take to be healthy again.
    type: int
    default: 120
  swap_back_command:
    description: For the report, the command that swaps back; C({database}) stands for the name of the kept database.
    type: str
    default: ""
  drop_command:
    description: For the report, the command that drops the kept database; C({database}) stands for its name.
    type: str
    default: ""
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
- name: Put the restored copy in place
  database_swap:
    login_host: "{{ target.login_host }}"
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    database: "{{ restored.database }}"
    containers: [shop_web, shop_worker]
    db_container: shop_postgres
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
      C(large_objects) how many large objects differ (they are only counted), and C(tables) has for each table C(new),
      C(changed), C(deleted), and C(known), which is false for a table that the incoming database does not have.
  type: dict
  returned: always
away_ms:
  description: Time from the first container's stop until all were healthy again, in milliseconds.
  type: int
  returned: always
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.module import LOGIN_OPTIONS, RUN_OPTIONS, Options, run_module
from ansible.module_utils.dbrelease.swap import swap

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    "database": {"type": "str", "required": True},
    "containers": {"type": "list", "elements": "str", "default": []},
    "db_container": {"type": "str", "default": ""},
    "maintenance_db": {"type": "str", "default": "postgres"},
    "bookkeeping_table": {"type": "str", "default": "alembic_version"},
    "stop_seconds": {"type": "int", "default": 10},
    "healthy_seconds": {"type": "int", "default": 120},
    "swap_back_command": {"type": "str", "default": ""},
    "drop_command": {"type": "str", "default": ""},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Swap; in check mode say what would be swapped."""
    return swap(params, check_mode)


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
