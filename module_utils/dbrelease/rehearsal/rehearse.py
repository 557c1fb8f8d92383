"""Rehearse on the backup just taken: restore it, compare it with its baseline, and rehearse the release there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import psycopg2
from psycopg2 import sql

from ..backup import manifest
from ..core.errors import ReleaseError
from ..core.journal import Journal, Run, Step, utc_now
from ..core.proof import Proof, sentence
from ..core.restore_names import copy_name
from ..core.signals import ending_in_order
from ..host.commands import commands_in
from ..host.inspect import DATABASE_SERVICE, Attributes, inspect
from ..postgres.sequences import read_values, set_back
from ..postgres.session import Login, connect, server_reason, session, transaction
from ..restore.compare import VERIFIED_PROOF
from ..restore.copy import Copy, drop_database, make_copy
from ..restore.plan import CopyTarget
from ..restore.server import check_room, check_server
from ..restore.settings import SETTINGS_PROOF
from ..restore.source import Backup, Demand, find_backup, read_backup, verify_backup
from ..runs.database_lock import NameLock
from ..runs.work import Work
from .application import aliases_of
from .change import TITLES as CHANGE_TITLES
from .recipe import CannotRehearseError, Limits, LiveServer, read_live, refused
from .release import ReleasePlan
from .roles import Roles, create_roles, read_roles
from .server import ThrowawayServer, remove_left, throwaway_server

STEP = "rehearse"
TIMES = ("start_ms", "restore_ms", "upgrade_ms", "finalize_ms", "downgrade_ms")
RESTORED_PROOF, SAME_SETTINGS_PROOF = "rehearse.restored", "rehearse.settings"
SEQUENCES_PROOF, BACKUP_PROOF = "rehearse.sequences", "backup.restorable"
RENAMED = {VERIFIED_PROOF: RESTORED_PROOF, SETTINGS_PROOF: SAME_SETTINGS_PROOF}
TITLES = {
    RESTORED_PROOF: "The restored copy equals the baseline",
    SAME_SETTINGS_PROOF: "Owner, rights, comment and settings of the copy are those of the backup",
    SEQUENCES_PROOF: "No sequence of the copy is behind the baseline",
    BACKUP_PROOF: "The backup can be restored",
}
NO_WAY_BACK = "This backup is no way back: take another one, and rehearse again."
NOT_REHEARSED = "The release was not rehearsed on a restored copy of the database ({})."
UNRESTORABLE = (
    "The backup that was just taken could not be restored, so that it is no way back: the live database was only read. "
    "Correct the cause in the live database, and rerun the playbook."
)
WHERE = {"container": "a throwaway server", "same_server": "a temporary database beside the live one"}
Place = Literal["container", "same_server", "off"]


class OnCopy(Protocol):
    """What is played on the restored copy: a release, or a change of which a release is drafted."""

    @property
    def application(self) -> Attributes | None:
        """The running container in which Alembic runs."""

    def on_copy(self, work: Work, copy: CopyTarget, superuser: Login | None, limits: Limits, step: Step) -> None:
        """Play it, and fill the step; raises ReleaseError."""


@dataclass(frozen=True)
class RehearsalPlan:
    """The run, the live database's container, where to rehearse, and the release; None: the backup alone."""

    work: Work
    container: str
    label: str
    place: Place
    limits: Limits
    maintenance_db: str
    jobs: int
    timeout_s: int
    release: OnCopy | None = None
    required: bool = True  # where a rehearsal is not possible, it is refused

    @classmethod
    def of(cls, params: Mapping[str, Any], check_mode: bool) -> RehearsalPlan:
        """From the options of the module."""
        limits = Limits(params["cpus"], params["memory_mib"] << 20, params["start_seconds"], params["lifetime_seconds"])
        return cls(
            Work.of(params, check_mode),
            params["db_container"],
            params["label"],
            params["rehearsal"],
            limits,
            params["maintenance_db"],
            params["jobs"],
            params["timeout_seconds"],
            ReleasePlan.of(params) if params["release"] else None,
            params["required"],
        )

    @property
    def run(self) -> Run:
        """The run that the module was called for."""
        return self.work.run

    @property
    def database(self) -> str:
        """The name of the live database."""
        return self.work.login.database


@dataclass(frozen=True)
class _Ready:
    """A place for the copy, the journal that records a copy that cannot be dropped, and how long the start took."""

    target: CopyTarget
    journal: Journal
    start_ms: int = 0
    superuser: Login | None = None  # of a throwaway server, in which the release can be rehearsed


def rehearse(plan: RehearsalPlan) -> dict[str, Any]:
    """The module's act; raises ReleaseError where a proof fails, or a refusal where it cannot begin."""
    if plan.place == "off":
        plan.work.journal.append(STEP, "skipped", {"message": NOT_REHEARSED.format("rehearsal=off")})
        return _as_result(plan, {"proofs": []}, changed=False)
    if plan.work.check_mode:
        titles = TITLES | (CHANGE_TITLES if plan.release else {})
        planned = [Proof(name, title, "skipped", detail="Planned.").as_dict() for name, title in titles.items()]
        return _as_result(plan, {"proofs": planned}, changed=True)
    with plan.work.journal.step(STEP) as step, plan.work.alone_on_target(), ending_in_order():
        try:
            _act(plan, step)
        except CannotRehearseError as error:
            if plan.required:
                raise
            step.skip(NOT_REHEARSED.format(error.reason))
        _demand(step)
    return _as_result(plan, step.facts, changed=True)


def _act(plan: RehearsalPlan, step: Step) -> None:
    """Fill the step with what was observed; raises ReleaseError where a claim failed, or where none can be made."""
    facts = step.facts
    backup, proofs = _backup(plan)
    step.prove(*proofs)
    facts.update(rehearsal=plan.place, dump=str(backup.path), sha256=backup.content["sha256"])
    with PLACES[plan.place](plan, backup) as ready:
        begun = time.monotonic()
        copy = _restored(ready, backup, step)
        restore_ms = round((time.monotonic() - begun) * 1000)
        compared = [_renamed(proof) for proof in copy.proofs]
        if not sentence(proof.as_dict() for proof in compared):
            compared.append(_sequences(ready.target.login, backup))
        compared.append(_restorable(plan, compared, restore_ms))
        step.prove(*compared)
        facts.update(start_ms=ready.start_ms, restore_ms=restore_ms)
        facts["rehearsed"] = [f"its backup was restored into {WHERE[plan.place]} and equals the baseline"]
        _demand(step)
        facts.update(_mark(plan, backup, restore_ms, copy.schema_sha256))
        if plan.release is not None:
            plan.release.on_copy(plan.work, ready.target, ready.superuser, plan.limits, step)


def _restored(ready: _Ready, backup: Backup, step: Step) -> Copy:
    try:
        return make_copy(ready.target, backup, _major(ready.target), ready.journal, nullcontext(), step)
    except CannotRehearseError:
        raise
    except ReleaseError as error:
        raise ReleaseError(f"{UNRESTORABLE} {error.message}", refused=True, **error.facts) from error


def _demand(step: Step) -> None:
    if message := sentence(step.facts.get("proofs") or ()):
        raise ReleaseError(message, refused=True, proofs=step.facts["proofs"])


def _backup(plan: RehearsalPlan) -> tuple[Backup, list[Proof]]:
    """The release's last backup, whose file is as the journal and its manifest have it."""
    events = plan.work.journal.read()
    found = read_backup(find_backup("", plan.run, events), plan.run, plan.label, plan.database)
    demand = Demand.of(events, plan.run, plan.work.login.user, waived=False)
    return found, [verify_backup(found, commands_in(plan.container or None), plan.timeout_s, demand)]


@contextmanager
def _in_container(plan: RehearsalPlan, backup: Backup) -> Iterator[_Ready]:
    if not plan.container:
        raise refused("the inventory names no container of the database, so that there is no image to start")
    attributes = inspect({DATABASE_SERVICE: plan.container})[DATABASE_SERVICE]
    if attributes is None:
        raise refused(f"there is no container {plan.container}", "correct db_container in the inventory")
    remove_left(plan.run)
    live, roles = _read_live(plan.work.login, plan.run)
    application = plan.release.application if plan.release else None
    aliases = aliases_of(attributes, application)
    with throwaway_server(plan.run, attributes["Image"], live, plan.limits, aliases) as server:
        target = _target(plan, server)
        _prepare(target, live, roles, plan.work.login)
        _check(target, backup)
        # A copy that cannot be dropped is removed with its server, and is no task of the next run.
        yield _Ready(target, Journal(plan.run, dry=True), server.start_ms, server.login)


def _target(plan: RehearsalPlan, server: ThrowawayServer) -> CopyTarget:
    # The live database's own name: what is restored, and who uses it, finds it under that.
    copy = replace(server.login, database=plan.database, version_table=plan.work.login.version_table)
    commands = commands_in(server.container)
    return CopyTarget(copy, server.login, commands, True, plan.run.run_id, plan.jobs, plan.timeout_s)


@contextmanager
def _beside(plan: RehearsalPlan, backup: Backup) -> Iterator[_Ready]:
    login = plan.work.login
    maintenance = login.to(plan.maintenance_db)
    copy = login.to(copy_name(plan.database, plan.run.run_id))
    commands = commands_in(plan.container or None)
    target = CopyTarget(copy, maintenance, commands, bool(plan.container), plan.run.run_id, plan.jobs, plan.timeout_s)
    with closing(NameLock(maintenance, plan.database, plan.run)) as lock:
        lock.take()
        _check(target, backup, beside=not plan.required)
        try:
            yield _Ready(target, plan.work.journal)
        finally:
            drop_database(maintenance, copy.database)


# What the rehearsal took is removed in every outcome.
PLACES = {"container": _in_container, "same_server": _beside}


def _read_live(login: Login, run: Run) -> tuple[LiveServer, Roles]:
    """Read in a read-only session what the throwaway server needs."""
    try:
        with (
            closing(connect(login, f"dbrelease-rehearse-{run.run_id}"[:63], read_only=True)) as connection,
            transaction(connection, read_only=True) as cursor,
        ):
            return read_live(cursor), read_roles(cursor)
    except psycopg2.Error as error:
        raise refused(f"reading the roles of the {login.label} failed: {server_reason(error)}") from error


def _prepare(target: CopyTarget, live: LiveServer, roles: Roles, login: Login) -> None:
    """What no dump of a database has, and a restore needs: roles and tablespaces."""
    with session(target.maintenance, target.application_name) as cursor:
        create_roles(cursor, roles, live.superuser, {login.user: login.password or ""})
        try:
            # The image's own database may have the name of the live one.
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(target.login.database)))
            for name in live.tablespaces:
                cursor.execute("SET allow_in_place_tablespaces = on")
                cursor.execute(sql.SQL("CREATE TABLESPACE {} LOCATION ''").format(sql.Identifier(name)))
        except psycopg2.Error as error:
            raise refused(f"the throwaway server could not be prepared: {server_reason(error)}") from error


def _check(target: CopyTarget, backup: Backup, *, beside: bool = False) -> None:
    """Versions, rights, roles and room; raises a refusal."""
    try:
        with session(target.maintenance, target.application_name) as cursor:
            server = check_server(cursor, backup, target.login.database, target.commands)
        room = check_room(server, backup, target.commands, inside=target.inside)
    except ReleaseError as error:
        raise refused(f"a copy cannot be made there: {error.message.rstrip('.')}") from error
    if beside and room.status != "pass":
        # A second copy on the live server's disk, of which nothing is known, may fill it.
        raise refused(f"{room.detail.rstrip('.')}, and a copy beside the live database needs {room.expected}")


def _major(target: CopyTarget) -> int:
    with closing(connect(target.maintenance, target.application_name)) as connection:
        return int(connection.server_version) // 10_000


def _renamed(proof: Proof) -> Proof:
    name = RENAMED[proof.name]
    return replace(proof, name=name, title=TITLES[name], remedy=NO_WAY_BACK if proof.status == "fail" else "")


def _sequences(copy: Login, backup: Backup) -> Proof:
    recorded = backup.content.get("sequences") or {}
    with (
        closing(connect(copy, "dbrelease rehearsal sequences")) as connection,
        transaction(connection, read_only=True) as cursor,
    ):
        behind = set_back(recorded, read_values(cursor))
    return Proof(
        SEQUENCES_PROOF,
        TITLES[SEQUENCES_PROOF],
        "fail" if behind else "pass",
        expected={"sequences": len(recorded)},
        observed=behind,
        detail=f"Behind: {', '.join(behind)}." if behind else f"{len(recorded)} sequences were compared.",
        remedy=NO_WAY_BACK if behind else "",
    )


def _restorable(plan: RehearsalPlan, compared: list[Proof], restore_ms: int) -> Proof:
    """The backup's own claim, which was inconclusive when the backup was taken."""
    red = [proof.title for proof in compared if proof.status == "fail"]
    detail = f"Restored into {WHERE[plan.place]} and compared with the baseline in {restore_ms} ms."
    return Proof(
        BACKUP_PROOF,
        TITLES[BACKUP_PROOF],
        "fail" if red else "pass",
        observed={"restore_ms": restore_ms},
        detail=f"It was restored, and this failed: {'; '.join(red)}." if red else detail,
        remedy=NO_WAY_BACK if red else "",
        duration_ms=restore_ms,
    )


def _mark(plan: RehearsalPlan, backup: Backup, restore_ms: int, schema_sha256: str) -> dict[str, Any]:
    """Record the proof in the manifest; where that cannot be written, the proof in the journal is the record."""
    restored = {
        "at": utc_now().isoformat(timespec="milliseconds"),
        "run_id": plan.run.run_id,
        "database": plan.database,
        "where": plan.place,
        "restore_ms": restore_ms,
        "fingerprints_equal": True,
        "schema_sha256": schema_sha256,
    }
    try:
        manifest.mark_restored(backup.manifest_path, backup.content, restored, plan.run.run_id)
    except ReleaseError as error:
        return {"not_noted_in_manifest": error.message}
    return {}


def _as_result(plan: RehearsalPlan, facts: Mapping[str, Any], *, changed: bool) -> dict[str, Any]:
    return {
        "changed": changed,
        "rehearsal": plan.place,
        "dump": facts.get("dump", ""),
        **{name: facts.get(name, 0) for name in TIMES},
        "proofs": facts.get("proofs") or [],
        "message": "",
    }
