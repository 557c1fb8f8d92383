#!/usr/bin/python
"""Record how much work waits for a worker."""

from __future__ import annotations

DOCUMENTATION = r"""
module: queue_info
short_description: Record how much work waits for a worker
description:
  - Asks the broker, as the release's monitoring declares it, and journals the answer as step C(queue_baseline).
  - M(monitor_sample) holds the queue against it, so that a release is not blamed for what waited before it.
  - A broker that does not answer is no failure here; a sample that cannot ask it is one.
extends_documentation_fragment: [run]
options:
  queue:
    description: The section of that name in the release's monitoring.
    type: dict
    required: true
    suboptions:
      service:
        description: Whose container the command runs in.
        type: str
        required: true
      command:
        description: Prints the number of tasks that wait.
        type: list
        elements: str
        required: true
      limit:
        description: The most that may wait. It is M(monitor_sample) that holds the queue to it.
        type: int
        required: true
  containers:
    description: The containers by service. Where it names none of that service, nothing is asked.
    type: dict
    required: true
attributes:
  check_mode:
    support: full
    description: Asks as ever; the journal is not written.
  diff_mode:
    support: none
    description: There is nothing to compare.
author: The authors of dbrelease
"""

EXAMPLES = r"""
- name: Record how much work waits for the worker
  queue_info:
    run: "{{ run }}"
    queue: {service: redis, command: [redis-cli, llen, celery], limit: 1000}
    containers: {redis: shop_redis}
"""

RETURN = r"""
depth:
  description: How many tasks wait; V(null) where the broker did not tell.
  type: int
  returned: always
  sample: 3
reason:
  description: Why it did not; empty where it did.
  type: str
  returned: always
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.journal import Journal
from ansible.module_utils.dbrelease.module import RUN_OPTIONS, Options, run_module, run_of
from ansible.module_utils.dbrelease.monitor.memory import QUEUE_BASELINE
from ansible.module_utils.dbrelease.monitor.queue import read_queue

OPTIONS: Options = {
    **RUN_OPTIONS,
    "queue": {
        "type": "dict",
        "required": True,
        "options": {
            "service": {"type": "str", "required": True},
            "command": {"type": "list", "elements": "str", "required": True},
            "limit": {"type": "int", "required": True},
        },
    },
    "containers": {"type": "dict", "required": True},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Ask, and journal the answer."""
    container = params["containers"].get(params["queue"]["service"])
    if not container:
        return {
            "changed": False,
            "depth": None,
            "reason": f"The inventory names no container of the service {params['queue']['service']}.",
        }
    with Journal(run_of(params), dry=check_mode).step(QUEUE_BASELINE) as step:
        depth, reason = read_queue(params["queue"]["command"], container)
        step.facts.update(depth=depth, reason=reason)
    return {"changed": False, "depth": depth, "reason": reason}


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
