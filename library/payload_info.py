#!/usr/bin/python
"""Are the files of a release where the application needs them?"""

from __future__ import annotations

DOCUMENTATION = r"""
module: payload_info
short_description: Are the files of a release where the application needs them?
description:
  - Compares the sha256 of each file of the payload with what stands at its destination, in the backend's container or
    on the target itself.
  - As a task it fails where they are not as they must be, with what to do.
extends_documentation_fragment: [run, backend]
options:
  payload:
    description:
      - Files as M(release_info) returns them, with C(source), C(destination) and C(sha256).
      - Where one has a C(folder), a link on the way to its destination may not lead out of it.
    type: list
    elements: dict
    required: true
  revision:
    description: The revision that the release brings.
    type: str
    required: true
attributes:
  check_mode:
    description: Reads only. In check mode nothing was copied, so a missing file is V(skipped) and not red.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Prove that the files are there
  payload_info:
    run: "{{ opened.run }}"
    backend_container: shop_backend
    revision: 2b3c4d5e6f70
    payload: "{{ read.release.migration.payload }}"
"""

RETURN = r"""
states:
  description: For each destination its sha256, or one word on what is there instead, such as V(missing) or V(outside).
  type: dict
  returned: always
proofs:
  description: The claim C(migrate.payload).
  type: list
  elements: dict
  returned: always
message:
  description: One sentence for each proof that does not hold; as a task it then fails, and C(msg) has them.
  type: str
  returned: always
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.dbrelease.core.journal import Journal
from ansible.module_utils.dbrelease.core.options import BACKEND_OPTIONS, RUN_OPTIONS, run_of
from ansible.module_utils.dbrelease.core.proof import sentence
from ansible.module_utils.dbrelease.host.commands import commands_in
from ansible.module_utils.dbrelease.migrate.payload import in_place
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.preflight.gather import ROOT
from ansible.module_utils.dbrelease.preflight.places import read_payload
from ansible.module_utils.dbrelease.release.requirements import PayloadFile

OPTIONS: dict[str, dict[str, Any]] = {
    **RUN_OPTIONS,
    **BACKEND_OPTIONS,
    "payload": {"type": "list", "elements": "dict", "required": True},
    "revision": {"type": "str", "required": True},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Look at each destination, and judge."""
    files = [PayloadFile.of(item) for item in params["payload"]]
    with Journal(run_of(params), dry=check_mode).step("payload") as step:
        seen = read_payload(commands_in(params["backend_container"] or None, user=ROOT), files, params["revision"])
        proof = in_place(files, seen.states, planned=check_mode)
        step.prove(proof)
    return {"states": dict(seen.states), "proofs": [proof.as_dict()], "message": sentence([proof.as_dict()])}


def main() -> None:
    """Ansible's way in."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
