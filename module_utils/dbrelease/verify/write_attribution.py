"""Compare every table with the baseline again, and determine who wrote to those that changed."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..core.proof import Proof
from ..postgres.catalog import quoted, resolved
from ..postgres.could_not_run import advised
from ..postgres.declared_sql import limit_statements
from ..postgres.fingerprints import COUNTED_SINCE, LOCK_NOT_AVAILABLE, READING, absent, read_tables, write_counters
from ..postgres.own_path import read_table
from ..postgres.session import (
    Connection,
    Login,
    Row,
    connect,
    select,
    select_as_declared,
    server_reason,
    transaction,
)
from ..postgres.table_key import table_key
from .catalog_traces import (
    columns_changed_by,
    columns_of,
    covered_tables,
    made_by,
    rewritten_by,
    tables_now,
    triggers_to,
)
from .transactions import Transactions, Whose
from .unchanged_verdict import (
    COUNTERS,
    NOT_KEPT,
    Evidence,
    Trace,
    Verdict,
    Window,
    Written,
    judge,
    judge_rows,
    prove,
    prove_unread,
    same,
)

# A server of version 15 or later reports an idle session's last writes within ten seconds, an older one sooner or at
# the session's next command.
SETTLE_SECONDS = 11.0
POLL_S = 0.25
LOCK_WAIT_MS = 10_000
XIDS = 1 << 32
COUNTERS_LOST = "the server's write counters were reset since (pg_stat_reset, a crash, or another server in its place)"

# The 32 bits that a row holds, as its distance back from the snapshot: that survives the counter's wraparound.
TRACE = """
SELECT CASE WHEN distance.back <= %(baseline)s THEN distance.back END AS back, count(*) AS rows
FROM {table} AS held
CROSS JOIN LATERAL (SELECT mod(%(now)s - held.xmin::text::bigint + 4294967296, 4294967296) AS back) AS distance
GROUP BY 1
"""


@dataclass(frozen=True)
class Memory:
    """What the journal remembers: the baseline, and the upgrade if one was recorded after it."""

    baseline: Mapping[str, Any]
    upgrade: Mapping[str, Any] | None
    transactions: Sequence[int] = ()  # further ones of the migration, which its bookkeeping no longer shows
    moves: Sequence[Mapping[str, Any]] = ()  # each upgrade and downgrade that was recorded after the baseline

    @classmethod
    def of(
        cls,
        baseline: Mapping[str, Any],
        upgrade: Mapping[str, Any] | None,
        transactions: Sequence[int] = (),
        moves: Sequence[Mapping[str, Any] | None] = (),
    ) -> Memory:
        """A move counts only if its counters were read after the baseline; `moves` are others than the upgrade."""

        def counts(move: Mapping[str, Any] | None) -> bool:
            usable = move is not None and bool(move.get("before")) and bool(move.get("after"))
            return usable and move is not None and move["before"]["xid"] >= baseline["xid"]

        recorded = [move for move in (upgrade, *moves) if move is not None and counts(move)]
        return cls(baseline, upgrade if counts(upgrade) else None, transactions, recorded)


def compare(
    login: Login,
    memory: Memory,
    *,
    except_tables: Sequence[str],
    altered_tables: Sequence[str],
    bookkeeping_tables: Sequence[str],
    settle_seconds: float,
    audit_tables: Sequence[str] = (),
    changed_rows: Mapping[str, Any] | None = None,
    alone: bool = False,
) -> list[Proof]:
    """A proof per table of the baseline; waits for late counters only where they may turn a red verdict.

    Of `altered_tables` the migration may write rows: only their former content must not change. To `audit_tables` its
    transactions may add rows. changed_rows: how many rows of a table it may insert, update and delete, as
    `tables.changed.<table>.rows` of the release declares it. Of a table that the release changes only the columns are
    compared that the baseline has as `kept`. alone: nobody but the migration has written, as on a copy.
    """
    connection = connect(login, "dbrelease untouched")
    named = Named(except_tables, altered_tables, bookkeeping_tables, audit_tables, changed_rows or {}, alone)
    try:
        return _compare(connection, memory, named, settle_seconds)
    except psycopg2.Error as error:
        raise ReleaseError(
            f"Comparing the tables of {login.label} with the baseline failed ({server_reason(error)}): "
            f"{advised(error, 'rerun the playbook.')}"
        ) from error
    finally:
        connection.close()


@dataclass(frozen=True)
class Named:
    """The tables that are not like the others, as they were named."""

    left_out: Sequence[str]
    altered: Sequence[str]
    bookkeeping: Sequence[str]
    audit: Sequence[str]
    rows: Mapping[str, Any]
    alone: bool


def _compare(connection: Connection, memory: Memory, named: Named, settle_seconds: float) -> list[Proof]:
    baseline: Mapping[str, Row] = memory.baseline["tables"]
    with transaction(connection, read_only=True, isolation="REPEATABLE READ") as cursor:
        limit_statements(cursor, 0, lock_timeout=LOCK_WAIT_MS)
        left_out = _keys(cursor, [*named.left_out, *named.bookkeeping])
        altered, audit = _keys(cursor, named.altered), _keys(cursor, named.audit)
        kept: Mapping[str, Row] = memory.baseline.get("kept") or {}
        compared = {key: kept.get(key, {}).get("row") or row for key, row in baseline.items() if key not in left_out}
        wanted = {key: kept.get(key, {}).get("after") or row["columns"] for key, row in compared.items()}
        declared = {key: rows for name, rows in named.rows.items() if rows for key in _keys(cursor, [name])}
        # Another session's lock, or an owner's refusal, must neither delay this nor fail a good release.
        untrusted: Collection[str] = memory.baseline.get("untrusted") or ()
        now = read_tables(cursor, only=wanted, left_out=[LOCK_NOT_AVAILABLE], of_strangers=untrusted)
        changed = [key for key, row in compared.items() if key in now and not same(row, now[key])]
        problem = _not_comparable(cursor, memory.baseline) if changed else ""
        migration = _migration(cursor, memory, named.bookkeeping) if changed else Transactions(memory.baseline["xid"])
        traces = {key: Trace() for key in changed if now[key]["absent"]}
        for key in [key for key in changed if key not in traces]:
            try:
                traces[key] = _trace(cursor, now[key]["oid"], memory, migration)
            except psycopg2.errors.LockNotAvailable:
                # Another session has locked it since it was read.
                changed.remove(key)
                del now[key]
            except psycopg2.errors.UndefinedTable:
                now[key], traces[key] = absent(compared[key]["columns"]), Trace()
        whose = {key: _whose(cursor, key, compared[key], now[key], memory, migration) for key in changed}
        written = {now[key]["oid"]: key.rpartition(".")[2] for key in changed if traces[key].by_migration}
        triggers = (
            triggers_to(cursor, written, [*named.left_out, *named.altered, *named.bookkeeping]) if written else {}
        )
    found = {
        key: Evidence(
            compared[key],
            now[key],
            traces[key],
            dict.fromkeys(COUNTERS, 0),
            not_comparable=problem,
            altered=key in altered,
            untrusted=key in untrusted,
            audit=key in audit,
            whose=whose[key],
            trigger=triggers.get(now[key]["oid"]),
        )
        for key in changed
    }
    verdicts = _settle(connection, found, memory, migration, settle_seconds)
    if named.alone:
        verdicts |= {
            key: NOT_KEPT for key in found if key in altered and not now[key]["absent"] and not now[key]["missing"]
        }
    equal = Verdict("pass", "Rows and fingerprint are those of the baseline.")
    verdicts |= {
        key: judge_rows(
            rows,
            compared[key],
            now[key],
            _written_meanwhile(key, memory.upgrade, migration, alone=named.alone),
            verdicts.get(key, equal),
        )
        for key, rows in declared.items()
        if key in now and key in compared
    }
    return [
        _with_kept(prove(key, row, now[key], found.get(key), verdicts.get(key, equal)), kept.get(key))
        if key in now
        else prove_unread(key, row)
        for key, row in sorted(compared.items())
    ]


def _with_kept(proof: Proof, kept: Row | None) -> Proof:
    """Of a table that the release changes: which of its columns were not compared."""
    if not kept or not kept["not_compared"]:
        return proof
    return replace(proof, detail=f"{proof.detail} Not compared: {', '.join(kept['not_compared'])}.")


def _written_meanwhile(
    key: str, upgrade: Mapping[str, Any] | None, migration: Transactions, *, alone: bool
) -> Written | None:
    """What was written to a table while the upgrade ran; None where that was not recorded."""
    if upgrade is None:
        return None
    begin, end = upgrade["before"], upgrade["after"]
    first, last = begin["tables"].get(key), end["tables"].get(key)
    if first is None or last is None:
        return None
    counts = {counter: int(last[counter] - first[counter]) for counter in COUNTERS}
    return Written(**counts, other_transactions=0 if alone else _count_others(begin, end, migration))


def _settle(
    connection: Connection,
    found: dict[str, Evidence],
    memory: Memory,
    migration: Transactions,
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


def _with_counters(key: str, evidence: Evidence, counters: Row, memory: Memory, migration: Transactions) -> Evidence:
    current = counters["tables"].get(key)
    if current is None:
        return evidence
    written = {counter: current[counter] - evidence.before[counter] for counter in COUNTERS}
    same_table = evidence.now["oid"] == evidence.before.get("oid", evidence.now["oid"])
    problem = evidence.not_comparable
    if same_table and any(count < 0 for count in written.values()):
        problem = problem or COUNTERS_LOST
    return replace(
        evidence,
        written={counter: max(count, 0) for counter, count in written.items()},
        window=_window(key, memory.upgrade, migration),
        not_comparable=problem,
    )


def _window(key: str, upgrade: Mapping[str, Any] | None, migration: Transactions) -> Window | None:
    """What the counters added while the upgrade ran, and how many transactions beside the migration's may have."""
    if upgrade is None:
        return None
    begin, end = upgrade["before"], upgrade["after"]
    first, last = begin["tables"].get(key), end["tables"].get(key)
    if first is None or last is None:
        return None
    others = _count_others(begin, end, migration)
    return Window(last["updated"] - first["updated"], last["deleted"] - first["deleted"], others)


def _count_others(begin: Mapping[str, Any], end: Mapping[str, Any], migration: Transactions) -> int:
    since = begin.get("since", begin["xid"])
    own = migration.count(since, end["xid"])
    return int(max(end["xid"] - since - own + begin.get("running", 0), 0))


def _keys(cursor: Cursor, names: Sequence[str]) -> set[str]:
    """The names as `schema.table`: an unqualified one in every schema of the search path."""
    (row,) = select_as_declared(cursor, "SELECT pg_catalog.current_schemas(false)::pg_catalog.text[] AS schemas")
    return {key for name in names for key in ([name] if "." in name else [table_key(s, name) for s in row["schemas"]])}


def _not_comparable(cursor: Cursor, baseline: Mapping[str, Any]) -> str:
    (row,) = select(
        cursor,
        "SELECT d.oid::bigint AS oid, current_setting('track_counts')::bool AS counting, "
        f"{COUNTED_SINCE} AS counted_since "
        "FROM pg_database d WHERE d.datname = current_database()",
    )
    if int(baseline.get("database_oid") or row["oid"]) != row["oid"]:
        return "the baseline was taken of another database, before a restore"
    if baseline.get("reading") != READING:
        return "the baseline was recorded by another version of this program, which read the tables differently"
    if baseline.get("counted_since", row["counted_since"]) != row["counted_since"]:
        return COUNTERS_LOST
    return "" if row["counting"] else "the server does not count writes (track_counts is off)"


def migration_transactions(cursor: Cursor, since: int, bookkeeping_tables: Sequence[str]) -> list[int]:
    """The transactions since the baseline that wrote the present rows of the bookkeeping tables, in full 64 bits."""
    now = _now(cursor)
    found = set()
    for name in bookkeeping_tables:
        (oid,) = resolved(cursor, [quoted(name)])
        if oid is None:
            continue
        statement = sql.SQL("SELECT DISTINCT xmin::text::bigint AS xid FROM {}").format(_name(cursor, oid))
        cursor.execute(statement)
        for row in (dict(row) for row in cursor.fetchall()):
            xid = now - (now - row["xid"]) % XIDS
            if xid >= since:
                found.add(xid)
    return sorted(found)


def _migration(cursor: Cursor, memory: Memory, bookkeeping_tables: Sequence[str]) -> Transactions:
    since = memory.baseline["xid"]
    written = migration_transactions(cursor, since, bookkeeping_tables)
    return Transactions.of(since, [*written, *memory.transactions], memory.moves)


def _whose(cursor: Cursor, key: str, before: Row, now: Row, memory: Memory, migration: Transactions) -> Whose | None:
    """By whose transaction a table was dropped, created again, emptied or lost columns, as far as it left a trace."""
    if now["absent"]:
        return _dropped_by(key, memory, migration)
    xid, oid = _now(cursor), now["oid"]
    if before.get("oid", oid) != oid:
        return migration.whose_of(made_by(cursor, oid, xid))
    if now["missing"]:
        return migration.whose_of(columns_changed_by(cursor, oid, before["columns"], xid))
    return migration.whose_of(rewritten_by(cursor, oid, xid))


def _dropped_by(key: str, memory: Memory, migration: Transactions) -> Whose | None:
    """A dropped table leaves only the times at which it still existed."""
    if not memory.moves:
        return None if migration.own else "others"
    for move in memory.moves:
        begin, end = move["before"], move["after"]
        if key in begin["tables"] and key not in end["tables"]:
            return "unknown" if _count_others(begin, end, migration) else "own"
    return "others"


def others_tables(cursor: Cursor, memory: Memory, bookkeeping_tables: Sequence[str]) -> set[str]:
    """The tables, as `schema.table`, that others have added, dropped or created again since the baseline."""
    before: Mapping[str, Row] = memory.baseline["tables"]
    migration, present = _migration(cursor, memory, bookkeeping_tables), _present(cursor)
    made = [key for key, oid in present.items() if key not in before or before[key].get("oid", oid) != oid]
    found = {key for key in made if migration.whose_of(made_by(cursor, present[key], _now(cursor))) == "others"}
    return found | _dropped(memory, migration, present)["others"]


def _present(cursor: Cursor) -> dict[str, int]:
    """The oid of each table that exists, by `schema.table`."""
    return {table_key(row["schema"], row["name"]): row["oid"] for row in tables_now(cursor)}


def _dropped(memory: Memory, migration: Transactions, present: Mapping[str, int]) -> dict[str, set[str]]:
    """The tables of the baseline that are missing: those that others dropped, and the rest."""
    missing = memory.baseline["tables"].keys() - present.keys()
    others = {key for key in missing if _dropped_by(key, memory, migration) == "others"}
    return {"others": others, "rest": missing - others}


def gone_since(cursor: Cursor, memory: Memory, bookkeeping_tables: Sequence[str]) -> list[str]:
    """The tables and columns of the baseline that are missing, and that no other session is known to have dropped."""
    before: Mapping[str, Row] = memory.baseline["tables"]
    migration, present, now = _migration(cursor, memory, bookkeeping_tables), _present(cursor), _now(cursor)
    gone = list(_dropped(memory, migration, present)["rest"])
    for key, oid in ((key, oid) for key, oid in present.items() if key in before):
        columns = columns_of(cursor, oid)
        missing = [name for name in before[key]["columns"] if name not in columns]
        if missing and migration.whose_of(columns_changed_by(cursor, oid, before[key]["columns"], now)) != "others":
            gone += [f"{key}.{name}" for name in missing]
    return sorted(gone)


@dataclass(frozen=True)
class Added:
    """What the migration added beyond what its release declares: tables, and columns of others, by `schema.table`."""

    tables: Sequence[str] = ()
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def in_words(self) -> str:
        """The names, or that there is none."""
        names = [f"table {key}" for key in self.tables]
        names += [f"column {key}.{name}" for key, columns in self.columns.items() for name in columns]
        return f"It added {', '.join(names)}." if names else "It added no table and no column."


def added_since(
    cursor: Cursor,
    memory: Memory,
    bookkeeping_tables: Sequence[str],
    *,
    created: Sequence[str] = (),
    altered: Mapping[str, Sequence[str]] | None = None,
) -> Added:
    """The tables and columns that the baseline does not have, and that no other session is known to have added.

    created, altered: those that are declared, which are left out. So are partitions and inheriting tables of a table
    that is named itself, and tables of extensions.
    """
    before: Mapping[str, Row] = memory.baseline["tables"]
    migration, present, now = _migration(cursor, memory, bookkeeping_tables), _present(cursor), _now(cursor)
    # Of a database that was restored since, no transaction shows who added what.
    restored = _is_another(cursor, memory.baseline)
    declared = _keys(cursor, [*created, *bookkeeping_tables])
    new = {
        key: oid
        for key, oid in present.items()
        if key not in before and (restored or migration.whose_of(made_by(cursor, oid, now)) != "others")
    }
    covered = covered_tables(cursor, new.values())
    columns: dict[str, list[str]] = {}
    known = {key: names for table, names in (altered or {}).items() for key in _keys(cursor, [table])}
    for key, oid in ((key, oid) for key, oid in present.items() if key in before and key not in declared):
        named = [*before[key]["columns"], *known.get(key, ())]
        found = [name for name in columns_of(cursor, oid) if name not in named]
        if found and (restored or migration.whose_of(columns_changed_by(cursor, oid, named, now)) != "others"):
            columns[key] = found
    return Added(sorted(key for key, oid in new.items() if key not in declared and oid not in covered), columns)


def _is_another(cursor: Cursor, baseline: Mapping[str, Any]) -> bool:
    (row,) = select(cursor, "SELECT oid::bigint AS oid FROM pg_database WHERE datname = current_database()")
    return bool(int(baseline.get("database_oid") or row["oid"]) != row["oid"])


def _trace(cursor: Cursor, oid: int, memory: Memory, migration: Transactions) -> Trace:
    now = _now(cursor)
    end = memory.upgrade["after"]["xid"] if memory.upgrade else now
    # A percent sign in the name would be taken for the place of a parameter.
    name = _source(cursor, oid).as_string(cursor).replace("%", "%%")
    asked = {"now": now % XIDS, "baseline": now - memory.baseline["xid"]}

    def read() -> list[Row]:
        cursor.execute(sql.SQL(TRACE).format(table=sql.SQL(name)), asked)
        return [dict(row) for row in cursor.fetchall()]

    rows = read_table(cursor, read)
    older = by_migration = others = unattributed = 0
    for row in rows:
        if row["back"] is None:
            older += row["rows"]
            continue
        xid = now - row["back"]
        whose = migration.whose(xid)
        by_migration += row["rows"] if whose == "own" else 0
        others += row["rows"] if whose != "own" and xid < end else 0
        unattributed += row["rows"] if whose == "unknown" else 0
    return Trace(by_migration, older, others, unattributed)


def _now(cursor: Cursor) -> int:
    """Above every transaction id that this snapshot can see."""
    (row,) = select(cursor, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xid")
    return int(row["xid"])


def _source(cursor: Cursor, oid: int) -> sql.Composed:
    """Its own rows; for a partitioned table, which is compared as a whole, those of its partitions."""
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
