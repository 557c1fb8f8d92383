"""A table that a release has yet to create and that already exists: its content, and whether it may be dropped.

It was left by an interrupted run, or it belongs to another owner. It may be dropped only if nothing is lost with it, or
if the operator accepts the exact number of rows that would be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from .catalog import find_table, identifier, quoted, read_catalog, resolved
from .declared_select import select_declared
from .declared_sql import readable_row
from .dependents import dependents_of
from .fingerprints import text_of
from .session import Row, as_declared, select, server_reason, strip_terminator

RELATION = """
SELECT c.relkind::text AS kind, pg_get_userbyid(c.relowner)::text AS owner,
       pg_snapshot_xmin(pg_current_snapshot())::xid::text AS oldest_transaction
FROM pg_class c WHERE c.oid = %s
"""
KINDS = {"r": "table", "p": "table", "v": "view", "m": "materialized view", "f": "foreign table", "S": "sequence"}

# Written by a transaction that began before the oldest one that was open then: nothing else can be new since.
UNCHANGED = """
SELECT NOT EXISTS (SELECT FROM {} WHERE pg_catalog.age(xmin) OPERATOR(pg_catalog.<=) pg_catalog.age({}::pg_catalog.xid))
  AS unchanged
"""
TYPES = """
SELECT a.attname::text AS name, t.typnamespace = 'pg_catalog'::regnamespace AS own
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
SAMPLE_SIZE = 5


@dataclass(frozen=True)
class Leftover:
    """The diagnosis. `losses` counts the rows that exist nowhere else; all of them where `unjudged` has the reason."""

    table: str
    kind: str
    owner: str
    columns: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    rows: int = 0
    writers: list[Row] = field(default_factory=list)
    sample: list[Row] = field(default_factory=list)
    losses: int = 0
    fingerprint: str = ""
    lost_rows_sql: str = ""
    oldest_transaction: str = ""
    unjudged: str = ""
    dependents: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """For the journal and the module's result."""
        return asdict(self)

    @property
    def description(self) -> str:
        """What it is, in one sentence."""
        said = (
            f"{self.kind} of {self.owner} with {_counted(self.rows, 'row')} and the columns {', '.join(self.columns)}"
        )
        if self.writers:
            said += f"; written by {'; '.join(_said(row) for row in self.writers)}"
        if self.sample:
            said += f"; for example {_said(self.sample[0])}"
        return said


def diagnose(
    cursor: Cursor,
    table: str,
    columns: Mapping[str, Mapping[str, Any]],
    declared: Mapping[str, str],
    beside: Collection[str] = (),
) -> Leftover | None:
    """What exists under the table's name; None where nothing does. Reads only; the rows are of one instant.

    beside: tables that are dropped together with it, if they exist; what belongs to them does not depend on it.
    """
    found = select(cursor, RELATION, tuple(resolved(cursor, [quoted(table)])))
    if not found:
        return None
    kind, owner = found[0]["kind"], found[0]["owner"]
    if kind not in ("r", "p"):
        return Leftover(table, KINDS.get(kind, "relation of another kind"), owner)
    catalog = read_catalog(cursor, table)
    every_row = sql.SQL("SELECT * FROM {}").format(identifier(table)).as_string(cursor)
    # It may be a stranger's: with our own settings no view is read that takes its place.
    own_text = sql.SQL("SELECT * FROM {}").format(_name(cursor, table)).as_string(cursor)
    (counted,) = select(cursor, f"SELECT count(*) AS rows FROM ({own_text}) AS t")
    writers, losses, unjudged = _judge(cursor, catalog.columns, columns, declared)
    if unjudged:
        (losses,) = select(cursor, _losses(own_text))
    return Leftover(
        table,
        KINDS[kind],
        owner,
        columns=[f"{name} {column['type']}" for name, column in catalog.columns.items()],
        references=sorted({c["references"]["table"] for c in catalog.constraints.values() if "references" in c}),
        rows=counted["rows"],
        writers=writers,
        sample=_sample(cursor, table),
        losses=losses["losses"],
        fingerprint=losses["fingerprint"],
        lost_rows_sql=every_row if unjudged else declared["losses"],
        oldest_transaction=found[0]["oldest_transaction"],
        unjudged=unjudged,
        dependents=dependents_of(cursor, [table], beside),
    )


def is_unchanged(cursor: Cursor, one: Leftover) -> bool:
    """Whether no row can have been written since the diagnosis; if not, only another diagnosis can determine it.

    One pass over the rows without any of the release's queries, so that it is short while others wait.
    """
    # No parameter: a percent sign in a name would be taken for the place of one.
    table, oldest = _name(cursor, one.table), sql.Literal(one.oldest_transaction)
    return bool(select(cursor, sql.SQL(UNCHANGED).format(table, oldest).as_string(cursor))[0]["unchanged"])


def _name(cursor: Cursor, table: str) -> sql.Identifier:
    """Of the table that the role finds under a declared name; where it is none any more, the server refuses it."""
    found = find_table(cursor, table)
    return sql.Identifier(found["schema"], found["name"]) if found else sql.Identifier("pg_temp", table)


def _sample(cursor: Cursor, table: str) -> list[Row]:
    """A few rows. Who owns a type may make a function by which it becomes JSON: of such a type the text is shown."""
    shown = [
        sql.SQL("{}").format(sql.Identifier(row["name"]))
        if row["own"]
        else sql.SQL("{} AS {}").format(text_of(sql.Identifier(row["name"])), sql.Identifier(row["name"]))
        for row in select(cursor, TYPES, tuple(resolved(cursor, [quoted(table)])))
    ]
    query = sql.SQL("SELECT row_to_json(few.*) AS line FROM (SELECT {} FROM {} LIMIT {}) AS few").format(
        sql.SQL(", ").join(shown), _name(cursor, table), sql.Literal(SAMPLE_SIZE)
    )
    return [readable_row(row["line"]) for row in select(cursor, query.as_string(cursor))]


def refusal(leftovers: Sequence[Leftover], accept_loss: str | None) -> str:
    """Why these may not go; empty where they may."""
    for one in leftovers:
        if one.kind != "table":
            return f"{one.table} is a {one.kind} of {one.owner}, not a table: its owner must rename or drop it."
        if one.dependents:
            return (
                f"{', '.join(one.dependents)} would be left without the table {one.table} ({one.description}): "
                "drop or change what depends on it first, and rerun the playbook."
            )
    losses = sum(one.losses for one in leftovers)
    if accept_loss == str(losses) or (accept_loss is None and losses == 0):
        return ""
    described = " ".join(
        f"The table {one.table} is a {one.description}."
        + (f" Its rows cannot be judged ({one.unjudged}), so every row counts as lost." if one.unjudged else "")
        for one in leftovers
    )
    if accept_loss is None:
        return (
            f"{described} {_counted(losses, 'row')} would be lost with it: check them. "
            f"-e accept_loss={losses} saves them to a file with a replay script, and then drops the table."
        )
    return (
        f"accept_loss is {accept_loss}, but {_counted(losses, 'row')} would be lost. {described} "
        f"Rerun the playbook {f'with -e accept_loss={losses}' if losses else 'without accept_loss'}."
    )


def _judge(
    cursor: Cursor,
    found: Mapping[str, Row],
    wanted: Mapping[str, Mapping[str, Any]],
    declared: Mapping[str, str],
) -> tuple[list[Row], Row, str]:
    """Who wrote the rows, what would be lost of them, and why that cannot be determined."""
    nothing: Row = {"losses": 0, "fingerprint": ""}
    # A column that the release does not know may hold what no query of the release reads.
    if {name: row["type"] for name, row in found.items()} != {name: row["type"] for name, row in wanted.items()}:
        return [], nothing, "its columns are not those that the release declares"
    if not declared.get("losses"):
        return [], nothing, "the release does not declare which rows would be lost"
    cursor.execute("SAVEPOINT judged")
    try:
        writers = select_declared(cursor, declared["writers"], limit=SAMPLE_SIZE) if declared.get("writers") else []
        (losses,) = select_declared(cursor, _losses(declared["losses"]))
        with as_declared(cursor):
            cursor.execute(f"SELECT * FROM (\n{strip_terminator(declared['losses'])}\n) AS lost LIMIT 0")
        given = [column.name for column in cursor.description or ()]
    except psycopg2.Error as error:
        if cursor.connection.closed or error.pgcode == "55P03":
            raise
        cursor.execute("ROLLBACK TO SAVEPOINT judged")
        return [], nothing, f"the release's query failed: {server_reason(error)}"
    written = [readable_row(row) for row in writers]
    # What the query gives is saved, and everything is dropped.
    if sorted(given) != sorted(found):
        return written, nothing, "the release's query does not return whole rows"
    return written, losses, ""


def _losses(query: str) -> str:
    """How many rows a query has, and one value that changes with any of them."""
    return (
        "SELECT pg_catalog.count(*) AS losses, coalesce(pg_catalog.sum("
        "pg_catalog.hashtextextended((lost.*)::pg_catalog.text, 0)), 0)::pg_catalog.text AS fingerprint"
        f" FROM (\n{strip_terminator(query)}\n) AS lost"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _said(row: Row) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items())
