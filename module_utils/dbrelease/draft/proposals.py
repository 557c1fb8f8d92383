"""What the rows of an upgraded copy suggest as checks: counts, references, and values that come from elsewhere.

Each proposal was true on the copy when it was made. That it must stay true is for a person to decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2.extensions import cursor as Cursor

from ..postgres.catalog import quoted_part
from ..postgres.session import select, select_as_declared
from ..postgres.structure import Catalog
from .picture import Picture, TableName

STATEMENT_MS = 60_000
IDENTIFIERS = "SELECT name, quote_ident(name) AS sql FROM unnest(%s::text[]) AS wanted (name)"


@dataclass(frozen=True)
class Equality:
    """A column of a table that always has the value of a source: of the same table, or of the one it references.

    join: from the table, as `a`, to the source, as `b`; empty where both are the same row.
    """

    table: str
    column: str
    source_table: str
    source_column: str
    join: str = ""


@dataclass
class Proposer:
    """Asks the copy; a question that it does not answer in time is a note, and no proposal."""

    cursor: Cursor
    before: Picture
    after: Picture
    notes: list[str]

    def __post_init__(self) -> None:
        """Let the server quote all names at once."""
        names = {name for one in self.after.catalogs.values() for name in (*one.columns, *one.constraints)}
        self._sql = {row["name"]: row["sql"] for row in select(self.cursor, IDENTIFIERS, (sorted(names),))}

    def column(self, name: str) -> str:
        """A column, or a constraint, as SQL writes it."""
        return self._sql.get(name) or quoted_part(name)

    def columns(self, names: Sequence[str], of: str = "") -> str:
        """Columns as SQL lists them, of a table with that alias."""
        return ", ".join(f"{of}.{self.column(name)}" if of else self.column(name) for name in names)

    def rows_of(self, table: TableName) -> int | None:
        """How many rows it has; None where that is unknown."""
        return self._number(f"SELECT count(*) AS n FROM {table.sql}", f"counting the rows of {table.declared}")

    def filled(self, table: TableName, column: str) -> int | None:
        """How many rows have a value in the column."""
        name = self.column(column)
        return self._number(f"SELECT count({name}) AS n FROM {table.sql}", f"reading {table.declared}.{column}")

    def equalities(self, table: str, columns: Sequence[str]) -> Iterator[Equality]:
        """Of each column the first source that it equals in every row."""
        catalog = self.after.catalogs[table]
        for column in columns:
            sources = [*self._same_row(table, column), *self._referenced(table, catalog, column)]
            found = next((one for one in sources if self._is_equal(one)), None)
            if found:
                yield found

    def key_of(self, table: str) -> list[str]:
        """The primary key; without one every column."""
        catalog = self.after.catalogs[table]
        keys = [one["columns"] for one in catalog.constraints.values() if one["type"] == "primary_key"]
        return list(keys[0]) if keys else list(catalog.columns)

    def differing(self, one: Equality) -> str:
        """The rows in which the column and its source differ, as a condition with `a` and `b`."""
        return f"{self.columns([one.column], 'a')} IS DISTINCT FROM {self.columns([one.source_column], 'b')}"

    def from_of(self, one: Equality) -> str:
        """The tables of an equality, for a FROM clause."""
        table = self.after.names[one.table].sql
        if not one.join:
            return f"{table} a"
        return f"{table} a LEFT JOIN {self.after.names[one.source_table].sql} b ON {one.join}"

    def _same_row(self, table: str, column: str) -> Iterator[Equality]:
        before = self.before.catalogs.get(table)
        for other, row in (before.columns if before else {}).items():
            if other in self.after.catalogs[table].columns and row["type"] == self._type(table, column):
                yield Equality(table, column, table, other)

    def _referenced(self, table: str, catalog: Catalog, column: str) -> Iterator[Equality]:
        for constraint in catalog.constraints.values():
            if constraint["type"] != "foreign_key" or column in constraint["columns"]:
                continue
            reference = constraint["references"]
            source = self.before.catalogs.get(reference["table"])
            pairs = zip(constraint["columns"], reference["columns"], strict=True)
            join = " AND ".join(f"{self.columns([one], 'b')} = {self.columns([own], 'a')}" for own, one in pairs)
            for other, row in (source.columns if source else {}).items():
                if other not in reference["columns"] and row["type"] == self._type(table, column):
                    yield Equality(table, column, reference["table"], other, join)

    def _type(self, table: str, column: str) -> Any:
        return self.after.catalogs[table].columns[column]["type"]

    def _is_equal(self, one: Equality) -> bool:
        if not one.join:
            condition = f"{self.column(one.column)} IS DISTINCT FROM {self.column(one.source_column)}"
            statement = f"SELECT count(*) AS n FROM {self.after.names[one.table].sql} WHERE {condition}"
        else:
            statement = f"SELECT count(*) AS n FROM {self.from_of(one)} WHERE {self.differing(one)}"
        return self._number(statement, f"comparing {one.table}.{one.column} with its sources") == 0

    def _number(self, statement: str, doing: str) -> int | None:
        self.cursor.execute("SAVEPOINT proposal")
        try:
            return int(select_as_declared(self.cursor, statement)[0]["n"])
        except psycopg2.Error as error:
            self.cursor.execute("ROLLBACK TO SAVEPOINT proposal")
            self.notes.append(f"{doing.capitalize()} failed ({error.pgcode}): propose its checks by hand.")
            return None
        finally:
            self.cursor.execute("RELEASE SAVEPOINT proposal")
