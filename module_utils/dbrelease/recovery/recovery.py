"""Clean up after interrupted runs: query the database, end what still works for them, and remove what they left."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extras import RealDictCursor

from ..core.errors import ReleaseError
from ..core.journal import Journal, Run
from ..core.proof import Proof
from ..host.commands import commands_in
from ..host.orphan_programs import end_programs
from ..postgres.revision import read_revisions
from ..postgres.session import Login, connect, select, server_reason
from ..postgres.terminate import end_sessions, sessions_of
from ..rehearsal.server import remove_left
from ..restore.cleanup import repair_restore
from ..runs.exclusive import acting
from ..runs.interrupted import (
    SETTLED_BY,
    UNREPORTED_BY,
    Interrupted,
    newest,
    notice,
    notice_of_others,
    stray_databases,
    swaps_done,
)
from ..runs.scan import scan_target

STEP = "recovery"
PROOF = "recovery.settled"
TIMEOUT_S = 30

# A preview takes two minutes at most.
OLD_PREVIEWS = "find \"${TMPDIR:-/tmp}\" -maxdepth 1 -name 'dbrelease_preview_*' -mmin +3 -exec rm -rf {} +; exit 0"


@dataclass
class Cleaned:
    """What was found, and removed or ended (in check mode, what would be)."""

    runs: list[Interrupted] = field(default_factory=list)
    others: list[Interrupted] = field(default_factory=list)
    revisions: list[str] | None = None
    programs: int = 0
    sessions: int = 0
    files: list[str] = field(default_factory=list)
    databases: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    swapped: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether there was anything to clean up, or a run to close."""
        return bool(self.every or self.programs or self.sessions or self.files or self.databases or self.repaired)

    @property
    def every(self) -> list[Interrupted]:
        """The interrupted runs of this release and of others: what they left running obstructs any run."""
        return [*self.runs, *self.others]


@dataclass(frozen=True)
class Leftovers:
    """The run and the target that are cleaned up."""

    login: Login
    run: Run
    backend_container: str
    db_container: str
    from_revision: str
    revision: str
    bookkeeping_table: str
    dry: bool

    def settle(self) -> dict[str, Any]:
        """The module's result."""
        journal = Journal(self.run, dry=self.dry)
        with journal.step(STEP) as step, acting(self.run, dry=self.dry):
            cleaned = self._clean(journal)
            shown = notice(
                cleaned.runs,
                playbook=self.run.playbook,
                revisions=cleaned.revisions,
                from_revision=self.from_revision,
                revision=self.revision,
                settled=not cleaned.unsettled,
                dry=self.dry,
            )
            others = notice_of_others(cleaned.others, settled=not cleaned.unsettled, dry=self.dry)
            shown = " ".join(sentence for sentence in (shown, others, *cleaned.swapped) if sentence)
            proofs = [_proof(cleaned, shown)] if cleaned.changed else []
            facts = {
                "interrupted": [run.facts() for run in newest(cleaned.runs)],
                "more_interrupted": len(cleaned.runs) - len(newest(cleaned.runs)),
                "revisions": cleaned.revisions,
                "programs_ended": cleaned.programs,
                "sessions_ended": cleaned.sessions,
                "files_removed": cleaned.files,
                "databases_dropped": cleaned.databases,
                "restore_repaired": cleaned.repaired,
                "notice": shown,
            }
            step.facts.update(facts)
            step.prove(*proofs)
        return {
            "changed": cleaned.changed,
            **facts,
            "settled": not cleaned.unsettled,
            "proofs": [proof.as_dict() for proof in proofs],
            "message": "",
        }

    def _clean(self, journal: Journal) -> Cleaned:
        left = scan_target(self.run, journal.read(), dry=self.dry)
        cleaned = Cleaned(left.runs, left.others, files=left.files)
        if cleaned.every:
            # A killed restore may have left the database closed to connections, which every step below needs.
            self._try(cleaned, self._repair_restore)
            # Programs before sessions: a program that has not connected yet would do so later.
            for container in sorted({self.backend_container, self.db_container}):
                self._try(cleaned, partial(self._end_programs, container))
            self._try(cleaned, self._end_sessions)
            self._try(cleaned, self._ask)
            self._try(cleaned, self._drop_databases)
            self._try(cleaned, self._remove_rehearsal)
        for path in map(Path, cleaned.files if not self.dry else ()):
            if path.is_dir():
                rmtree(path, ignore_errors=True)
            with suppress(OSError):
                path.unlink(missing_ok=True)
        # A run that could not be settled stays open for the next run.
        if not self.dry and not cleaned.unsettled:
            reported = {one.run.run_id for one in newest(cleaned.runs)} | {one.run.run_id for one in cleaned.others}
            journal.adopt(
                [
                    line
                    for one in cleaned.every
                    for line in ends_of(one, cleaned.revisions, self.run.run_id, reported=one.run.run_id in reported)
                ]
            )
        return cleaned

    def _try(self, cleaned: Cleaned, act: Any) -> None:
        """Continue after an error: preflight reports what does not answer, together with all other obstacles."""
        try:
            act(cleaned)
        except ReleaseError as error:
            cleaned.unsettled.append(error.message)
        except psycopg2.Error as error:
            cleaned.unsettled.append(f"Cleaning up in the {self.login.label} failed ({server_reason(error)}).")

    def _repair_restore(self, cleaned: Cleaned) -> None:
        if not self.dry and any(interrupted.run.playbook == "restore" for interrupted in cleaned.every):
            dead = [interrupted.run.run_id for interrupted in cleaned.every]
            cleaned.repaired = repair_restore(self.login, self.run, dead, self.db_container, Journal(self.run).read())

    def _remove_rehearsal(self, cleaned: Cleaned) -> None:
        """Remove the throwaway server of a killed rehearsal, which holds a copy of the data."""
        if self.db_container and not self.dry:
            cleaned.repaired += [f"Removed {name}, of a rehearsal." for name in remove_left(self.run)]

    def _end_programs(self, container: str, cleaned: Cleaned) -> None:
        if self.dry:
            return
        ids = [interrupted.run.run_id for interrupted in cleaned.every]
        cleaned.programs += end_programs(commands_in(container or None), ids)
        if container and container == self.backend_container:
            commands_in(container).run(["sh", "-c", OLD_PREVIEWS], timeout_s=TIMEOUT_S)

    def _end_sessions(self, cleaned: Cleaned) -> None:
        suffixes = tuple(interrupted.run.run_id for interrupted in cleaned.every)
        with closing(connect(self.login, "dbrelease leftovers")) as connection:
            names = sessions_of(connection, suffixes)
        cleaned.sessions = len(names)
        for name in set(names) if not self.dry else ():
            end_sessions(self.login, name)
        if self.dry or not names:
            return
        with closing(connect(self.login, "dbrelease leftovers")) as connection:
            left = sessions_of(connection, suffixes)
        if left:
            cleaned.unsettled.append(
                f"{len(left)} of its sessions on the server could not be terminated ({', '.join(sorted(set(left)))}): "
                "terminate them as their own user or as a superuser, and rerun the playbook."
            )

    def _ask(self, cleaned: Cleaned) -> None:
        cleaned.revisions = read_revisions(self.login, self.bookkeeping_table)

    def _drop_databases(self, cleaned: Cleaned) -> None:
        """Drop the databases that interrupted runs created for themselves, and report those that a swap has kept."""
        with (
            closing(connect(self.login, "dbrelease leftovers")) as connection,
            connection.cursor(cursor_factory=RealDictCursor) as cursor,
        ):
            names = [row["name"] for row in select(cursor, "SELECT datname::text AS name FROM pg_database")]
            cleaned.databases = stray_databases(names, self.login.database, cleaned.every)
            folders = [path.name for path in Path(self.run.state_dir).iterdir()]
            cleaned.swapped = swaps_done(names, self.login.database, cleaned.every, folders)
            for name in cleaned.databases if not self.dry else ():
                cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def ends_of(
    interrupted: Interrupted, revisions: list[str] | None, settled_by: str, *, reported: bool
) -> list[dict[str, Any]]:
    """The lines that end every step of an interrupted run, the innermost first, and the run itself.

    reported: whether its report is still to be written; a later run requests it until then.
    """
    if interrupted.settled and reported:
        return []
    journal = Journal(interrupted.run, dry=True)
    at = ", ".join(revisions or ()) or "no revision"
    message = f"Interrupted {interrupted.where}; run {settled_by} found the database at {at}."
    by = SETTLED_BY if reported else UNREPORTED_BY
    facts = {"interrupted": True, by: settled_by, "revisions": revisions, "message": message}
    for step in reversed(() if interrupted.settled else interrupted.steps):
        journal.append(step, "failed", facts)
    if not interrupted.closed or interrupted.settled:
        journal.append("run", "failed", {**facts, "outcome": "failed", "headline": message})
    return journal.events


def _proof(cleaned: Cleaned, shown: str) -> Proof:
    detail = shown or f"Removed leftover files: {', '.join(cleaned.files)}."
    if cleaned.unsettled:
        detail = f"{detail} {' '.join(cleaned.unsettled)}"
    ids = {key: [run.run.run_id for run in getattr(cleaned, key)] for key in ("runs", "others")}
    observed = replace(cleaned, runs=[], others=[]).__dict__ | ids
    return Proof(
        PROOF,
        "Interrupted runs are cleaned up",
        "inconclusive" if cleaned.unsettled else "pass",
        observed={key: value for key, value in observed.items() if key != "unsettled"},
        detail=detail,
    )


def settle(params: Mapping[str, Any], run: Run, check_mode: bool) -> dict[str, Any]:
    """From the module's options."""
    keys = ("backend_container", "db_container", "from_revision", "revision", "bookkeeping_table")
    return Leftovers(Login.of(params), run, dry=check_mode, **{key: params[key] for key in keys}).settle()
