"""What a rehearsal costs, and whether it predicts what the live migration does: this release, and the obvious one.

The obvious revision creates the table with its foreign keys and then fills it, in one transaction.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .measurement import ROOT, Measurement, newest_evidence, play, stack
from .write_wait import longest_wait_during

ROWS = 1_000_000
REVISION = "migrations/f4c8a2b5e1d9_create_drawing_project_associations_junction_table.py"
COPY = "    migrated = copy_associations()\n"
BEFORE_MESSAGE = "    if migrated is not None:\n"
REHEARSED = ("-e", "rehearsal=container")
WRITE_WAIT = "rehearse.budget.write_wait"
# What a client writes beside the migration, to a row that exists and to a new one.
WRITES = (
    "UPDATE drawings SET updated_at = now() WHERE id = (SELECT id FROM drawings LIMIT 1)",
    "INSERT INTO drawings (title, file_path, project_id) SELECT 'live', '/live', id FROM projects LIMIT 1",
)
ALLOWED_MS = 600_000


@contextmanager
def releases(*, obvious: bool, write_wait_ms: int = 1000) -> Iterator[tuple[str, ...]]:
    """A copy of the releases with that budget, as arguments of a playbook."""
    with tempfile.TemporaryDirectory(prefix="releases-") as folder:
        copied = Path(shutil.copytree(ROOT / "releases", Path(folder) / "releases"))
        release, revision = copied / "8_1a/release.yml", copied / "8_1a" / REVISION
        lock = "  lock:\n"
        release.write_text(
            release.read_text().replace(lock, f"  budget: {{write_wait_ms: {write_wait_ms}}}\n{lock}", 1)
        )
        if obvious:
            text = revision.read_text().replace("            postgresql_not_valid=True,\n", "").replace(COPY, "")
            revision.write_text(text.replace(BEFORE_MESSAGE, COPY + BEFORE_MESSAGE, 1))
        yield "-e", f"run_releases={copied}"


def obvious_refused() -> float:
    """The wait for which the obvious revision is refused at a budget of one second."""
    stack(ROWS)
    with releases(obvious=True) as given:
        try:
            play("deploy_8_1a.yml", *REHEARSED, *given)
        except SystemExit:
            pass
        else:
            raise SystemExit("The obvious revision was deployed over its budget.")
    evidence = newest_evidence()
    proof = next(proof for proof in evidence["proofs"] if proof["name"] == WRITE_WAIT)
    print(f"    {evidence['outcome']}: {proof['detail']} {proof['remedy']}", flush=True)
    if (evidence["outcome"], proof["status"]) != ("refused", "fail"):
        raise SystemExit(f"The obvious revision was not refused for its write wait:\n{json.dumps(proof)[:4000]}")
    return float(max(proof["observed"].values())) / 1000


def predicted(*, obvious: bool) -> tuple[float, float, float]:
    """Seconds that a writer waits by the rehearsal and in the live run; and those that the whole deploy took."""
    stack(ROWS)
    took = [0.0]

    def deploy() -> None:
        took[0] = play("deploy_8_1a.yml", *REHEARSED, *given)[0]

    with releases(obvious=obvious, write_wait_ms=ALLOWED_MS) as given:
        actual = longest_wait_during(deploy, "drawing_index", WRITES)
    proofs = {proof["name"]: proof for proof in newest_evidence()["proofs"]}
    forecast = max(proofs[WRITE_WAIT]["observed"].values()) / 1000
    print(f"    {proofs[WRITE_WAIT]['detail']}\n    predicted {forecast:.3f} s, actual {actual:.3f} s", flush=True)
    return forecast, actual, took[0]


def obvious_forecast() -> float:
    """By how much the predicted write wait of the obvious revision differs from the actual one."""
    forecast, actual, _ = predicted(obvious=True)
    return abs(forecast / actual - 1)


def rehearsed_deploy() -> float:
    """A whole deploy of this release with its rehearsal."""
    return predicted(obvious=False)[2]


MEASUREMENTS = [
    Measurement("obvious_refused_1m", "write wait for which it is refused, 1,000,000 rows", "s", None, obvious_refused),
    Measurement(
        "obvious_forecast_1m", "predicted write wait beside the actual, part apart", "", 0.25, obvious_forecast
    ),
    Measurement("deploy_rehearsed_1m", "deploy of 1,000,000 rows with its rehearsal", "s", None, rehearsed_deploy),
]
