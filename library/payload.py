#!/usr/bin/python
"""Put the files of a release where the application needs them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: payload
short_description: Put the files of a release where the application needs them
description:
  - Puts each file that is missing in the backend's container, or on the target itself, as a new file of mode 0644.
  - On the target it never replaces a file, and never writes through a link that leads out of the folder of the file.
  - The files are read where Ansible runs; one that has changed since the release was read is refused.
  - Then compares the sha256 of every file of the payload with the file at its destination. As a task it fails where
    they differ, with the remedy.
extends_documentation_fragment: [run, backend]
options:
  payload:
    description:
      - The files, as M(release_info) returns them, with C(path), C(destination) and C(sha256).
      - Where one has a C(folder), a link in the path of its destination may not lead out of it.
      - The action of this module adds the content of each file to copy, in C(content) (base64).
    type: list
    elements: dict
    required: true
  copy:
    description: The destinations of the files to copy, those that are missing. By default all.
    type: list
    elements: str
attributes:
  check_mode:
    description: Nothing is put anywhere, so a file that is missing is V(skipped) and not red.
    support: full
  diff_mode:
    description: Each file is new.
    support: none
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Copy what is missing, and prove that all files are there
  payload:
    run: "{{ opened.run }}"
    backend_container: shop_backend
    payload: "{{ read.release.migration.payload }}"
    copy: "{{ preflight.payload_missing }}"
"""

RETURN = r"""
copied:
  description: The destinations of the files that were put there, or would be.
  type: list
  elements: str
  returned: success
states:
  description: For each destination its sha256, or what exists there instead, such as V(missing) or V(outside).
  type: dict
  returned: success
proofs:
  description: The claim C(migrate.payload).
  type: list
  elements: dict
  returned: success
message:
  description: One sentence for each proof that failed; as a task the module then fails, and C(msg) has them.
  type: str
  returned: success
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.dbrelease.core.journal import Journal
from ansible.module_utils.dbrelease.core.options import BACKEND_OPTIONS, RUN_OPTIONS, Options, run_of
from ansible.module_utils.dbrelease.core.proof import sentence
from ansible.module_utils.dbrelease.host.commands import commands_in
from ansible.module_utils.dbrelease.migrate.payload import in_place
from ansible.module_utils.dbrelease.migrate.payload_copy import copy_to_container, copy_to_target
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.preflight.places import ROOT, read_payload
from ansible.module_utils.dbrelease.release.requirements import PayloadFile
from ansible.module_utils.dbrelease.runs.exclusive import acting

OPTIONS: Options = {
    **RUN_OPTIONS,
    **BACKEND_OPTIONS,
    "payload": {"type": "list", "elements": "dict", "required": True},
    "copy": {"type": "list", "elements": "str"},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Put each file that is missing in its place, then read each destination, and judge."""
    journal, payload, asked = Journal(run_of(params), dry=check_mode), params["payload"], params.get("copy")
    missing = [item for item in payload if asked is None or item["destination"] in asked]
    if missing:
        copy(journal, missing, params["backend_container"])
    files = [PayloadFile.of(item) for item in payload]
    with journal.step("payload") as step:
        seen = read_payload(commands_in(params["backend_container"] or None, user=ROOT), files, "")
        proof = in_place(files, seen.states, planned=check_mode)
        step.prove(proof)
    return {
        "changed": bool(missing),
        "copied": [item["destination"] for item in missing],
        "states": dict(seen.states),
        "proofs": [proof.as_dict()],
        "message": sentence([proof.as_dict()]),
    }


def copy(journal: Journal, files: Sequence[Mapping[str, Any]], container: str | None) -> None:
    """A step of its own: what of the files is there is judged also where nothing was to be copied."""
    with journal.step("payload_copy") as step, acting(journal.run, dry=journal.dry):
        step.facts["copied"] = [item["destination"] for item in files]
        for item in [] if journal.dry else files:
            content = base64.b64decode(item["content"], validate=True)
            if container:
                copy_to_container(PayloadFile.of(item), content, container)
            else:
                copy_to_target(PayloadFile.of(item), content)


def main() -> None:
    """Ansible's way in."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
