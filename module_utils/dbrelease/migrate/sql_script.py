"""Run a release's SQL file that migrates the database from one revision to another, in its own transaction."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg2

from ..core.errors import ReleaseError
from ..core.files import unused, write_failure
from ..core.journal import Journal, Run, stamp, utc_now
from ..core.options import run_of
from ..core.proof import Proof, sentence
from ..postgres.lock_retry import RETRYABLE, ContendedError, LockLimits, LockWatch, retrying, watch_blockers
from ..postgres.revision import read_revisions, revisions_or_none
from ..postgres.session import Login, as_declared, connect, server_reason, without_timeouts
from ..postgres.strangers import refuse_planted
from ..postgres.terminate import end_sessions
from ..postgres.writers import WriterWatch
from ..runs.exclusive import acting
from .log import MigrationLog
from .move import Moved, application_name, read_counters, read_counters_before, with_invalid_indexes
from .outcome import Move, advised, is_needed, refuses

PROOF = "rollback.downgrade"


@dataclass
class Script:
    """A file, and the database that it migrates."""

    login: Login
    text: str
    table: str
    limits: LockLimits
    timeout_s: int
    run: Run
    log: MigrationLog
    settings: Mapping[str, str] = field(default_factory=dict)
    _attempts: int = field(default=0, init=False)

    def move(self, move: Move) -> Moved:
        """Run the file until its end is known; the proofs report what happened."""
        name = application_name(move, self.run)
        before = read_counters_before(self.login)
        begun, started_at = time.monotonic(), utc_now().isoformat(timespec="milliseconds")
        watch, cause = LockWatch(), ""
        writers = WriterWatch(name, self.login.database, self.table)
        try:
            with watch_blockers(self.login, name, lambda cursor, _: writers.look(cursor), self.limits) as watch:
                retrying(
                    lambda: self._attempt(move, name, begun + self.timeout_s, watch),
                    self.limits,
                    what=f"The {move.label} by SQL",
                    watch=watch,
                )
        except ReleaseError as error:
            cause = error.message
            end_sessions(self.login, name)
        revisions = revisions_or_none(self.login, self.table)
        duration_ms = round((time.monotonic() - begun) * 1000)
        judged = with_invalid_indexes(judge(move, revisions, cause, duration_ms), self.login)
        proofs = [judged, self.log.close()]
        after = read_counters(self.login) if revisions is not None else None
        rest = (list(watch.seen), before, after, writers.facts())
        return Moved(proofs, revisions, started_at, duration_ms, self._attempts, *rest)

    def _attempt(self, move: Move, name: str, deadline: float, watch: LockWatch) -> None:
        remaining_ms = round((deadline - time.monotonic()) * 1000)
        if remaining_ms < 1:
            raise ReleaseError(f"The {move.label} by SQL was stopped (its {self.timeout_s} s are used up)")
        self._attempts += 1
        self.log.begin(f"{utc_now().isoformat(timespec='seconds')} attempt {self._attempts}: {move.label} by SQL")
        footer = "its end was not observed"
        with closing(connect(self.login, name)) as connection:
            settings = {
                "lock_timeout": f"{watch.timeout_ms(self.limits)}ms",
                "statement_timeout": f"{remaining_ms}ms",
                **self.settings,
            }
            with connection.cursor() as cursor:
                without_timeouts(cursor, local=False)
                for setting, value in settings.items():
                    cursor.execute("SELECT set_config(%s, %s, false)", (setting, value))
                try:
                    # Without parameters the text is sent unchanged in one message: one transaction of the server.
                    refuse_planted(cursor)
                    with as_declared(cursor):
                        cursor.execute(self.text)
                    footer = "committed"
                except psycopg2.Error as error:
                    reason = server_reason(error)
                    footer = f"failed: {reason}"
                    if error.pgcode in RETRYABLE and revisions_or_none(self.login, self.table) == [move.from_revision]:
                        raise ContendedError(reason) from error
                    raise ReleaseError(f"The {move.label} by SQL failed ({reason})") from error
                finally:
                    for notice in connection.notices:
                        self.log.feed(notice.encode())
                    self.log.end(footer)


def judge(move: Move, revisions: list[str] | None, cause: str, duration_ms: int) -> Proof:
    """Judge the result: success is the requested revision, read in another session, after a script without errors."""
    common: dict[str, Any] = {"expected": [move.revision], "observed": revisions, "duration_ms": duration_ms}
    title = f"The {move.label} by SQL"
    at = "which could not be read back" if revisions is None else " and ".join(revisions) or "none"
    if not cause and revisions == [move.revision]:
        detail = f"The script was committed and the database is at {move.revision}."
        return Proof(PROOF, title, "pass", **common, detail=detail)
    detail = f"{cause.rstrip('.') or 'The script was committed'}; the database is at revision {at}."
    return Proof(
        PROOF,
        title,
        "fail",
        **common,
        detail=detail,
        remedy="Read the saved log, remove the cause, and rerun the playbook.",
    )


LOG_PROOF = "rollback.log"


def run_script(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Run the module; its step has the same name and facts as Alembic's."""
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
        detail = f"The database was already at {move.revision}; the script was not run."
        proof = Proof(PROOF, f"The {move.label} by SQL", "pass", detail=detail)
        facts = {"from_revision": move.from_revision, "to_revision": move.revision, "proofs": [proof.as_dict()]}
        journal.append("downgrade", "skipped", facts)
        return _as_result(result, proof)
    shown = {
        "before_header": f"revision {move.from_revision}",
        "after_header": f"revision {move.revision}",
        "before": f"{move.from_revision}\n",
        "after": f"{move.revision}\n{params['script']}",
    }
    if check_mode:
        proof = Proof(PROOF, f"The {move.label} by SQL", "skipped", detail="Planned; check mode does not run it.")
        return _as_result({**result, "changed": True, "diff": shown}, proof)
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
        step.facts.update(
            facts, started_at=moved.started_at, before=moved.before, after=moved.after, writers=moved.writers
        )
        step.prove(*proofs)
        result |= {
            **facts,
            "changed": moved.revisions != [move.from_revision],
            "log": str(path),
            "revisions_after": moved.revisions,
        }
        answer = _as_result(result, *proofs)
        if answer["message"]:
            facts = {key: value for key, value in answer.items() if key != "message"}
            raise ReleaseError(answer["message"], refused=any(refuses(move, proof) for proof in proofs), **facts)
    return answer


def _as_result(result: dict[str, Any], *proofs: Proof) -> dict[str, Any]:
    listed = [proof.as_dict() for proof in proofs]
    return {**result, "proofs": listed, "message": sentence(listed)}
