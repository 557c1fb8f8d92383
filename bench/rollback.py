"""How long a rollback of a million associations keeps writers waiting."""

from __future__ import annotations

from .measurement import Measurement, play, stack
from .write_wait import longest_wait_during

ROWS = 1_000_000
DATABASE = "drawing_index"
# Both tables that the foreign keys lead to.
WRITES = (
    "INSERT INTO drawings (title, file_path) VALUES ('live', 'live.pdf')",
    "UPDATE projects SET name = name WHERE id = (SELECT id FROM projects LIMIT 1)",
)


def longest_wait() -> float:
    """Seconds that the slowest of many small writes took during the whole playbook."""
    stack(ROWS)
    play("deploy_8_1a.yml", "-e", "monitor_watch_seconds=1")
    return longest_wait_during(lambda: play("rollback_8_1a.yml"), DATABASE, WRITES)


MEASUREMENTS = [
    Measurement("rollback_wait_1m", "longest write during the rollback, 1,000,000 rows", "s", 0.5, longest_wait),
]
