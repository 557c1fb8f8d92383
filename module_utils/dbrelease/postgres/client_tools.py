"""Which of PostgreSQL's client programs fit which server: pure functions of versions."""

from __future__ import annotations

import re
import sys

from ..core.errors import ReleaseError

# From this version on pg_restore, and the script that it writes, sets what no server before it knows
# (transaction_timeout), and an archive of this pg_dump is read by no pg_restore before it.
SETTING_SINCE = 17
MAJOR = re.compile(r"(\d+)(?:\.|devel|beta|rc|$|\s)")


def major_of(text: str) -> int:
    """15 of `15.9 (Debian ...)` and of `pg_dump (PostgreSQL) 15.9`, 18 of `18beta1`; raises ReleaseError."""
    found = MAJOR.search(text.rpartition("(PostgreSQL)")[2])
    if not found:
        raise ReleaseError(f"`{text}` names no version of PostgreSQL.")
    return int(found.group(1))


def fitting_clients(server: int, dumped_by: int = 0) -> range:
    """The major versions that dump such a server, and that restore to it what pg_dump of `dumped_by` dumped."""
    return range(max(server, dumped_by), sys.maxsize if server >= SETTING_SINCE else SETTING_SINCE)


def in_words(clients: range) -> str:
    """`15 or 16`, `17 or later`; empty where there are none."""
    if clients.stop == sys.maxsize:
        return f"{clients.start} or later"
    return " or ".join(map(str, clients))
