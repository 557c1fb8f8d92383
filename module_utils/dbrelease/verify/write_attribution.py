"""Look at every table of the baseline again, and at who wrote to those that changed."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..core.proof import Proof
from ..postgres.catalog import resolved
from ..postgres.declared_sql import limit_statements
from ..postgres.fingerprints import LOCK_NOT_AVAILABLE, READING, absent, read_tables, table_key, write_counters
from ..postgres.session import (
    Connection,
    Login,
    Row,
    connect,
    giving_back_locks,
    select,
    select_as_declared,
    server_reason,
    transaction,
)
from .unchanged_verdict import COUNTERS, Evidence, Trace, Verdict, Window, judge, prove, prove_unread, same

# A server of version 15 or later reports an idle session's last writes within ten seconds, an older one sooner or at
# the session's next command.
SETTLE_SECONDS = 11.0
POLL_S = 0.25
LOCK_WAIT_MS = 10_000
XIDS = 1 << 32

# The 32 bits that a row holds, as its distance back from the snapshot: that survives the counter's wrap-around.
TRACE = """
SELECT count(*) FILTER (WHERE held.xmin = ANY(%(migration)s::text[]::xid[])) AS by_migration,
       count(*) FILTER (WHERE distance.back > %(baseline)s) AS older,
       count(*) FILTER (WHERE distance.back > %(upgrade_end)s AND distance.back <= %(baseline)s
                          AND held.xmin <> ALL(%(migration)s::text[]::xid[])) AS others
FROM {table} AS held
CROSS JOIN LATERAL (SELECT mod(%(now)s - held.xmin::text::bigint + 4294967296, 4294967296) AS back) AS distance
"""


@dataclass(frozen=True)
class Memory:
    """What the journal remembers: the baseline, and the upgrade if one was recorded after it."""

    baseline: Mapping[str, Any]
    upgrade: Mapping[str, Any] | None
    transactions: Sequence[int] = ()  # further ones of the migration, which its bookkeeping no longer tells

    @classmethod
    def of(
        cls, baseline: Mapping[str, Any], upgrade: Mapping[str, Any] | None, transactions: Sequence[int] = ()
    ) -> Memory:
        """The upgrade counts only if its counters were read after the baseline."""
        usable = upgrade is not None and bool(upgrade.get("before")) and bool(upgrade.get("after"))
        later = usable and upgrade is not None and upgrade["before"]["xid"] >= baseline["xid"]
        return cls(baseline, upgrade if later else None, transactions)


def compare(
    login: Login,
    memory: Memory,
    *,
    except_tables: Sequence[str],
    altered_tables: Sequence[str],
    bookkeeping_tables: Sequence[str],
    settle_seconds: float,
) -> list[Proof]:
    """A proof per table of the baseline; awaits late counters only where they may turn a red verdict.

    Of `altered_tables` the migration may write rows: only what they held before must not change.
    """
    connection = connect(login, "dbrelease untouched")
    try:
        return _compare(connection, memory, except_tables, altered_tables, bookkeeping_tables, settle_seconds)
    except psycopg2.Error as error:
        raise ReleaseError(
            f"Comparing the tables of {login.label} with the baseline failed ({server_reason(error)}): run again."
        ) from error
    finally:
        connection.close()


def _compare(
    connection: Connection,
    memory: Memory,
    except_tables: Sequence[str],
    altered_tables: Sequence[str],
    bookkeeping_tables: Sequence[str],
    settle_seconds: float,
) -> list[Proof]:
    baseline: Mapping[str, Row] = memory.baseline["tables"]
    with transaction(connection, read_only=True, isolation="REPEATABLE READ") as cursor:
        limit_statements(cursor, 0, lock_timeout=LOCK_WAIT_MS)
        left_out = _keys(cursor, [*except_tables, *bookkeeping_tables])
        altered = _keys(cursor, altered_tables)
        compared = {key: row for key, row in baseline.items() if key not in left_out}
        wanted = {key: row["columns"] for key, row in compared.items()}
        # Whoever holds a table, or keeps others from its own, must not hold this up, nor turn a good release red.
        untrusted: Collection[str] = memory.baseline.get("untrusted") or ()
        now = read_tables(cursor, only=wanted, left_out=[LOCK_NOT_AVAILABLE], of_strangers=untrusted)
        changed = [key for key, row in compared.items() if key in now and not same(row, now[key])]
        problem = _not_comparable(cursor, memory.baseline) if changed else ""
        written = migration_transactions(cursor, memory.baseline["xid"], bookkeeping_tables) if changed else []
        since = memory.baseline["xid"]
        migration = sorted({*written, *(xid for xid in memory.transactions if xid >= since)}) if changed else []
        traces = {key: Trace() for key in changed if now[key]["absent"]}
        for key in [key for key in changed if key not in traces]:
            try:
                traces[key] = _trace(cursor, now[key]["oid"], memory, migration)
            except psycopg2.errors.LockNotAvailable:
                # Somebody holds it since it was read.
                changed.remove(key)
                del now[key]
            except psycopg2.errors.UndefinedTable:
                now[key], traces[key] = absent(compared[key]["columns"]), Trace()
    found = {
        key: Evidence(
            compared[key],
            now[key],
            traces[key],
            dict.fromkeys(COUNTERS, 0),
            not_comparable=problem,
            altered=key in altered,
            untrusted=key in untrusted,
        )
        for key in changed
    }
    verdicts = _settle(connection, found, memory, migration, settle_seconds)
    equal = Verdict("pass", "Rows and fingerprint are those of the baseline.")
    return [
        prove(key, row, now[key], found.get(key), verdicts.get(key, equal)) if key in now else prove_unread(key, row)
        for key, row in sorted(compared.items())
    ]


def _settle(
    connection: Connection,
    found: dict[str, Evidence],
    memory: Memory,
    migration: Sequence[int],
    settle_seconds: float,
) -> dict[str, Verdict]:
    """Judge, and again while a verdict may yet be turned by counters on their way; fills `written` and `window`."""
    deadline = time.monotonic() + settle_seconds
    while True:
        if found:
            with transaction(connection, read_only=True) as cursor:
                counters = write_counters(cursor)
            for key in found:
                found[key] = _with_counters(key, found[key], counters, memory, migration)
        verdicts = {key: judge(evidence) for key, evidence in found.items()}
        if time.monotonic() >= deadline or not any(verdict.provisional for verdict in verdicts.values()):
            return verdicts
        time.sleep(POLL_S)


def _with_counters(key: str, evidence: Evidence, counters: Row, memory: Memory, migration: Sequence[int]) -> Evidence:
    current = counters["tables"].get(key)
    if current is None:
        return evidence
    written = {counter: current[counter] - evidence.before[counter] for counter in COUNTERS}
    same_table = evidence.now["oid"] == evidence.before.get("oid", evidence.now["oid"])
    problem = evidence.not_comparable
    if same_table and any(count < 0 for count in written.values()):
        problem = problem or "the server's write counters were reset since"
    return replace(
        evidence,
        written={counter: max(count, 0) for counter, count in written.items()},
        window=_window(key, memory.upgrade, migration),
        not_comparable=problem,
    )


def _window(key: str, upgrade: Mapping[str, Any] | None, migration: Sequence[int]) -> Window | None:
    """What the counters added while the upgrade ran, and how many transactions beside the migration's may have."""
    if upgrade is None:
        return None
    begin, end = upgrade["before"], upgrade["after"]
    first, last = begin["tables"].get(key), end["tables"].get(key)
    if first is None or last is None:
        return None
    since = begin.get("since", begin["xid"])
    own = sum(since <= xid < end["xid"] for xid in migration)
    others = end["xid"] - since - own + begin.get("running", 0)
    return Window(last["updated"] - first["updated"], last["deleted"] - first["deleted"], max(others, 0))


def _keys(cursor: Cursor, names: Sequence[str]) -> set[str]:
    """The names as `schema.table`: an unqualified one in every schema of the search path."""
    (row,) = select_as_declared(cursor, "SELECT pg_catalog.current_schemas(false)::pg_catalog.text[] AS schemas")
    return {key for name in names for key in ([name] if "." in name else [table_key(s, name) for s in row["schemas"]])}


def _not_comparable(cursor: Cursor, baseline: Mapping[str, Any]) -> str:
    (row,) = select(
        cursor,
        "SELECT d.oid::bigint AS oid, current_setting('track_counts')::bool AS counting "
        "FROM pg_database d WHERE d.datname = current_database()",
    )
    if int(baseline.get("database_oid") or row["oid"]) != row["oid"]:
        return "the baseline was taken of another database, before a restore"
    if baseline.get("reading") != READING:
        return "the baseline was recorded by another version of this program, which read it otherwise"
    return "" if row["counting"] else "the server does not count writes (track_counts is off)"


def migration_transactions(cursor: Cursor, since: int, bookkeeping_tables: Sequence[str]) -> list[int]:
    """The transactions since the baseline that wrote what the bookkeeping tables now hold, in full 64 bits."""
    now = _now(cursor)
    found = set()
    for name in bookkeeping_tables:
        (oid,) = resolved(cursor, [name])
        if oid is None:
            continue
        statement = sql.SQL("SELECT DISTINCT xmin::text::bigint AS xid FROM {}").format(_name(cursor, oid))
        cursor.execute(statement)
        for row in (dict(row) for row in cursor.fetchall()):
            xid = now - (now - row["xid"]) % XIDS
            if xid >= since:
                found.add(xid)
    return sorted(found)


def _trace(cursor: Cursor, oid: int, memory: Memory, migration: Sequence[int]) -> Trace:
    now = _now(cursor)
    end = memory.upgrade["after"]["xid"] if memory.upgrade else now
    # A percent sign in the name would be taken for the place of a parameter.
    name = _source(cursor, oid).as_string(cursor).replace("%", "%%")
    asked = {
        "migration": [str(xid % XIDS) for xid in migration],
        "now": now % XIDS,
        "baseline": now - memory.baseline["xid"],
        "upgrade_end": now - end,
    }
    with giving_back_locks(cursor):
        cursor.execute(sql.SQL(TRACE).format(table=sql.SQL(name)), asked)
        (row,) = (dict(row) for row in cursor.fetchall())
    return Trace(row["by_migration"], row["older"], row["others"])


def _now(cursor: Cursor) -> int:
    """Above every transaction id that this snapshot can see."""
    (row,) = select(cursor, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xid")
    return int(row["xid"])


def _source(cursor: Cursor, oid: int) -> sql.Composed:
    """Its own rows; of a partitioned table, which is compared as a whole, those of its partitions."""
    (row,) = select(cursor, "SELECT relkind = 'p' AS partitioned FROM pg_class WHERE oid = %s", (oid,))
    return sql.SQL("{}{}").format(sql.SQL("" if row["partitioned"] else "ONLY "), _name(cursor, oid))


def _name(cursor: Cursor, oid: int) -> sql.Identifier:
    (row,) = select(
        cursor,
        "SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.oid = %s",
        (oid,),
    )
    return sql.Identifier(row["schema"], row["name"])
