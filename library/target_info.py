#!/usr/bin/python
"""The state of a target's services, and where its database answers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: target_info
short_description: The state of a target's services, and where its database answers
description:
  - Asks the container engine about the containers that the inventory names, and finds the address of the database.
  - A container that is missing or stopped is a fact, not a failure. The address is then empty and RV(address_problem)
    says why.
  - Fails only if containers are named and the container engine cannot be reached. Without containers it is not asked.
options:
  containers:
    description: The container of each service. A service that is not named here is absent from the result.
    type: dict
    default: {}
  db_host:
    description:
      - Where the database is, if the target says so itself.
      - By default found from the container of the service V(db), which is its published port, else its address on its
        network (of several networks the first on which the port answers).
    type: str
  db_port:
    description: The port at O(db_host), or inside the container. By default 5432.
    type: int
attributes:
  check_mode:
    support: full
    description: Reads only, in check mode too.
  diff_mode:
    support: none
    description: There is nothing to compare.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Look at the target
  target_info:
    containers:
      backend: shop_backend
      db: shop_postgres
  register: target
"""

RETURN = r"""
services:
  description:
    - What is known of each named service, by its name. C(container), C(status) (the engine's word, or V(missing)),
      C(health) (V(healthy), V(unhealthy), V(starting), or V(none) without a health check), C(since) (when it came to
      that status, UTC, ISO 8601) and C(image).
  type: dict
  returned: always
  sample:
    db:
      container: shop_postgres
      status: running
      health: healthy
      since: "2026-01-02T03:04:05.000+00:00"
      image: "postgres:14"
login_host:
  description: Where the database answers; empty if that could not be found.
  type: str
  returned: always
  sample: 172.18.0.2
login_port:
  description: The port there.
  type: int
  returned: always
  sample: 5432
address_problem:
  description: One sentence on why there is no address and what to do; empty if there is one.
  type: str
  returned: always
  sample: ""
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.module import Options, run_module
from ansible.module_utils.dbrelease.target import look

OPTIONS: Options = {
    "containers": {"type": "dict", "default": {}},
    "db_host": {"type": "str"},
    "db_port": {"type": "int"},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Read in both modes."""
    return look(params["containers"], params["db_host"], params["db_port"])


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
