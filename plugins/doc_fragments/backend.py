"""Where the application migrates: options that modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Where the application migrates."""

    DOCUMENTATION = r"""
options:
  backend_container:
    description:
      - The container that holds the migrations and runs them; where it is empty, the target itself does.
    type: str
    default: ""
"""
