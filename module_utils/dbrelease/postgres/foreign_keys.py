"""Foreign keys of a table that a release creates: which are not as declared, and how each is repaired.

A wrong or missing one is rebuilt NOT VALID, in one short transaction that drops the old one, and validated in another:
the first holds its locks for milliseconds, the second blocks no writer. For a partitioned table only the operator can
repair it, where the server does not support NOT VALID for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..core.proof import Proof
from .catalog import equal_operators, find_relation, identifier, quoted
from .declared_sql import readable_row
from .session import Row, select
from .structure import FOREIGN_KEY_DEFAULTS, Catalog, constraint_differences

ACTIONS = {
    "cascade": "CASCADE",
    "no_action": "NO ACTION",
    "restrict": "RESTRICT",
    "set_default": "SET DEFAULT",
    "set_null": "SET NULL",
}
MATCHES = {"simple": "MATCH SIMPLE", "full": "MATCH FULL"}
LONGEST_NAME = 63
# The first server that takes NOT VALID for a foreign key of a partitioned table.
NOT_VALID_OF_PARTITIONED = 180_000
ORPHANS = """
WITH orphan AS (
  SELECT child.* FROM {table} AS child
  WHERE ({filled}) AND NOT EXISTS (SELECT FROM {referenced} AS parent WHERE {same}))
SELECT (SELECT count(*) FROM orphan) AS count,
       (SELECT json_agg(few) FROM (SELECT * FROM orphan LIMIT 5) AS few) AS sample
"""


@dataclass(frozen=True)
class ForeignKey:
    """One declared foreign key, what is wrong with it, and the constraints that exist in its place."""

    name: str
    table: str
    columns: list[str]
    referenced: str
    referenced_columns: list[str]
    match: str
    on_delete: str
    on_update: str
    timing: str
    wrong: str = ""
    drops: list[str] = field(default_factory=list)
    rebuild: bool = False

    @property
    def proof_name(self) -> str:
        """The name of its proof."""
        return f"reconcile.{self.name}"

    @property
    def title(self) -> str:
        """Its claim."""
        return f"Foreign key {self.name} of {self.table} is as declared, and valid"

    def rebuilding(self, run_id: str) -> list[sql.Composed]:
        """The statements of the short transaction, in their order; every lock is taken first."""
        if not self.rebuild:
            return []
        table, temporary = identifier(self.table), f"{self.name[: LONGEST_NAME - 7]}_{run_id[-6:]}"
        # What is referenced first: so do deletes that cascade.
        locked = sql.SQL(", ").join(identifier(name) for name in dict.fromkeys((self.referenced, self.table)))
        mode = "ACCESS EXCLUSIVE" if self.drops else "SHARE ROW EXCLUSIVE"
        added = sql.SQL("ALTER TABLE {} {} NOT VALID").format(table, self._adding(temporary))
        dropped = [sql.SQL("ALTER TABLE {} {}").format(table, dropping) for dropping in self._dropping()]
        renamed = sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}").format(
            table, sql.Identifier(temporary), sql.Identifier(self.name)
        )
        return [sql.SQL("LOCK TABLE {} IN {} MODE").format(locked, sql.SQL(mode)), added, *dropped, renamed]

    def at_once(self) -> sql.Composed:
        """The one statement that does all of it, and checks every row under the locks."""
        return sql.SQL("ALTER TABLE {} {}").format(
            identifier(self.table), sql.SQL(", ").join([*self._dropping(), self._adding(self.name)])
        )

    def _adding(self, name: str) -> sql.Composed:
        return sql.SQL("ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({}) {} ON DELETE {} ON UPDATE {} {}").format(
            sql.Identifier(name),
            _columns(self.columns),
            identifier(self.referenced),
            _columns(self.referenced_columns),
            sql.SQL(MATCHES[self.match]),
            sql.SQL(ACTIONS[self.on_delete]),
            sql.SQL(ACTIONS[self.on_update]),
            sql.SQL(self.timing),
        )

    def _dropping(self) -> list[sql.Composed]:
        return [sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(old)) for old in self.drops]

    def validating(self) -> sql.Composed:
        """The statement that checks every row."""
        return sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(
            identifier(self.table), sql.Identifier(self.name)
        )

    def orphans(self, cursor: Cursor) -> tuple[int, list[Row]]:
        """How many rows have no referenced row, and some of them."""
        child, parent = (find_relation(cursor, quoted(name)) for name in (self.table, self.referenced))
        if child is None or parent is None:
            gone = self.table if child is None else self.referenced
            raise ReleaseError(
                f"Searching for rows that violate {self.name} failed (there is no table {gone}): rerun the playbook."
            )
        equal = equal_operators(cursor, parent["oid"], self.referenced_columns)
        statement = sql.SQL(ORPHANS).format(
            table=sql.Identifier(child["schema"], child["name"]),
            referenced=sql.Identifier(parent["schema"], parent["name"]),
            # A full match allows no row that is filled in part, and such a one has no parent.
            filled=sql.SQL(" OR " if self.match == "full" else " AND ").join(
                sql.SQL("child.{} IS NOT NULL").format(sql.Identifier(c)) for c in self.columns
            ),
            same=sql.SQL(" AND ").join(
                sql.SQL("parent.{} {} child.{}").format(sql.Identifier(key), equal[key], sql.Identifier(column))
                for column, key in zip(self.columns, self.referenced_columns, strict=True)
            ),
        )
        (row,) = select(cursor, statement.as_string(cursor))
        return row["count"], [readable_row(one) for one in row["sample"] or []]


def plan(table: str, declared: Mapping[str, Mapping[str, Any]], catalog: Catalog) -> list[ForeignKey]:
    """Every declared foreign key of a table, each with what is wrong with it."""
    return [
        _planned(table, name, wanted, declared, catalog)
        for name, wanted in declared.items()
        if wanted["type"] == "foreign_key"
    ]


def demand_rebuildable(cursor: Cursor, table: str, keys: Sequence[ForeignKey]) -> None:
    """Refuse what the server cannot rebuild without every writer waiting for it."""
    rebuilt = [key for key in keys if key.rebuild]
    if not rebuilt or cursor.connection.server_version >= NOT_VALID_OF_PARTITIONED:
        return
    found = find_relation(cursor, quoted(table))
    if not found or found["kind"] != "p":
        return
    wrong = ", ".join(f"{key.name} ({key.wrong})" for key in rebuilt)
    statements = " ".join(f"{key.at_once().as_string(cursor)};" for key in rebuilt)
    raise ReleaseError(
        f"Not every foreign key of the partitioned table {table} is as declared: {wrong}. This server can add one only "
        f"under a lock that blocks writers while it checks every row. In a quiet hour, run {statements} "
        "Then reconcile again.",
        refused=True,
    )


def repairs(proof: Proof) -> bool:
    """Whether a red proof of a table's constraints shows a foreign key that can be put right; nothing else can."""
    try:
        return any(key.wrong for key in plan("", proof.expected, Catalog(constraints=proof.observed)))
    except ReleaseError:
        return False


def _planned(
    table: str,
    name: str,
    wanted: Mapping[str, Any],
    declared: Mapping[str, Mapping[str, Any]],
    catalog: Catalog,
) -> ForeignKey:
    observed = catalog.constraints.get(name)
    if observed and observed["type"] != "foreign_key":
        raise ReleaseError(
            f"{name} of table {table} is not a foreign key ({observed['definition']}), so reconcile cannot repair "
            "it: its owner must rename or drop it.",
            refused=True,
        )
    # An undeclared one on the same columns acts, too: with NO ACTION it stops what the declared one cascades.
    others = _beside(wanted, declared, catalog.constraints)
    differences = constraint_differences(wanted, observed) if observed else ["it is missing"]
    actions = {**FOREIGN_KEY_DEFAULTS, **wanted}
    # One that only has to be validated needs no other in its place.
    rebuild = bool(others) or not observed or bool(constraint_differences(wanted, {**observed, "validated": True}))
    said = [*differences, *(f"{other} exists, too" for other in others)]
    return ForeignKey(
        name,
        table,
        columns=list(wanted["columns"]),
        referenced=wanted["references"]["table"],
        referenced_columns=list(wanted["references"]["columns"]),
        match=actions["match"],
        on_delete=actions["on_delete"],
        on_update=actions["on_update"],
        timing=_timing(wanted),
        wrong="; ".join(said),
        drops=[*([name] if observed else []), *others] if rebuild else [],
        rebuild=rebuild,
    )


def _beside(
    wanted: Mapping[str, Any], declared: Mapping[str, Mapping[str, Any]], observed: Mapping[str, Row]
) -> Sequence[str]:
    return [
        name
        for name, found in observed.items()
        if name not in declared
        and found["type"] == "foreign_key"
        and found["columns"] == list(wanted["columns"])
        # One that references another table is another owner's rule.
        and found["references"]["table"] == wanted["references"]["table"]
    ]


def _timing(wanted: Mapping[str, Any]) -> str:
    """When it is checked, as a part of its definition."""
    if not wanted.get("deferrable"):
        return "NOT DEFERRABLE"
    return f"DEFERRABLE INITIALLY {'DEFERRED' if wanted.get('initially_deferred') else 'IMMEDIATE'}"


def _columns(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))
