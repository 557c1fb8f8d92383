"""Probes: sessions that request, again and again, the locks of a writer or of a reader of one table, and time them.

A probe never makes another session wait for long, and is in no deadlock: while it waits for the table it holds
nothing, a row it only tries (SKIP LOCKED), and for an index it waits so briefly that the server searches for no
deadlock. What it locks is released in the same round trip. It executes no UPDATE, so no trigger runs, and no row and no
sequence changes.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg2
import psycopg2.errors
from psycopg2 import sql

from ..postgres.session import Login, connect, server_reason
from .observation import READER_MODE, WRITER_MODE

APPLICATION_NAME = "dbrelease probe"
PAUSE_S = {WRITER_MODE: 0.006, READER_MODE: 0.012}
INDEX_WAIT_MS = 50
# A wait that is shorter is that of any statement on a busy server.
WORTH_KEEPING_MS = 5.0
KEPT_WAITS = 200
# Between two attempts on a row; more only where the machine is too busy for the probe.
LATE_MS = 60.0
# Which of the rows is tried: one that a running transaction has changed, if any. To search a whole page, which can have
# so many rows, costs as much as a round, so that only every eighth round does.
LINE_POINTERS, SOME_POINTERS, WHOLE_PAGE_EVERY = 291, 8, 8
# Asynchronous: nothing of a probe's transaction need survive, and a flush would prolong its locks.
SETTINGS = "SET synchronous_commit = off"

# One message is one transaction, which ends before the client has to answer. statement_timestamp() is when the server
# received it, and so the difference is the wait as the server has it, however busy the client is.
WRITE = """
LOCK TABLE ONLY {table} IN ROW EXCLUSIVE MODE;
SET LOCAL lock_timeout = {index_wait};
SELECT extract(epoch FROM statement_timestamp())::float8 * 1000, extract(epoch FROM clock_timestamp())::float8 * 1000,
       pg_relation_size({oid}::oid::regclass) / current_setting('block_size')::int8,
       found.ctid::text, found.xmax::text, CASE WHEN found.ctid IS NOT NULL THEN
         (SELECT true FROM ONLY {table} WHERE ctid = found.ctid FOR NO KEY UPDATE SKIP LOCKED) END
FROM (SELECT) AS one
LEFT JOIN LATERAL (
  SELECT ctid, xmax FROM ONLY {table} WHERE ctid = ANY ({places}::tid[])
  ORDER BY xmax::text::int8 = ANY (ARRAY(SELECT running & 4294967295 FROM txid_snapshot_xip(txid_current_snapshot())
                                         AS running)) DESC, random() LIMIT 1) AS found ON true
"""
READ = """
LOCK TABLE ONLY {table} IN ACCESS SHARE MODE;
SET LOCAL lock_timeout = {index_wait};
SELECT extract(epoch FROM statement_timestamp())::float8 * 1000, extract(epoch FROM clock_timestamp())::float8 * 1000,
       0, NULL, NULL, NULL
FROM (SELECT count(*) FROM (SELECT FROM ONLY {table} LIMIT 0) AS none) AS one
"""
# The session whose transaction, or savepoint, has locked the row.
HOLDER = """
SELECT DISTINCT l.pid FROM pg_locks l
WHERE l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock' AND l.transactionid::text = ANY (%s)
"""
# Where several sessions have locked a row. Of a number that is none of theirs the server reports an error.
MEMBERS = "SELECT xid::text FROM pg_get_multixact_members(%s::text::xid)"
NAME = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s
"""


@dataclass
class Wait:
    """One wait, by the server's clock in ms; holders are the sessions that had the row, where it was a row."""

    begin_ms: float
    end_ms: float
    row: bool = False
    holders: list[int] = field(default_factory=list)
    finished: bool = True

    @property
    def duration_ms(self) -> float:
        """How long it lasted."""
        return self.end_ms - self.begin_ms


class Probe(threading.Thread):
    """A writer or a reader of one table, until stop() is called.

    problem: why the table was not observed, or not to the end.
    """

    def __init__(self, login: Login, oid: int, name: tuple[str, str], mode: str) -> None:
        super().__init__(daemon=True, name=f"{mode} {'.'.join(name)}")
        self.session = connect(login, APPLICATION_NAME)
        self.pid: int = self.session.info.backend_pid
        self.oid, self.mode = oid, mode
        self.waits: list[Wait] = []
        self.longest: Wait | None = None
        self.rows = 0
        self.largest_gap_ms = 0.0
        self.problem = ""
        self._name, self._stopping = name, threading.Event()
        self._row: Wait | None = None
        self._row_place, self._pages, self._rounds = "", 0, 0
        # A wait for an index, over several attempts.
        self._index: Wait | None = None
        self._offset_ms = self._answered_ms = 0.0

    def run(self) -> None:
        """Request the locks until stop() is called."""
        try:
            with self.session.cursor() as cursor:
                cursor.execute(SETTINGS)
                cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8 * 1000")
                self._offset_ms = cursor.fetchall()[0][0] - time.monotonic() * 1000
                self._answered_ms = self._now()
                while not self._stopping.is_set() and self._round(cursor):
                    self._stopping.wait(PAUSE_S[self.mode])
        except psycopg2.Error as error:
            self.problem = f"its probe ended early: {server_reason(error)}"
        finally:
            for wait in (self._row, self._index):
                if wait is not None:
                    wait.end_ms, wait.finished = max(wait.end_ms, self._now()), False
                    self._keep(wait)
            self.session.close()

    def stop(self, patience_s: float) -> None:
        """End it; what it waits for by then is not waited for any longer."""
        self._stopping.set()
        self.join(patience_s)
        if self.is_alive():
            with suppress(psycopg2.Error):
                self.session.cancel()
            self.join(patience_s)

    def _round(self, cursor: Any) -> bool:
        begun = self._now()
        try:
            cursor.execute(self._statement())
        except psycopg2.errors.LockNotAvailable:
            self._index = self._index or Wait(begun, begun)
            return True
        except psycopg2.errors.QueryCanceled:
            if not self._stopping.is_set():
                raise
            self._keep(Wait(begun, self._now(), finished=False))
            return False
        except (psycopg2.errors.UndefinedTable, psycopg2.errors.InvalidSchemaName):
            self._keep(Wait(begun, self._now()))
            return self._found_again(cursor)
        ((received, answered, self._pages, place, xmax, taken),) = cursor.fetchall()
        if self._index is None:
            self.largest_gap_ms = max(self.largest_gap_ms, received - self._answered_ms)
        self._answered_ms = answered
        if self._index is not None:
            received, self._index = self._index.begin_ms, None
        self._keep(Wait(received, answered))
        if self.mode == WRITER_MODE:
            self._note_row(cursor, place, xmax, taken, answered)
        return True

    def _note_row(self, cursor: Any, place: str | None, xmax: str, taken: bool | None, now_ms: float) -> None:
        self.rows += place is not None
        if self._row is not None and now_ms - self._row.end_ms <= LATE_MS:
            self._row.end_ms = now_ms
        if place is None or taken:
            # A probe that comes late does not know how long the row was still locked.
            if self._row is not None:
                self._keep(self._row)
            self._row = None
            return
        if self._row is None:
            self._row, self._row_place = Wait(now_ms, now_ms, row=True), place
            self._row.holders = self._holders(cursor, xmax)
        self._row.end_ms = now_ms

    def _holders(self, cursor: Any, xmax: str) -> list[int]:
        with suppress(psycopg2.Error):
            cursor.execute(HOLDER, ([xmax],))
            if not (found := cursor.fetchall()):
                cursor.execute(MEMBERS, (xmax,))
                cursor.execute(HOLDER, ([xid for (xid,) in cursor.fetchall()],))
                found = cursor.fetchall()
            return [pid for (pid,) in found]
        return []

    def _statement(self) -> sql.Composed:
        table = sql.Identifier(*self._name)
        if self.mode == READER_MODE:
            return sql.SQL(READ).format(table=table, index_wait=sql.Literal(INDEX_WAIT_MS))
        if self._row is not None:
            places = [self._row_place]
        else:
            # Of a page that the table does not have no row is found.
            page = random.randrange(max(self._pages, 1))  # noqa: S311 - any page will do, and it guards nothing
            pointers = SOME_POINTERS if self._rounds % WHOLE_PAGE_EVERY else LINE_POINTERS
            places = [f"({page},{place})" for place in range(1, pointers + 1)]
            self._rounds += 1
        return sql.SQL(WRITE).format(
            table=table,
            oid=sql.Literal(self.oid),
            index_wait=sql.Literal(INDEX_WAIT_MS),
            places=sql.Literal("{" + ",".join(f'"{place}"' for place in places) + "}"),
        )

    def _found_again(self, cursor: Any) -> bool:
        """Whether the table exists under another name now."""
        cursor.execute(NAME, (self.oid,))
        found = cursor.fetchall()
        if found:
            self._name = found[0]
        else:
            self.problem = "it was dropped, and observed until then"
        return bool(found)

    def _keep(self, wait: Wait) -> None:
        if self.longest is None or wait.duration_ms > self.longest.duration_ms:
            self.longest = wait
        if wait.duration_ms >= WORTH_KEEPING_MS and len(self.waits) < KEPT_WAITS:
            self.waits.append(wait)

    def _now(self) -> float:
        return time.monotonic() * 1000 + self._offset_ms
