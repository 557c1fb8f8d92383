"""How long a full restore takes beside pg_restore alone, and how long the application is away for it."""

from __future__ import annotations

import time
from datetime import datetime
from functools import cache
from typing import Any

import yaml

from .measurement import ROOT, Measurement, newest_evidence, play, run, stack

ROWS = 1_000_000
USER, PROOF = "user", "outside_bench"
DUMP = "/tmp/outside_bench"  # noqa: S108 - in the container


@cache
def database_container() -> str:
    """As the inventory has it."""
    variables = yaml.safe_load((ROOT / "inventories/staging/group_vars/drawing_index.yml").read_text())
    return str(variables["db_container"])


def inside(*command: str) -> str:
    """A command in the database's container."""
    return run(["docker", "exec", database_container(), *command])


@cache
def restored() -> tuple[float, dict[str, Any]]:
    """Seconds of `pg_restore -j2` alone, and the evidence of the full restore of the same backup."""
    stack(ROWS)
    play("deploy_8_1a.yml", "-e", "monitor_watch_seconds=1")
    backup = newest_evidence()["backup"]["path"]
    run(["docker", "cp", backup, f"{database_container()}:{DUMP}"])
    inside("createdb", f"--username={USER}", "--template=template0", PROOF)
    begun = time.monotonic()
    inside("pg_restore", f"--username={USER}", "--exit-on-error", "--jobs=2", f"--dbname={PROOF}", DUMP)
    alone = time.monotonic() - begun
    inside("dropdb", f"--username={USER}", PROOF)
    inside("rm", DUMP)
    play("restore_8_1a.yml")
    return alone, newest_evidence()


def ratio() -> float:
    """From the first look at the backup to the moment at which the swap is done, whatever happened in between."""
    alone, evidence = restored()
    print(f"{'pg_restore -j2 alone, 1,000,000 rows':60} {alone:10.3f} s", flush=True)
    stages = {stage["step"]: stage for stage in evidence["stages"]}
    first, last = (datetime.fromisoformat(stages[step]["started_at"]) for step in ("restore.backup", "restore.swap"))
    whole: float = (last - first).total_seconds() + stages["restore.swap"]["duration_ms"] / 1000
    print(f"{'restored, compared, rows saved, swapped':60} {whole:10.3f} s", flush=True)
    return whole / alone


def away() -> float:
    """From the first container's stop until all are healthy again."""
    _, evidence = restored()
    (services,) = [proof for proof in evidence["proofs"] if proof["name"] == "restore.services"]
    return float(services["duration_ms"]) / 1000


MEASUREMENTS = [
    Measurement("restore_1m", "full restore of 1,000,000 rows beside pg_restore -j2 alone", "x", 1.3, ratio),
    Measurement("restore_away_1m", "application away for it", "s", 10.0, away),
]
