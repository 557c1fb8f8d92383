"""What may be done to a session that blocks a migration: what its release declares, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg2.errors
from psycopg2.extensions import cursor as Cursor

from ..core.proof import Proof
from .session import Row, select
from .trusted_roles import quoted_text

# A role that may not see other sessions sees only that an autovacuum worker has a database and no user. One that
# prevents wraparound is never cancelled.
IS_AUTOVACUUM = """
(coalesce(a.backend_type, 'autovacuum worker') = 'autovacuum worker' AND a.usesysid IS NULL AND a.datid IS NOT NULL
 AND coalesce(a.query, '') NOT LIKE '%%(to prevent wraparound)')
"""
# The roles that the server lets act on other roles' sessions; a server that lacks one of them has no row of it.
SIGNALS = """
SELECT current_setting('is_superuser') = 'on' AS superuser,
       coalesce(bool_or(rolname = 'pg_signal_autovacuum_worker'), false) AS vacuums,
       coalesce(bool_or(rolname = 'pg_signal_backend'), false) AS sessions,
       coalesce(bool_or(rolname = 'pg_read_all_stats'), false) AS states
FROM pg_roles
WHERE rolname IN ('pg_signal_autovacuum_worker', 'pg_signal_backend', 'pg_read_all_stats')
  AND pg_has_role(oid, 'USAGE')
"""
CANCEL = f"""
SELECT a.pid, pg_cancel_backend(a.pid) AS signalled FROM pg_stat_activity a
WHERE a.pid = ANY (%s::int[]) AND {IS_AUTOVACUUM}
"""
# One statement decides and acts: a session that has begun anything since it was read is idle for a shorter time, and is
# not terminated; nor is one that no longer blocks, that is no client's, or that has a name of ours.
TERMINATE = """
SELECT a.pid, a.usename AS "user", a.application_name AS application, a.state,
       to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS since,
       a.backend_start::text AS begun,
       round(extract(epoch FROM clock_timestamp() - a.state_change)::numeric, 1)::float AS idle_seconds,
       pg_terminate_backend(a.pid) AS signalled
FROM pg_stat_activity a
WHERE a.pid = %s AND a.state IN ('idle in transaction', 'idle in transaction (aborted)')
  AND a.state_change <= clock_timestamp() - %s * interval '1 second'
  AND a.backend_type = 'client backend' AND a.datname = current_database() AND a.application_name NOT LIKE 'dbrelease%%'
  AND EXISTS (SELECT FROM pg_stat_activity waiting
              WHERE waiting.application_name = left(%s, 63) AND waiting.usesysid = ANY (%s::oid[])
                AND waiting.datname = current_database() AND a.pid = ANY (pg_blocking_pids(waiting.pid)))
"""
REMAINS = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s AND backend_start = %s::timestamptz) AS found"
IDLE = ("idle in transaction", "idle in transaction (aborted)")
TITLE = "Only sessions that the release allows to end were ended, because they blocked it"
KEPT_QUERY_CHARACTERS = 300
NAMED_AT_MOST = 20


@dataclass(frozen=True)
class BlockerPolicy:
    """A release's `migration.blockers`; by default nothing is done, and the attempts are limited.

    wait: the attempts are limited by the deadline alone. cancel_autovacuum: an ordinary autovacuum that blocks is
    cancelled at once. end_idle_in_transaction: a session that blocks, and has been idle in its transaction for at least
    so many seconds, is terminated; 0: none is.
    """

    wait: bool = False
    cancel_autovacuum: bool = False
    end_idle_in_transaction: int = 0

    @classmethod
    def of(cls, declared: Mapping[str, Any] | None) -> BlockerPolicy:
        """From the option `lock.blockers` of a module; what it omits is not allowed."""
        return cls(**{key: value for key, value in (declared or {}).items() if value is not None})


@dataclass
class Acts:
    """What a watch did to sessions, each named once; `rows` is for the evidence.

    A row's `ended` is true once the session was observed to have ended; of an autovacuum, the work and not the session.
    """

    policy: BlockerPolicy
    rows: list[Row] = field(default_factory=list)
    denied: set[int] = field(default_factory=set)
    _open: dict[int, Row] = field(default_factory=dict)
    _begun: dict[int, str] = field(default_factory=dict)

    def act(self, cursor: Cursor, found: Sequence[Row], name: str, trusted: Sequence[int], *, may_cancel: bool) -> None:
        """Do to the present blockers what is declared; the queries of `found` are masked. The cursor returns dicts."""
        by_pid = {row["pid"]: row for row in found}
        if may_cancel:
            for row in select(cursor, CANCEL, (list(by_pid),)):
                if row["signalled"]:
                    self._note_cancelled(by_pid[row["pid"]])
        if not self.policy.end_idle_in_transaction:
            return
        for pid, known in by_pid.items():
            if known["state"] in IDLE and pid not in self.denied:
                self._terminate(cursor, pid, known, name, trusted)

    def _note_cancelled(self, row: Row) -> None:
        if not any((one["pid"], one["since"]) == (row["pid"], row["since"]) for one in self.rows):
            self.rows.append({**row, "action": "canceled", "idle_seconds": None, "ended": None})

    def _terminate(self, cursor: Cursor, pid: int, known: Row, name: str, trusted: Sequence[int]) -> None:
        try:
            ended = select(cursor, TERMINATE, (pid, self.policy.end_idle_in_transaction, name, list(trusted)))
        except psycopg2.errors.InsufficientPrivilege:
            self.denied.add(pid)
            return
        for row in ended:
            if row["signalled"] and self._begun.get(pid) != row["begun"]:
                self._begun[pid] = row.pop("begun")
                row.pop("signalled")
                self._open[pid] = {**row, "query": known["query"], "action": "terminated", "ended": False}
                self.rows.append(self._open[pid])

    def confirm(self, cursor: Cursor) -> bool:
        """Observe which of the terminated sessions have ended; whether all have."""
        for pid in list(self._open):
            if not select(cursor, REMAINS, (pid, self._begun[pid]))[0]["found"]:
                self._open.pop(pid)["ended"] = True
        return not self._open

    def proofs(self, name: str) -> list[Proof]:
        """What was done, each session by name; none where nothing was."""
        if not self.rows:
            return []
        open_ = [row for row in self.rows if row["ended"] is False]
        said = "; ".join(map(_in_words, self.rows[:NAMED_AT_MOST]))
        if open_:
            detail = f"{said}. Of {len(open_)} of them the end was not observed."
            remedy = "Check pg_stat_activity for them: a session ends once it has rolled back."
            return [Proof(name, TITLE, "inconclusive", vars(self.policy), self.rows, detail, remedy)]
        return [Proof(name, TITLE, "pass", vars(self.policy), self.rows, f"{said}.")]


def _in_words(row: Row) -> str:
    """One session that was acted on; its query is masked."""
    user = f"user {quoted_text(row['user'])}, " if row["user"] else ""
    what = f"pid {row['pid']} ({user}application {quoted_text(row['application'])}"
    if row["action"] == "canceled":
        return f"The work of the autovacuum {what}) was canceled"
    query = f"; last query: {quoted_text(row['query'], KEPT_QUERY_CHARACTERS)}" if row["query"] else ""
    return f"Session {what}, {row['state']} for {row['idle_seconds']} s{query}) was terminated"
