"""Which transactions of a span of time belonged to the sessions of one name, as far as could be observed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg2.extensions import cursor as Cursor

from .session import Row, select
from .trusted_roles import trusted_roles

# An older server reports a session that has come and gone half a second later, or not at all.
COUNTS_SESSIONS_AT_ONCE = 150000
LONGEST_NAME = 63
# A parallel worker writes as its leader; autovacuum writes no row of a user's table, nor does a WAL sender.
NO_WRITERS = ("parallel worker", "autovacuum worker", "walsender")
# One statement: the snapshot is taken after statement_timestamp(), and the sessions are read after the snapshot. The
# activity of other roles' sessions is hidden from a role without pg_read_all_stats; their existence is not.
SAMPLE = """
SELECT statement_timestamp() AS at, pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xmax,
       (SELECT (to_jsonb(d) ->> 'sessions')::bigint FROM pg_stat_database d WHERE d.datname = current_database())
         AS sessions,
       a.pid, a.backend_start AS began, a.backend_type AS kind, a.state, a.state_change, a.xact_start,
       a.backend_xid::text::bigint AS xid,
       a.application_name = %(name)s AND a.usesysid = ANY (%(trusted)s::oid[]) AS own
FROM (SELECT) one
LEFT JOIN pg_stat_activity a ON a.datname = current_database() AND a.pid <> pg_backend_pid()
"""
CONNECTED = "client backend"
Span = tuple[int, int]


@dataclass(frozen=True)
class Sample:
    """One sample: every transaction id below `xmax` was assigned before it."""

    at: datetime
    xmax: int
    counted: int | None  # how many sessions the database has had in total
    sessions: Mapping[Any, Row]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Sample:
        """From the rows of SAMPLE; one without a pid means that no other session uses the database."""
        seen = {
            (row["pid"], row["began"]): row for row in rows if row["pid"] is not None and row["kind"] not in NO_WRITERS
        }
        return cls(rows[0]["at"], rows[0]["xmax"], rows[0]["sessions"], seen)


@dataclass(frozen=True)
class Interval:
    """Between two samples: the ids that were assigned, and whose sessions can have been assigned one."""

    first: int
    end: int
    own: bool
    others: bool
    unseen: int | None  # sessions that came and went; None where the server does not report it


@dataclass
class WriterWatch:
    """Samples, from an existing session, which sessions may write; it only informs."""

    name: str
    login_database: str
    bookkeeping: str = "alembic_version"
    intervals: list[Interval] = field(default_factory=list, init=False)
    _own: set[int] = field(default_factory=set, init=False)
    _last: Sample | None = field(default=None, init=False)
    _trusted: list[int] = field(default_factory=list, init=False)
    _owed: int = field(default=0, init=False)

    def look(self, cursor: Cursor) -> None:
        """Once more; the cursor must return dicts and be in no transaction."""
        self._trusted = self._trusted or trusted_roles(cursor, self.login_database, self.bookkeeping)
        sample = Sample.of(select(cursor, SAMPLE, {"name": self.name[:LONGEST_NAME], "trusted": self._trusted}))
        at_once = cursor.connection.server_version >= COUNTS_SESSIONS_AT_ONCE
        running = (row for row in sample.sessions.values() if row["own"] and row["xid"] is not None)
        self._own |= {whole_id(row["xid"], sample.xmax) for row in running}
        if self._last is not None:
            unseen = self._unseen(self._last, sample) if at_once else None
            self.intervals.append(between(self._last, sample, unseen))
        self._last = sample

    def observed(self) -> int:
        """How many transactions of the sessions of that name were observed to write."""
        return len(self._own)

    def _unseen(self, before: Sample, now: Sample) -> int | None:
        """How many sessions came and went between two samples. An observed one is counted when it is first idle."""
        if before.counted is None or now.counted is None:
            return None
        new = [row for key, row in now.sessions.items() if key not in before.sessions]
        self._owed += sum(row["kind"] in (CONNECTED, None) for row in new)
        counted = now.counted - before.counted
        unseen = max(counted - self._owed, 0)
        self._owed = max(self._owed - counted, 0)
        return unseen

    def facts(self) -> dict[str, list[list[int]]]:
        """For the journal, in spans from a first id to the one after the last.

        own: of the sessions of that name. others: of other sessions. single: of one unobserved session, and of no
        other: if one of a span was of the sessions of that name, all were.
        """
        named = any(one.own for one in self.intervals)
        own = [(one.first, one.end) for one in self.intervals if one.own and not one.others and one.unseen == 0]
        alone = (one for one in self.intervals if not one.own and not one.others and one.unseen == 1)
        others = (one for one in self.intervals if not one.own and one.unseen == 0)
        return {
            "own": joined([*own, *((xid, xid + 1) for xid in self._own)]),
            # Sessions that were never observed under their name may have had another one.
            "others": joined((one.first, one.end) for one in others if named),
            "single": [[one.first, one.end] for one in alone if one.first < one.end],
        }


def whole_id(xid: int, near: int) -> int:
    """The id of which the server reports the last 32 bits, and which is near another: also of one assigned since."""
    half = 1 << 31
    return near + (xid - near + half) % (1 << 32) - half


def between(before: Sample, now: Sample, unseen: int | None) -> Interval:
    """What is known of the time between two samples."""
    ended = [row for key, row in before.sessions.items() if key not in now.sessions]
    busy = [*ended, *(row for row in now.sessions.values() if _may_have_begun_to_write(row, before.at))]
    own = any(row["own"] for row in busy)
    return Interval(before.xmax, now.xmax, own, any(not row["own"] for row in busy), unseen)


def _may_have_begun_to_write(row: Row, since: datetime) -> bool:
    """Whether a session can have been given a transaction id since then, by what it shows now."""
    if row["state"] is None or row["state_change"] is None:
        return True
    if row["state"] != "active" and row["state"] != "fastpath function call":
        return bool(row["state_change"] >= since)
    # It is in one transaction since before, and has no id yet.
    still = row["xact_start"] is not None and row["xact_start"] < since
    return not (still and row["xid"] is None)


def joined(spans: Iterable[Span]) -> list[list[int]]:
    """The spans, sorted, without empty ones, and as few as can be."""
    found: list[list[int]] = []
    for first, end in sorted(span for span in spans if span[0] < span[1]):
        if found and first <= found[-1][1]:
            found[-1][1] = max(found[-1][1], end)
        else:
            found.append([first, end])
    return found
