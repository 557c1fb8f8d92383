"""The state before the release: the database's identity and revision, every table, and the observations."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2.extras import RealDictCursor

from ..core.errors import ReleaseError
from ..core.journal import utc_now
from ..core.plain_text import printable
from ..postgres.could_not_run import advised
from ..postgres.declared_select import select_declared
from ..postgres.fingerprints import COUNTED_SINCE, READING, read_tables
from ..postgres.kept_values import read_kept
from ..postgres.large_objects import fingerprint_of, read_large_objects
from ..postgres.revision import database_revisions
from ..postgres.session import Row, select, server_reason, without_timeouts
from ..postgres.strangers import tables_of_strangers
from ..postgres.terminate import OF_CLIENTS
from ..postgres.trusted_roles import trusted_roles
from .schema_text import read_unsaid

IDENTITY = f"""
SELECT d.oid::bigint AS database_oid, d.datname AS database, current_setting('server_version') AS server_version,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xid, pg_database_size(d.oid) AS database_bytes,
       {COUNTED_SINCE} AS counted_since,
       has_function_privilege('pg_control_system()', 'EXECUTE') AS may_identify
FROM pg_database d WHERE d.datname = current_database()
"""

# What a summary only counts, or omits.
UNCOUNTED = (
    "counted_since",
    "tables",
    "kept",
    "sequences",
    "settings",
    "catalog",
    "unsaid",
    "untrusted",
    "obstacles",
    "by_root",
)
# The server's condition, for comparison with later samples.
HEALTH = f"""
SELECT (SELECT count(*)::int FROM pg_stat_activity WHERE {OF_CLIENTS}) AS connections,
       (SELECT coalesce(extract(epoch FROM max(replay_lag)), 0)::float8 FROM pg_stat_replication) AS lag_seconds,
       (SELECT json_object_agg(format('%s.%s', schemaname, relname), n_dead_tup) FROM pg_stat_user_tables) AS dead_rows
"""


@dataclass(frozen=True)
class Baseline:
    """One database at one instant; `facts` is what the journal and the files contain."""

    facts: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Return the facts with counts in place of the state of each table."""
        tables = self.facts["tables"]
        kept = {key: value for key, value in self.facts.items() if key not in UNCOUNTED}
        return {**kept, "table_count": len(tables), "row_count": sum(table["rows"] for table in tables.values())}


def export_snapshot(cursor: RealDictCursor) -> str:
    """Export this transaction's snapshot; its name is valid until the transaction ends."""
    without_timeouts(cursor)
    (row,) = select(cursor, "SELECT pg_export_snapshot() AS name")
    return str(row["name"])


def read_identity(cursor: RealDictCursor) -> Row:
    """Identify the database and its server; the system identifier is None if db_user may not read it."""
    (row,) = select(cursor, IDENTITY)
    system_identifier = None
    if row.pop("may_identify"):
        (control,) = select(cursor, "SELECT system_identifier::text AS id FROM pg_control_system()")
        system_identifier = control["id"]
    return {"system_identifier": system_identifier, **row}


def read_baseline(
    cursor: RealDictCursor,
    observations: Sequence[Mapping[str, Any]],
    bookkeeping_table: str,
    changed: Mapping[str, Any] | None = None,
) -> Baseline:
    """Read everything that the baseline records, in the cursor's transaction; raises ReleaseError.

    changed: `tables.changed` of the release, of which the values are recorded that must stay.
    """
    revisions = database_revisions(cursor, bookkeeping_table)
    tables = read_tables(cursor)
    return Baseline(
        {
            "taken_at": utc_now().isoformat(timespec="milliseconds"),
            "reading": READING,
            **read_identity(cursor),
            "revision": " ".join(revisions),
            "tables": tables,
            "kept": read_kept(cursor, changed or {}, tables),
            "unsaid": read_unsaid(cursor),
            "untrusted": _untrusted(cursor, bookkeeping_table),
            "observations": [_observe(cursor, observation) for observation in observations],
            "settings": read_settings(cursor),
            "health": select(cursor, HEALTH)[0],
        }
    )


def _untrusted(cursor: RealDictCursor, bookkeeping_table: str) -> list[str]:
    """The tables whose owner is not trusted: the release makes no claim about them."""
    return tables_of_strangers(cursor, trusted_roles(cursor, cursor.connection.info.dbname, bookkeeping_table))


def _observe(cursor: RealDictCursor, observation: Mapping[str, Any]) -> Row:
    begun = time.monotonic()
    try:
        rows = select_declared(cursor, observation["sql"])
    except psycopg2.Error as error:
        advice = advised(error, "correct its SQL in the release's checks.")
        raise ReleaseError(
            f"Reading the observation {observation['name']} failed ({server_reason(error)}): {advice}",
            observation=observation["name"],
        ) from error
    return {
        "name": observation["name"],
        "title": observation["title"],
        "sql": observation["sql"],
        "rows": rows,
        "duration_ms": round((time.monotonic() - begun) * 1000),
    }


def read_settings(cursor: RealDictCursor) -> dict[str, Any]:
    """Read what a dump without --create omits: the database's properties, and settings for it and for roles in it."""
    # Through JSON, because it depends on the server's version which locale columns exist.
    (database,) = select(
        cursor,
        """
        SELECT pg_get_userbyid(d.datdba) AS owner, d.datacl::text[] AS acl,
               shobj_description(d.oid, 'pg_database') AS comment, pg_encoding_to_char(d.encoding) AS encoding,
               d.datcollate AS collate, d.datctype AS ctype, to_jsonb(d) ->> 'datlocprovider' AS locale_provider,
               coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS locale,
               to_jsonb(d) ->> 'daticurules' AS icu_rules,
               d.datconnlimit AS connection_limit, t.spcname AS tablespace
        FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace
        WHERE d.datname = current_database()
        """,
    )
    configured = select(
        cursor,
        """
        SELECT r.rolname AS role, s.setconfig AS settings
        FROM pg_db_role_setting s
        JOIN pg_database d ON d.oid = s.setdatabase AND d.datname = current_database()
        LEFT JOIN pg_roles r ON r.oid = s.setrole
        ORDER BY r.rolname NULLS FIRST
        """,
    )
    large = read_large_objects(cursor)
    return {
        **database,
        "database_settings": [line for row in configured if row["role"] is None for line in row["settings"]],
        "role_settings": {row["role"]: row["settings"] for row in configured if row["role"] is not None},
        "large_objects": len(large),
        "large_objects_fingerprint": fingerprint_of(large),
    }


def as_text(baseline: Baseline) -> str:
    """Format it for people: a heading, then each observation and every table's row count as aligned columns."""
    facts = baseline.facts
    parts = [
        "=== Current Database State ===",
        f"{facts['database']}, PostgreSQL {facts['server_version']}, revision {facts['revision'] or 'none'}, "
        f"as of {facts['taken_at']}",
    ]
    parts += [f"{observation['title']}:\n{_table(observation['rows'])}" for observation in facts["observations"]]
    counts = [{"table": name, "rows": table["rows"]} for name, table in facts["tables"].items()]
    parts.append(f"Rows of every table:\n{_table(counts)}")
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Row]) -> str:
    count = f"({len(rows)} row{'' if len(rows) == 1 else 's'})"
    if not rows:
        return count
    names = list(rows[0])
    cells = [[printable(name) for name in names], *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(_width(line[column]) for line in cells) for column in range(len(names))]
    lines = [
        " | ".join(cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    lines.insert(1, "-+-".join("-" * width for width in widths))
    return "\n".join([*lines, count])


def _cell(value: Any) -> str:
    return "" if value is None else printable(str(value))


def _width(text: str) -> int:
    """Columns on a screen: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
