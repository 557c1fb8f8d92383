"""The database at one revision by a release's SQL file: look, show, run, and journal each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .acting import acting
from .alembic_move import read_revisions
from .alembic_outcome import Move, advised, is_needed, refuses
from .database import Login
from .errors import ReleaseError
from .journal import Journal, stamp
from .locks import LockLimits
from .migration_log import MigrationLog
from .module import run_of
from .private_files import unused, write_failure
from .proof import Proof, sentence
from .sql_script import PROOF, Script

LOG_PROOF = "rollback.log"


def run_script(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """The module's act; the step has the name and the facts of Alembic's."""
    login, journal = Login.of(params), Journal(run_of(params), dry=check_mode)
    move = Move("downgrade", params["from_revision"], params["revision"])
    found = _found(journal, move, login, params["bookkeeping_table"])
    result: dict[str, Any] = {
        "changed": False,
        "revisions_before": found,
        "revisions_after": found,
        "attempts": 0,
        "lock_waits": [],
        "duration_ms": 0,
        "log": "",
        "diff": {"before": "", "after": ""},
    }
    if found == [move.revision]:
        detail = f"The database was at {move.revision} already; the script was not run."
        proof = Proof(PROOF, f"The {move.label} by SQL", "pass", detail=detail)
        facts = {"from_revision": move.from_revision, "to_revision": move.revision, "proofs": [proof.as_dict()]}
        journal.append("downgrade", "skipped", facts)
        return _told(result, proof)
    shown = {
        "before_header": f"revision {move.from_revision}",
        "after_header": f"revision {move.revision}",
        "before": f"{move.from_revision}\n",
        "after": f"{move.revision}\n{params['script']}",
    }
    if check_mode:
        proof = Proof(PROOF, f"The {move.label} by SQL", "skipped", detail="Planned; check mode runs no script.")
        return _told({**result, "changed": True, "diff": shown}, proof)
    return {**_move(journal, move, result, params, login), "diff": shown}


def _found(journal: Journal, move: Move, login: Login, table: str) -> list[str]:
    try:
        found = read_revisions(login, table)
        is_needed(move, found)
    except ReleaseError as error:
        journal.append("downgrade", "refused" if error.refused else "failed", {**error.facts, "message": error.message})
        raise
    return found


def _move(
    journal: Journal, move: Move, result: dict[str, Any], params: Mapping[str, Any], login: Login
) -> dict[str, Any]:
    run = journal.run
    path = unused(Path(run.state_dir) / f"{params['log_label']}_{stamp(run.run_id)}.log", run.run_id)
    with journal.step("downgrade") as step, acting(run, login):
        try:
            log = MigrationLog(path, login.password)
        except OSError as error:
            raise write_failure(path, error) from error
        step.facts.update(from_revision=move.from_revision, to_revision=move.revision, log=str(path), method="sql")
        script = Script(
            login,
            params["script"],
            params["bookkeeping_table"],
            LockLimits.of(params["lock"]),
            params["timeout_seconds"],
            run,
            log,
            params["session_settings"],
        )
        moved = script.move(move)
        proofs = [replace(proof, name=LOG_PROOF) if proof.name != PROOF else proof for proof in moved.proofs]
        proofs = advised(move, proofs)
        facts = {key: getattr(moved, key) for key in ("attempts", "lock_waits", "duration_ms")}
        step.facts.update(facts, started_at=moved.started_at, before=moved.before, after=moved.after)
        step.prove(*proofs)
        result |= {
            **facts,
            "changed": moved.revisions != [move.from_revision],
            "log": str(path),
            "revisions_after": moved.revisions,
        }
        told = _told(result, *proofs)
        if told["message"]:
            facts = {key: value for key, value in told.items() if key != "message"}
            raise ReleaseError(told["message"], refused=any(refuses(move, proof) for proof in proofs), **facts)
    return told


def _told(result: dict[str, Any], *proofs: Proof) -> dict[str, Any]:
    listed = [proof.as_dict() for proof in proofs]
    return {**result, "proofs": listed, "message": sentence(listed)}
