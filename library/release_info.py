#!/usr/bin/python
"""Read a release, and validate it before anything is touched."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_info
short_description: Read a release, and validate it before any change
description:
  - A release is a folder with C(release.yml), C(checks.yml) and the files that they name.
  - Both files are checked against the JSON Schemas, and then against each other and against the folder.
  - Their content is bounded, with every alias expanded. Only regular files of the folder are read.
  - All problems are reported at once, each with the file, the key, what was expected and what was found.
  - Runs on the controller, where the releases are.
options:
  directory:
    description: Folder of the release.
    type: path
    required: true
  schemas:
    description: Folder with C(release.schema.json) and C(checks.schema.json).
    type: path
    required: true
  payload_folders:
    description:
      - The folders below which the files of C(migration.payload) may be put, as absolute paths.
      - A release with another destination is refused. If omitted, the destinations are not restricted.
    type: list
    elements: str
attributes:
  check_mode:
    description: Only files are read.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
requirements: [jsonschema, PyYAML]
author: [The authors of dbrelease]
"""

EXAMPLES = r"""
- name: Read the release, and validate it
  release_info:
    directory: "{{ playbook_dir }}/../releases/2026_04"
    schemas: "{{ playbook_dir }}/../schemas"
    payload_folders: [/app/migrations]
  delegate_to: localhost
  register: read

- name: Show its title
  ansible.builtin.debug:
    msg: "{{ read.release.title }}"
"""

RETURN = r"""
release:
  description:
    - The content of C(release.yml) and C(checks.yml), as the schemas describe it.
    - What was omitted has the default of the schemas; a section without a default, such as C(api), stays omitted.
  type: dict
  returned: success
  contains:
    directory:
      description: Absolute path of the folder.
      type: str
    omitted:
      description: The sections that C(release.yml) omits.
      type: list
      elements: str
    commands:
      description:
        - As in C(release.yml), with the inventories of this run in place of C({environment}) or of one that is missing.
        - A playbook that does not exist is replaced by the one of the same purpose for any release.
        - C(restore) is the command of the full restore.
      type: dict
    migration:
      description:
        - As in C(release.yml).
        - Each item of C(payload) also has its C(sha256) and absolute C(path), each step of C(finalize) its C(sql).
        - Where O(payload_folders) is given, each item of C(payload) has the C(folder) of them that contains it.
      type: dict
problems:
  description: The problems of the release, each with C(file), C(key), C(expected) and C(found).
  type: list
  elements: dict
  returned: when the release is not valid
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.release.load import load

OPTIONS: dict[str, dict[str, Any]] = {
    "directory": {"type": "path", "required": True},
    "schemas": {"type": "path", "required": True},
    "payload_folders": {"type": "list", "elements": "str"},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Read it; the same in check mode, for nothing is ever written."""
    release = load(Path(params["directory"]), Path(params["schemas"]), params.get("payload_folders"))
    return {"changed": False, "release": release}


def main() -> None:
    """Wire it up."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
