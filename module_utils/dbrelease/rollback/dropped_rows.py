"""Rows that a downgrade drops and that nothing else knows: all of one instant, and exactly as many as expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql
from psycopg2.extras import RealDictCursor

from ..backup.manifest import hash_file
from ..core.errors import ReleaseError
from ..core.journal import Journal, Run
from ..core.journal_schema import schema_error
from ..core.own_files import kept_in
from ..core.proof import Proof
from ..postgres.catalog import equal_operators, find_relation, quoted
from ..postgres.declared_sql import limit_statements, prepare
from ..postgres.session import connect, strip_terminator, transaction
from ..runs.work import Work
from .in_database import LOCK_WAIT_S, counting_settings, declared_by, describe, unfinished_writers
from .lost_rows import Saved, all_or_none, save_rows

APPLICATION = "dbrelease lost rows"
SAVED_PROOF = "rollback.lost_rows"
TITLE = "The rows that will be lost are saved, with a script to put them back"


@dataclass(frozen=True)
class Kept:
    """The files of each table, and the setting that tells the downgrade up to when rows are known."""

    files: list[Saved]
    session_settings: dict[str, str]

    @property
    def proof(self) -> Proof:
        """That the rows are saved, and how to put them back."""
        rows = sum(saved["rows"] for saved in self.files)
        scripts = " and ".join(f"`psql -X -f {saved['replay']}`" for saved in self.files)
        detail = (
            f"{rows} rows are saved; after a new deployment {scripts} puts them back, or reports that other rows are "
            "in their place, and then writes nothing."
        )
        return Proof(SAVED_PROOF, TITLE, "pass", expected=rows, observed=rows, detail=detail)


def save(work: Work, losses: Sequence[Mapping[str, Any]], expected: int) -> Kept:
    """Save them; raises ReleaseError, and leaves no file, unless `expected` rows are there."""
    with work.alone_on_database(), closing(connect(work.login, APPLICATION)) as connection:
        settings = counting_settings(connection, declared_by(losses))
        writers = unfinished_writers(connection, [loss["table"] for loss in losses])
        if writers:
            raise ReleaseError(
                f"Saving the rows that would be lost was refused ({describe(writers)} has written to their table and "
                "has not committed): wait for it to end, and rerun the playbook.",
                refused=True,
            )
        with (
            all_or_none() as saved,
            transaction(connection, read_only=True, isolation="REPEATABLE READ", commit=False) as cursor,
        ):
            limit_statements(cursor, 0, lock_timeout=round(LOCK_WAIT_S * 1000))
            for loss in losses:
                saved.append(_save(cursor, work.run, loss))
            count = sum(one["rows"] for one in saved)
            if count != expected:
                raise ReleaseError(
                    f"Saving the rows that would be lost was refused ({count} are there now, and {expected} accepted): "
                    "nothing was changed; check them, and rerun the playbook.",
                    refused=True,
                    rows_lost=count,
                )
    return Kept([one for one in saved if one["rows"]], settings)


def _save(cursor: RealDictCursor, run: Run, loss: Mapping[str, Any]) -> Saved:
    found = find_relation(cursor, quoted(loss["table"]))
    if not found:
        raise ReleaseError(f"Saving the rows of {loss['table']} failed (there is no such table).")
    statement = _rows(cursor, loss, found).as_string(cursor)
    try:
        prepare(cursor, statement)  # one statement, and one that only reads, or the server refuses it unrun
    except Exception as error:
        raise ReleaseError(
            f"Saving the rows of {loss['table']} failed ({' '.join(str(error).split())}): nothing was rolled back; "
            "remove the cause, or correct the release, and rerun the playbook."
        ) from error
    name = f"{found['schema']}.{found['name']}"
    return save_rows(cursor, statement, name, run.state_dir, run.run_id, f"lost_rows_{loss['table']}")


def _rows(cursor: RealDictCursor, loss: Mapping[str, Any], table: Mapping[str, Any]) -> sql.Composed:
    """The rows of the table whose key the release's query names, or all; not those of tables that inherit from it."""
    every = sql.SQL("SELECT kept.* FROM {only} {name} AS kept").format(
        only=sql.SQL("" if table["kind"] == "p" else "ONLY"),
        name=sql.Identifier(table["schema"], table["name"]),
    )
    if not loss.get("rows"):
        return every
    same = sql.SQL(" AND ").join(
        sql.SQL("{} {} {}").format(sql.Identifier("kept", column), equal, sql.Identifier("declared", column))
        for column, equal in equal_operators(cursor, table["oid"], loss["key"]).items()
    )
    return sql.SQL(
        "{every} WHERE EXISTS (SELECT FROM (\n{declared}\n) AS declared WHERE {same}) ORDER BY {kept_key}"
    ).format(
        every=every,
        same=same,
        kept_key=sql.SQL(", ").join(sql.Identifier("kept", column) for column in loss["key"]),
        declared=sql.SQL(strip_terminator(loss["rows"])),  # the release's own text, as it is
    )


KEPT = ("rows", "session_settings", "files")


def save_lost_rows(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """The module's act; `changed` is false where this run has saved them already."""
    work = Work.of(params, check_mode)
    if check_mode:
        detail = f"Planned: {params['expected']} rows would be saved."
        planned = Proof(SAVED_PROOF, TITLE, "skipped", expected=params["expected"], detail=detail)
        rows = {"rows": params["expected"], "session_settings": {}, "files": []}
        return {"changed": True, **rows, "proofs": [planned.as_dict()], "message": ""}
    existing = _existing(work.journal)
    if existing is not None:
        return existing
    with work.journal.step("lost_rows") as step:
        kept = save(work, params["losses"], params["expected"])
        facts = {"rows": params["expected"], "session_settings": kept.session_settings, "files": kept.files}
        step.facts.update(facts)
        step.prove(kept.proof)
    return {"changed": True, **facts, "proofs": [kept.proof.as_dict()], "message": ""}


def _existing(journal: Journal) -> dict[str, Any] | None:
    """What this run saved before, if the files are still what they were."""
    for line in reversed(journal.read()):
        if (line["run_id"], line["step"], line["event"]) != (journal.run.run_id, "lost_rows", "passed") or schema_error(
            line
        ):
            continue
        facts = line["facts"]
        for saved in facts["files"]:
            if hash_file(kept_in(journal.run.state_dir, saved["path"]))[0] != saved["sha256"]:
                raise ReleaseError(f"{saved['path']} is not what this run saved: start a new run.", refused=True)
        return {"changed": False, **{key: facts[key] for key in KEPT}, "proofs": facts["proofs"], "message": ""}
    return None
