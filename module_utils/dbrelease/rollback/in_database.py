"""The guards that ask the database, all at one instant, and which instant that was: later rows are not counted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.errorcodes import LOCK_NOT_AVAILABLE
from psycopg2.extras import RealDictCursor

from ..postgres.catalog import find_relation, quoted, read_catalog, resolved
from ..postgres.could_not_run import could_not_run, remedy_of
from ..postgres.declared_checks import SAMPLE_SIZE, counting
from ..postgres.declared_select import select_declared
from ..postgres.declared_sql import limit_statements, readable_row, still_connected
from ..postgres.dependents import dependents_of
from ..postgres.lock_retry import LockWatch, mask_literals, session_in_words, watch_blockers
from ..postgres.lock_retry import describe as blocked_by
from ..postgres.non_default_values import given_values
from ..postgres.session import Connection, Login, Row, connect, select, server_reason, transaction
from ..release.guard_kinds import Guard, kind_of
from ..verify.write_attribution import migration_transactions
from .verdict import GuardResult

APPLICATION = "dbrelease guards"
COUNTED_AT = "dbrelease.counted_at"
COUNTED_IN = "dbrelease.counted_in"
# How long to wait for a transaction that has written to a counted table, as its rows are not visible yet.
SETTLE_S = 5.0
POLL_S = 0.1
# For all guards together: a session that locks a table longer is named, and the guard is inconclusive.
LOCK_WAIT_S = 10.0
SHORTEST_LOCK_WAIT_MS = 100

# The oldest transaction that goes on in this database, or the next one. A row of an older one is counted for certain;
# of a later one it need not be: a savepoint has an id of its own, which no snapshot lists, and may write long after.
# Who ends between the snapshot and the look at the locks is counted, as that comes later.
COUNTING = """
SELECT coalesce(
         (SELECT l.transactionid FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
          LEFT JOIN pg_prepared_xacts p ON p.transaction = l.transactionid
          WHERE l.locktype = 'transactionid' AND l.granted AND coalesce(a.datname, p.database) = current_database()
          ORDER BY age(l.transactionid) DESC LIMIT 1),
         pg_snapshot_xmax(pg_current_snapshot())::xid)::text AS counted_at,
       concat_ws('@', (SELECT oid FROM pg_database WHERE datname = current_database()),
           extract(epoch FROM pg_postmaster_start_time()),
           (SELECT string_agg(DISTINCT relation::text, ',') FROM unnest(%s::oid[]) AS relation)
         ) AS counted_in
"""

GOING_ON = "SELECT array_agg(DISTINCT virtualtransaction) AS transactions FROM pg_locks"

# Who writes to a partition, or to a table that inherits, by its own name has locked that one alone.
WRITERS = """
WITH RECURSIVE counted AS (
    SELECT name, relation FROM unnest(%(names)s::text[], %(relations)s::oid[]) AS asked (name, relation)
    UNION
    SELECT counted.name, h.inhrelid FROM counted JOIN pg_inherits h ON h.inhparent = counted.relation
)
SELECT a.pid, a.usename AS "user", a.application_name AS application, a.state,
       to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS since, a.query,
       array_agg(DISTINCT counted.name) AS tables
FROM pg_locks l
JOIN counted USING (relation)
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  AND (counted.name = ANY(%(tables)s) OR l.virtualtransaction = ANY(%(going_on)s))
GROUP BY a.pid, a.usename, a.application_name, a.state, a.xact_start, a.query
ORDER BY 1
"""


@dataclass(frozen=True)
class Looked:
    """The guards with their results; `session_settings` tells a downgrade up to when rows were counted."""

    guards: list[tuple[Guard, GuardResult]]
    session_settings: dict[str, str]
    migration_xids: list[int]


def evaluate(login: Login, guards: Sequence[Guard], bookkeeping_table: str, statement_timeout_ms: int) -> Looked:
    """Check the guards of the database; raises ReleaseError only where it does not answer at all."""
    losses = [guard["losses"] for guard in guards if guard.get("losses")]
    with closing(connect(login, APPLICATION)) as connection:
        settings = counting_settings(connection, declared_by(losses))
        altered = [table for guard in guards for table in _tables_of_values(guard)]
        writers = unfinished_writers(connection, [loss["table"] for loss in losses], altered)
        with (
            watch_blockers(login, APPLICATION) as watch,
            transaction(connection, read_only=True, isolation="REPEATABLE READ", commit=False) as cursor,
        ):
            deadline = time.monotonic() + LOCK_WAIT_S
            seen = []
            for guard in guards:
                wait_ms = max(SHORTEST_LOCK_WAIT_MS, round((deadline - time.monotonic()) * 1000))
                limit_statements(cursor, statement_timeout_ms, lock_timeout=wait_ms)
                seen.append((guard, _evaluate(cursor, guard, writers, watch)))
            limit_statements(cursor, statement_timeout_ms, lock_timeout=0)
            xids = migration_transactions(cursor, 0, [bookkeeping_table])
    return Looked(seen, settings, xids)


def evaluate_guard(cursor: RealDictCursor, guard: Guard) -> GuardResult:
    """Check one guard in the caller's transaction, which no other session's writes concern; raises psycopg2.Error."""
    return KINDS[kind_of(guard)](cursor, guard, ())


def declared_by(losses: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tables whose losses the release itself declares: its downgrade does not know that others were counted.

    Where it declares none, a downgrade that checks can only mean all that are counted.
    """
    return [loss["table"] for loss in losses if loss.get("rows")] or [loss["table"] for loss in losses]


def counting_settings(connection: Connection, tables: Sequence[str]) -> dict[str, str]:
    """What a downgrade learns of the count that follows: since when rows need not be counted, and what was counted.

    counted_in: the database's oid, `@`, when the server was started, `@`, the oids of the counted tables, by comma and
    in their order as text.
    """
    with transaction(connection, read_only=True) as cursor:
        (row,) = select(cursor, COUNTING, (resolved(cursor, [quoted(table) for table in tables]),))
    return {
        COUNTED_AT: str(row["counted_at"]),
        COUNTED_IN: str(row["counted_in"]),
        # A snapshot from before its locks would miss the rows that were written while it waited for them.
        "default_transaction_isolation": "read committed",
    }


def unfinished_writers(connection: Connection, tables: Sequence[str], busy: Sequence[str] = ()) -> list[Row]:
    """The open transactions that have written to one of the tables; those that end within seconds are waited for.

    A busy table always has a writer: for those, only transactions that were open when the wait started count.
    """
    deadline = time.monotonic() + SETTLE_S
    with transaction(connection, read_only=True) as cursor:
        (going_on,) = select(cursor, GOING_ON)
        names = [quoted(table) for table in [*tables, *busy]]
        asked = {
            "tables": [quoted(table) for table in tables],
            "names": names,
            "relations": resolved(cursor, names),
            "going_on": going_on["transactions"],
        }
    while True:
        with transaction(connection, read_only=True) as cursor:
            found = select(cursor, WRITERS, asked)
        if not found or time.monotonic() >= deadline:
            return found
        time.sleep(POLL_S)


def _evaluate(cursor: RealDictCursor, guard: Guard, writers: Sequence[Row], watch: LockWatch) -> GuardResult:
    begun = time.monotonic()
    cursor.execute("SAVEPOINT guard")
    try:
        seen = KINDS[kind_of(guard)](cursor, guard, writers)
    except psycopg2.Error as error:
        still_connected(cursor, error)
        cursor.execute("ROLLBACK TO SAVEPOINT guard")
        blocked = f": {blocked_by(watch.seen)}" if error.pgcode == LOCK_NOT_AVAILABLE else ""
        advised = f" {remedy_of(error)}" if could_not_run(error) else ""
        seen = GuardResult("inconclusive", f"It could not be checked ({server_reason(error)}){blocked}.{advised}")
    cursor.execute("RELEASE SAVEPOINT guard")
    return GuardResult(**{**vars(seen), "duration_ms": round((time.monotonic() - begun) * 1000)})


def _violations(cursor: RealDictCursor, guard: Guard, writers: Sequence[Row]) -> GuardResult:
    (row,) = select_declared(cursor, counting(guard["violations"], SAMPLE_SIZE))
    return _unless_written(_rows(row, guard["violations"], "break it"), _tables_of_values(guard), writers)


def _losses(cursor: RealDictCursor, guard: Guard, writers: Sequence[Row]) -> GuardResult:
    losses = guard["losses"]
    rows = losses.get("rows") or f"SELECT * FROM {quoted(losses['table'])}"
    (row,) = select_declared(cursor, counting(rows, SAMPLE_SIZE))
    if losses.get("rows"):
        key = ", ".join(f'"{column}"' for column in losses["key"])
        (distinct,) = select_declared(
            cursor,
            f"SELECT pg_catalog.count(*) AS keys FROM (SELECT DISTINCT {key} FROM (\n{rows}\n) AS declared) AS k",
        )
        if distinct["keys"] != row["count"]:
            ambiguous = f"the release names {row['count']} rows, but only {distinct['keys']} differ in {key}"
            return GuardResult(
                "inconclusive", f"How many rows would be lost cannot be determined: {ambiguous}; correct the release."
            )
    seen = _rows(row, rows, "would be lost", lost=row["count"])
    return _unless_written(seen, [losses["table"]], writers)


def _columns(cursor: RealDictCursor, guard: Guard, _writers: Sequence[Row]) -> GuardResult:
    wanted = [(table, column) for table, columns in guard["columns"].items() for column in columns]
    found = select(
        cursor,
        """
        SELECT wanted.name, wanted.column
        FROM unnest(%s::text[], %s::text[], %s::oid[]) AS wanted (name, "column", relation)
        WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = wanted.relation
                          AND a.attname = wanted.column AND a.attnum > 0 AND NOT a.attisdropped)
        """,
        (
            [table for table, _ in wanted],
            [column for _, column in wanted],
            resolved(cursor, [quoted(table) for table, _ in wanted]),
        ),
    )
    missing = [f"{row['name']}.{row['column']}" for row in found]
    expected = [f"{table}.{column}" for table, column in wanted]
    if missing:
        return GuardResult(
            "fail", f"{', '.join(missing)} {_verb(missing, 'is', 'are')} missing.", expected, {"missing": missing}
        )
    return GuardResult(
        "pass", f"{', '.join(expected)} {_verb(expected, 'exists', 'exist')}.", expected, {"missing": []}
    )


def _dependents(cursor: RealDictCursor, guard: Guard, _writers: Sequence[Row]) -> GuardResult:
    names = dependents_of(cursor, guard["dependents"], altered=guard["altered"], downgrade=guard["downgrade"])
    if names:
        return GuardResult("fail", f"{', '.join(names)} would be left without it.", [], names)
    return GuardResult("pass", "", [], [])


def _only_columns(cursor: RealDictCursor, guard: Guard, _writers: Sequence[Row]) -> GuardResult:
    known = guard["only_columns"]
    others = [
        f"{table}.{column}"
        for table, columns in known.items()
        for column in read_catalog(cursor, table).columns
        if column not in columns
    ]
    expected = [f"{table}.{column}" for table, columns in known.items() for column in columns]
    if others:
        detail = f"{', '.join(others)} {_verb(others, 'exists', 'exist')}, and the release does not declare it."
        return GuardResult("fail", detail, expected, others)
    return GuardResult("pass", "", expected, [])


def _values(cursor: RealDictCursor, guard: Guard, writers: Sequence[Row]) -> GuardResult:
    table = guard["values"]["table"]
    found = find_relation(cursor, quoted(table))
    given = given_values(cursor, found["oid"], guard["values"]["columns"]) if found else {}
    if not found or not given:
        return GuardResult("pass", "None of them exists.", 0, 0)
    constraints = read_catalog(cursor, table).constraints.values()
    key: list[str] = next((one["columns"] for one in constraints if one["type"] == "primary_key"), [])
    shown = sql.SQL(", ").join(map(sql.Identifier, dict.fromkeys([*key, *given])))
    condition = sql.SQL(" OR ").join(given.values())
    # Every name is qualified, and nothing is resolved by the role's path.
    name = sql.Identifier(found["schema"], found["name"])
    text = sql.SQL("SELECT {} FROM {} WHERE {}").format(shown, name, condition).as_string(cursor)
    (row,) = select(cursor, counting(text, SAMPLE_SIZE))
    return _unless_written(_rows(row, text, "would lose one"), [table], writers)


KINDS = {
    "violations": _violations,
    "losses": _losses,
    "columns": _columns,
    "dependents": _dependents,
    "only_columns": _only_columns,
    "values": _values,
}


def _tables_of_values(guard: Guard) -> list[str]:
    """The tables that existed before the release, and whose values the guard covers."""
    return [guard["values"]["table"]] if guard.get("values") else list(guard.get("values_of") or {})


def _unless_written(seen: GuardResult, tables: Sequence[str], writers: Sequence[Row]) -> GuardResult:
    """The count, or inconclusive where a transaction that has written to these tables is still open."""
    names = {quoted(table): table for table in tables}
    found = [row for row in writers if names.keys() & set(row["tables"])]
    if not found:
        return seen
    written = " and ".join(name for key, name in names.items() if any(key in row["tables"] for row in found))
    detail = f"{seen.detail} More may follow: {describe(found)} has written to {written} and has not committed."
    return GuardResult(**{**vars(seen), "status": "inconclusive", "detail": detail})


def _rows(row: Row, sql: str, what: str, lost: int = 0) -> GuardResult:
    count = row["count"]
    sample: list[dict[str, Any]] = [readable_row(line) for line in row["sample"] or ()]
    verb = what.replace("break", "breaks") if count == 1 else what
    detail = (
        f"{count} row{'' if count == 1 else 's'} {verb}." if count else f"No row {what.replace('break', 'breaks')}."
    )
    return GuardResult("fail" if count else "pass", detail, 0, count, sql=sql, sample=sample, lost=lost)


def _verb(names: Sequence[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many


def describe(writers: Sequence[Row]) -> str:
    """Sessions in words; a prepared transaction has none."""
    return " and ".join(
        session_in_words({**row, "query": mask_literals(row["query"] or "")})
        if row["user"]
        else "a prepared transaction"
        for row in writers
    )
