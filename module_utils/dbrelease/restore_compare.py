"""A database beside the manifest of a backup: what it holds, read at one instant, and whether that is the same."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import psycopg2

from .baseline import read_settings
from .database import Login, connect, server_reason, transaction
from .errors import ReleaseError
from .fingerprints import read_tables, state_of
from .proof import Proof
from .statement import limit_statements

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
        raise ReleaseError(
            f"Reading the {login.label} failed ({server_reason(error)}): see the server's log, and run again."
        ) from error


def compare(content: Mapping[str, Any], seen: Mapping[str, Any]) -> Proof:
    """Every table of the manifest, rows and content, and no table more."""
    expected = content["tables"]
    sample = [
        {
            "table": table,
            "expected": _told(expected.get(table)),
            "observed": _told(seen.get(table)),
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


def _told(table: Mapping[str, Any] | None) -> str:
    return "no such table" if table is None else f"{table['rows']} rows, {table['fingerprint']}"
