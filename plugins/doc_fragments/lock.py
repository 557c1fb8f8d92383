"""Documentation of the option in module_utils/dbrelease/module.py: LOCK_OPTIONS."""


class ModuleDocFragment:
    """How a module waits for locks."""

    DOCUMENTATION = r"""
options:
  lock:
    description: How long to wait for locks of other sessions.
    type: dict
    default: {}
    suboptions:
      timeout_ms:
        description: How long one attempt waits for a lock, in milliseconds. Sessions queued behind it wait as long.
        type: int
        default: 500
      attempts:
        description: Maximum number of attempts.
        type: int
        default: 10
      deadline_seconds:
        description: No further attempt starts this many seconds after the first.
        type: int
        default: 120
"""
