"""Observe a migration from beside it: a sampler of its sessions and locks, and probes that wait as others would.

Usage:

    with observing(login, ["orders", "shop.customers"]) as seen:
        ...  # the migration, in other sessions of login's database
    seen.observation
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import psycopg2
from psycopg2.extras import RealDictCursor

from ..postgres.catalog import find_table
from ..postgres.session import Login, connect, select, server_reason
from .attribution import Account, Record, merged
from .catalog_changes import read_catalog
from .observation import READER_MODE, WRITER_MODE, Observation
from .probe import APPLICATION_NAME as PROBE_NAME
from .probe import Probe
from .sampler import FIGURES, Ran, Sampler, may_not_see
from .statement_log import KEPT_CHARACTERS as LOGGED_CHARACTERS
from .statement_log import Logged, StatementLog, TemporaryFile, UnreadableError

APPLICATION_NAME = "dbrelease observe"
# Between samples; the longer one while nothing begins, ends or is locked, so that the migration keeps the processor.
PAUSE_S, LONGEST_PAUSE_S = 0.003, 0.012
STOP_S = 2.0
PROBED_AT_MOST = 16
# From this version on a session's statistics are the server's when it has ended, and not half a second later.
COUNTS_AT_ONCE = 150000

LEAVES = """
WITH RECURSIVE family (oid) AS (
  SELECT %s::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN family f ON i.inhparent = f.oid)
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name
FROM family JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') ORDER BY 2, 3
"""


class Seen:
    """The observation, once the block has ended."""

    def __init__(self) -> None:
        self._observation: Observation | None = None
        self.sql = ""  # the statements of the migration, unmasked: never to be journaled

    @property
    def complete(self) -> bool:
        """Whether there is an observation."""
        return self._observation is not None

    @property
    def observation(self) -> Observation:
        """What was observed; only after the block."""
        if self._observation is None:
            raise RuntimeError("The migration is still being observed.")
        return self._observation


@contextmanager
def observing(
    login: Login, tables: Sequence[str], *, application_name: str = "", own_server: bool = False
) -> Iterator[Seen]:
    """Observe what other sessions of login's database do while the block runs; the result is complete after it.

    tables: declared names of existing tables; each gets a probe writer and a probe reader, and so do its partitions.
    login: a role that may see what others execute (a superuser, a member of pg_monitor, or the role of the migration).
    application_name: of the migration's sessions; empty where every other session of the database is the migration's.
    own_server: the server is a throwaway one, whose log may be switched on: then no statement is too short. It must
    have been started with `statement_log.START_SETTINGS`.
    Raises ReleaseError where no session can be opened. What fails later is said in `not_observed`.
    """
    seen = Seen()
    with closing(_Observer(login, tables, application_name[:63], own_server)) as observer:
        observer.begin()
        try:
            yield seen
        finally:
            seen._observation = observer.end()
            seen.sql = observer.sql


class _Observer:
    """The sampler's and the probes' sessions, from begin() to end()."""

    def __init__(self, login: Login, tables: Sequence[str], application: str, own_server: bool) -> None:
        self.login, self.application, self.own_server = login, application, own_server
        self.problems: list[str] = []
        self.probes: list[tuple[Probe, Probe]] = []
        self.log: StatementLog | None = None
        self.temporary: list[int] | None = None
        self.sql = ""
        self._declared = tables
        self._session = connect(login, APPLICATION_NAME)
        self._cursor = self._session.cursor(cursor_factory=RealDictCursor)
        self._stopping = threading.Event()
        self._sampler = threading.Thread(target=self._sample_on, daemon=True, name=APPLICATION_NAME)

    def begin(self) -> None:
        """Read what is there before, and start."""
        found = self._tables()
        self.before = read_catalog(self._cursor, list(found))
        self._open_log()
        for oid, name in found.items():
            self.probes.append((Probe(self.login, oid, name, WRITER_MODE), Probe(self.login, oid, name, READER_MODE)))
        self.pids = {probe.pid for pair in self.probes for probe in pair}
        (self.figures,) = select(self._cursor, FIGURES)
        self.sampler = Sampler(self.application, self.figures, self.pids, (PROBE_NAME, APPLICATION_NAME))
        self.samples = self.sampler.samples
        self.began_s = self.ended_s = time.monotonic()
        for probe in self._all_probes():
            probe.start()
        self._sampler.start()

    def end(self) -> Observation:
        """Stop, read what is there after, and compare."""
        self.ended_s = time.monotonic()
        self._stopping.set()
        self._sampler.join()
        for probe in self._all_probes():
            probe.stop(0)
        for probe in self._all_probes():
            probe.stop(STOP_S)
        try:
            (figures,) = select(self._cursor, FIGURES)
            after = read_catalog(self._cursor, list(self._oids()))
        except psycopg2.Error as error:
            self.problems.append(f"Reading the catalog afterwards failed: {server_reason(error)}.")
            figures, after = self.figures, self.before
        ran = self._statements()
        # One that is as long as the log keeps is cut.
        whole = (one.text.strip().rstrip(";") for one in ran if len(one.text) < LOGGED_CHARACTERS)
        self.sql = "".join(f"{text};\n" for text in dict.fromkeys(whole))
        record = Record(
            self.application,
            self.samples,
            self.probes,
            self.before,
            after,
            self.figures,
            figures,
            self.ended_s - self.began_s,
            self.temporary,
            self.may_lag(),
            self.problems,
        )
        return Account(record, ran).observation()

    def close(self) -> None:
        """Close the sessions, and let the server log as before."""
        self._stopping.set()
        if self._sampler.is_alive():
            self._sampler.join()
        for probe in self._all_probes():
            probe.stop(STOP_S) if probe.is_alive() else probe.session.close()
        if self.log:
            self.log.close()
        self._session.close()

    def may_lag(self) -> bool:
        """Whether the statistics of the migration's sessions may not have reached the server's."""
        connected = {pid for pid, current in self.samples.current.items() if current.last_ms == self.samples.last_ms}
        return bool(connected) or self._session.server_version < COUNTS_AT_ONCE

    def _all_probes(self) -> Iterator[Probe]:
        return (probe for pair in self.probes for probe in pair)

    def _oids(self) -> Iterator[int]:
        return (writer.oid for writer, _ in self.probes)

    def _tables(self) -> dict[int, tuple[str, str]]:
        found: dict[int, tuple[str, str]] = {}
        for name in self._declared:
            table = find_table(self._cursor, name)
            if table is None:
                self.problems.append(f"There is no table {name}, so that nobody waited for it.")
                continue
            for leaf in select(self._cursor, LEAVES, (table["oid"],)):
                found[leaf["oid"]] = (leaf["schema"], leaf["name"])
        if len(found) > PROBED_AT_MOST:
            self.problems.append(
                f"Waits were observed on {PROBED_AT_MOST} of {len(found)} tables and partitions: more probes would "
                "disturb the migration."
            )
        return dict(list(found.items())[:PROBED_AT_MOST])

    def _open_log(self) -> None:
        if not self.own_server:
            return
        try:
            self.log = StatementLog(self._session.cursor())
        except UnreadableError as error:
            self.problems.append(
                f"The statements were sampled, and not read from the server's log, because {error}: "
                "those that are shorter than the largest gap may be missing."
            )

    def _sample_on(self) -> None:
        pause, known = PAUSE_S, (0, 0)
        try:
            while True:
                last = self._stopping.is_set()
                self.sampler.take(self._cursor)
                if last:
                    return
                before, known = known, (len(self.samples.ran), len(self.samples.held))
                pause = PAUSE_S if known != before else min(pause * 1.1, LONGEST_PAUSE_S)
                self._stopping.wait(pause)
        except psycopg2.Error as error:
            self.problems.append(f"The sampler ended early: {server_reason(error)}.")

    def _statements(self) -> list[Ran]:
        """The sampled statements, and those of the log, each once."""
        ran = self.samples.ran
        if self.samples.hidden:
            self.problems.append(may_not_see(self.login.user))
        if self.log is None:
            return merged(ran, [])
        own = {self._session.info.backend_pid, *self.pids}
        try:
            entries = self.log.read(self.login.database, self.application, own)
        except UnreadableError as error:
            self.problems.append(
                f"The server's log could not be read, because {error}: statements that are shorter than the largest "
                "gap may be missing."
            )
            return merged(ran, [])
        logged = [one for one in entries if isinstance(one, Logged)]
        self.temporary = [one.bytes for one in entries if isinstance(one, TemporaryFile)]
        self.samples.transactions |= {(one.pid, one.xid) for one in logged if one.xid}
        return merged(ran, logged)
