"""Whether the live database is what the backup holds already: rows, sequences, settings and schema."""

from __future__ import annotations

from contextlib import closing

import psycopg2

from .commands import Commands
from .database import Login, connect, transaction
from .errors import ReleaseError
from .fingerprints import write_counters
from .restore_backup import Backup
from .restore_compare import compare, read_state
from .restore_schema import hashed, schema_of, schema_of_dump
from .restore_settings import prove_settings
from .sequence_values import read_values, set_back

LOCK_TIMEOUT_MS = 2000


def is_restored(
    live: Login, backup: Backup, commands: Commands, timeout_s: int, application: str, *, inside: bool
) -> bool:
    """Each question is asked only where those before, which cost less, were answered with yes.

    Where one cannot be answered, as somebody holds a table, that is no reason to wait nor to fail: it is restored.
    """
    try:
        return _is_restored(live, backup, commands, timeout_s, application, inside=inside)
    except (psycopg2.Error, ReleaseError):
        return False


def _is_restored(
    live: Login, backup: Backup, commands: Commands, timeout_s: int, application: str, *, inside: bool
) -> bool:
    with closing(connect(live, application)) as connection, transaction(connection, read_only=True) as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        if set(write_counters(cursor)["tables"]) != set(backup.content["tables"]):
            return False
        # An older manifest has none.
        if set_back(backup.content.get("sequences") or {}, read_values(cursor)):
            return False
    tables, settings = read_state(live, application, LOCK_TIMEOUT_MS)
    if compare(backup.content, tables).status != "pass":
        return False
    with closing(connect(live, application)) as connection, transaction(connection, read_only=True) as cursor:
        if prove_settings(cursor, backup.content["settings"], settings).status != "pass":
            return False
    schema = schema_of(live, commands, timeout_s, application, inside=inside)
    restored = (backup.content.get("restored") or {}).get("schema_sha256")
    return restored == hashed(schema) or schema == schema_of_dump(backup.path, commands, timeout_s)
