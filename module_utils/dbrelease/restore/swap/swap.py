"""Replace the live database: stop the application, save rows, rename both databases, start the application."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...core.crash_guard import guarded
from ...core.errors import ReleaseError
from ...core.journal import Run
from ...core.proof import Proof, sentence
from ...core.restore_names import copied_by, copy_name, is_kept, kept_name, rows_folder
from ...core.signals import ending_in_order
from ...host import lifecycle as services
from ...host.lifecycle import SERVICES_STEP
from ...host.removed_files import RemovedFiles
from ...postgres.fingerprints import State
from ...postgres.session import Login, select, session
from ...postgres.trusted_roles import quoted_text
from ...runs.database_lock import NameLock
from ..cleanup import runs_of
from ..copy import drop_or_leave
from ..plan import RestorePlan
from ..server import check_maintenance, obstacle
from ..settled import Left, read_left, still_there
from ..source import WAIVER
from .archive import RowArchive, Saved
from .live_compare import Comparison, prepare
from .live_scan import LiveScan
from .outage import AppOutage
from .rename import Names, allow_connections, exchange, is_exchanged
from .result import header, planned, rows_proof, swapped_proof
from .sequences import Advance, advance

# The server stopped before it answered the commit, and has not started again.
NOT_KNOWN = (
    "It is unknown whether the databases were swapped: start the server and rerun the playbook, which reports it."
)


@dataclass(frozen=True)
class Exchange:
    """One swap; after a failure a restored copy is dropped, a database that a swap has put aside is kept.

    looking: a scan of the live database; there: the known state of each table of the incoming one.
    """

    plan: RestorePlan
    lock: NameLock
    names: Names
    looking: LiveScan
    there: Mapping[str, State] | None
    removed: RemovedFiles
    left: Left = field(default_factory=lambda: Left([], None))

    @property
    def incoming(self) -> Login:
        """The login of the incoming database."""
        return self.plan.login.to(self.names.incoming)

    @property
    def copy(self) -> str:
        """The run that made the incoming database, if it is a restored copy; else empty."""
        return copied_by(self.names.incoming, self.plan.database) or ""


@dataclass
class SwapResult:
    """The result so far."""

    proofs: list[Proof] = field(default_factory=list)
    saved: Saved = field(default_factory=Saved)
    away_ms: int = 0
    started: Sequence[str] = ()
    swapped: bool | None = False  # None: unknown, as the server does not answer


def live_scan_of(run: Run) -> LiveScan:
    """A scan of the live database for a run's swap, not started yet."""
    return LiveScan(RowArchive(Path(run.state_dir) / rows_folder(run.run_id)))


def swap(plan: RestorePlan, database: str) -> dict[str, Any]:
    """Put `database` in the place of the live one; return the result of the module database_swap."""
    with closing(plan.lock()) as lock:
        return swap_in(plan, database, lock)


def swap_in(
    plan: RestorePlan,
    database: str,
    lock: NameLock,
    looking: LiveScan | None = None,
    there: Mapping[str, State] | None = None,
) -> dict[str, Any]:
    """Do the same with the lock of the live database's name, which may be taken already.

    looking: a finished scan of the live database; there: the known state of each table of `database`.
    """
    journal, options = plan.journal, plan.swap
    one = Exchange(
        plan,
        lock,
        Names(plan.database, database, plan.kept),
        looking or live_scan_of(plan.run),
        there,
        RemovedFiles(options.backend),
    )
    done = SwapResult()
    try:
        with journal.step("restore.check"), plan.work.alone_on_target():
            if not plan.check_mode:
                lock.take()
            one = _checked(one)
        if plan.check_mode:
            return _as_result(one, SwapResult(planned()), changed=True)
        one = replace(one, left=read_left(one.incoming, plan.login.version_table, plan.container))
        # Before the guardian starts, which puts them back if this process is killed before the exchange.
        with plan.work.alone_on_target():
            one.removed.remove(still_there(options.backend, options.remove_payload))
        # The guardian shares the claim and the lock, so that no other run begins before it has repaired; but no other
        # session and no thread.
        with plan.work.alone_on_target(), guarded(lambda: repair(one)), ending_in_order():
            _swap(one, done)
    except BaseException as error:
        # Without the lock nothing was begun, and what this would undo belongs to another run.
        if done.swapped is False:
            one.removed.put_back()
        if lock.held and not done.swapped:
            if done.swapped is False:
                one.looking.cancel()
            elif isinstance(error, ReleaseError):
                error.message += f" {NOT_KNOWN}"
            if one.copy in runs_of(journal.read()):
                cause = error if done.swapped is False else None
                drop_or_leave(plan.maintenance_again(), database, journal, cause)
        if not isinstance(error, ReleaseError):
            raise
        result = _as_result(one, done, changed=done.swapped is not False)
        result.pop("message")
        raise ReleaseError(error.message, refused=error.refused, **{**error.facts, **result}) from error
    return _as_result(one, done, changed=True)


def _is_known(one: Exchange) -> bool:
    """Whether a run in this target's journal made the incoming database, or put it aside."""
    runs = {one.plan.run.run_id, *runs_of(one.plan.journal.read())}
    database, incoming = one.plan.database, one.names.incoming
    return any(incoming in (copy_name(database, run_id), kept_name(database, run_id)) for run_id in runs)


def _checked(one: Exchange) -> Exchange:
    """Refuse names that do not belong to this database; without a live database nothing is kept."""
    plan, names, database = one.plan, one.names, one.plan.database
    check_maintenance(f"Swapping {names.incoming} in", plan.maintenance, database, names.incoming)
    reason, advice = "", "see `psql --list`"
    if not (one.copy or is_kept(names.incoming, database)):
        reason = f"{names.incoming} is no database that a restore of {database} made"
    with session(plan.maintenance, "dbrelease swap") as cursor:
        known = {row["datname"] for row in select(cursor, "SELECT datname FROM pg_database")}
        held = select(cursor, "SELECT gid FROM pg_prepared_xacts WHERE database IN %s", ((database, names.incoming),))
        found = obstacle(cursor, database)
    if not reason and names.incoming not in known and not (plan.check_mode and one.copy):
        reason = f"the server has no database {names.incoming}"
    if not reason and not plan.unknown_backup and not _is_known(one):
        reason = f"no run in the journal of {plan.run.state_dir} made {names.incoming}, so its origin is unknown"
        advice = f"see `psql --list`, or, if you trust its origin, allow it with -e {WAIVER}=true"
    if names.kept in known:
        reason = f"the name {names.kept} is taken"
    if held:
        named = ", ".join(quoted_text(row["gid"]) for row in held)
        reason = f"a prepared transaction ({named}) keeps the database from being renamed"
    if found and not reason:
        reason, advice = found
    if reason:
        raise ReleaseError(
            f"Swapping {names.incoming} in was refused ({reason}), and nothing was touched: {advice}, and rerun the "
            "playbook.",
            refused=True,
        )
    return one if database in known else replace(one, names=replace(names, kept=""))


def _swap(one: Exchange, done: SwapResult) -> None:
    plan, options = one.plan, one.plan.swap
    comparison = None
    if one.names.kept:
        comparison = prepare(plan.login, one.incoming, plan.login.version_table, one.looking, one.there)
    away = AppOutage(plan.journal, options.containers, options.limits, plan.maintenance.database)
    failure: BaseException | None = None
    try:
        away.stop()
        # From here on every session in the database is terminated: none may belong to another run.
        one.lock.take()
        _exchange(one, comparison, done)
    except BaseException as error:
        failure = error
        if done.swapped is False:
            # Before the containers start: without the files they would not find the database's revision.
            with suppress(ReleaseError):
                one.removed.put_back()
        raise
    finally:
        if comparison is not None:
            comparison.close()
        # In every outcome; a failure to start them does not hide an earlier one.
        if proof := away.end(failure):
            done.proofs.append(proof)
            done.away_ms, done.started = proof.duration_ms, away.stopping.containers
    listed = [proof.as_dict() for proof in done.proofs]
    if message := sentence(listed):
        raise ReleaseError(message)


def _exchange(one: Exchange, comparison: Comparison | None, done: SwapResult) -> None:
    plan, journal, names = one.plan, one.plan.journal, one.names
    if comparison is not None:
        with journal.step("restore.rows") as step:
            done.saved = comparison.save(plan.maintenance, header(names, plan.run))
            proof = rows_proof(done.saved)
            step.facts.update(done.saved.facts())
            step.prove(proof)
            done.proofs.append(proof)
    with journal.step("restore.swap") as step:
        step.facts.update(incoming=names.incoming, kept=names.kept, live=names.live)
        ways = {"swap_back": plan.swap_back, "drop": plan.drop}
        begun = time.monotonic()
        advanced = Advance()
        if comparison is not None:
            advanced = advance(one.incoming, comparison.sequences)
            step.facts.update(advanced.facts())
        reading = comparison.pid if comparison is not None else None
        release = comparison.close if comparison is not None else lambda: None
        try:
            exchange(plan.maintenance, names, reading, release, plan.maintenance_again)
        except BaseException:
            done.swapped = is_exchanged(plan.maintenance_again(), names)
            step.facts.update(ways if done.swapped else {})
            raise
        done.swapped = True
        duration_ms = round((time.monotonic() - begun) * 1000)
        proof = swapped_proof(names, plan.swap_back, plan.drop, advanced, duration_ms)
        step.facts.update(ways, left=one.left.facts(), removed=one.removed.paths)
        step.prove(proof)
        done.proofs.append(proof)


def repair(one: Exchange) -> None:
    """Repair after a killed swap: allow connections and start the containers; the next run does the rest."""
    plan, journal, names = one.plan, one.plan.journal, one.names
    allow_connections(plan.maintenance, [names.live, names.incoming, names.kept], plan.maintenance_again)
    last = [line for line in journal.read() if line["run_id"] == plan.run.run_id and line["step"] == SERVICES_STEP]
    if one.removed.paths and is_exchanged(plan.maintenance_again(), names) is False:
        with suppress(ReleaseError):
            one.removed.put_back()
    if last and last[-1]["event"] == "started":
        stopping = services.Stopping.of(last[-1])
        services.start(stopping)
        message = "The swap was killed; connections are allowed again and the containers were started."
        journal.append(SERVICES_STEP, "failed", {"containers": stopping.containers, "message": message})


def _as_result(one: Exchange, done: SwapResult, *, changed: bool) -> dict[str, Any]:
    plan, names = one.plan, one.names
    listed = [proof.as_dict() for proof in done.proofs]
    return {
        "changed": changed,
        "database": names.live,
        "kept": names.kept,
        "swap_back_command": plan.swap_back if names.kept else "",
        "drop_command": plan.drop if names.kept else "",
        "rows": done.saved.facts(),
        "away_ms": done.away_ms,
        "started": [*done.started],
        "proofs": listed,
        "message": sentence(listed),
        "diff": {
            "before": f"{names.incoming}\n{names.live}\n" if names.kept else f"{names.incoming}\n",
            "after": f"{names.live} (was {names.incoming})\n"
            + (f"{names.kept} (was {names.live})\n" if names.kept else ""),
        },
    }
