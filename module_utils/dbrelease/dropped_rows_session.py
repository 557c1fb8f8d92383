"""Save the rows that a rollback will lose, once a run, and journal it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .database import Login
from .dropped_rows import SAVED_PROOF, TITLE, save
from .errors import ReleaseError
from .journal import Journal
from .manifest import hash_file
from .module import run_of
from .own_files import kept_in
from .proof import Proof
from .remembered import odd

KEPT = ("rows", "session_settings", "files")


def save_lost_rows(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """The module's act; `changed` is false where this run has saved them already."""
    journal = Journal(run_of(params), dry=check_mode)
    if check_mode:
        detail = f"Planned: {params['expected']} rows would be saved."
        planned = Proof(SAVED_PROOF, TITLE, "skipped", expected=params["expected"], detail=detail)
        rows = {"rows": params["expected"], "session_settings": {}, "files": []}
        return {"changed": True, **rows, "proofs": [planned.as_dict()], "message": ""}
    existing = _existing(journal)
    if existing is not None:
        return existing
    with journal.step("lost_rows") as step:
        kept = save(Login.of(params), journal.run, params["losses"], params["expected"])
        facts = {"rows": params["expected"], "session_settings": kept.session_settings, "files": kept.files}
        step.facts.update(facts)
        step.prove(kept.proof)
    return {"changed": True, **facts, "proofs": [kept.proof.as_dict()], "message": ""}


def _existing(journal: Journal) -> dict[str, Any] | None:
    """What this run saved before, if the files are still what they were."""
    for line in reversed(journal.read()):
        if (line["run_id"], line["step"], line["event"]) != (journal.run.run_id, "lost_rows", "passed") or odd(line):
            continue
        facts = line["facts"]
        for saved in facts["files"]:
            if hash_file(kept_in(journal.run.state_dir, saved["path"]))[0] != saved["sha256"]:
                raise ReleaseError(f"{saved['path']} is not what this run saved: start a new run.", refused=True)
        return {"changed": False, **{key: facts[key] for key in KEPT}, "proofs": facts["proofs"], "message": ""}
    return None
