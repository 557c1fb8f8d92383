#!/usr/bin/python
"""Begin a watch of a deployed release, and judge its samples."""

from __future__ import annotations

DOCUMENTATION = r"""
module: monitor_watch
short_description: Start a watch of a deployed release, and judge its samples
description:
  - A watch is a window of time in which M(monitor_sample) takes samples. The journal records it as step C(monitor).
  - The next watch resumes one that was killed. Its window continues from its start, and its samples count, unless it
    was idle for an hour longer than its duration. Beside a watch whose controller is running, as far as the target can
    detect, another window starts.
  - A claim of the watch fails if one of its failures concerns the release, if the number of failed samples, in total or
    in a row, reaches the release's limits, or if every sample failed. It is inconclusive if any sample failed or was
    inconclusive, or if the watched time is too short to prove it.
extends_documentation_fragment: [run]
options:
  state:
    description:
      - V(begun) starts a watch or resumes it.
      - V(judged) judges its samples and ends it; it fails if one of the claims fails.
    type: str
    choices: [begun, judged]
    required: true
  monitoring:
    description:
      - The release's section of that name.
      - Empty where it has none; O(state=begun) then journals the step as skipped, and no sample is due.
    type: dict
    required: true
  seconds:
    description: How long to watch, from V(0) (one sample) to V(172800); needed with O(state=begun).
    type: int
  interval_seconds:
    description: The time between two samples, V(1) or more; needed with O(state=begun).
    type: int
  watch:
    description: The watch to judge, as it was returned; needed with O(state=judged).
    type: dict
attributes:
  check_mode:
    description: No sample is due, and nothing is written.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Start the watch
  monitor_watch:
    state: begun
    run: "{{ run }}"
    monitoring: "{{ release.monitoring }}"
    seconds: 900
    interval_seconds: 30
  register: watch

- name: Judge the samples
  monitor_watch:
    state: judged
    run: "{{ run }}"
    monitoring: "{{ release.monitoring }}"
    watch: "{{ watch.watch }}"
"""

RETURN = r"""
watch:
  description: The watch, with C(started_at), C(seconds) and C(interval_seconds).
  type: dict
  returned: always
samples:
  description:
    - The maximum number of samples that are due, the first of them immediately; V(0) where there is nothing to do.
    - Never more than fit into O(seconds) with O(interval_seconds), whatever the target answers.
  type: int
  returned: always
resumed:
  description: Whether a watch that was killed is resumed.
  type: bool
  returned: always
taken:
  description: How many samples the window has so far.
  type: int
  returned: always
deployed_at:
  description: When the release was deployed here, RFC 3339; empty where the journal does not record it.
  type: str
  returned: always
proofs:
  description: One for each claim, C(monitor.<claim>); empty with O(state=begun).
  type: list
  elements: dict
  returned: always
message:
  description: One sentence for each claim that failed.
  type: str
  returned: always
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.journal import Journal
from ansible.module_utils.dbrelease.core.options import RUN_OPTIONS, Options, run_of
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.monitor.watch import begin, finish, nothing_to_watch

OPTIONS: Options = {
    **RUN_OPTIONS,
    "state": {"type": "str", "choices": ["begun", "judged"], "required": True},
    "monitoring": {"type": "dict", "required": True},
    "seconds": {"type": "int"},
    "interval_seconds": {"type": "int"},
    "watch": {"type": "dict"},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Begin or end."""
    journal = Journal(run_of(params), dry=check_mode)
    if params["state"] == "judged":
        return finish(journal, params["monitoring"], params["watch"] or {})
    if not params["monitoring"]:
        return nothing_to_watch(journal)
    seconds = params["seconds"] if params["seconds"] is not None else -1
    return begin(journal, seconds, params["interval_seconds"] or 0)


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
