"""What a migration may cost others."""

from __future__ import annotations


class ModuleDocFragment:
    """The options `budget` and `tables`, as in core.options.BUDGET_OPTIONS."""

    DOCUMENTATION = r"""
options:
  tables:
    description:
      - Existing tables whose catalog is compared, for the observation of the migration (fact C(observation) of its
        step). Its sessions are sampled; the module locks no row and no table for that.
    type: list
    elements: str
    default: []
  budget:
    description: The release's C(migration.budget).
    type: dict
    default: {}
    suboptions:
      write_wait_ms:
        description: The longest time that another session may wait for a lock of the migration, in milliseconds.
        type: int
        default: 1000
      duration_seconds:
        description: The longest duration of the migration with its finalize steps. If omitted, it is not limited.
        type: float
      size_bytes:
        description: The largest growth of the database. If omitted, it is not limited.
        type: int
"""
