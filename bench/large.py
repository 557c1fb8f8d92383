"""Whether a good release passes on large tables where a container has Docker's 64 MB of shared memory."""

from __future__ import annotations

from typing import Any

from .measurement import Measurement, newest_evidence, play, run, stack
from .restore import database_container

SHARED_MEMORY = 64 * 1024 * 1024
# There and back twice: the last way back restores the backup of the second deploy.
PLAYS = ("deploy_8_1a.yml", "verify_8_1a.yml", "rollback_8_1a.yml", "deploy_8_1a.yml", "restore_8_1a.yml")


def unproved(rows: int) -> float:
    """How many claims of these runs failed or could not be checked; a run that fails ends the bench."""
    stack(rows)
    shared = run(["docker", "inspect", "--format", "{{.HostConfig.ShmSize}}", database_container()]).strip()
    if shared != str(SHARED_MEMORY):
        raise SystemExit(f"{database_container()} has {shared} bytes of shared memory; Docker's default is measured.")
    found = []
    for name in PLAYS:
        watch = ("-e", "monitor_watch_seconds=1") if name.startswith("deploy") else ()
        seconds, _ = play(name, *watch)
        print(f"{f'{name}, {rows:,} rows, whole process':60} {seconds:10.3f} s", flush=True)
        found += [f"{name}: {words(proof)}" for proof in newest_evidence()["proofs"] if is_unproved(proof)]
    print(*found, sep="\n", end="\n" if found else "", flush=True)
    return len(found)


def is_unproved(proof: dict[str, Any]) -> bool:
    """Whether a claim failed, or the server could not answer it."""
    return proof["status"] == "fail" or bool(proof.get("could_not_run"))


def words(proof: dict[str, Any]) -> str:
    """Such a claim on one line."""
    return f"{proof['name']} {proof['status']}: {proof.get('detail', '')}"


MEASUREMENTS = [
    Measurement(
        "unproved_1m", "claims unproved in 5 runs, 1,000,000 rows, 64 MB of shm", "", 0, lambda: unproved(1_000_000)
    ),
    Measurement(
        "unproved_3m",
        "claims unproved in 5 runs, 3,000,000 rows, 64 MB of shm",
        "",
        0,
        lambda: unproved(3_000_000),
        by_name=True,
    ),
]
