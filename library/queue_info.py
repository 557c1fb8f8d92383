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
  service:
    description: Whose container the command runs in.
    type: str
    required: true
  command:
    description: Prints the number of tasks that wait.
    type: list
    elements: str
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
    service: redis
    command: [redis-cli, llen, celery]
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
from ansible.module_utils.dbrelease.target import no_container

OPTIONS: Options = {
    **RUN_OPTIONS,
    "service": {"type": "str", "required": True},
    "command": {"type": "list", "elements": "str", "required": True},
    "containers": {"type": "dict", "required": True},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Ask, and journal the answer."""
    container = params["containers"].get(params["service"])
    if not container:
        return {"changed": False, "depth": None, "reason": no_container(params["service"])}
    with Journal(run_of(params), dry=check_mode).step(QUEUE_BASELINE) as step:
        depth, reason = read_queue(params["command"], container)
        step.facts.update(depth=depth, reason=reason)
    return {"changed": False, "depth": depth, "reason": reason}


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
