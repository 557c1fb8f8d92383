"""A run begins: its identifier, its first line in the journal, its claim on the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..core.journal import Journal, Run, new_run_id, utc_now
from . import scan
from .claim import CLAIM_STEP
from .holder import claim, holder_of
from .interrupted import lines_of_runs


def open_run(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """`run`, `message`, `refused` and `unsettled` of the module that opens runs."""
    names = ("release", "environment", "playbook", "state_dir")
    run = Run(new_run_id(utc_now()), **{name: params[name] for name in names})
    journal = Journal(run, dry=check_mode)
    # What cannot be read, or settled, is refused before anything is added to it.
    by_run = lines_of_runs(journal.read())
    if params["exclusive"]:
        scan.demand_few_unended(run, by_run)
    journal.append("run", "started", {"controller": params["controller"], "asked": params["asked"]})
    message, refused = _claimed(run, params["controller"], journal) if params["exclusive"] else ("", False)
    settles = params["exclusive"] and not refused
    left = bool(scan.scan_target(run, journal.read(), dry=check_mode)) if settles else False
    return {"run": asdict(run), "message": message, "refused": refused, "unsettled": left}


def _claimed(run: Run, controller: Mapping[str, Any], journal: Journal) -> tuple[str, bool]:
    """Claim the target and journal the result; the message, and whether another run has the target."""
    if journal.dry:
        seen = holder_of(run)
        return (f"{seen.message} Check mode goes on, as it only reads.", False) if seen else ("", False)
    came = claim(run, controller)
    facts = {"message": came.message, "holder": asdict(came.holder) if came.holder else None}
    journal.append(CLAIM_STEP, "refused" if came.refused else "passed", facts)
    return came.message, came.refused
