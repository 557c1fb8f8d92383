"""Rules between a release's declarations of its tables: each is one of rules.RULES."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .documents import Parts, items, listed, mapping, texts
from .yaml_reader import Problem

# Anything else in the columns of an index is an expression, which only the server can read.
COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# The words that pg_get_constraintdef() writes at the end of a definition where the key is true.
TIMINGS = {"deferrable": "DEFERRABLE", "initially_deferred": "INITIALLY DEFERRED"}


def tables_fit_together(parts: Parts) -> Iterator[Problem]:
    """A table either exists or is created; its declaration names known columns and tables."""
    existing, created = mapping(parts.release, "tables", "existing"), mapping(parts.release, "tables", "created")
    for table in existing.keys() & created.keys():
        yield parts.in_release(
            f"tables.created.{table}", "a table that tables.existing does not name", "one that it names"
        )
    for table, declared in created.items():
        yield from _parts_fit(parts, f"tables.created.{table}", declared, _columns_of(parts, table))


def altered_tables_are_there_before(parts: Parts) -> Iterator[Problem]:
    """An altered table exists before the release, and the columns that are added to it do not."""
    existing = mapping(parts.release, "tables", "existing")
    for table, declared in mapping(parts.release, "tables", "altered").items():
        key = f"tables.altered.{table}"
        if table not in existing:
            yield parts.in_release(key, f"a table of tables.existing, {listed([*existing])}", f"`{table}`")
            continue
        for column in mapping(declared, "columns"):
            if column in texts(existing[table]):
                expected = "a column that tables.existing does not name"
                yield parts.in_release(f"{key}.columns.{column}", expected, "one that it names")
        yield from _parts_fit(parts, key, declared, _columns_of(parts, table))


def changed_tables_are_there_before(parts: Parts) -> Iterator[Problem]:
    """A changed table exists before and after the release, and a dropped one is named nowhere else."""
    tables = mapping(parts.release, "tables")
    existing, created = mapping(tables, "existing"), mapping(tables, "created")
    for table, declared in mapping(tables, "changed").items():
        key = f"tables.changed.{table}"
        if table not in existing:
            yield parts.in_release(key, f"a table of tables.existing, {listed([*existing])}", f"`{table}`")
            continue
        for column, after in mapping(declared, "columns").items():
            before = mapping({"c": after}, "c").get("renamed_from", "")
            gone = column if after is None else before
            if gone and gone in texts(existing[table]):
                expected = "a column that tables.existing does not name, because it does not exist after the release"
                yield parts.in_release(f"{key}.columns.{column}", expected, f"`{gone}`")
            if before and column in mapping(tables, "altered", table, "columns"):
                yield parts.in_release(f"{key}.columns.{column}", "a column that tables.altered does not name", "both")
    for table in mapping(tables, "dropped"):
        if table in existing or table in created:
            expected = "a table that tables.existing and tables.created do not name"
            yield parts.in_release(f"tables.dropped.{table}", expected, f"`{table}`")


def _columns_of(parts: Parts, table: str) -> list[str]:
    """The columns of a table that the release knows, as they are after it."""
    before = texts(mapping(parts.release, "tables", "existing").get(table))
    made = (mapping(parts.release, "tables", kind, table, "columns") for kind in ("created", "altered", "changed"))
    return [*before, *(column for columns in made for column in columns)]


def _parts_fit(parts: Parts, key: str, declared: Any, columns: list[str]) -> Iterator[Problem]:
    """The indexes and constraints of one table."""
    for kind in ("indexes", "constraints"):
        for name, part in mapping(declared, kind).items():
            for column in texts(mapping({"part": part}, "part").get("columns")):
                if COLUMN.fullmatch(column) and column not in columns:
                    yield parts.in_release(f"{key}.{kind}.{name}.columns", listed(columns), f"`{column}`")
    for name, part in mapping(declared, "constraints").items():
        yield from _reference_fits(parts, f"{key}.constraints.{name}.references", part)
        yield from _definition_fits(parts, f"{key}.constraints.{name}", part)


def _reference_fits(parts: Parts, key: str, constraint: Any) -> Iterator[Problem]:
    existing, created = mapping(parts.release, "tables", "existing"), mapping(parts.release, "tables", "created")
    reference = mapping(constraint, "references")
    table = reference.get("table")
    if not isinstance(table, str):
        return
    if table not in existing and table not in created:
        yield parts.in_release(f"{key}.table", listed([*existing, *created]), f"`{table}`")
        return
    known = _columns_of(parts, table)
    for column in texts(reference.get("columns")):
        if column not in known:
            yield parts.in_release(f"{key}.columns", listed(known), f"`{column}`")
    if len(texts(reference.get("columns"))) != len(texts(mapping({"c": constraint}, "c").get("columns"))):
        yield parts.in_release(f"{key}.columns", "as many columns as the constraint has", "a different number")


def _definition_fits(parts: Parts, key: str, constraint: Any) -> Iterator[Problem]:
    """An exclusion constraint is declared deferrable exactly if its definition says so: both are compared."""
    declared = mapping({"c": constraint}, "c")
    definition = declared.get("definition")
    if declared.get("type") != "exclusion" or not isinstance(definition, str):
        return
    # A condition in the definition may contain any text, but it ends in a parenthesis.
    ending = definition.rpartition(")")[2]
    for name, words in TIMINGS.items():
        value, said = declared.get(name, False), words in ending
        if isinstance(value, bool) and value != said:
            expected = (
                f"true, because its definition says {words}"
                if said
                else f"nothing, because its definition does not say {words}"
            )
            yield parts.in_release(f"{key}.{name}", expected, str(value).lower() if name in declared else "nothing")


def plans_name_known_tables(parts: Parts) -> Iterator[Problem]:
    """The table of a plan check is declared in the release; so is the index, where the table is created."""
    existing, created = mapping(parts.release, "tables", "existing"), mapping(parts.release, "tables", "created")
    for plan in items(parts.checks, "plans"):
        table, index, key = plan.get("table"), plan.get("index"), f"plans[{plan.get('name')}]"
        if isinstance(table, str) and table not in existing and table not in created:
            yield parts.in_checks(f"{key}.table", listed([*existing, *created]), f"`{table}`")
        elif isinstance(table, str) and table in created and isinstance(index, str):
            known = [*{**mapping(created, table, "indexes"), **mapping(created, table, "constraints")}]
            if index not in known:
                yield parts.in_checks(f"{key}.index", listed(known), f"`{index}`")
