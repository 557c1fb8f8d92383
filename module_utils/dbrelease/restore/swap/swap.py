"""One database takes the place of the live one: application stopped, rows saved, both renamed, application started."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

from psycopg2.extras import RealDictCursor

from ...core.crash_guard import guarded
from ...core.errors import ReleaseError
from ...core.journal import Journal, Run
from ...core.options import run_of
from ...core.proof import Proof, sentence
from ...core.restore_names import copied_by, copy_name, is_kept, kept_name, rows_folder
from ...core.signals import ending_in_order
from ...host import lifecycle as services
from ...host.inspect import DATABASE_SERVICE, inspect_target
from ...host.lifecycle import SERVICES_STEP
from ...host.removed_files import RemovedFiles
from ...postgres.fingerprints import State
from ...postgres.session import Login, connect, select
from ...postgres.trusted_roles import quoted_text
from ...release.requirements import PayloadFile
from ...runs.database_lock import NameLock
from ...runs.exclusive import acting
from ..cleanup import runs_of
from ..copy import drop_or_leave, login_to
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

# The server was gone before it said what came of the commit, and has not come back.
NOT_KNOWN = "Whether the databases were swapped is not known: start the server, and run again, which says it."


@dataclass(frozen=True)
class SwapPlan:
    """What is asked for; a copy is worth nothing after a failure, a database that was put aside before is kept."""

    login: Login
    maintenance: Login
    run: Run
    lock: NameLock
    names: Names
    containers: tuple[str, ...]
    db_container: str
    bookkeeping: str
    limits: services.Limits
    swap_back: str
    drop: str
    looking: LiveScan
    there: Mapping[str, State] | None
    unknown_backup: bool = False
    removed: RemovedFiles = field(default_factory=lambda: RemovedFiles(""))
    left: Left = field(default_factory=lambda: Left([], None))

    @property
    def copy(self) -> bool:
        """Whether what comes in is a restored copy."""
        return bool(copied_by(self.names.incoming, self.login.database))

    def maintenance_again(self) -> Login:
        """Where the server is now: a container may have got another address."""
        if self.db_container:
            with suppress(ReleaseError):
                found = inspect_target({DATABASE_SERVICE: self.db_container}, None, None)
                if not found["address_problem"]:
                    return replace(self.maintenance, host=found["login_host"], port=found["login_port"])
        return self.maintenance


@dataclass
class SwapResult:
    """What came of it so far."""

    proofs: list[Proof] = field(default_factory=list)
    saved: Saved = field(default_factory=Saved)
    away_ms: int = 0
    started: Sequence[str] = ()
    swapped: bool | None = False  # None: nobody can be asked


def live_scan_of(run: Run) -> LiveScan:
    """A look at the live database for a run's swap, yet to begin."""
    return LiveScan(RowArchive(Path(run.state_dir) / rows_folder(run.run_id)))


def swap(params: Mapping[str, Any], check_mode: bool, database: str) -> dict[str, Any]:
    """`database` takes the place of the live one; returns what the module of that name returns."""
    login = Login.of(params)
    maintenance = login_to(login, params["maintenance_db"])
    with closing(NameLock(maintenance, login.database, run_of(params))) as lock:
        return swap_in(params, check_mode, database, lock)


def swap_in(
    params: Mapping[str, Any],
    check_mode: bool,
    database: str,
    lock: NameLock,
    looking: LiveScan | None = None,
    there: Mapping[str, State] | None = None,
) -> dict[str, Any]:
    """The same, with the lock of the live database's name, which may be held already.

    looking: a finished look at the live database; there: what each table of `database` is known to hold.
    """
    login, run = Login.of(params), run_of(params)
    kept, asked = kept_name(login.database, run.run_id), params["swap"]
    plan = SwapPlan(
        login,
        login_to(login, params["maintenance_db"]),
        run,
        lock,
        Names(login.database, database, kept),
        tuple(name for name in asked["containers"] if name),
        params["db_container"],
        login.version_table,
        services.Limits.of(asked),
        # Ansible unquotes a value once more than the shell does.
        asked["swap_back_command"].replace("{database}", kept if quote(kept) == kept else quote(f'"{kept}"')),
        asked["drop_command"].replace("{database}", quote(kept)),
        looking or live_scan_of(run),
        there,
        params["unknown_backup"],
        RemovedFiles(asked["backend_container"]),
    )
    done = SwapResult()
    try:
        with Journal(run, dry=check_mode).step("restore.check"), acting(run, dry=check_mode):
            if not check_mode:
                lock.take()
            plan = _checked(plan, check_mode)
        if check_mode:
            return _as_result(plan, SwapResult(planned()), changed=True)
        plan = replace(plan, left=read_left(login_to(login, database), plan.bookkeeping, plan.db_container))
        # Before the guardian begins, which puts them back where this process is killed before the exchange.
        with acting(run):
            files = [PayloadFile.of(item) for item in asked["remove_payload"]]
            plan.removed.remove(still_there(asked["backend_container"], files))
        # The guardian shares the claim and the lock, so that no other run begins before it has repaired; and no other
        # session and no thread.
        with acting(run), guarded(lambda: repair(plan)), ending_in_order():
            _swap(plan, Journal(run), done)
    except BaseException as error:
        # Without the lock nothing was begun, and what it would undo is another run's.
        if done.swapped is False:
            plan.removed.put_back()
        if lock.held and not done.swapped:
            if done.swapped is False:
                plan.looking.cancel()
            elif isinstance(error, ReleaseError):
                error.message += f" {NOT_KNOWN}"
            if copied_by(database, login.database) in runs_of(Journal(run).read()):
                cause = error if done.swapped is False else None
                drop_or_leave(plan.maintenance_again(), plan.names.incoming, Journal(run), cause)
        if not isinstance(error, ReleaseError):
            raise
        told = _as_result(plan, done, changed=done.swapped is not False)
        told.pop("message")
        raise ReleaseError(error.message, refused=error.refused, **{**error.facts, **told}) from error
    return _as_result(plan, done, changed=True)


def _is_known(plan: SwapPlan) -> bool:
    """Whether a run of this target's journal made, or put aside, what comes in."""
    runs = {plan.run.run_id, *runs_of(Journal(plan.run).read())}
    database = plan.login.database
    return any(plan.names.incoming in (copy_name(database, one), kept_name(database, one)) for one in runs)


def _checked(plan: SwapPlan, check_mode: bool) -> SwapPlan:
    """Refuse names that are not this database's; where there is no live database nothing is kept."""
    names, database = plan.names, plan.login.database
    check_maintenance(f"Swapping {names.incoming} in", plan.maintenance, database, names.incoming)
    reason, advice = "", "see `psql --list`"
    if not (plan.copy or is_kept(names.incoming, database)):
        reason = f"{names.incoming} is no database that a restore of {database} made"
    with (
        closing(connect(plan.maintenance, "dbrelease swap")) as connection,
        connection.cursor(cursor_factory=RealDictCursor) as cursor,
    ):
        known = {row["datname"] for row in select(cursor, "SELECT datname FROM pg_database")}
        held = select(cursor, "SELECT gid FROM pg_prepared_xacts WHERE database IN %s", ((database, names.incoming),))
        found = obstacle(cursor, database)
    if not reason and names.incoming not in known and not (check_mode and plan.copy):
        reason = f"the server has no database {names.incoming}"
    if not reason and not plan.unknown_backup and not _is_known(plan):
        reason = f"no run in the journal of {plan.run.state_dir} made {names.incoming}, so that anybody may have"
        advice = f"see `psql --list`, or, where you trust whoever made it, allow it with -e {WAIVER}=true"
    if names.kept in known:
        reason = f"the name {names.kept} is taken"
    if held:
        named = ", ".join(quoted_text(row["gid"]) for row in held)
        reason = f"a prepared transaction ({named}) keeps the database from being renamed"
    if found and not reason:
        reason, advice = found
    if reason:
        raise ReleaseError(
            f"Swapping {names.incoming} in was refused ({reason}), and nothing was touched: {advice}, and run again.",
            refused=True,
        )
    return plan if database in known else replace(plan, names=replace(names, kept=""))


def _swap(plan: SwapPlan, journal: Journal, done: SwapResult) -> None:
    comparison = None
    if plan.names.kept:
        incoming = login_to(plan.login, plan.names.incoming)
        comparison = prepare(plan.login, incoming, plan.bookkeeping, plan.looking, plan.there)
    away = AppOutage(journal, plan.containers, plan.limits, plan.maintenance.database)
    failure: BaseException | None = None
    try:
        away.stop()
        # From here on every session in the database is ended: none may be another run's.
        plan.lock.take()
        _exchange(plan, journal, comparison, done)
    except BaseException as error:
        failure = error
        if done.swapped is False:
            # Before the containers start: they would not find the revision that the database is at.
            with suppress(ReleaseError):
                plan.removed.put_back()
        raise
    finally:
        if comparison is not None:
            comparison.close()
        # Whatever happened; a failure to start does not hide what happened before.
        if proof := away.end(failure):
            done.proofs.append(proof)
            done.away_ms, done.started = proof.duration_ms, away.stopping.containers
    listed = [proof.as_dict() for proof in done.proofs]
    if message := sentence(listed):
        raise ReleaseError(message)


def _exchange(plan: SwapPlan, journal: Journal, comparison: Comparison | None, done: SwapResult) -> None:
    if comparison is not None:
        with journal.step("restore.rows") as step:
            done.saved = comparison.save(plan.maintenance, header(plan.names, plan.run))
            proof = rows_proof(done.saved)
            step.facts.update(done.saved.facts())
            step.prove(proof)
            done.proofs.append(proof)
    with journal.step("restore.swap") as step:
        step.facts.update(incoming=plan.names.incoming, kept=plan.names.kept, live=plan.names.live)
        ways = {"swap_back": plan.swap_back, "drop": plan.drop}
        begun = time.monotonic()
        advanced = Advance()
        if comparison is not None:
            advanced = advance(login_to(plan.login, plan.names.incoming), comparison.sequences)
            step.facts.update(advanced.facts())
        reading = comparison.pid if comparison is not None else None
        release = comparison.close if comparison is not None else lambda: None
        try:
            exchange(plan.maintenance, plan.names, reading, release, plan.maintenance_again)
        except BaseException:
            done.swapped = is_exchanged(plan.maintenance_again(), plan.names)
            step.facts.update(ways if done.swapped else {})
            raise
        done.swapped = True
        duration_ms = round((time.monotonic() - begun) * 1000)
        proof = swapped_proof(plan.names, plan.swap_back, plan.drop, advanced, duration_ms)
        step.facts.update(ways, left=plan.left.facts(), removed=plan.removed.paths)
        step.prove(proof)
        done.proofs.append(proof)


def repair(plan: SwapPlan) -> None:
    """For the guardian of a killed swap: connections are allowed, the containers run; the next run does the rest."""
    allow_connections(plan.maintenance, [plan.names.live, plan.names.incoming, plan.names.kept], plan.maintenance_again)
    journal = Journal(plan.run)
    last = [line for line in journal.read() if line["run_id"] == plan.run.run_id and line["step"] == SERVICES_STEP]
    if plan.removed.paths and is_exchanged(plan.maintenance_again(), plan.names) is False:
        with suppress(ReleaseError):
            plan.removed.put_back()
    if last and last[-1]["event"] == "started":
        stopping = services.Stopping.of(last[-1])
        services.start(stopping)
        message = "The swap was killed; connections are allowed again and the containers were started."
        journal.append(SERVICES_STEP, "failed", {"containers": stopping.containers, "message": message})


def _as_result(plan: SwapPlan, done: SwapResult, *, changed: bool) -> dict[str, Any]:
    listed, names = [proof.as_dict() for proof in done.proofs], plan.names
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
