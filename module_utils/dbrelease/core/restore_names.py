"""The names of the databases and folders that a restore creates, and which run they belong to."""

from __future__ import annotations

import re
from hashlib import sha256

from .journal import stamp

# The name of a copy has its whole run, and so cannot be another's kept database; the latter has only the time.
COPIED = re.compile(r"_restore_(?P<day>\d{8})_(?P<time>\d{6})_(?P<token>[0-9a-f]{6})\Z")
KEPT = re.compile(r"_before_restore_\d{8}_\d{6}\Z")
LONGEST = 63
REPLAY = "replay.sql"


def copy_name(database: str, run_id: str) -> str:
    """The new database that a backup is restored into."""
    return _named(database, f"_restore_{stamp(run_id)}_{run_id.rpartition('-')[2]}")


def kept_name(database: str, run_id: str) -> str:
    """The name under which a database stays that a swap has put aside."""
    return _named(database, f"_before_restore_{stamp(run_id)}")


def proof_name(database: str, run_id: str) -> str:
    """The database into which a readiness check restores the backup, and which it drops again."""
    return _named(database, f"_readiness_{stamp(run_id)}")


def copied_by(name: str, database: str) -> str:
    """The run that created the copy of this name, which no swap has put in place; empty where `database` has none."""
    found = COPIED.search(name)
    run_id = f"{found['day']}T{found['time']}Z-{found['token']}" if found else ""
    return run_id if found and name == _named(database, found.group()) else ""


def is_kept(name: str, database: str) -> bool:
    """Whether the name is that of a database that a swap has put aside."""
    found = KEPT.search(name)
    return found is not None and name == _named(database, found.group())


def dump_folder(run_id: str) -> str:
    """Where pg_restore's container has the dump while it restores."""
    return f"/tmp/dbrelease_restore_{run_id}"  # noqa: S108 - made with mode 0700


def rows_folder(run_id: str) -> str:
    """Where a swap saves rows, in the state directory; it is complete with its script, REPLAY."""
    return f"rows_since_backup_{stamp(run_id)}"


def _named(database: str, suffix: str) -> str:
    """A name that has to be cut has a hash of its owner: no two databases may share it."""
    room = LONGEST - len(suffix)
    if len(database.encode()) <= room:
        return database + suffix
    mark = f"_{sha256(database.encode()).hexdigest()[:8]}"
    return _cut(database, room - len(mark)) + mark + suffix


def _cut(text: str, size: int) -> str:
    """The server cuts names by bytes, and never within a character."""
    return text.encode()[:size].decode(errors="ignore")
