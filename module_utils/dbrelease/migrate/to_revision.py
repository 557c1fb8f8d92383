"""Bring the database to exactly one revision, by Alembic or by SQL: read, preview, move, and journal each."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from ..core.display import facts_for_people
from ..core.errors import ReleaseError
from ..core.files import write_private
from ..core.journal import Journal
from ..core.options import environment_of, run_of
from ..core.outcome import MADE_WHEN_STARTED, PREVIEW_READS_PROOF
from ..core.proof import Proof, sentence
from ..core.redaction import masked, masked_sql
from ..core.signals import ending_in_order
from ..host.commands import Commands, commands_in
from ..postgres.catalog_state import state_of
from ..postgres.lock_retry import LockLimits
from ..postgres.revision import read_revisions
from ..postgres.session import Login
from ..runs.exclusive import acting
from .alembic_engine import Alembic
from .env_py import writes_when_started
from .log import LOG_PROOF, file_of, open_log
from .move import Moved, Position, Task, migrate, read_position
from .outcome import UPGRADE_PROOF, Move, advised, already_there, check_pattern, is_needed, refuses
from .preview import PREVIEW_PROOF, Preview, argument_words, preview
from .reads_only import prove as prove_reads_only
from .role import settings_for
from .sql_engine import Script

MOVED = ("attempts", "lock_waits", "ended_sessions", "started_at", "duration_ms")


def bring_to_revision(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Run the module: `changed` is true where the database was migrated, or in check mode would be."""
    login, run = Login.of(params), run_of(params)
    journal = Journal(run, dry=check_mode)
    move = _requested(params)
    check_pattern(move.success_pattern)
    found = _needed_from(journal, move, login, params["bookkeeping_table"])
    result = {**_empty(move), "revisions_before": found, "revisions_after": found}
    if found == [move.revision]:
        return _as_result(result, move, [already_there(move), *_not_run(move, PREVIEW_PROOF, LOG_PROOF)])
    # The container engine is needed only now: a refusal needs only the database.
    commands = _commands(move, params)
    # The position before the move must wait for late reports of others: that time passes during the preview.
    position = None
    if not check_mode:
        with suppress(ReleaseError):  # then the move reads it, and reports the failure
            position = read_position(login)
    path, shown, previewed, starting_writes = "", params.get("script", ""), list[Proof](), False
    if commands:
        with ThreadPoolExecutor(max_workers=1) as pool:
            starting = None if check_mode else pool.submit(writes_when_started, commands, params["command"])
            path, shown, previewed = _preview(journal, commands, move, params, login)
            starting_writes = starting is not None and starting.result()
    result |= {
        "preview": path,
        "preview_sql": shown,
        "diff": {
            "before_header": f"revision {move.from_revision}",
            "after_header": f"revision {move.revision}",
            "before": f"{move.from_revision}\n",
            "after": f"{move.revision}\n{shown}",
        },
    }
    if check_mode:
        proofs = [*previewed, *_not_run(move, UPGRADE_PROOF, LOG_PROOF)]
        return _as_result({**result, "changed": True}, move, proofs)
    return _move(journal, move, {**result, "proofs": previewed}, commands, params, login, position, starting_writes)


def _requested(params: Mapping[str, Any]) -> Move:
    if "script" in params:
        return Move("downgrade", params["from_revision"], params["revision"], by="sql")
    return Move(params["direction"], params["from_revision"], params["revision"], params["success_pattern"])


def _commands(move: Move, params: Mapping[str, Any]) -> Commands | None:
    """Where Alembic runs; a file of SQL needs no program."""
    if move.by == "sql":
        return None
    return commands_in(params["backend_container"], workdir=params["workdir"], environment=environment_of(params))


def _needed_from(journal: Journal, move: Move, login: Login, table: str) -> list[str]:
    """Read the database's revisions; a move that is not needed, or is refused, is journaled here."""
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
) -> tuple[str, str, list[Proof]]:
    """Return the path of the saved SQL, the SQL, and the proofs; in check mode, whether Alembic changed anything."""
    files = {file["name"]: file["content"] for file in params["preview_files"]}
    path, read_only = "", []
    with journal.step("preview") as step:
        state = state_of(login) if journal.dry else ""
        shown = preview(commands, params["command"], move.direction, move.from_revision, move.revision, files)
        shown = _without_password(shown, login)
        if journal.dry:
            started = [*params["command"], *argument_words(move.direction, move.from_revision, move.revision)]
            read_only = [prove_reads_only(PREVIEW_READS_PROOF, state, state_of(login), started)]
        if shown.sql and not journal.dry:
            path = str(
                file_of(journal.run, f"{'migration' if move.direction == 'upgrade' else 'rollback'}_preview", ".sql")
            )
            write_private(Path(path), shown.sql, journal.run.run_id)
        step.facts.update(path=path, sql=shown.sql)
        step.prove(move.named(shown.proof), *read_only)
    return path, shown.sql, [shown.proof, *read_only]


def _move(
    journal: Journal,
    move: Move,
    result: dict[str, Any],
    commands: Commands | None,
    params: Mapping[str, Any],
    login: Login,
    position: Position | None,
    starting_writes: bool,
) -> dict[str, Any]:
    # A signal ends this process at once where it waits for its own statement, which the server then cancels.
    ending = ending_in_order() if commands else nullcontext()
    with journal.step(move.direction) as step, acting(journal.run, login), ending:
        log = open_log(journal.run, params["log_label"], login.password)
        step.facts.update(from_revision=move.from_revision, to_revision=move.revision, log=str(log.path))
        limits, settings = LockLimits.of(params["lock"]), params["session_settings"]
        if commands:
            settings = {**_as_owner(commands, move, params, login), **settings}
        else:
            step.facts.update(method="sql")
        table, timeout_s = params["bookkeeping_table"], params["timeout_seconds"]
        observed = list(params["tables"]) if move.direction == "upgrade" else None
        task = Task(
            move,
            login,
            table,
            limits,
            timeout_s,
            journal.run,
            log,
            settings,
            observed,
            params["budget"]["write_wait_ms"] if observed is not None else None,
        )
        engine = (
            Alembic(task, commands, params["command"], starting_writes) if commands else Script(task, params["script"])
        )
        moved = migrate(task, engine, position, step=step)
        step.facts.update(_facts(moved))
        proofs = advised(move, moved.proofs)
        step.prove(*map(move.named, proofs))
        result |= {
            "changed": moved.revisions != [move.from_revision],
            "log": str(log.path),
            "revisions_after": moved.revisions,
            **{key: getattr(moved, key) for key in MOVED},
        }
        answer = _as_result(result, move, [*result["proofs"], *proofs])
        if answer["message"]:
            raise _Failed(answer, refused=any(refuses(move, proof) for proof in proofs))
    return answer


def _as_owner(commands: Commands, move: Move, params: Mapping[str, Any], login: Login) -> dict[str, str]:
    """Only an upgrade acts as the owner: a downgrade drops as the role that created."""
    if not params.get("act_as_owner") or move.direction != "upgrade":
        return {}
    return settings_for(login, commands, params["command"], params["bookkeeping_table"])


class _Failed(ReleaseError):
    """The move failed: all facts go into the result; the journal already has them."""

    def __init__(self, answer: dict[str, Any], *, refused: bool) -> None:
        kept = (
            "changed",
            "proofs",
            "revisions_before",
            "revisions_after",
            "log",
            "attempts",
            "lock_waits",
            "ended_sessions",
        )
        super().__init__(answer["message"], refused=refused, **{key: answer[key] for key in kept})


def _facts(moved: Moved) -> dict[str, Any]:
    keys = (*MOVED, "revisions", "before", "after", "writers")
    facts = {key: getattr(moved, key) for key in keys}
    if moved.made_when_started:
        facts[MADE_WHEN_STARTED] = moved.made_when_started
    if moved.observation:
        facts.update(observation=moved.observation.as_dict(), longest_wait=moved.longest_wait)
    return facts


def _empty(move: Move) -> dict[str, Any]:
    return {
        "changed": False,
        "from_revision": move.from_revision,
        "revision": move.revision,
        "attempts": 0,
        "lock_waits": [],
        "ended_sessions": [],
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


def _not_run(move: Move, *names: str) -> list[Proof]:
    titles = {
        UPGRADE_PROOF: move.title,
        PREVIEW_PROOF: "The SQL of the migration was shown beforehand",
        LOG_PROOF: "The migration's output is saved",
    }
    shown = [name for name in names if move.by == "alembic" or name != PREVIEW_PROOF]
    return [Proof(name, titles[name], "skipped", detail="No migration was run.") for name in shown]


def _without_password(shown: Preview, login: Login) -> Preview:
    proof = Proof(**{**shown.proof.as_dict(), "detail": masked(shown.proof.detail, login.password)})
    return Preview(masked_sql(shown.sql, login.password), proof)
