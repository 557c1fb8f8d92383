"""Observe a migration of a live database: by samples of an existing session alone, so that nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg2
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..postgres.catalog import find_table
from ..postgres.revision import asking
from ..postgres.session import Login, Row, select, server_reason
from .attribution import Account, Record, merged
from .catalog_changes import CatalogState, read_catalog
from .observation import Observation
from .sampler import FIGURES, Sampler, may_not_see

# A server with many locks takes long for a sample: at most so much of the time is spent on them.
REST = 9
FAILED = "What the migration did to others was not observed to the end: {}."


@dataclass
class LiveObserver:
    """Samples the sessions of one application_name; it informs, and what fails in it is only said.

    tables: declared names of existing tables, whose catalog is compared for the advice.
    """

    login: Login
    application: str
    tables: Sequence[str]
    problems: list[str] = field(default_factory=list, init=False)
    _sampler: Sampler | None = field(default=None, init=False)
    _before: CatalogState | None = field(default=None, init=False)
    _oids: list[int] = field(default_factory=list, init=False)
    _next_s: float = field(default=0.0, init=False)

    def look(self, cursor: Cursor) -> None:
        """Take a sample, the first before the migration begins; the cursor returns dicts and is in no transaction."""
        if self.problems or time.monotonic() < self._next_s:
            return
        try:
            if self._sampler is None:
                self._sampler = self._begun(cursor)
            begun = time.monotonic()
            self._sampler.take(cursor)
            now = time.monotonic()
            self._next_s = now + REST * (now - begun)
        except (psycopg2.Error, ReleaseError) as error:
            self.problems.append(FAILED.format(server_reason(error) if isinstance(error, psycopg2.Error) else error))

    def _begun(self, cursor: Cursor) -> Sampler:
        found = (find_table(cursor, name) for name in self.tables)
        self._oids = [table["oid"] for table in found if table]
        self._before = read_catalog(cursor, self._oids)
        figures: Row = select(cursor, FIGURES)[0]
        return Sampler(self.application[:63], figures)

    def observation(self) -> Observation | None:
        """What was observed, read once the migration has ended; None where nothing was."""
        sampler, before = self._sampler, self._before
        if sampler is None or before is None:
            return None
        after, figures = before, sampler.figures
        try:
            with asking(self.login, "dbrelease observe") as cursor:
                after, figures = read_catalog(cursor, self._oids), select(cursor, FIGURES)[0]
        except (psycopg2.Error, ReleaseError) as error:
            self.problems.append(f"Reading the catalog afterwards failed: {error}.")
        if sampler.samples.hidden:
            self.problems.append(may_not_see(self.login.user))
        record = Record(
            self.application,
            sampler.samples,
            (),
            before,
            after,
            sampler.figures,
            figures,
            (sampler.samples.last_ms - sampler.figures["now"]) / 1000,
            temporary=None,
            may_lag=True,
            problems=self.problems,
            probed=False,
        )
        return Account(record, merged(sampler.samples.ran, ())).observation()
