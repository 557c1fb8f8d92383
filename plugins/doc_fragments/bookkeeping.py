"""Where the database keeps its revision: options that modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Where the database keeps its revision."""

    DOCUMENTATION = r"""
options:
  bookkeeping_table:
    description: The table that holds the database's revision.
    type: str
    default: alembic_version
"""
