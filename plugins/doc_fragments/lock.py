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
      blockers:
        description:
          - What is done to sessions that block, as the release's C(migration.blockers) declares it; by default nothing.
          - Each session that was ended is named in the result and in a proof. In check mode none is.
        type: dict
        default: {}
        suboptions:
          wait:
            description: Whether the attempts are limited by O(lock.deadline_seconds) alone.
            type: bool
            default: false
          cancel_autovacuum:
            description:
              - Whether an ordinary autovacuum that blocks is canceled at once. Otherwise, and where the role may not,
                the server cancels it after C(deadlock_timeout). One that prevents wraparound is never canceled.
            type: bool
            default: false
          end_idle_in_transaction:
            description:
              - A client's session that blocks and has been idle in its transaction for at least so many seconds is
                terminated, where the role may. V(0) terminates none.
            type: int
            default: 0
"""
