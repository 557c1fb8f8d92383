#!/usr/bin/python
"""Record what a target's queue and logs are like before a release."""

from __future__ import annotations

DOCUMENTATION = r"""
module: monitor_baseline
short_description: Record the state of a target's queue and logs before a release
description:
  - Queries the number of waiting tasks, and reads the errors of the last C(window_seconds) in each log, as the section
    C(monitoring) of the release declares both. The results are journaled as step C(monitor_baseline).
  - M(monitor_sample) compares its samples with them, so that a release is not blamed for earlier problems.
  - It records the errors that recur and do not concern the release, each kind with its number, never with data.
    Lines that were logged while the release was deployed, before it was rolled back, are ignored.
  - A broker that does not answer, or a log that cannot be read, is no failure here; a sample reports the same problem.
extends_documentation_fragment: [run]
options:
  monitoring:
    description: The release's section of that name.
    type: dict
    required: true
  containers:
    description: The containers by service. A service without a container is skipped.
    type: dict
    required: true
  login_password:
    description: The password of the database, which is masked wherever a log shows it.
    type: str
attributes:
  check_mode:
    support: full
    description: Observes as usual; the journal is not written.
  diff_mode:
    support: none
    description: There is nothing to compare.
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Record how much work waits for the worker, and which errors are logged anyway
  monitor_baseline:
    run: "{{ run }}"
    containers: {redis: shop_redis, backend: shop_backend}
    monitoring:
      window_seconds: 900
      queue: {service: redis, command: [redis-cli, llen, celery], limit: 1000}
      logs:
        - name: backend_log
          title: No errors in the backend's log
          service: backend
          event: '^\S+ \S+ (?P<level>[A-Z]+) '
          errors: [ERROR, CRITICAL]
"""

RETURN = r"""
queue:
  description:
    - The number of waiting tasks, in C(depth); V(null) where the broker did not report it, with the C(reason). Empty
      where there is no broker.
  type: dict
  returned: always
  sample: {depth: 3, reason: ""}
logs:
  description:
    - Of each log that the target has C(seconds), how long was read; C(errors), how many there were; and C(kinds), of
      those that recur the number (C(count)) and the most within a minute (C(most)), by what they have in common. Where
      a log could not be read C(unread) says why.
  type: dict
  returned: always
  sample: {backend_log: {seconds: 900.0, errors: 3, kinds: {"#-#-# ERROR no answer of #": {count: 3, most: 1}}}}
"""

import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.clock import SECOND_NS
from ansible.module_utils.dbrelease.core.history import BASELINE, Memory
from ansible.module_utils.dbrelease.core.journal import Journal
from ansible.module_utils.dbrelease.core.options import RUN_OPTIONS, Options, run_of
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.monitor.logs import logs_of, usual_errors
from ansible.module_utils.dbrelease.monitor.queue import read_queue

OPTIONS: Options = {
    **RUN_OPTIONS,
    "monitoring": {"type": "dict", "required": True},
    "containers": {"type": "dict", "required": True},
    "login_password": {"type": "str", "no_log": True},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Ask and read, and journal the answers."""
    monitoring, containers = params["monitoring"], params["containers"]
    journal = Journal(run_of(params), dry=check_mode)
    now_ns = time.time_ns()
    taken_back_ns = Memory.of(journal.read(), journal.run).taken_back_ns or 0
    begin_ns = max(now_ns - monitoring["window_seconds"] * SECOND_NS, taken_back_ns)
    queue: dict[str, Any] = {}
    with journal.step(BASELINE) as step:
        declared = monitoring.get("queue")
        if declared and containers.get(declared["service"]):
            depth, reason = read_queue(declared["command"], containers[declared["service"]])
            queue = {"depth": depth, "reason": reason}
        logs = usual_errors(logs_of(monitoring, containers, params["login_password"]), begin_ns, now_ns)
        step.facts.update(queue=queue, logs=logs)
    return {"changed": False, "queue": queue, "logs": logs}


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
