"""Reading a plan as EXPLAIN (FORMAT JSON) gives it: which indexes it seeks in, and how many rows it fetches by them."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
import psycopg2.extensions

from ..core.options import Options
from ..core.proof import Proof, sentence
from ..postgres.catalog import quoted, resolved
from ..postgres.could_not_run import could_not_run, verdict_of
from ..postgres.declared_select import select_declared
from ..postgres.declared_sql import EXECUTE, advice, limit_statements, prepare, still_connected
from ..postgres.session import Login, connect, select, select_as_declared, server_reason, transaction
from ..runs.work import Work

Node = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """A node in its plan: what is above it, how often it is run (an estimate), and if only as a sub-select."""

    node: Node
    above: Node
    loops: float = 1.0
    sub_select: bool = False


def places(plan: Node) -> Iterator[Place]:
    """Every node of a plan."""
    yield from _below(Place(plan, {}))


def _below(place: Place) -> Iterator[Place]:
    yield place
    children = place.node.get("Plans", [])
    outer = next((float(child["Plan Rows"]) for child in children if child["Parent Relationship"] == "Outer"), 1.0)
    for child in children:
        relation = child["Parent Relationship"]
        repeated = place.node["Node Type"] == "Nested Loop" and relation == "Inner"
        loops = place.loops * max(outer, 1.0) if repeated else place.loops
        yield from _below(Place(child, place.node, loops, place.sub_select or relation in ("InitPlan", "SubPlan")))


def _by_index(plan: Node, names: Collection[str]) -> Iterator[float]:
    """How many rows are fetched by each use of the index that seeks something in it."""
    for place in places(plan):
        if place.node.get("Index Name") not in names:
            continue
        if "Index Cond" in place.node or "Order By" in place.node:
            yield float(place.node["Plan Rows"]) * place.loops
        elif place.above.get("Node Type") == "Limit" and not place.sub_select:
            # The first rows in the index's order. Otherwise the whole index is only scanned, which serves no query.
            yield float(place.above["Plan Rows"]) * place.loops


def serves(plan: Node, names: Collection[str]) -> bool:
    """Whether the plan seeks its rows in that index."""
    return any(True for _ in _by_index(plan, names))


def fetched(plan: Node, names: Collection[str]) -> float:
    """How many rows the plan would fetch by that index."""
    return max(_by_index(plan, names), default=0.0)


def indexes_of(plan: Node) -> set[str]:
    """The names of all indexes in a plan."""
    return {place.node["Index Name"] for place in places(plan) if "Index Name" in place.node}


def seeking(plan: Node, column: str, names: Collection[str]) -> Iterator[str]:
    """Those of the named indexes by which the plan seeks in a column (as the server writes it; empty for none)."""
    if column:
        sought = re.compile(rf"\({re.escape(column)} (=|<|>|<=|>=) ")
        for place in places(plan):
            if place.node.get("Index Name") in names and sought.search(place.node.get("Index Cond", "")):
                yield place.node["Index Name"]


Cursor = psycopg2.extensions.cursor

# Settings under which the planner takes an index wherever one can serve, mildest first.
BY_INDEX: tuple[dict[str, str], ...] = (
    {
        "enable_seqscan": "off",
        "enable_indexscan": "on",
        "enable_indexonlyscan": "on",
        "enable_bitmapscan": "on",
        "max_parallel_workers_per_gather": "0",
    },
)
BY_INDEX += (
    {**BY_INDEX[0], "enable_nestloop": "on", "enable_hashjoin": "off", "enable_mergejoin": "off"},
    # Without lookups row by row and without full index scans: what remains seeks by a condition of its own.
    {**BY_INDEX[0], "enable_nestloop": "off", "enable_indexscan": "off", "enable_indexonlyscan": "off"},
)

# As a plan writes it.
FIRST_COLUMN = "SELECT pg_catalog.pg_get_indexdef(%s, 1, false) AS name"

# A query that fetches less of a table than this is cheaper by the index with any usual cost settings. The planner's
# total cost cannot show that: what it chose is always the cheapest by its own settings, even wrong ones.
SMALL_SHARE = 0.05
# Up to version 17 the planner adds this for each step that a setting forbids and that it still needs.
_PENALTY = 1e10


@dataclass(frozen=True)
class Index:
    """An index as the server has it: on that table, usable, and what the planner knows about the table.

    first_column: what it is sorted by first; empty for an index that covers only a part of the rows.
    names: its own and its partitions'; others: those of the other indexes of the table.
    """

    table_found: bool
    found: bool = False
    valid: bool = False
    rows: int = -1
    analyzed: bool = False
    names: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    first_column: str = ""


@dataclass(frozen=True)
class PlanObservation:
    """What the planner answered: whether it uses and can use the index, and what either way costs by its estimate.

    share: the part of the table's rows that it would fetch by the index; others: the indexes that it used instead.
    twin: another index of the table that it used to seek by the same column.
    """

    does: bool
    can: bool
    cost: float
    cost_by_index: float | None = None
    share: float | None = None
    others: tuple[str, ...] = ()
    twin: str = ""


def read_plans(login: Login, plans: Sequence[Mapping[str, Any]], statement_timeout_ms: int) -> list[Proof]:
    """One proof for each plan."""
    with (
        closing(connect(login, "dbrelease plans")) as connection,
        transaction(connection, read_only=True, commit=False) as cursor,
    ):
        limit_statements(cursor, statement_timeout_ms)
        return [prove_plan(cursor, plan) for plan in plans]


def prove_plan(cursor: Cursor, plan: Mapping[str, Any]) -> Proof:
    """One proof, in the caller's read-only transaction, which is left as it was."""
    started = time.monotonic()
    cursor.execute("SAVEPOINT declared_plan")
    try:
        index = find_index(cursor, plan["table"], plan["index"])
        seen = see(cursor, plan["sql"], index) if index.valid else None
        verdict = judge(plan, index, seen)
    except psycopg2.Error as error:
        still_connected(cursor, error)
        otherwise = "Declare one SELECT that only reads and that this server understands."
        verdict = {
            "status": "fail",
            "detail": f"The query could not be planned: {server_reason(error)}.",
            "remedy": advice(error, otherwise),
        }
        if could_not_run(error):
            verdict = verdict_of(error, "Planning the query")
    cursor.execute("ROLLBACK TO SAVEPOINT declared_plan")
    cursor.execute("RELEASE SAVEPOINT declared_plan")
    return Proof(
        name=f"plans.{plan['name']}",
        title=plan["title"],
        expected={"index": plan["index"], "can": True, "does_from_rows": plan["row_floor"]},
        sql=plan["sql"],
        duration_ms=round((time.monotonic() - started) * 1000),
        **verdict,
    )


def find_index(cursor: Cursor, table: str, index: str) -> Index:
    """The index of that name on that table, with its partitions."""
    rows = select(
        cursor,
        """
        SELECT t.reltuples::bigint AS rows, i.indexrelid IS NOT NULL AS found,
               coalesce(i.indisvalid AND i.indisready AND i.indislive, false) AS valid,
               -- Building an index counts the rows too, so a count alone does not show that values were gathered; of an
               -- empty table there are none to gather.
               t.reltuples = 0
                 OR EXISTS (SELECT FROM pg_stats s WHERE s.schemaname = n.nspname AND s.tablename = t.relname)
                 OR coalesce(pg_stat_get_last_analyze_time(t.oid), pg_stat_get_last_autoanalyze_time(t.oid)) IS NOT NULL
                 AS analyzed,
               ARRAY(
                 SELECT c.relname::text FROM pg_partition_tree(i.indexrelid) p JOIN pg_class c ON c.oid = p.relid
               ) AS names,
               ARRAY(
                 SELECT c.relname::text FROM pg_index o JOIN pg_class c ON c.oid = o.indexrelid
                 WHERE o.indrelid = t.oid AND o.indexrelid <> i.indexrelid
               ) AS others,
               CASE WHEN i.indpred IS NULL THEN i.indexrelid::bigint END AS whole
        FROM pg_class t
        JOIN pg_namespace n ON n.oid = t.relnamespace
        LEFT JOIN (pg_index i JOIN pg_class c ON c.oid = i.indexrelid AND c.relname = %s) ON i.indrelid = t.oid
        WHERE t.oid = %s
        """,
        (index, *resolved(cursor, [quoted(table)])),
    )
    if not rows:
        return Index(table_found=False)
    names = tuple(dict.fromkeys((index, *rows[0]["names"])))
    row = rows[0]
    first = select_as_declared(cursor, FIRST_COLUMN, (row["whole"],)) if row["whole"] else []
    return Index(
        table_found=True,
        found=row["found"],
        valid=row["valid"],
        rows=row["rows"],
        analyzed=row["analyzed"],
        names=names,
        others=tuple(row["others"]),
        first_column=(first[0]["name"] or "") if first else "",
    )


def see(cursor: Cursor, sql: str, index: Index) -> PlanObservation:
    """Ask the planner, first as it is, then with the other ways switched off."""
    # Refuses what would write; prepare() then refuses a second statement.
    select_declared(cursor, sql, limit=0)
    chosen = explain(cursor, sql, _as_the_role(cursor))
    forced = [explain(cursor, sql, settings) for settings in BY_INDEX]
    by_index = next((plan for plan in forced if serves(plan, index.names)), None)
    does = serves(chosen, index.names)
    return PlanObservation(
        does=does,
        can=does or by_index is not None,
        cost=float(chosen["Total Cost"]),
        cost_by_index=round(float(by_index["Total Cost"]) % _PENALTY, 2) if by_index else None,
        share=round(fetched(by_index, index.names) / max(index.rows, 1), 4) if by_index else None,
        others=tuple(sorted({name for plan in (chosen, *forced) for name in indexes_of(plan)} - set(index.names))),
        twin=next((name for plan in forced for name in seeking(plan, index.first_column, index.others)), ""),
    )


def _as_the_role(cursor: Cursor) -> dict[str, str]:
    """How many workers the application's sessions may have: no plan here is run, and ours may have none."""
    asked = "SELECT name, reset_val AS value FROM pg_settings WHERE name = 'max_parallel_workers_per_gather'"
    return {row["name"]: row["value"] for row in select(cursor, asked)}


def explain(cursor: Cursor, sql: str, settings: Mapping[str, str]) -> Node:
    """The planner's answer under these settings, which end with the savepoint."""
    cursor.execute("SAVEPOINT planner_settings")
    for name, value in settings.items():
        cursor.execute("SELECT set_config(%s, %s, true)", (name, value))
    # Prepared each time: a plan that was made under other settings would be used again.
    prepare(cursor, sql)
    answer = select_as_declared(cursor, f"EXPLAIN (FORMAT JSON) {EXECUTE}")
    cursor.execute("ROLLBACK TO SAVEPOINT planner_settings")
    cursor.execute("RELEASE SAVEPOINT planner_settings")
    root: Node = answer[0]["QUERY PLAN"][0]["Plan"]
    return root


def judge(plan: Mapping[str, Any], index: Index, seen: PlanObservation | None) -> dict[str, Any]:
    """The verdict; `seen` is None where there is no usable index to plan with."""
    name, table, floor = plan["index"], plan["table"], plan["row_floor"]
    again = f"Create {name} on {table} as the release declares it, and verify again."
    if not index.table_found:
        return _red(index, seen, f"There is no table {table}.", "Bring the table back, and verify again.")
    if not index.found:
        return _red(index, seen, f"There is no index {name} on {table}.", again)
    if seen is None:
        detail = f"The index {name} is invalid, as after an interrupted build, so no query can use it."
        return _red(index, seen, detail, f"REINDEX INDEX CONCURRENTLY {name}, and verify again.")
    if not seen.can and seen.twin and index.rows < floor:
        # For a few rows all indexes cost the same; that the other can seek by this column shows that this one can, too.
        seen = replace(seen, can=True)
    if not seen.can:
        instead = f"; it takes {', '.join(seen.others)} instead" if seen.others else ""
        return _red(index, seen, f"The planner cannot serve the query by {name}{instead}.", again)
    if not index.analyzed:
        detail = f"{name} can serve the query; whether it does cannot be determined before {table} has been analyzed."
        return _verdict("inconclusive", index, seen, detail, f"ANALYZE {table}, and verify again.")
    if seen.does:
        return _verdict("pass", index, seen, f"The query is served by {name}.")
    if index.rows < floor:
        detail = f"{name} can serve the query; with {index.rows} rows (fewer than {floor}) another plan is right."
        return _verdict("pass", index, seen, detail)
    percent = f"{(seen.share or 0) * 100:.0f} %"
    if (seen.share or 0) >= SMALL_SHARE and (seen.cost_by_index or 0) >= seen.cost:
        detail = (
            f"{name} can serve the query; it would fetch {percent} of {table}, and reading the whole table is right."
        )
        return _verdict("pass", index, seen, detail)
    detail = f"{name} would fetch only {percent} of the {index.rows} rows, but the planner does not use it."
    remedy = (
        f"ANALYZE {table}; then check whether random_page_cost or an enable_ setting prevents the planner from using "
        "it, and verify again."
    )
    return _red(index, seen, detail, remedy)


def _red(index: Index, seen: PlanObservation | None, detail: str, remedy: str) -> dict[str, Any]:
    return _verdict("fail", index, seen, detail, remedy)


def _verdict(status: str, index: Index, seen: PlanObservation | None, detail: str, remedy: str = "") -> dict[str, Any]:
    observed = {
        "can": seen is not None and seen.can,
        "does": seen is not None and seen.does,
        "valid": index.valid,
        "rows": index.rows,
        "analyzed": index.analyzed,
        "cost": seen.cost if seen else None,
        "cost_by_index": seen.cost_by_index if seen else None,
        "share": seen.share if seen else None,
        "other_indexes": list(seen.others) if seen else [],
    }
    return {"status": status, "observed": observed, "detail": detail, "remedy": remedy}


OPTIONS: Options = {
    "plans": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "title": {"type": "str", "required": True},
            "index": {"type": "str", "required": True},
            "table": {"type": "str", "required": True},
            "row_floor": {"type": "int", "required": True},
            "sql": {"type": "str", "required": True},
        },
    },
    "statement_timeout_ms": {"type": "int", "default": 60_000},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Read in both modes."""
    work = Work.of(params, check_mode)
    with work.journal.step("plans") as step:
        proofs = read_plans(work.login, params["plans"], params["statement_timeout_ms"])
        step.prove(*proofs)
        step.facts["duration_ms"] = sum(proof.duration_ms for proof in proofs)
    lines = [proof.as_dict() for proof in proofs]
    return {"proofs": lines, "message": sentence(lines), "duration_ms": step.facts["duration_ms"]}
