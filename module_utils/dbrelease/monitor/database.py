"""The sections of a sample that the database answers: sessions, growth, drift, standbys, and dead rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

import psycopg2
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..postgres.catalog import quoted, resolved
from ..postgres.could_not_run import could_not_run, remedy_of
from ..postgres.declared_checks import run_checks
from ..postgres.declared_select import select_declared
from ..postgres.declared_sql import limit_statements, readable_row, still_connected
from ..postgres.revision import database_revisions
from ..postgres.session import Login, connect, select, server_reason, transaction
from ..postgres.terminate import OF_CLIENTS
from .verdicts import WORSE, Claim

STATEMENT_TIMEOUT_MS = 60_000
DRIFT_SAMPLE = 3

CONNECTIONS = f"""
SELECT coalesce(state, 'unknown') AS state, count(*)::int AS count FROM pg_stat_activity WHERE {OF_CLIENTS}
GROUP BY 1 ORDER BY 1
"""
MAXIMUM = "SELECT current_setting('max_connections')::int AS maximum"
STANDBYS = """
SELECT coalesce(application_name, '') AS name, state,
       extract(epoch FROM replay_lag)::float8 AS lag_seconds,
       pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint AS lag_bytes
FROM pg_stat_replication ORDER BY 1
"""
# Bloat is the size of the table's pages beyond that of its rows (28 bytes a row besides its columns; 24 a page), by the
# planner's statistics; unknown without them.
ROWS = """
SELECT format('%%s.%%s', s.schemaname, s.relname) AS name, s.n_live_tup::bigint AS live, s.n_dead_tup::bigint AS dead,
       pg_total_relation_size(s.relid)::bigint AS bytes,
       CASE WHEN width IS NOT NULL AND c.reltuples >= 0 THEN
           greatest(0, pg_relation_size(s.relid) - size * ceil(c.reltuples * width / (size - 24)))
       END::bigint AS bloat_bytes
FROM pg_stat_user_tables s
JOIN pg_class c ON c.oid = s.relid
CROSS JOIN (SELECT current_setting('block_size')::int AS size) AS page
CROSS JOIN LATERAL (
    SELECT 28 + sum(avg_width * (1 - null_frac)) AS width FROM pg_stats
    WHERE (schemaname, tablename) = (s.schemaname, s.relname)
) AS columns
WHERE s.relid = %s
"""

MARK = "DO $$ BEGIN RAISE LOG 'dbrelease takes a sample'; END $$"

Section = tuple[Any, Claim]


def leave_a_line(login: Login) -> None:
    """Have the server log a line, so that an empty log means that the server logs elsewhere."""
    with (
        suppress(ReleaseError, psycopg2.Error),  # the sample reports that the connection failed
        closing(connect(login, "dbrelease monitor")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(MARK)


def sample_database(
    login: Login,
    monitoring: Mapping[str, Any],
    release: Mapping[str, Any],
    previous: Mapping[str, Any],
) -> tuple[dict[str, Any], list[Claim]]:
    """The revision and every declared section, all of one instant; a section that fails hides no other."""
    health = previous.get("health") or {}
    checks, tables = release["checks"], release["tables"]
    sections: dict[str, Callable[[Cursor], Section]] = {
        "connections": lambda cursor: connections(cursor, monitoring["connections"], health.get("connections") or 0),
        "growth": lambda cursor: growth(cursor, monitoring["growth"], previous.get("growth") or ()),
        "drift": lambda cursor: drift(cursor, [check for check in checks if check["name"] in monitoring["drift"]]),
        "replication": lambda cursor: replication(
            cursor, monitoring["replication"], previous.get("standbys") or 0, health.get("lag_seconds") or 0
        ),
        "dead_rows": lambda cursor: dead_rows(cursor, monitoring["dead_rows"], tables, health.get("dead_rows") or {}),
    }
    declared = {name: read for name, read in sections.items() if monitoring.get(name)}
    declared["revision"] = lambda cursor: at_revision(cursor, release["revision"])
    facts: dict[str, Any] = {}
    claims = []
    try:
        with (
            closing(connect(login, "dbrelease monitor")) as connection,
            transaction(connection, read_only=True, isolation="REPEATABLE READ", commit=False) as cursor,
        ):
            limit_statements(cursor, STATEMENT_TIMEOUT_MS)
            for name, read in declared.items():
                facts[name], claim = _section(cursor, name, read)
                claims.append(claim)
    except (ReleaseError, psycopg2.Error) as error:
        reason = error.message if isinstance(error, ReleaseError) else f"{login.label} terminated the session."
        unknown, known = could_not_run(error), {claim.name for claim in claims}
        claims += [Claim(name, "fail", reason, could_not_run=unknown) for name in declared if name not in known]
    return facts, claims


def _section(cursor: Cursor, name: str, read: Callable[[Cursor], Section]) -> Section:
    cursor.execute("SAVEPOINT section")
    try:
        answer = read(cursor)
    except (ReleaseError, psycopg2.Error) as error:
        if isinstance(error, psycopg2.Error):
            still_connected(cursor, error)
        cursor.execute("ROLLBACK TO SAVEPOINT section")
        reason = error.message if isinstance(error, ReleaseError) else server_reason(error)
        failure = f"Reading {name.replace('_', ' ')} failed ({reason})."
        claim = Claim(name, "fail", failure)
        if could_not_run(error):
            claim = Claim(name, "inconclusive", f"{failure} {remedy_of(error)}", could_not_run=True)
        answer = None, claim
    cursor.execute("RELEASE SAVEPOINT section")
    return answer


def at_revision(cursor: Cursor, expected: str) -> Section:
    """The claim that the database is at the release's revision; no other finding is about the release without it."""
    found = database_revisions(cursor)
    if found == [expected]:
        return found, Claim("revision")
    detail = f"The database is at {', '.join(found) or 'no revision'}, not at {expected}: the release is not deployed."
    return found, Claim("revision", "fail", detail, grave=True)


def connections(cursor: Cursor, limit: Mapping[str, Any], before: int) -> Section:
    """The server's client sessions by state; near its maximum, the server will soon refuse new ones."""
    by_state = {row["state"]: row["count"] for row in select(cursor, CONNECTIONS)}
    maximum = select(cursor, MAXIMUM)[0]["maximum"]
    total = sum(by_state.values())
    facts = {"by_state": by_state, "total": total, "maximum": maximum}
    allowed = connections_allowed(limit["of_maximum"], maximum, before)
    if total > allowed:
        was = f" ({before} were open before the release)" if before else ""
        detail = (
            f"{total} connections of {maximum}, above the limit of {allowed:.0f}{was}: find the client that opens them."
        )
        return facts, Claim("connections", "fail", detail)
    return facts, Claim("connections")


def connections_allowed(of_maximum: float, maximum: int, before: int) -> float:
    """How many connections are allowed: the declared part of the maximum.

    Where more were already open before the release, also half of the remainder.
    """
    declared = of_maximum * maximum
    return (before + maximum) / 2 if before > declared else declared


def growth(cursor: Cursor, declared: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> Section:
    """The declared figures; the table grows or shrinks with its source, and does not lose its rows suddenly.

    samples: the same figures of each sample since the deployment. A gradual decrease may be intended.
    """
    rows = select_declared(cursor, declared["sql"], limit=2)
    facts = readable_row(rows[0]) if len(rows) == 1 else {}
    now = facts.get(declared["total"])
    if not isinstance(now, int | float):
        return facts, Claim("growth", "fail", f"The query returned {len(rows)} rows and no number {declared['total']}.")
    totals = [sample[declared["total"]] for sample in samples if isinstance(sample.get(declared["total"]), int | float)]
    kept = 1 - declared["shrink_at_most"]
    if totals and now < totals[-1] * kept:
        detail = (
            f"{declared['total']} fell from {totals[-1]} to {now} since the last sample: find out who deleted the rows."
        )
        return facts, Claim("growth", "fail", detail, grave=True)
    if totals and now < totals[0] * kept:
        detail = f"{declared['total']} fell from {totals[0]} to {now} since the first sample: check whether it should."
        return facts, Claim("growth", "inconclusive", detail)
    return facts, Claim("growth")


def drift(cursor: Cursor, checks: Sequence[Mapping[str, Any]]) -> Section:
    """Rows that violate a check, as written by application code that does not support the release yet."""
    proofs = run_checks(cursor, checks, DRIFT_SAMPLE)
    counts = {check["name"]: proof.observed for check, proof in zip(checks, proofs, strict=True)}
    broken = [proof for proof in proofs if not isinstance(proof.observed, int)]
    if broken:
        unknown = all(proof.could_not_run for proof in broken)
        seen = next(proof for proof in broken if unknown or not proof.could_not_run)
        detail = f"{seen.title}: {seen.detail}{f' {seen.remedy}' if unknown else ''}"
        return counts, Claim("drift", "inconclusive" if unknown else "fail", detail, could_not_run=unknown)
    found = [f"{proof.title}: {proof.detail.rstrip('.')}" for proof in proofs if proof.observed]
    detail = f"{'; '.join(found)}. Verify reports whether it is only drift; reconcile repairs it." if found else ""
    return counts, Claim("drift", "inconclusive" if found else "pass", detail)


def replication(cursor: Cursor, limit: Mapping[str, Any], known: int, before_s: float) -> Section:
    """How far the standbys lag, if there are any; fewer than the `known` ones are inconclusive."""
    rows = select(cursor, STANDBYS)
    hidden = [row["name"] for row in rows if row["state"] is None]
    lags = [row["lag_seconds"] or 0.0 for row in rows]
    facts = {"standbys": len(rows), "lag_seconds": max(lags, default=0.0), "lag_bytes": _most(rows)}
    if hidden:
        detail = f"The lag of {len(hidden)} standbys is hidden: grant pg_monitor to the deploying user."
        return facts, Claim("replication", "inconclusive", detail)
    allowed = max(limit["lag_seconds"], before_s * WORSE)
    if facts["lag_seconds"] > allowed:
        detail = f"A standby lags by {facts['lag_seconds']:.0f} s, above the limit of {allowed:.0f} s."
        return facts, Claim("replication", "fail", detail)
    if len(rows) < known:
        detail = f"{len(rows)} standbys are connected, {known} were before: check whether the others should be."
        return facts, Claim("replication", "inconclusive", detail)
    return facts, Claim("replication")


def _most(rows: Sequence[Mapping[str, Any]]) -> int:
    return max((int(row["lag_bytes"] or 0) for row in rows), default=0)


def dead_rows(cursor: Cursor, limit: Mapping[str, Any], tables: Sequence[str], before: Mapping[str, int]) -> Section:
    """Dead rows, size and bloat of the release's tables: rows that vacuum does not remove slow down every reader.

    Dead rows are judged. Bloat is only reported: it stays until the table is rewritten, and may predate the release.
    """
    facts: dict[str, Any] = {}
    worst = ""
    for table in tables:
        found = select(cursor, ROWS, tuple(resolved(cursor, [quoted(table)])))
        if not found:
            continue
        known = before.get(found[0].pop("name")) or 0
        facts[table] = found[0]
        live, dead = found[0]["live"], found[0]["dead"]
        if dead > max(limit["floor"], known * WORSE) and dead > limit["of_table"] * (live + dead):
            worst = worst or f"{table} has {dead} dead rows and {live} live ones: check why vacuum does not reach it."
    return facts, Claim("dead_rows", "fail" if worst else "pass", worst)
