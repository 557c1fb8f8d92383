"""What was observed of a change, as the declarations of a release, and what is left for a person to decide."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..backup.schema_text import differences
from ..observe.budget import DEFAULT, forecast
from ..observe.observation import Observation
from ..postgres.session import Row
from ..postgres.structure import FOREIGN_KEY_DEFAULTS, INDEX_DEFAULTS, Catalog
from .picture import Picture
from .proposals import Equality, Proposer

OTHER = re.compile(r"[^a-z0-9]+")
LONGEST_NAME = 63
ROW_FLOOR = 5000
KEEP = "The old schema has no place for them: go on, or restore the backup."
# What a declaration of a table covers, as pg_dump names it.
OF_TABLES = ("TABLE ", "INDEX ", "CONSTRAINT ", "FK CONSTRAINT ", "CHECK CONSTRAINT ")


@dataclass(frozen=True)
class Walked:
    """A copy before and after the upgrade.

    objects: as pg_dump names them, before and now. was: the rows of each table before, by `schema.table`; rows: those
    of the columns that stayed, after the upgrade.
    """

    before: Picture
    after: Picture
    objects_before: Mapping[str, str]
    objects_now: Mapping[str, str]
    was: Mapping[str, Row]
    rows: Mapping[str, Row]
    observation: Observation | None
    notes: list[str]


@dataclass(frozen=True)
class Draft:
    """The parts of a release that were observed; reversible is true, lossy or false, in words.

    notes: what could not be decided. observed: sentences on locks, waits and size.
    """

    tables: dict[str, Any] = field(default_factory=dict)
    guards: list[dict[str, Any]] = field(default_factory=list)
    finalize: list[dict[str, Any]] = field(default_factory=list)
    budget: dict[str, Any] = field(default_factory=dict)
    observations: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    plans: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    observed: list[str] = field(default_factory=list)
    reversible: str = ""
    way_back: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For the result of the module."""
        return asdict(self)


def compose(walked: Walked, proposer: Proposer) -> Draft:
    """The draft, without the way back."""
    parts = _Parts(walked, proposer)
    draft = Draft(
        tables=parts.tables(),
        guards=list(parts.guards()),
        finalize=list(parts.finalize()),
        budget=parts.budget(),
        checks=list(parts.checks()),
        observations=list(parts.observations()),
        plans=list(parts.plans()),
        observed=forecast(walked.observation) if walked.observation else ["What it costs others was not observed."],
        notes=[*walked.notes, *parts.undecided()],
    )
    return draft


class _Parts:
    """Each part of the draft."""

    def __init__(self, walked: Walked, proposer: Proposer) -> None:
        self.walked, self.proposer = walked, proposer
        self.before, self.after = walked.before.catalogs, walked.after.catalogs
        self.created = [name for name in self.after if name not in self.before]
        self.kept = [name for name in self.after if name in self.before]
        self.added = {name: found for name in self.kept if (found := self._added(name))}
        self.filled = {
            (table, column): rows
            for table, parts in self.added.items()
            for column in parts.get("columns") or ()
            if (rows := proposer.filled(walked.after.names[table], column))
        }
        self.counts = {table: proposer.rows_of(walked.after.names[table]) for table in self.created}
        self.equal: dict[tuple[str, str], Equality] = {}
        for table in self.created:
            if self.counts[table]:
                names = [name for name in self.after[table].columns if name not in proposer.key_of(table)]
                self.equal |= {(table, one.column): one for one in proposer.equalities(table, names)}
        for table, column in self.filled:
            for one in proposer.equalities(table, [column]):
                self.equal[table, column] = one
        self.used: set[str] = set()

    def tables(self) -> dict[str, Any]:
        """The declarations of tables; existing are those that the change touches or refers to."""
        created = {table: declared_table(self.after[table]) for table in self.created}
        about = {*self.added}
        for parts in (*created.values(), *self.added.values()):
            for constraint in (parts.get("constraints") or {}).values():
                about |= {constraint["references"]["table"]} if "references" in constraint else set()
        about |= {one.source_table for one in self.equal.values()}
        changed = {name: found for name in self.kept if (found := self._changed(name))}
        about |= {name for name in self.kept if self._rows_differ(name) or name in changed}
        dropped = {name: list(one.columns) for name, one in self.before.items() if name not in self.after}
        existing = {
            name: [column for column in self.before[name].columns if column in self.after[name].columns]
            for name in self.kept
            if name in about
        }
        parts = {"existing": existing, "created": created, "altered": self.added}
        return {**parts, "changed": changed, "dropped": dropped}

    def guards(self) -> Iterator[dict[str, Any]]:
        """A guard for each table that the downgrade drops, and for the values of each column that it fills."""
        for table in self.created:
            equal = next((one for (of, _), one in self.equal.items() if of == table and one.join), None)
            key = self.proposer.key_of(table)
            select = f"SELECT {self.proposer.columns(key, 'a')}"
            if equal:
                rows = f"{select}\nFROM {self.proposer.from_of(equal)}\nWHERE {self.proposer.differing(equal)}"
                title = f"No row that only {table} has"
            else:
                rows, title = f"{select} FROM {self.walked.after.names[table].sql} a", f"No row in {table}"
            yield {
                "name": self._name(f"no_row_of_{table}_lost"),
                "title": title[:200],
                "losses": {"table": table, "key": key, "rows": rows},
                "road": KEEP,
            }
        for table, column in self.filled:
            equal = self.equal.get((table, column))
            select = f"SELECT {self.proposer.columns(self.proposer.key_of(table), 'a')}"
            if equal:
                violations = f"{select}\nFROM {self.proposer.from_of(equal)}\nWHERE {self.proposer.differing(equal)}"
            else:
                name = self.walked.after.names[table].sql
                violations = f"{select} FROM {name} a WHERE {self.proposer.columns([column], 'a')} IS NOT NULL"
            yield {
                "name": self._name(f"no_value_of_{table}_{column}_lost"),
                "title": f"No value that only {table}.{column} has"[:200],
                "violations": violations,
                "values_of": {table: [column]},
                "road": KEEP,
            }

    def finalize(self) -> Iterator[dict[str, Any]]:
        """A step for each table that the upgrade fills, and for each constraint that it leaves NOT VALID."""
        for table in self.created:
            if self.counts[table]:
                name = self.walked.after.names[table].sql
                yield {
                    "name": self._name(f"analyze_{table}"),
                    "title": f"Gather the planner's statistics of {table}"[:200],
                    "sql": f"ANALYZE {name}",
                    "pending": "SELECT count(*) AS pending FROM pg_class c\n"
                    f"WHERE c.oid = {self._regclass(table)} AND c.reltuples <> 0 AND NOT EXISTS (\n"
                    "  SELECT 1 FROM pg_stats s\n"
                    "  WHERE s.schemaname = c.relnamespace::regnamespace::text AND s.tablename = c.relname)",
                }
        for table in self.after:
            for name, row in self.after[table].constraints.items():
                known = self.before.get(table, Catalog()).constraints.get(name)
                if row.get("validated", True) or known:
                    continue
                sql_table, sql_name = self.walked.after.names[table].sql, self.proposer.column(name)
                literal = name.replace("'", "''")
                yield {
                    "name": self._name(f"validate_{name}"),
                    "title": f"Validate the constraint {name}"[:200],
                    "sql": f"ALTER TABLE {sql_table} VALIDATE CONSTRAINT {sql_name}",
                    "pending": "SELECT count(*) AS pending FROM pg_constraint\n"
                    f"WHERE conname = '{literal}' AND conrelid = {self._regclass(table)} AND NOT convalidated",
                }

    def budget(self) -> dict[str, Any]:
        """A longer wait than the default allows is declared with half as much again."""
        waits = [wait.writer_ms or 0 for wait in (self.walked.observation.waits if self.walked.observation else ())]
        longest = max(waits, default=0.0)
        return {"write_wait_ms": round(longest * 1.5)} if longest > DEFAULT["write_wait_ms"] else {}

    def observations(self) -> Iterator[dict[str, Any]]:
        """The number of rows of each existing table."""
        for table in self.tables()["existing"]:
            name = self.walked.before.names[table].sql
            yield {
                "name": self._name(f"rows_of_{table}"),
                "title": f"Rows of {table}"[:200],
                "sql": f"SELECT count(*) AS rows FROM {name}",
            }

    def checks(self) -> Iterator[dict[str, Any]]:
        """Counts that were equal, references that were whole, and values that were those of a source."""
        for table in self.created:
            yield from self._counts_of(table)
            for name, constraint in self.after[table].constraints.items():
                if constraint["type"] == "foreign_key":
                    yield self._reference(table, name, constraint)
        for (table, column), one in self.equal.items():
            key = self.proposer.columns(self.proposer.key_of(table), "a")
            source = f"{one.source_table}.{one.source_column}"
            other = "b" if one.join else "a"
            condition = (
                f"{self.proposer.columns([column], 'a')} IS DISTINCT FROM "
                f"{self.proposer.columns([one.source_column], other)}"
            )
            yield {
                "name": self._name(f"{table}_{column}_equals_{one.source_column}"),
                "title": f"{table}.{column} equals {source}"[:200],
                "violations": f"SELECT {key}\nFROM {self.proposer.from_of(one)}\nWHERE {condition}",
            }

    def plans(self) -> Iterator[dict[str, Any]]:
        """A query by the columns of each new index."""
        for table in [*self.created, *self.added]:
            known = self.before.get(table, Catalog()).indexes
            for name, row in self.after[table].indexes.items():
                plain = row.get("where") is None and all(one in self.after[table].columns for one in row["columns"])
                if name in known or row.get("of_constraint") or not plain or row.get("method") != "btree":
                    continue
                sql_table, columns = self.walked.after.names[table].sql, self.proposer.columns(row["columns"])
                sample = f"SELECT {columns} FROM {sql_table} LIMIT 1"
                yield {
                    "name": self._name(f"index_{name}_serves"),
                    "title": f"The rows of {table} are found by {name}"[:200],
                    "index": name,
                    "table": table,
                    "row_floor": ROW_FLOOR,
                    "sql": f"SELECT * FROM {sql_table} WHERE ({columns}) = ({sample})",
                }

    def undecided(self) -> Iterator[str]:
        """What the format cannot say, or a person must."""
        for table in self.kept:
            if said := self._rows_differ(table):
                yield f"The upgrade {said} {table}: declare how many, and which columns (tables.changed.{table}.rows)."
        new = {self.walked.after.names[table].key.rpartition(".")[2] for table in self.created}
        for line in differences(self.walked.objects_before, self.walked.objects_now):
            if not line["object"].startswith(OF_TABLES) and new.isdisjoint(re.split(r"[ .]", line["object"])):
                yield f"Also {line['change']}: {line['object']}."
        for (table, column), rows in self.filled.items():
            if (table, column) not in self.equal:
                yield f"The upgrade fills {table}.{column} in {rows} rows, from no column that was found."
        for table, count in self.counts.items():
            if count and not any(of == table for of, _ in self.equal):
                yield f"The upgrade fills {table} with {count} rows: declare from where, as checks."

    def _counts_of(self, table: str) -> Iterator[dict[str, Any]]:
        """Where a created table has a row for each one of a table that it references, or for each that has a value."""
        rows = self.counts[table]
        if not rows or rows < 2:
            return
        own = self.walked.after.names[table].sql
        for source in dict.fromkeys(one.source_table for (of, _), one in self.equal.items() if of == table):
            columns = [one.source_column for (of, _), one in self.equal.items() if of == table]
            name = self.walked.before.names[source]
            for column in columns:
                if self.proposer.filled(name, column) == rows:
                    count = f"SELECT count({self.proposer.column(column)}) FROM {name.sql}"
                    yield {
                        "name": self._name(f"count_of_{table}_matches_{source}"),
                        "title": f"{table} has a row for each value of {source}.{column}"[:200],
                        "equal": f"SELECT ({count}) AS expected,\n       (SELECT count(*) FROM {own}) AS found",
                    }
                    return

    def _reference(self, table: str, name: str, constraint: Mapping[str, Any]) -> dict[str, Any]:
        reference = constraint["references"]
        pairs = zip(constraint["columns"], reference["columns"], strict=True)
        joined = " AND ".join(
            f"{self.proposer.columns([other], 'b')} = {self.proposer.columns([own], 'a')}" for own, other in pairs
        )
        present = " AND ".join(f"{self.proposer.columns([own], 'a')} IS NOT NULL" for own in constraint["columns"])
        source = self.walked.after.names[reference["table"]].sql
        key = self.proposer.columns(self.proposer.key_of(table), "a")
        return {
            "name": self._name(f"{name}_is_whole"),
            "title": f"Every row of {table} has its row in {reference['table']}"[:200],
            "violations": f"SELECT {key}\nFROM {self.walked.after.names[table].sql} a\n"
            f"WHERE {present} AND NOT EXISTS (SELECT FROM {source} b WHERE {joined})",
        }

    def _added(self, table: str) -> dict[str, Any]:
        before, after = self.before[table], declared_table(self.after[table])
        renamed = set(self._renamed(table).values())
        new = {
            part: {
                name: row
                for name, row in after[part].items()
                if name not in getattr(before, part) and not (part == "columns" and name in renamed)
            }
            for part in ("columns", "indexes", "constraints")
        }
        return {part: rows for part, rows in new.items() if rows}

    def _changed(self, table: str) -> dict[str, Any]:
        """What the upgrade changes or removes of a table: each part as it is afterwards, or None."""
        before, after = self.before[table], self.after[table]
        declared = declared_table(after)
        found: dict[str, dict[str, Any]] = {}
        for part in ("columns", "indexes", "constraints"):
            was, now = getattr(before, part), getattr(after, part)
            # The index behind a constraint goes with it.
            gone = [name for name, row in was.items() if name not in now and not row.get("of_constraint")]
            other = [name for name in was if name in now and was[name] != now[name] and name in declared[part]]
            renamed = self._renamed(table) if part == "columns" else {}
            parts = dict.fromkeys([name for name in gone if name not in renamed])
            parts |= {name: declared[part][name] for name in other}
            parts |= {new: {**declared[part][new], "renamed_from": old} for old, new in renamed.items()}
            if parts:
                found[part] = parts
        return found

    def _renamed(self, table: str) -> dict[str, str]:
        """The new name of each column by its former one: a rename leaves a column at its place."""
        before = {place: name for name, place in self.walked.before.places[table].items()}
        after = {place: name for name, place in self.walked.after.places[table].items()}
        return {name: after[place] for place, name in before.items() if after.get(place, name) != name}

    def _rows_differ(self, table: str) -> str:
        key = self.walked.before.names[table].key
        was, now = self.walked.was.get(key), self.walked.rows.get(key)
        if was is None or now is None:
            return ""
        if was["rows"] != now["rows"]:
            more = now["rows"] - was["rows"]
            return f"{'adds' if more > 0 else 'deletes'} {abs(more)} rows (or more) {'to' if more > 0 else 'of'}"
        kept = list(was["columns"]) == list(now["columns"])
        return "changes values in" if kept and was["fingerprint"] != now["fingerprint"] else ""

    def _regclass(self, table: str) -> str:
        """The table's oid, as an expression; of no table where it does not exist."""
        quoted = self.walked.after.names[table].sql.replace("'", "''")
        return f"to_regclass('{quoted}')"

    def _name(self, wanted: str) -> str:
        """A name as the schema wants it, which no other part of the draft has."""
        plain = OTHER.sub("_", wanted.lower()).strip("_")
        base = (plain if plain[:1].isalpha() else f"x_{plain}")[:LONGEST_NAME]
        name, number = base, 1
        while name in self.used:
            number += 1
            name = f"{base[: LONGEST_NAME - len(str(number)) - 1]}_{number}"
        self.used.add(name)
        return name


def declared_table(catalog: Catalog) -> dict[str, Any]:
    """A table as tables.created declares it."""
    return {
        "columns": {name: {"type": row["type"], "nullable": row["nullable"]} for name, row in catalog.columns.items()},
        "indexes": {
            name: _short(row, INDEX_DEFAULTS, ("columns", "unique"), ("of_constraint", "valid", "ready"))
            for name, row in catalog.indexes.items()
            if not row.get("of_constraint")
        },
        "constraints": {name: declared_constraint(row) for name, row in catalog.constraints.items()},
    }


def declared_constraint(row: Row) -> dict[str, Any]:
    """A constraint as it is declared."""
    kind = row["type"]
    timing = {name: True for name in ("deferrable", "initially_deferred") if row.get(name)}
    if kind in ("check", "exclusion"):
        return {"type": kind, "definition": row["definition"].removesuffix(" NOT VALID"), **timing}
    if kind == "foreign_key":
        more = {name: row[name] for name, usual in FOREIGN_KEY_DEFAULTS.items() if row.get(name) != usual}
        target = {"references": row["references"], "on_delete": row["on_delete"]}
        return {"type": kind, "columns": row["columns"], **target, **more, **timing}
    return {"type": kind, "columns": row["columns"], **timing}


def _short(row: Row, defaults: Mapping[str, Any], always: Sequence[str], never: Sequence[str]) -> dict[str, Any]:
    """Without what a declaration means when it leaves it out."""
    return {
        name: value
        for name, value in row.items()
        if name in always or (name not in never and (name not in defaults or defaults[name] != value))
    }
