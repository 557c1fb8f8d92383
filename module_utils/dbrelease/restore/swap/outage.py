"""Stop the application for the swap, and start it again in every outcome."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime

from ...core.errors import ReleaseError
from ...core.journal import Journal, utc_now
from ...core.proof import Proof
from ...host import lifecycle as services
from ...host.lifecycle import SERVICES_PROOF, SERVICES_STEP, SERVICES_TITLE, Limits, Stopping
from ..cleanup import never_started
from ..plan import RestorePlan


def unstarted(journal: Journal, containers: Collection[str]) -> list[str]:
    """The containers, of these, that the newest swap stopped and could not start again."""
    return [name for name in never_started(journal.read()) if name in containers]


class AppOutage:
    """Stop those of `named` that run, or that the newest swap could not start; end() starts them again."""

    def __init__(self, journal: Journal, named: Sequence[str], limits: Limits, maintenance_db: str) -> None:
        self._unstarted = unstarted(journal, named)
        stopped = list(dict.fromkeys([*services.running(named), *self._unstarted]))
        facts = {"stop_seconds": services.stop_seconds(stopped, limits), "maintenance_db": maintenance_db}
        # Written before the first one is stopped, for the run that follows a kill.
        self.stopping = Stopping.of(journal.append(SERVICES_STEP, "started", {"containers": stopped, **facts}))
        self._journal, self._named, self._limits = journal, named, limits
        self._begun = time.monotonic()
        self._killed: list[str] = []
        self._stopped_at: datetime | None = None

    def stop(self) -> None:
        """Stop all at once; raises ReleaseError if one does not stop."""
        services.stop(self.stopping.containers, self._limits)
        self._stopped_at = utc_now()
        # One that an earlier swap had stopped has a status from then.
        self._killed = services.killed([name for name in self.stopping.containers if name not in self._unstarted])

    def end(self, failure: BaseException | None) -> Proof | None:
        """Start them and wait for them. If that fails, raise, or return None so as not to hide `failure`."""
        stopped = self.stopping.containers
        restarted: list[str] = []
        try:
            if self._stopped_at:
                # A failure to read this changes nothing: they are started in any case.
                with suppress(ReleaseError):
                    restarted = services.started_by_others(stopped, self._stopped_at)
            services.start(self.stopping)
            seen = services.wait_until_healthy(stopped, self._limits)
        except ReleaseError as error:
            self._journal.append(SERVICES_STEP, "failed", {"containers": stopped, "message": error.message})
            if failure is None:
                raise
            return None
        away_ms = round((time.monotonic() - self._begun) * 1000) if stopped else 0
        left = [name for name in self._named if name not in stopped]
        proof = services.prove(seen, away_ms, left, self._unstarted, self._killed, restarted)
        facts = {"containers": stopped, "away_ms": away_ms, "proofs": [proof.as_dict()]}
        self._journal.append(SERVICES_STEP, "failed" if proof.status == "fail" else "passed", facts)
        return proof


def start_left(plan: RestorePlan) -> list[Proof]:
    """Start what the newest swap could not; without another swap nothing else would start it.

    Returns the proof, or none if every container was started. Raises ReleaseError if one cannot be started.
    """
    left = unstarted(plan.journal, plan.swap.containers)
    if not left:
        return []
    if plan.check_mode:
        detail = f"Planned: {' and '.join(left)}, which an earlier swap could not start, would be started."
        return [Proof(SERVICES_PROOF, SERVICES_TITLE, "skipped", detail=detail)]
    proof = AppOutage(plan.journal, left, plan.swap.limits, plan.maintenance.database).end(None)
    return [proof] if proof else []
