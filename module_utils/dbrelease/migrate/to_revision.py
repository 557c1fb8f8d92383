"""Bring the database to exactly one Alembic revision: read, preview, move, and journal each."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..core.display import facts_for_people
from ..core.errors import ReleaseError
from ..core.files import unused, write_failure, write_private
from ..core.journal import Journal, Run, stamp
from ..core.options import environment_of, run_of
from ..core.proof import Proof, sentence
from ..core.redaction import masked, masked_sql
from ..core.signals import ending_in_order
from ..host.commands import Commands, commands_in
from ..postgres.lock_retry import LockLimits
from ..postgres.revision import read_revisions
from ..postgres.session import Login
from ..runs.exclusive import acting
from .log import LOG_PROOF, MigrationLog
from .move import Alembic, Moved, Position, read_position
from .outcome import UPGRADE_PROOF, Move, advised, already_there, check_pattern, is_needed, refuses
from .preview import PREVIEW_PROOF, Preview, preview
from .role import settings_for


def bring_to_revision(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """The module's act: `changed` is true where the database moved, or in check mode would."""
    login, run = Login.of(params), run_of(params)
    journal = Journal(run, dry=check_mode)
    move = Move(params["direction"], params["from_revision"], params["revision"], params["success_pattern"])
    check_pattern(move.success_pattern)
    found = _needed_from(journal, move, login, params["bookkeeping_table"])
    result = {**_empty(move), "revisions_before": found, "revisions_after": found}
    if found == [move.revision]:
        proofs = [already_there(move), _skipped(PREVIEW_PROOF), _skipped(LOG_PROOF)]
        return _as_result(result, move, proofs)
    # The engine is reached only now: a refusal needs the database alone.
    commands = commands_in(params["backend_container"], workdir=params["workdir"], environment=environment_of(params))
    # What is read before the move waits for what others report late: that time passes beside the preview.
    position = None
    if not check_mode:
        with suppress(ReleaseError):  # then the move reads it, and says why it cannot
            position = read_position(login)
    shown, path = _preview(journal, commands, move, params, login)
    result |= {
        "preview": path,
        "preview_sql": shown.sql,
        "diff": {
            "before_header": f"revision {move.from_revision}",
            "after_header": f"revision {move.revision}",
            "before": f"{move.from_revision}\n",
            "after": f"{move.revision}\n{shown.sql}",
        },
    }
    if check_mode:
        proofs = [shown.proof, _skipped(UPGRADE_PROOF), _skipped(LOG_PROOF)]
        return _as_result({**result, "changed": True}, move, proofs)
    return _move(journal, move, result, shown.proof, commands, params, login, position)


def _needed_from(journal: Journal, move: Move, login: Login, table: str) -> list[str]:
    """What the database is at; a move that is not needed, or is refused, is journaled here."""
    try:
        found = read_revisions(login, table)
        if not is_needed(move, found):
            facts = {"from_revision": move.from_revision, "to_revision": move.revision}
            journal.append(move.direction, "skipped", {**facts, "proofs": [move.named(already_there(move)).as_dict()]})
    except ReleaseError as error:
        event = "refused" if error.refused else "failed"
        journal.append(move.direction, event, {**error.facts, "message": error.message})  # type: ignore[arg-type]
        raise
    return found


def _preview(
    journal: Journal, commands: Commands, move: Move, params: Mapping[str, Any], login: Login
) -> tuple[Preview, str]:
    files = {file["name"]: file["content"] for file in params["preview_files"]}
    path = ""
    with journal.step("preview") as step:
        shown = preview(commands, params["command"], move.direction, move.from_revision, move.revision, files)
        shown = _without_password(shown, login)
        if shown.sql and not journal.dry:
            path = str(
                _file(journal.run, f"{'migration' if move.direction == 'upgrade' else 'rollback'}_preview", ".sql")
            )
            write_private(Path(path), shown.sql, journal.run.run_id)
        step.facts.update(path=path, sql=shown.sql)
        step.prove(move.named(shown.proof))
    return shown, path


def _move(
    journal: Journal,
    move: Move,
    result: dict[str, Any],
    previewed: Proof,
    commands: Commands,
    params: Mapping[str, Any],
    login: Login,
    position: Position | None,
) -> dict[str, Any]:
    with journal.step(move.direction) as step, acting(journal.run, login), ending_in_order():
        settings = {**_as_owner(commands, move, params, login), **params["session_settings"]}
        log = _log(_file(journal.run, params["log_label"], ".log"), login)
        step.facts.update(from_revision=move.from_revision, to_revision=move.revision, log=str(log.path))
        alembic = Alembic(
            login,
            commands,
            params["command"],
            params["bookkeeping_table"],
            LockLimits.of(params["lock"]),
            params["timeout_seconds"],
            journal.run,
            log,
            settings,
            position,
        )
        moved = alembic.move(move)
        step.facts.update(_facts(moved))
        proofs = advised(move, moved.proofs)
        step.prove(*map(move.named, proofs))
        result |= {
            "changed": moved.revisions != [move.from_revision],
            "log": str(log.path),
            "revisions_after": moved.revisions,
            **{key: getattr(moved, key) for key in ("attempts", "lock_waits", "started_at", "duration_ms")},
        }
        told = _as_result(result, move, [previewed, *proofs])
        if told["message"]:
            raise _Failed(told, refused=any(refuses(move, proof) for proof in proofs))
    return told


def _as_owner(commands: Commands, move: Move, params: Mapping[str, Any], login: Login) -> dict[str, str]:
    """What was made is dropped by whoever made it: only an upgrade acts as the owner."""
    if not params.get("act_as_owner") or move.direction != "upgrade":
        return {}
    return settings_for(login, commands, params["command"], params["bookkeeping_table"])


class _Failed(ReleaseError):
    """The move failed: everything known goes into the result, but the journal has its facts already."""

    def __init__(self, told: dict[str, Any], *, refused: bool) -> None:
        kept = ("changed", "proofs", "revisions_before", "revisions_after", "log", "attempts", "lock_waits")
        super().__init__(told["message"], refused=refused, **{key: told[key] for key in kept})


def _log(path: Path, login: Login) -> MigrationLog:
    try:
        return MigrationLog(path, login.password)
    except OSError as error:
        raise write_failure(path, error) from error


def _file(run: Run, label: str, suffix: str) -> Path:
    return unused(Path(run.state_dir) / f"{label}_{stamp(run.run_id)}{suffix}", run.run_id)


def _facts(moved: Moved) -> dict[str, Any]:
    keys = ("started_at", "duration_ms", "attempts", "lock_waits", "revisions", "before", "after", "writers")
    return {key: getattr(moved, key) for key in keys}


def _empty(move: Move) -> dict[str, Any]:
    return {
        "changed": False,
        "from_revision": move.from_revision,
        "revision": move.revision,
        "attempts": 0,
        "lock_waits": [],
        "started_at": "",
        "duration_ms": 0,
        "log": "",
        "preview": "",
        "preview_sql": "",
        "diff": {"before": "", "after": ""},
    }


def _as_result(result: dict[str, Any], move: Move, proofs: list[Proof]) -> dict[str, Any]:
    listed = [facts_for_people(move.named(proof).as_dict()) for proof in proofs]
    return {**result, "proofs": listed, "message": sentence(listed)}


def _skipped(name: str) -> Proof:
    titles = {
        UPGRADE_PROOF: "Alembic's migration",
        PREVIEW_PROOF: "The SQL of the migration was shown beforehand",
        LOG_PROOF: "The migration's output is saved",
    }
    return Proof(name, titles[name], "skipped", detail="No migration was run.")


def _without_password(shown: Preview, login: Login) -> Preview:
    proof = Proof(**{**shown.proof.as_dict(), "detail": masked(shown.proof.detail, login.password)})
    return Preview(masked_sql(shown.sql, login.password), proof)
