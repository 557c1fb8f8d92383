"""Whether the server makes each commit wait for a synchronous standby that is not connected: then none ever returns."""

from __future__ import annotations

import re

from psycopg2.extensions import cursor as Cursor

from .session import select

# A role that may not see the standbys' states sees that they are connected. `potential` ones are not waited for, and
# each set that can be waited for is `sync` or `quorum`. With these settings of synchronous_commit no commit waits.
STANDBYS = """
SELECT current_setting('synchronous_standby_names') AS names,
       current_setting('synchronous_commit') NOT IN ('off', 'local') AS waits,
       (SELECT count(*) FROM pg_stat_replication WHERE coalesce(sync_state, 'sync') IN ('sync', 'quorum'))::int
         AS connected
"""
_NUMBER = re.compile(r"\s*(?:(?:FIRST|ANY)\s+)?(\d+)\s*\(", re.IGNORECASE)
REMEDY = (
    "Start the missing standby, or take it out of synchronous_standby_names and reload the server; then rerun the "
    "playbook."
)


def needed(names: str) -> int:
    """How many standbys each commit waits for, by synchronous_standby_names."""
    if not names.strip():
        return 0
    number = _NUMBER.match(names)
    return int(number[1]) if number else 1


def endless_commit(cursor: Cursor) -> str:
    """One sentence where a commit of this session would wait without an end; empty where it would not."""
    (row,) = select(cursor, STANDBYS)
    wanted = needed(row["names"])
    if not row["waits"] or row["connected"] >= wanted:
        return ""
    return (
        f"Each commit waits for {wanted} synchronous standby{'' if wanted == 1 else 's'} (synchronous_standby_names is "
        f"{row['names']}), and {row['connected']} of them {'is' if row['connected'] == 1 else 'are'} connected: a "
        "commit would not return, and other sessions would wait for its locks."
    )
