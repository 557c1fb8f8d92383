"""A declared statement that writes or is explained: proved to be one statement, and prepared by the server itself."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import psycopg2
import psycopg2.extensions

from ..core.errors import ReleaseError
from .outside_functions import refuse_reaching_out
from .session import as_declared, strip_terminator, without_timeouts
from .strangers import refuse_planted

Cursor = psycopg2.extensions.cursor

# The declared text is a value here, never a part of what this session sends. A cursor takes exactly one statement, and
# EXPLAIN only one that is planned: a second statement is refused before the first has run. PREPARE then takes SELECT,
# INSERT, UPDATE, DELETE and MERGE, and no command that ends a transaction, changes the schema or copies to a program.
# It resolves names as its role does, so this names the schema of all that belongs to the server.
_PREPARE = """
DO $prepare$
DECLARE
    declared pg_catalog.text := pg_catalog.current_setting('dbrelease.statement');
    single pg_catalog.refcursor;
BEGIN
    OPEN single FOR EXECUTE pg_catalog.concat('EXPLAIN (ANALYZE false) ', declared);
    CLOSE single;
    EXECUTE pg_catalog.concat('PREPARE declared_statement AS ', declared);
END
$prepare$
"""
EXECUTE = "EXECUTE declared_statement"

NOT_ONE_STATEMENT = frozenset({"42601", "42P11", "42P14", "0A000"})
_ADVICE = {
    "57014": "Make it faster, or raise statement_timeout_ms.",
    "42501": "Grant the deploying user what it needs there.",
    "42P01": "Correct the statement, or bring the missing table back.",
    "42703": "Correct the statement, or bring the missing column back.",
    "25006": "Declare one that only reads, and run it against the primary server.",
    "40P01": "Rerun the playbook.",
    "55P03": "Rerun the playbook when the other session has ended its transaction.",
}
_LONGEST_TEXT = 200


def prepare(cursor: Cursor, sql: str) -> None:
    """Prepare one SELECT, INSERT, UPDATE, DELETE or MERGE for EXECUTE; anything else raises psycopg2.Error, unrun.

    EXECUTE must run within as_declared(), too: the server plans again where names are resolved otherwise.
    """
    refuse_reaching_out(sql)
    refuse_planted(cursor)
    # Prepared statements outlive a rollback.
    cursor.execute("SELECT set_config('dbrelease.statement', %s, true)", (strip_terminator(sql),))
    cursor.execute("SELECT name FROM pg_prepared_statements WHERE name = 'declared_statement'")
    if cursor.fetchall():
        cursor.execute("DEALLOCATE declared_statement")
    with as_declared(cursor):
        cursor.execute(_PREPARE)


def advice(error: psycopg2.Error, otherwise: str) -> str:
    """What to do about a statement that the server refused."""
    return _ADVICE.get(error.pgcode or "", otherwise)


def still_connected(cursor: Cursor, error: psycopg2.Error) -> None:
    """Raise ReleaseError where the session itself has ended, so that no further statement is possible."""
    if cursor.connection.closed:
        raise ReleaseError(
            f"The session with the database ended during a statement ({' '.join(str(error).split())}): "
            "check that the server is running, and rerun the playbook.",
            could_not_run=True,
        ) from None


def readable(value: Any) -> Any:
    """A value fit for JSON and for a report: numbers, truth and null as they are, the rest as text, not too long."""
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    structured = isinstance(value, list | dict)
    text = json.dumps(value, ensure_ascii=False, default=as_text) if structured else as_text(value)
    if len(text) > _LONGEST_TEXT:
        return f"{text[:_LONGEST_TEXT]}… ({len(text)} characters)"
    return json.loads(text) if structured else text


def as_text(value: Any) -> str:
    """A value in words; bytes as the server writes them."""
    return f"\\x{value.hex()}" if isinstance(value, memoryview) else str(value)


def readable_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Every value of a row, readable."""
    return {name: readable(value) for name, value in row.items()}


def limit_statements(cursor: Cursor, statement_timeout_ms: int, **more_ms: int) -> None:
    """Bound this transaction's statements by nothing else; `more_ms` names further settings in milliseconds.

    0 is no bound.
    """
    without_timeouts(cursor)
    for name, milliseconds in {"statement_timeout": statement_timeout_ms, **more_ms}.items():
        cursor.execute("SELECT set_config(%s, %s, true)", (name, f"{milliseconds}ms"))
