"""A database beside the manifest of a backup: what it holds, read at one instant, and whether that is the same."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import psycopg2

from ..backup.baseline import read_settings
from ..backup.schema_text import hashed, schema_of, schema_of_dump
from ..core.errors import ReleaseError
from ..core.proof import Proof
from ..postgres.could_not_run import advised
from ..postgres.declared_sql import limit_statements
from ..postgres.fingerprints import read_tables, state_of, write_counters
from ..postgres.sequences import read_values, set_back
from ..postgres.session import Login, connect, server_reason, transaction
from .plan import CopyTarget
from .settings import prove_settings
from .source import Backup

VERIFIED_PROOF = "restore.verified"
SHOWN = 5


def read_state(login: Login, application_name: str, lock_timeout_ms: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every table's state and the database's settings, of one instant; 0 waits for a lock without limit."""
    try:
        with (
            closing(connect(login, application_name)) as connection,
            transaction(connection, read_only=True, isolation="REPEATABLE READ") as cursor,
        ):
            limit_statements(cursor, 0, lock_timeout=lock_timeout_ms)
            return read_tables(cursor), read_settings(cursor)
    except psycopg2.Error as error:
        advice = advised(error, "see the server's log, and rerun the playbook.")
        raise ReleaseError(f"Reading the {login.label} failed ({server_reason(error)}): {advice}") from error


def compare(content: Mapping[str, Any], seen: Mapping[str, Any]) -> Proof:
    """Every table of the manifest, rows and content, and no table more."""
    expected = content["tables"]
    sample = [
        {
            "table": table,
            "expected": _in_words(expected.get(table)),
            "observed": _in_words(seen.get(table)),
        }
        for table in sorted({*expected, *seen})
        if not _same(expected.get(table), seen.get(table))
    ]
    rows = sum(state["rows"] for state in seen.values())
    return Proof(
        VERIFIED_PROOF,
        "The restored copy holds exactly what was backed up",
        "fail" if sample else "pass",
        expected={"tables": len(expected), "rows": sum(state["rows"] for state in expected.values())},
        observed={"tables": len(seen), "rows": rows},
        detail=f"Different: {', '.join(line['table'] for line in sample[:SHOWN])}."
        if sample
        else f"{rows} rows in {len(seen)} tables have the fingerprints of the manifest.",
        remedy="The copy was dropped, and nothing was swapped; use another backup." if sample else "",
        sample=sample[:SHOWN],
    )


def _same(expected: Mapping[str, Any] | None, seen: Mapping[str, Any] | None) -> bool:
    return expected is not None and seen is not None and state_of(expected) == state_of(seen)


def _in_words(table: Mapping[str, Any] | None) -> str:
    return "no such table" if table is None else f"{table['rows']} rows, {table['fingerprint']}"


LOCK_TIMEOUT_MS = 2000


def is_restored(live: Login, backup: Backup, place: CopyTarget) -> bool:
    """Each check runs only where the cheaper ones before it passed.

    Where one cannot run, as another session locks a table, the backup is restored: no reason to wait or to fail.
    """
    try:
        return _is_restored(live, backup, place)
    except (psycopg2.Error, ReleaseError):
        return False


def _is_restored(live: Login, backup: Backup, place: CopyTarget) -> bool:
    application = place.comparing_name
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
    schema = schema_of(live, place.commands, place.timeout_s, application, inside=place.inside)
    restored = (backup.content.get("restored") or {}).get("schema_sha256")
    if restored == hashed(schema):
        return True
    return schema.objects == schema_of_dump(backup.path, place.commands, place.timeout_s).objects
