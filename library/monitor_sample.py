#!/usr/bin/python
"""Take one sample of a deployed release, and judge it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: monitor_sample
short_description: Take one sample of a deployed release, and judge it
description:
  - Observes the revision and everything that the release's section C(monitoring) declares once, and journals it as step
    C(sample). It includes the errors in the logs of containers, the answers of the API, connections, growth, drift, the
    worker's queue, the lag of standbys and dead rows. Undeclared sections, and services that the target does not have,
    are skipped.
  - It waits until the sample is due, O(watch.interval_seconds) after the run's last one, and signals meanwhile that
    the run is alive; it is refused where another run has claimed the target.
  - Each log is read in a half-open window that starts at the end of the previous sample's; the first one since the
    release was deployed starts with the deployment. Lines that continue an event (a traceback) belong to it.
  - A problem that M(monitor_baseline) and the backup recorded before the release is no failure unless it became worse.
  - A failed sample does not fail the task; M(monitor_watch) judges the window. The module fails only if the journal
    cannot be read or written, or if the run may no longer act.
extends_documentation_fragment: [login, run, api]
options:
  watch:
    description: The watch that the sample belongs to, as M(monitor_watch) returned it.
    type: dict
    required: true
    suboptions:
      started_at:
        description: When it started, RFC 3339.
        type: str
        required: true
      seconds:
        description: How long it lasts.
        type: int
        required: true
      interval_seconds:
        description: The time between two samples.
        type: int
        required: true
  monitoring:
    description: The release's section of that name.
    type: dict
    required: true
  revision:
    description: The revision that the database must be at.
    type: str
    required: true
  checks:
    description: The release's checks; those that C(monitoring.drift) names are counted.
    type: list
    elements: dict
    default: []
  tables:
    description: The release's C(tables), whose dead rows and size are read.
    type: dict
    default: {}
  api:
    description: The release's C(api); empty where it declares none.
    type: dict
    default: {}
  containers:
    description: The container of each service by the service's name; empty where the target has none.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Observes as usual; the journal is not written.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Take a sample
  monitor_sample:
    login_host: 172.18.0.2
    login_user: shop
    login_password: "{{ db_password }}"
    login_db: shop
    run: "{{ run }}"
    watch: "{{ watch.watch }}"
    revision: 3c4d5e6f7a8b
    containers: {backend: shop_backend, db: shop_postgres}
    monitoring:
      window_seconds: 900
      limits: {failed_samples: 3, consecutive_failed_samples: 2}
      logs:
        - name: backend_log
          title: No errors in the backend's log
          service: backend
          event: '^\S+ \S+ (?P<level>[A-Z]+) '
          errors: [ERROR, CRITICAL]
  register: sample
"""

RETURN = r"""
verdict:
  description: V(pass); V(fail) if one claim failed; else V(inconclusive) if one was inconclusive.
  type: str
  returned: always
line:
  description: The sample on one readable line.
  type: str
  returned: always
sample:
  description:
    - The observations, as in the journal. C(claims) has each claim with C(name), C(verdict), C(detail), C(grave),
      which marks a finding about the release itself, and C(could_not_run), which marks one that the server did not
      answer.
  type: dict
  returned: always
ended:
  description: Whether no further sample is due, because the window is over or has failed already.
  type: bool
  returned: always
proofs:
  description: Empty; a sample proves nothing alone.
  type: list
  elements: dict
  returned: always
message:
  description: Empty.
  type: str
  returned: always
"""

import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.history import SAMPLE, Before, Memory, Sample, last_sample_ns
from ansible.module_utils.dbrelease.core.options import API_OPTIONS, LOGIN_OPTIONS, RUN_OPTIONS, Options
from ansible.module_utils.dbrelease.core.progress import ReadBy, progress_of
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.monitor.sample import Target, line, release_tables, take
from ansible.module_utils.dbrelease.monitor.window import Watch, exceeded
from ansible.module_utils.dbrelease.runs.exclusive import demand_not_taken_over
from ansible.module_utils.dbrelease.runs.work import Work

OPTIONS: Options = {
    **LOGIN_OPTIONS,
    **RUN_OPTIONS,
    **API_OPTIONS,
    "watch": {
        "type": "dict",
        "required": True,
        "options": {
            "started_at": {"type": "str", "required": True},
            "seconds": {"type": "int", "required": True},
            "interval_seconds": {"type": "int", "required": True},
        },
    },
    "monitoring": {"type": "dict", "required": True},
    "revision": {"type": "str", "required": True},
    "checks": {"type": "list", "elements": "dict", "default": []},
    "tables": {"type": "dict", "default": {}},
    "api": {"type": "dict", "default": {}},
    "containers": {"type": "dict", "default": {}},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Take the sample, and journal it."""
    work, watch = Work.of(params, check_mode), Watch.of(params["watch"])
    run, journal = work.run, work.journal
    # Here and not on the controller: a run whose modules are silent for some seconds is taken for dead.
    with progress_of(None if check_mode else run, "watch", ReadBy(watch.progress)):
        time.sleep(watch.wait_s(last_sample_ns(journal.read(), run.run_id), time.time_ns()))
    lines = journal.read()
    demand_not_taken_over(run, lines)
    memory = Memory.of(lines, run)
    release = {
        **{key: params[key] for key in ("monitoring", "checks", "api", "revision")},
        "tables": release_tables(params["tables"]),
    }
    target = Target(work.login, params["containers"], params["api_base_url"], params.get("api_ca_file") or "")
    facts = take(target, release, memory, Before.of(lines, run), watch.begin_ns)
    now_ns = time.time_ns()
    journal.append(SAMPLE, "failed" if facts["verdict"] == "fail" else "passed", facts)
    window = [*memory.since(watch.begin_ns), Sample(now_ns, facts)]
    return {
        "verdict": facts["verdict"],
        "line": line(facts),
        "sample": facts,
        "ended": watch.is_over(now_ns) or exceeded(window, params["monitoring"]["limits"]),
        "proofs": [],
        "message": "",
    }


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
