#!/usr/bin/python
"""Put the files of a release where the application needs them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: payload
short_description: Put the files of a release where the application needs them
description:
  - Puts each file in the backend's container, or on the target itself, as a new file of mode 0644.
  - On the target it never replaces a file, and never writes through a link that leads out of the folder of the file.
  - The files are read where Ansible runs; one that has changed since the release was read is refused.
extends_documentation_fragment: [run, backend]
options:
  payload:
    description:
      - The files that are missing, as M(release_info) returns them, with C(path), C(destination) and C(sha256).
      - The action of this module adds what each of them holds, in C(content) (base64).
    type: list
    elements: dict
    required: true
attributes:
  check_mode:
    description: Nothing is put anywhere.
    support: full
  diff_mode:
    description: Each file is new.
    support: none
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Copy what is missing
  payload:
    run: "{{ opened.run }}"
    backend_container: shop_backend
    payload: "{{ read.release.migration.payload }}"
"""

RETURN = r"""
copied:
  description: The destinations of the files that were put there, or would be.
  type: list
  elements: str
  returned: success
"""

import base64
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.journal import Journal
from ansible.module_utils.dbrelease.core.options import BACKEND_OPTIONS, RUN_OPTIONS, Options, run_of
from ansible.module_utils.dbrelease.migrate.payload_copy import copy_to_container, copy_to_target
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.release.requirements import PayloadFile
from ansible.module_utils.dbrelease.runs.exclusive import acting

OPTIONS: Options = {
    **RUN_OPTIONS,
    **BACKEND_OPTIONS,
    "payload": {"type": "list", "elements": "dict", "required": True},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Put each file in its place."""
    run, files = run_of(params), params["payload"]
    copied = [item["destination"] for item in files]
    with Journal(run, dry=check_mode).step("payload_copy") as step, acting(run, dry=check_mode):
        step.facts["copied"] = copied
        for item in [] if check_mode else files:
            content = base64.b64decode(item["content"], validate=True)
            if container := params["backend_container"]:
                copy_to_container(PayloadFile.of(item), content, container)
            else:
                copy_to_target(PayloadFile.of(item), content)
    return {"changed": bool(files), "copied": copied}


def main() -> None:
    """Ansible's way in."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
