"""Whether the server makes each commit wait for a synchronous standby that is not connected: then none ever returns."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

import psycopg2
import psycopg2.errors
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import RealDictCursor

from ..core.errors import ReleaseError
from .session import Login, connect, select
from .trusted_roles import trusted_roles

# A role that may not see the standbys' states sees that they are connected. `potential` ones are not waited for, and
# each set that can be waited for is `sync` or `quorum`. With these settings of synchronous_commit no commit waits.
STANDBYS = """
SELECT current_setting('synchronous_standby_names') AS names,
       current_setting('synchronous_commit') NOT IN ('off', 'local') AS waits,
       (SELECT count(*) FROM pg_stat_replication WHERE coalesce(sync_state, 'sync') IN ('sync', 'quorum'))::int
         AS connected
"""
WAITING = """
SELECT pid FROM pg_stat_activity
WHERE wait_event = 'SyncRep' AND application_name = left(%s, 63) AND usesysid = ANY (%s::oid[])
  AND pid <> pg_backend_pid()
"""
# A standby that restarts, or one that takes another's place, is connected again by then.
LONGEST_WAIT_S = 30.0
POLL_S = 0.5
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
    missing = _missing(row["names"], row["connected"]) if row["waits"] else ""
    return f"{missing}: a commit would not return, and other sessions would wait for its locks." if missing else ""


def _missing(names: str, connected: int) -> str:
    wanted = needed(names)
    if connected >= wanted:
        return ""
    return (
        f"Each commit waits for {wanted} synchronous standby{'' if wanted == 1 else 's'} (synchronous_standby_names is "
        f"{names}), and {connected} of them {'is' if connected == 1 else 'are'} connected"
    )


@dataclass
class CommitWatch:
    """Commits that wait for a standby that was lost: their sessions are terminated, so that their locks are released.

    The server has committed before it waits, and says so to no client. No time limit of a session ends such a wait.
    reason: why a session was terminated, or could not be; empty where none waited for too long.
    """

    reason: str = ""
    _since: dict[int, float] = field(default_factory=dict)

    def look(self, cursor: Cursor, application_name: str, trusted: Sequence[int]) -> None:
        """Terminate the sessions of this name that waited for too long. The cursor returns dicts, in autocommit."""
        waiting = [row["pid"] for row in select(cursor, WAITING, (application_name, list(trusted)))]
        found = select(cursor, STANDBYS) if waiting else []
        missing, now = "".join(_missing(row["names"], row["connected"]) for row in found), time.monotonic()
        self._since = {pid: self._since.get(pid, now) for pid in waiting} if missing else {}
        overdue = [pid for pid, since in self._since.items() if now - since >= LONGEST_WAIT_S]
        if not overdue:
            return
        waited = f"a commit did not return within {LONGEST_WAIT_S:g} s ({missing[0].lower()}{missing[1:]})"
        # Set before the session ends, which its client notices at once.
        self.reason = f"{waited}, and its session was terminated: this server has the commit, and perhaps no standby"
        try:
            cursor.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS waiting (pid)", (overdue,))
        except psycopg2.errors.InsufficientPrivilege:
            self.reason = f"{waited}, and keeps its locks: db_user may not terminate it, grant it pg_signal_backend"


@contextmanager
def bounded_commits(login: Login, application_name: str) -> Iterator[CommitWatch]:
    """While the block runs, no commit of sessions of this name waits for a lost standby for longer than the limit."""
    watch, ended = CommitWatch(), threading.Event()
    thread = threading.Thread(target=_poll, args=(login, application_name, watch, ended), daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


def _poll(login: Login, application_name: str, watch: CommitWatch, ended: threading.Event) -> None:
    with (
        suppress(ReleaseError, psycopg2.Error),
        closing(connect(login, "dbrelease commit watch", read_only=True)) as connection,
        connection.cursor(cursor_factory=RealDictCursor) as cursor,
    ):
        trusted = trusted_roles(cursor, login.database)
        while not ended.wait(POLL_S):
            watch.look(cursor, application_name, trusted)
