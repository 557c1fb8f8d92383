"""The user and the process of this playbook: with them the target's next run detects whether this one is alive."""

from __future__ import annotations

import getpass
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase  # type: ignore[import-untyped]

DOCUMENTATION = r"""
name: controller
author: The authors of dbrelease
short_description: The process that runs this playbook
description:
  - Names the user, the machine and the C(ansible-playbook) process, so that a claim on a target shows later whether
    its holder is still running.
  - Where the machine has no C(/proc), C(started), C(boot_id) and C(pid_namespace) are empty.
"""

EXAMPLES = r"""
- name: Open the run
  run:
    release: "2026_04"
    environment: staging
    playbook: deploy
    state_dir: /srv/shop/releases
    exclusive: true
    controller: "{{ lookup('controller') }}"
"""

RETURN = r"""
_raw:
  description: C(user), C(host), C(pid), C(started) (clock ticks since the machine's start), C(boot_id) and
    C(pid_namespace).
  type: list
  elements: dict
"""


class LookupModule(LookupBase):  # type: ignore[misc]
    """See DOCUMENTATION."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[dict[str, Any]]:
        """One dict; the terms are ignored."""
        # Templates are rendered in forked workers, which end with their task.
        parent = multiprocessing.parent_process()
        pid = (parent.pid if parent else None) or os.getpid()
        stat = _read(f"/proc/{pid}/stat")
        return [
            {
                "user": os.environ.get("SUDO_USER") or getpass.getuser(),
                "host": socket.gethostname(),
                "pid": pid,
                # The program's name, in brackets, may itself contain blanks and brackets.
                "started": stat.rpartition(")")[2].split()[19] if stat else "",
                "boot_id": _read("/proc/sys/kernel/random/boot_id").strip(),
                "pid_namespace": _link("/proc/self/ns/pid"),
            }
        ]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
