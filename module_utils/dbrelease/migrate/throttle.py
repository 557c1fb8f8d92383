"""Pauses between the batches of a step while standbys lag or the API is slow: bounded, each with its cause."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import psycopg2
from psycopg2.extras import RealDictCursor

from ..core.errors import ReleaseError
from ..core.journal import utc_now
from ..core.proof import Proof, Status
from ..host.http import HttpSession
from ..postgres.session import Connection, Row, select, server_reason

PROOF = "migrate.throttle"
TITLE = "Steps in batches paused while standbys lagged or the API was slow"
POLL_S = 1.0
# Small batches are not slowed down by the requests of the check.
CHECK_EVERY_S = 1.0
# One slow answer is no slow API: the median of so many decides.
REQUESTS = 3
CAUSES_NAMED = 5
# A standby that stops sending replies keeps its last figures. One that is connected replies every 10 s by default.
STANDBYS = """
SELECT coalesce(nullif(application_name, ''), client_addr::text, 'standby') AS name, state,
       extract(epoch FROM greatest(replay_lag, CASE
         WHEN coalesce(replay_lsn, flush_lsn) < pg_current_wal_lsn()
           AND reply_time < clock_timestamp() - interval '15 seconds'
         THEN clock_timestamp() - reply_time END))::float8 AS lag_seconds
FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup' ORDER BY 1
"""
REMEDY = (
    "What was committed stays, and the database is consistent. Find out what slows the standbys or the API down, and "
    "rerun the playbook: the step continues where it stopped."
)
EXEMPT = "Exempt the target from the API's rate limit."


@dataclass
class Throttle:
    """The limits that a release declares, and what was observed; without a limit it does nothing.

    lag_seconds, latency_ms: the highest allowed lag of a standby, and time of an answer; 0: not checked.
    pause_seconds: the longest time of all pauses together. unknown: what could not be measured, with what to do.
    """

    lag_seconds: float = 0
    latency_ms: float = 0
    pause_seconds: float = 600
    paths: Sequence[str] = ()
    base_url: str = ""
    ca_file: str = ""
    timeout_s: float = 5
    sleep: Callable[[float], None] = time.sleep
    pauses: list[Row] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    checked: int = 0
    _standbys: int = 0
    _next: float = 0.0

    @classmethod
    def of(cls, declared: Mapping[str, Any] | None, api: Mapping[str, Any], services: Mapping[str, Any]) -> Throttle:
        """From a release's `migration.throttle` and `api`, and the option `services` of a module."""
        limits = {key: value for key, value in (declared or {}).items() if value is not None}
        return cls(
            **limits,
            paths=[endpoint["path"] for endpoint in api.get("endpoints") or ()],
            base_url=services.get("api_base_url") or "",
            ca_file=services.get("api_ca_file") or "",
            timeout_s=float(services.get("timeout_seconds") or 5),
        )

    def before_batch(self, connection: Connection, step: str) -> None:
        """Return once a batch may begin; raises ReleaseError when all pauses together last too long."""
        if not (self.lag_seconds or self.latency_ms) or time.monotonic() < self._next:
            return
        cause = self._exceeded(connection)
        if cause:
            self._pause(connection, step, cause)
        self._next = time.monotonic() + CHECK_EVERY_S

    def _pause(self, connection: Connection, step: str, cause: str) -> None:
        pause: Row = {"step": step, "cause": cause, "started_at": _now(), "duration_ms": 0, "resumed": False}
        before_s, begun = self.paused_s, time.monotonic()
        self.pauses.append(pause)
        while cause:
            left_s = self.pause_seconds - before_s - (time.monotonic() - begun)
            if left_s <= 0:
                raise ReleaseError(
                    f"Step {step} stopped between two batches, after pauses of {self.paused_s:.1f} s: {cause}. "
                    f"{REMEDY}",
                    could_not_run=True,
                )
            self.sleep(min(POLL_S, left_s))
            pause["duration_ms"] = round((time.monotonic() - begun) * 1000)
            cause = self._exceeded(connection)
        pause["resumed"] = True

    @property
    def paused_s(self) -> float:
        """The time of all pauses."""
        return float(sum(pause["duration_ms"] for pause in self.pauses)) / 1000

    def _exceeded(self, connection: Connection) -> str:
        """Why a batch may not begin, in words; empty where it may."""
        self.checked += 1
        return (self._lag(connection) if self.lag_seconds else "") or (self._latency() if self.latency_ms else "")

    def _lag(self, connection: Connection) -> str:
        try:
            with connection.cursor(cursor_factory=RealDictCursor) as cursor:
                standbys = select(cursor, STANDBYS)
        except psycopg2.Error as error:
            if connection.closed:
                raise
            self._note(f"reading the lag of the standbys failed ({server_reason(error)})", "See the server's log.")
            return ""
        if any(row["state"] is None for row in standbys):
            self._note("the lag of the standbys is hidden from db_user", "Grant pg_monitor to db_user.")
        lost, self._standbys = self._standbys - len(standbys), max(self._standbys, len(standbys))
        if lost > 0:
            return f"{len(standbys)} standbys are connected, {self._standbys} were before"
        slowest = max(standbys, key=lambda row: row["lag_seconds"] or 0.0, default=None)
        if slowest and (lag_s := slowest["lag_seconds"] or 0.0) > self.lag_seconds:
            return f"standby {slowest['name']} lags by {lag_s:.1f} s, above the limit of {self.lag_seconds:g} s"
        return ""

    def _latency(self) -> str:
        if not (self.paths and self.base_url):
            self._note("the latency of the API was not measured: the inventory names no API", "Set api_base_url.")
            return ""
        with HttpSession(self.base_url, self.timeout_s, self.ca_file) as session:
            for path in self.paths:
                times: list[float] = []
                while len(times) < REQUESTS and not (times and times[0] <= self.latency_ms):
                    answer = session.get(path)
                    if answer.says_nothing:
                        said = answer.problem.rstrip(".") or f"was answered with status {answer.status}"
                        self._note(f"the latency of GET {path} is unknown: it {said}", answer.remedy or EXEMPT)
                        break
                    if answer.problem:
                        return f"GET {path} {answer.problem.rstrip('.')}"
                    times.append(answer.duration_ms)
                if times and median(times) > self.latency_ms:
                    return f"GET {path} takes {median(times):.0f} ms, above the limit of {self.latency_ms:g} ms"
        return ""

    def _note(self, said: str, remedy: str) -> None:
        self.unknown[said] = remedy

    def proofs(self) -> list[Proof]:
        """What was observed; nothing where no limit is declared, or no batch ran."""
        if not self.checked:
            return []
        expected = {"lag_seconds": self.lag_seconds, "latency_ms": self.latency_ms, "pause_seconds": self.pause_seconds}
        causes = list(dict.fromkeys(pause["cause"] for pause in self.pauses))
        more = f" and {len(causes) - CAUSES_NAMED} more" if len(causes) > CAUSES_NAMED else ""
        said = (
            f"Paused {len(self.pauses)} times, for {self.paused_s:.1f} s: {'; '.join(causes[:CAUSES_NAMED])}{more}."
            if self.pauses
            else "No pause was needed."
        )
        unknown = "".join(f" {text[0].upper()}{text[1:]}." for text in self.unknown)
        stopped = any(not pause["resumed"] for pause in self.pauses)
        status: Status = "inconclusive" if stopped or unknown else "pass"
        remedy = " ".join([*([REMEDY] if stopped else []), *dict.fromkeys(self.unknown.values())])
        return [Proof(PROOF, TITLE, status, expected, list(self.pauses), f"{said}{unknown}", remedy)]


def _now() -> str:
    return utc_now().isoformat(timespec="milliseconds")
