"""How long the rollback of a million associations keeps a writer waiting, with the look at rows that nobody counted."""

from __future__ import annotations

import threading
import time

from .measurement import ROOT, Measurement
from .write_wait import OBVIOUS, SCRATCH, SEED, connect, write_until

SCRIPT = ROOT / "releases/8_1a/migrations/rollback_phase_a.sql"
ASSOCIATED = "UPDATE drawings SET project_id = (SELECT id FROM projects LIMIT 1) WHERE project_id IS NULL"
DEPLOYED = "UPDATE alembic_version SET version_num = 'f4c8a2b5e1d9'; ANALYZE"


def longest_wait() -> float:
    """Seconds that the slowest of many small writes took while the release's own SQL took the release back."""
    admin = connect("postgres")
    with admin.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {SCRATCH} WITH (FORCE)")
        cursor.execute(f"CREATE DATABASE {SCRATCH}")
    try:
        with connect(SCRATCH).cursor() as cursor:
            for statement in (SEED, ASSOCIATED, OBVIOUS, DEPLOYED):
                cursor.execute(statement)
            stop, waits = threading.Event(), [0.0]
            writer = threading.Thread(target=write_until, args=(stop, waits))
            writer.start()
            time.sleep(0.5)
            cursor.execute(
                "SELECT set_config('dbrelease.counted_at', pg_snapshot_xmax(pg_current_snapshot())::text, false)"
            )
            cursor.execute(SCRIPT.read_text())
            time.sleep(0.5)
            stop.set()
            writer.join()
        return max(waits)
    finally:
        with admin.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {SCRATCH} WITH (FORCE)")


MEASUREMENTS = [
    Measurement("rollback_wait", "Longest write wait, rollback of 1,000,000", "s", 0.5, longest_wait),
]
