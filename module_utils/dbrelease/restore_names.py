"""The names of the databases and folders that a restore makes, and whose they are."""

from __future__ import annotations

import re

from .journal import stamp

STAMP = r"\d{8}_\d{6}"
LONGEST = 63
REPLAY = "replay.sql"


def copy_name(database: str, run_id: str) -> str:
    """The new database that a backup is restored into."""
    return _named(database, f"_restore_{stamp(run_id)}")


def kept_name(database: str, run_id: str) -> str:
    """The name under which a database stays that a swap has put aside."""
    return _named(database, f"_before_restore_{stamp(run_id)}")


def proof_name(database: str, run_id: str) -> str:
    """The database that a look at readiness restores the backup into, and drops again."""
    return _named(database, f"_readiness_{stamp(run_id)}")


def is_copy(name: str, database: str) -> bool:
    """Whether the name is that of a restored copy, which no swap has put in place."""
    return re.fullmatch(f"{re.escape(_base(database, '_restore_'))}_restore_{STAMP}", name) is not None


def is_kept(name: str, database: str) -> bool:
    """Whether the name is that of a database that a swap has put aside."""
    return re.fullmatch(f"{re.escape(_base(database, '_before_restore_'))}_before_restore_{STAMP}", name) is not None


def dump_folder(run_id: str) -> str:
    """Where pg_restore's container has the dump while it restores."""
    return f"/tmp/dbrelease_restore_{run_id}"  # noqa: S108 - made with mode 0700


def rows_folder(run_id: str) -> str:
    """Where a swap saves rows, in the state directory; it is whole with its script, REPLAY."""
    return f"rows_since_backup_{stamp(run_id)}"


def _named(database: str, suffix: str) -> str:
    return _cut(database, LONGEST - len(suffix)) + suffix


def _base(database: str, infix: str) -> str:
    return _cut(database, LONGEST - len(infix) - len("20260101_000000"))


def _cut(text: str, size: int) -> str:
    """The server cuts names by bytes, and never within a character."""
    return text.encode()[:size].decode(errors="ignore")
