"""Where the database's programs run: options that modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Where the database's programs run."""

    DOCUMENTATION = r"""
options:
  db_container:
    description:
      - The database's container, in which the server's programs run. Where it is empty, they run on the target itself,
        against O(login_host).
    type: str
    default: ""
"""
