"""Compare a release's declarations of its tables with the catalogs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.proof import Proof
from .session import Row

CORRECT = "Correct it with a migration, or use one of the ways back."
# The meaning of a declaration that omits it.
INDEX_DEFAULTS = {"unique": False, "method": "btree", "where": None, "valid": True, "ready": True}
CONSTRAINT_DEFAULTS = {"validated": True, "deferrable": False, "initially_deferred": False}
FOREIGN_KEY_DEFAULTS = {"on_update": "no_action", "match": "simple"}


@dataclass(frozen=True)
class Catalog:
    """One table as the server describes it: each part by name."""

    columns: dict[str, Row] = field(default_factory=dict)
    indexes: dict[str, Row] = field(default_factory=dict)
    constraints: dict[str, Row] = field(default_factory=dict)
    present: bool = True


def prove_revision(expected: str, observed: Sequence[str] | None, table: str) -> Proof:
    """The bookkeeping table holds exactly the one revision; None means that there is no such table."""
    if observed is None:
        detail = f"There is no table {table}."
    else:
        held = ", ".join(observed) or "no revision"
        detail = f"{table} holds {held}." if list(observed) == [expected] else f"{table} holds {held}, not {expected}."
    right = observed is not None and list(observed) == [expected]
    return Proof(
        "structure.revision",
        f"The database is at revision {expected}",
        "pass" if right else "fail",
        expected=[expected],
        observed=None if observed is None else list(observed),
        detail=detail,
        remedy="" if right else CORRECT,
    )


def prove_existing(table: str, columns: Sequence[str], catalog: Catalog) -> Proof:
    """A table that existed before still has the columns that the release relies on; it may have more."""
    gone = [name for name in columns if name not in catalog.columns]
    if not catalog.present:
        detail = f"There is no table {table}."
    else:
        detail = f"Missing: {', '.join(gone)}." if gone else f"All {len(columns)} exist."
    right = catalog.present and not gone
    return Proof(
        f"structure.{table}.columns",
        f"Table {table} has the columns that the release relies on",
        "pass" if right else "fail",
        expected=list(columns),
        observed=list(catalog.columns),
        detail=detail,
        remedy="" if right else CORRECT,
    )


def prove_created(table: str, declared: Mapping[str, Any], catalog: Catalog) -> list[Proof]:
    """Columns, indexes and constraints of a table that the release makes."""
    return [
        # An index more costs a little; a constraint more refuses rows that the release allows.
        _prove(table, part, declared.get(part) or {}, catalog, strict=part != "indexes")
        for part in DIFFERENCES
    ]


def prove_altered(table: str, declared: Mapping[str, Any], catalog: Catalog) -> list[Proof]:
    """Columns, indexes and constraints that the release adds to a table which existed before; it may have more."""
    found = []
    for part, wanted in declared.items():
        there: dict[str, Row] = getattr(catalog, part)
        # Everything else existed before, and proves nothing.
        only = Catalog(present=catalog.present, **{part: {name: there[name] for name in wanted if name in there}})
        proof = _prove(table, part, wanted, only, strict=False)
        title = f"Table {table} has the {part} that the release adds"
        found.append(replace(proof, name=f"structure.{table}.added_{part}", title=title))
    return found


def prove_changed(table: str, declared: Mapping[str, Any], catalog: Catalog) -> list[Proof]:
    """The parts of an existing table that the release changes are as declared, and those declared as null are gone."""
    found = []
    for part in DIFFERENCES:
        wanted = declared.get(part) or {}
        if not wanted:
            continue
        there: dict[str, Row] = getattr(catalog, part)
        only = Catalog(present=catalog.present, **{part: {name: there[name] for name in wanted if name in there}})
        proof = _prove(table, part, {name: row for name, row in wanted.items() if row is not None}, only, strict=False)
        left = [name for name, row in wanted.items() if row is None and name in there]
        title = f"The {part} of table {table} that the release changes are as declared"
        gone = [name for name, row in wanted.items() if row is None and name not in there]
        if left or gone:
            known = proof.detail.partition("Also there")[0].strip()
            said = [known if len(wanted) > len(left) + len(gone) or proof.status == "fail" else ""]
            said += [f"Still there: {', '.join(left)}."] if left else [f"Removed: {', '.join(gone)}."]
            proof = replace(proof, detail=" ".join(filter(None, said)))
        if left:
            proof = replace(proof, status="fail", remedy=CORRECT)
        found.append(replace(proof, name=f"structure.{table}.changed_{part}", title=title, expected=dict(wanted)))
    return found


def prove_dropped(table: str, catalog: Catalog) -> Proof:
    """A table that the release drops does not exist any more."""
    return Proof(
        f"structure.{table}.dropped",
        f"Table {table} is dropped",
        "fail" if catalog.present else "pass",
        expected="absent",
        observed="present" if catalog.present else "absent",
        detail=f"There is {'still a' if catalog.present else 'no'} table {table}.",
        remedy=CORRECT if catalog.present else "",
    )


def _column(declared: Mapping[str, Any], observed: Row) -> list[str]:
    return _differences({key: value for key, value in declared.items() if key != "renamed_from"}, observed)


def _index(declared: Mapping[str, Any], observed: Row) -> list[str]:
    return _differences({**INDEX_DEFAULTS, **declared}, observed)


def constraint_differences(declared: Mapping[str, Any], observed: Row) -> list[str]:
    """What an observed constraint is instead of what is declared."""
    more = FOREIGN_KEY_DEFAULTS if declared["type"] == "foreign_key" else {}
    wanted = {**CONSTRAINT_DEFAULTS, **more, **declared}
    qualified = f"{observed.get('references_schema')}.{(observed.get('references') or {}).get('table')}"
    if (wanted.get("references") or {}).get("table") == qualified:
        observed = {**observed, "references": {**observed["references"], "table": qualified}}
    return _differences(wanted, observed)


def _differences(declared: Mapping[str, Any], observed: Row) -> list[str]:
    return [
        f"{key} {_said(observed.get(key))} instead of {_said(value)}"
        for key, value in declared.items()
        if observed.get(key) != value
    ]


def _said(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return f"{value['table']} ({', '.join(value['columns'])})" if "table" in value else str(dict(value))
    return "(" + ", ".join(map(str, value)) + ")" if isinstance(value, list) else str(value)


DIFFERENCES: Mapping[str, Callable[[Mapping[str, Any], Row], list[str]]] = {
    "columns": _column,
    "indexes": _index,
    "constraints": constraint_differences,
}


def _prove(
    table: str,
    part: str,
    declared: Mapping[str, Mapping[str, Any]],
    catalog: Catalog,
    *,
    strict: bool,
) -> Proof:
    observed: dict[str, Row] = getattr(catalog, part)
    missing = [name for name in declared if name not in observed]
    # The index behind a constraint is declared with its constraint.
    unexpected = [name for name in observed if name not in declared and not observed[name].get("of_constraint")]
    different = [
        f"{name} has {', '.join(found)}"
        for name, wanted in declared.items()
        if name in observed and (found := DIFFERENCES[part](wanted, observed[name]))
    ]
    right = catalog.present and not missing and not different and not (strict and unexpected)
    said = [
        *([f"Missing: {', '.join(missing)}."] if missing else []),
        *([f"Different: {'; '.join(different)}."] if different else []),
        *([f"{'Unexpected' if strict else 'Also there'}: {', '.join(unexpected)}."] if unexpected else []),
    ]
    if not catalog.present:
        said = [f"There is no table {table}."]
    elif right:
        said = [f"All {len(declared)} are as declared.", *said]
    return Proof(
        f"structure.{table}.{part}",
        f"Table {table} has the declared {part}",
        "pass" if right else "fail",
        expected={name: dict(value) for name, value in declared.items()},
        observed=observed,
        detail=" ".join(said),
        remedy="" if right else CORRECT,
    )
