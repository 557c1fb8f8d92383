"""Documentation of the option in module_utils/dbrelease/module.py: LOCK_OPTIONS."""


class ModuleDocFragment:
    """How a module waits for others."""

    DOCUMENTATION = r"""
options:
  lock:
    description: How long to wait for others.
    type: dict
    default: {}
    suboptions:
      timeout_ms:
        description: How long one attempt waits for a lock, in milliseconds. Everyone behind it waits as long.
        type: int
        default: 500
      attempts:
        description: How many attempts there are.
        type: int
        default: 10
      deadline_seconds:
        description: No further attempt begins this many seconds after the first.
        type: int
        default: 120
"""
