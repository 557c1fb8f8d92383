"""Run every measurement, print a table, and write bench/results.json; exit status 1 where a limit is not kept."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime

from . import by_hand, deploy, large, progress, rehearsal, restore, rollback, write_wait
from .measurement import ROOT, Measurement, stack

SUITES: list[list[Measurement]] = [
    deploy.MEASUREMENTS,
    write_wait.MEASUREMENTS,
    rollback.MEASUREMENTS,
    restore.MEASUREMENTS,
    large.MEASUREMENTS,
    rehearsal.MEASUREMENTS,
    progress.MEASUREMENTS,
    by_hand.MEASUREMENTS,
]
RESULTS = ROOT / "bench/results.json"


def main(names: list[str]) -> int:
    """Run those that are named, or all that need not be named."""
    known = [one.name for suite in SUITES for one in suite]
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"There is no measurement {', '.join(unknown)}: name some of {', '.join(known)}.")
    chosen = [one for suite in SUITES for one in suite if (one.name in names if names else not one.by_name)]
    results, missed = [], []
    for one in chosen:
        figure = round(one.measure(), 3)
        results.append({"name": one.name, "title": one.title, "unit": one.unit, "limit": one.limit, "measured": figure})
        if one.limit is not None and figure > one.limit:
            missed.append(one.name)
        limit = "" if one.limit is None else f"at most {one.limit:g} {one.unit}"
        verdict = "NOT KEPT" if one.name in missed else ""
        print(f"{one.title:60} {figure:10.3f} {one.unit:4} {limit:18} {verdict}", flush=True)
    stack(10_000)
    if not names:
        machine = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
        document = {"measured_at": datetime.now(UTC).isoformat(), "machine": machine, "results": results}
        RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
