#!/usr/bin/python
"""Render the evidence of a run as one HTML file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: html_report
short_description: Render the evidence of a run as one HTML file
description:
  - Reads an C(evidence.json) and writes it as one HTML file without script and without anything from elsewhere, to be
    read on any screen, in light and dark, and to be printed.
  - Runs where pygal and Jinja2 are, that is on the controller (C(delegate_to=localhost)); a target needs neither.
  - The file is for the user who runs this only (mode 0600), whole or absent; the same evidence again writes nothing.
options:
  evidence:
    description: The C(evidence.json) to render.
    type: path
    required: true
  dest:
    description: The file to write, in a folder that is there.
    type: path
    required: true
  templates:
    description: Folder with C(report.html.j2), its parts and C(report.css).
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: The page is rendered, and not written.
  diff_mode:
    support: none
    description: The evidence is what is worth comparing, not the page.
author: The authors of dbrelease
"""

EXAMPLES = r"""
- name: Render the report
  html_report:
    evidence: artifacts/staging/20260102T030405Z-abcdef/evidence.json
    dest: artifacts/staging/20260102T030405Z-abcdef/report.html
    templates: roles/report/templates
  delegate_to: localhost
"""

RETURN = r"""
changed:
  description: Whether the file was written.
  type: bool
  returned: always
dest:
  description: The file.
  type: str
  returned: always
bytes:
  description: Its length.
  type: int
  returned: always
sha256:
  description: Its SHA-256.
  type: str
  returned: always
message:
  description: Empty; there is no claim here that may not hold.
  type: str
  returned: always
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.dbrelease.errors import ReleaseError
from ansible.module_utils.dbrelease.module import Options, run_module
from ansible.module_utils.dbrelease.private_files import replace_private

OPTIONS: Options = {
    "evidence": {"type": "path", "required": True},
    "dest": {"type": "path", "required": True},
    "templates": {"type": "path", "required": True},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Render the evidence; write it unless it is there already, or this is check mode."""
    model = evidence_in(Path(params["evidence"]))
    page = render(model, Path(params["templates"])).encode()
    dest = Path(params["dest"])
    changed = not dest.is_file() or dest.read_bytes() != page
    if changed and not check_mode:
        replace_private(dest, page, str(model["run"]["run_id"]))
    sha256 = hashlib.sha256(page).hexdigest()
    return {"changed": changed, "dest": str(dest), "bytes": len(page), "sha256": sha256, "message": ""}


def evidence_in(path: Path) -> dict[str, Any]:
    """The evidence in a file."""
    try:
        model = json.loads(path.read_text(encoding="utf-8"))
        if model["schema_version"] != 1:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no evidence of this form"
        raise ReleaseError(f"Reading the evidence {path} failed ({why}): give the evidence.json of a run.") from error
    return dict(model)


def render(model: Mapping[str, Any], templates: Path) -> str:
    """The page; what makes it is looked for only now, so that its absence is one clear sentence."""
    try:
        from ansible.module_utils.dbrelease.evidence_html import as_html
    except ImportError as error:
        raise ReleaseError(
            f"Rendering the report failed ({error.name} is not there): install requirements.txt where Ansible runs, "
            "and run again; evidence.json and report.md are written."
        ) from error
    if not (templates / "report.html.j2").is_file():
        raise ReleaseError(f"Rendering the report failed ({templates} holds no report.html.j2): correct `templates`.")
    page: str = as_html(model, templates)
    return page


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
