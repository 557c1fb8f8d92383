"""The restored copy of a backup: everything that refuses, then everything that is done before a swap."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any

from psycopg2.extras import RealDictCursor

from ..backup import manifest
from ..core.errors import ReleaseError
from ..core.journal import utc_now
from ..core.proof import Proof, sentence
from ..core.restore_names import copied_by, is_kept
from ..core.signals import ending_in_order
from ..postgres.fingerprints import state_of
from ..postgres.session import Login, select, session
from ..runs.database_lock import NameLock
from ..runs.exclusive import acting
from .cleanup import foreign_copies, remove_dumps, runs_of, settle
from .compare import VERIFIED_PROOF, is_restored
from .copy import drop_database, make_copy
from .plan import CopyTarget, RestorePlan
from .server import Server, check_maintenance, check_room, check_server
from .settings import SETTINGS_PROOF
from .source import Backup, Demand, find_backup, read_backup, verify_backup
from .swap.live_scan import LiveScan
from .swap.outage import start_left
from .swap.swap import live_scan_of, swap_in


def restore(plan: RestorePlan) -> dict[str, Any]:
    """The module's act for state=present, and for state=live with the swap."""
    looking = live_scan_of(plan.run) if plan.swaps else None
    # Locked until the swap has ended: meanwhile another target's run must not drop the copy as one of a dead run.
    with closing(plan.lock()) as lock:
        backup, made = _copy(plan, looking, lock)
        if not looking:
            return made
        if not made["database"]:
            return _started(plan, made)
        there = {key: state_of(row) for key, row in backup.content["tables"].items()}
        swapped = swap_in(plan, made["database"], lock, looking, there)
    diff = {side: made["diff"][side] + swapped["diff"][side] for side in ("before", "after")}
    both = {"started": swapped["started"], "proofs": [*made["proofs"], *swapped["proofs"]]}
    return {**made, "swap": swapped, "diff": diff, **both}


def _started(plan: RestorePlan, made: dict[str, Any]) -> dict[str, Any]:
    """Where there is nothing to swap: start the containers that an earlier swap of this backup could not start."""
    with plan.work.alone_on_target():
        proofs = start_left(plan)
    listed = [*made["proofs"], *(proof.as_dict() for proof in proofs)]
    if message := sentence(listed):
        raise ReleaseError(message, proofs=listed)
    started = sorted(name for proof in proofs for name in proof.expected or ())
    return {**made, "changed": bool(proofs), "started": started, "proofs": listed}


def _copy(plan: RestorePlan, looking: LiveScan | None, lock: NameLock) -> tuple[Backup, dict[str, Any]]:
    """The backup and the module's result without a swap; the live database is scanned meanwhile."""
    journal = plan.journal
    with journal.step("restore.backup") as step, plan.work.alone_on_target():
        place = plan.place()
        check_maintenance(f"Restoring {plan.database}", plan.maintenance, plan.database)
        if not plan.check_mode:
            lock.take()
        events = journal.read()
        backup = read_backup(find_backup(plan.backup, plan.run, events), plan.run, plan.label, plan.database)
        demand = Demand.of(events, plan.run, plan.login.user, waived=plan.unknown_backup)
        proofs = [verify_backup(backup, place.commands, place.timeout_s, demand)]
        server, exists = _refuse_first(place, backup, plan.database)
        proofs.append(check_room(server, backup, place.commands, inside=place.inside))
        step.facts.update(path=str(backup.path), sha256=backup.content["sha256"], bytes=backup.content["bytes"])
        if not plan.check_mode:
            step.facts["tidied"], exists, foreign = _tidy(place, plan.database, runs_of(journal.read()))
            proofs += foreign
        step.prove(*proofs)
    if exists and is_restored(plan.login, backup, place):
        return backup, _as_result(plan, backup, "", [*proofs, *_already(backup)])
    if plan.check_mode:
        return backup, _as_result(plan, backup, place.login.database, [*proofs, *_planned()], live=exists)
    with (
        journal.step("restore.copy") as step,
        acting(plan.run, plan.login if exists else None),
        ending_in_order(),
    ):
        begun = utc_now()
        step.facts.update(database=place.login.database)
        looked = _live_scan(looking, backup, plan.login) if looking and exists else nullcontext()
        copy = make_copy(place, backup, server.major, journal, looked, step)
        step.facts["duration_ms"] = round((utc_now() - begun).total_seconds() * 1000)
        step.prove(*copy.proofs)
        proofs += copy.proofs
        listed = [proof.as_dict() for proof in proofs]
        if message := sentence(listed):
            if looking:
                looking.cancel()
            raise ReleaseError(message, proofs=listed)
        step.facts.update(_mark(plan, backup, place, copy.schema_sha256))
    return backup, _as_result(plan, backup, place.login.database, proofs, live=exists)


@contextmanager
def _live_scan(looking: LiveScan, backup: Backup, live: Login) -> Iterator[None]:
    """Scan the live database within the block; where the scan or the block fails, no file of it is left."""
    try:
        looking.begin(live, backup.content["tables"])
        yield
        looking.finish()
    except BaseException:
        looking.cancel()
        raise


def remove(plan: RestorePlan, name: str) -> dict[str, Any]:
    """The module's act for state=absent: drop a copy, or a database that a swap put aside."""
    if not (copied_by(name, plan.database) or is_kept(name, plan.database)):
        raise ReleaseError(
            f"Dropping {name} was refused (it is no database that a restore of {plan.database} made): "
            "name one that it made.",
            refused=True,
        )
    with session(plan.maintenance, "dbrelease drop") as cursor:
        found = bool(select(cursor, "SELECT FROM pg_database WHERE datname = %s", (name,)))
    if found and not plan.check_mode:
        with plan.work.alone_on_target(), closing(plan.lock()) as lock:
            lock.take()
            drop_database(plan.maintenance, name)
    return {**_empty(), "changed": found, "diff": {"before": f"{name}\n" if found else "", "after": ""}}


def _refuse_first(place: CopyTarget, backup: Backup, database: str) -> tuple[Server, bool]:
    """The server, and whether the live database exists and is open."""
    with session(place.maintenance, "dbrelease restore") as cursor:
        server = check_server(cursor, backup, database, place.commands)
        return server, _is_open(cursor, database)


def _tidy(place: CopyTarget, database: str, runs: Collection[str]) -> tuple[list[str], bool, list[Proof]]:
    """Repair what a killed restore of these runs left: copies, dumps in the container, a closed database.

    Returns what was done, whether the live database exists and is open, and the proofs on copies of other runs.
    """
    with session(place.maintenance, "dbrelease restore") as cursor:
        done = settle(cursor, database, runs)
        if place.inside:
            done += [f"Removed {folder} in {place.commands.place}." for folder in remove_dumps(place.commands, runs)]
        return done, _is_open(cursor, database), foreign_copies(cursor, database, runs)


def _is_open(cursor: RealDictCursor, database: str) -> bool:
    found = select(cursor, "SELECT datallowconn AS open FROM pg_database WHERE datname = %s", (database,))
    return bool(found) and bool(found[0]["open"])


def _mark(plan: RestorePlan, backup: Backup, place: CopyTarget, schema_sha256: str) -> dict[str, Any]:
    """Record it in the manifest; a backup that is not writable is restored all the same."""
    try:
        restored = {
            "at": utc_now().isoformat(timespec="milliseconds"),
            "run_id": plan.run.run_id,
            "database": place.login.database,
            "fingerprints_equal": True,
            "schema_sha256": schema_sha256,
        }
        manifest.mark_restored(backup.manifest_path, backup.content, restored, plan.run.run_id)
    except ReleaseError as error:
        return {"not_noted_in_manifest": error.message}
    return {}


def _already(backup: Backup) -> list[Proof]:
    detail = "The live database is already equal to it: rows, sequences, settings and schema."
    return [
        Proof(VERIFIED_PROOF, "The database holds exactly what was backed up", "pass", detail=detail),
        Proof(SETTINGS_PROOF, "Owner, rights, comment and settings are those of the backup", "pass", detail=detail),
    ]


def _planned() -> list[Proof]:
    return [
        Proof(name, title, "skipped", detail="Planned; check mode restores nothing.")
        for name, title in (
            (VERIFIED_PROOF, "The restored copy holds exactly what was backed up"),
            (SETTINGS_PROOF, "Owner, rights, comment and settings are those of the backup"),
        )
    ]


def _empty() -> dict[str, Any]:
    return {
        "changed": False,
        "database": "",
        "dump": "",
        "snapshot_at": "",
        "revision": "",
        "tables": [],
        "started": [],
        "proofs": [],
        "message": "",
        "diff": {"before": "", "after": ""},
    }


def _as_result(
    plan: RestorePlan, backup: Backup, database: str, proofs: list[Proof], *, live: bool = True
) -> dict[str, Any]:
    content, name = backup.content, plan.database
    after = f"{name}: revision {content['revision']}, as of {content.get('snapshot_at', '')}, from {backup.path.name}\n"
    before = f"{name}: as it is\n" if live else ""
    return {
        **_empty(),
        "changed": bool(database),
        "database": database,
        "dump": str(backup.path),
        "snapshot_at": content.get("snapshot_at", ""),
        "revision": content["revision"],
        "tables": sorted(content["tables"]),
        "proofs": [proof.as_dict() for proof in proofs],
        "diff": {"before": before if database else after, "after": after},
    }
