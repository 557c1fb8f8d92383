"""One database takes the place of the live one: application stopped, rows saved, both renamed, application started."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

from psycopg2.extras import RealDictCursor

from . import swap_services as services
from .acting import acting
from .advisory import advisory_lock
from .database import Login, connect, select
from .errors import ReleaseError
from .guardian import guarded
from .interrupts import ending_in_order
from .journal import Journal, Run, stamp, utc_now
from .module import run_of
from .proof import Proof, sentence
from .restore_copy import drop_database, login_to
from .restore_names import is_copy, is_kept, kept_name
from .swap_compare import Comparison, prepare
from .swap_rename import Names, allow_connections, exchange
from .swap_replay import Saved
from .target import DATABASE_SERVICE, look

ROWS_PROOF = "restore.rows_saved"
SWAPPED_PROOF = "restore.swapped"
SERVICES_STEP = "restore.services"


@dataclass(frozen=True)
class Plan:
    """What is asked for; a copy is worth nothing after a failure, a database that was put aside before is kept."""

    login: Login
    maintenance: Login
    run: Run
    names: Names
    containers: tuple[str, ...]
    db_container: str
    bookkeeping: str
    limits: services.Limits
    swap_back: str
    drop: str

    @property
    def copy(self) -> bool:
        """Whether what comes in is a restored copy."""
        return is_copy(self.names.incoming, self.login.database)

    @property
    def directory(self) -> Path:
        """Where rows are saved."""
        return Path(self.run.state_dir) / f"rows_since_backup_{stamp(self.run.run_id)}"

    def maintenance_again(self) -> Login:
        """Where the server is now: a container may have got another address."""
        if self.db_container:
            with suppress(ReleaseError):
                found = look({DATABASE_SERVICE: self.db_container}, None, None)
                if not found["address_problem"]:
                    return replace(self.maintenance, host=found["login_host"], port=found["login_port"])
        return self.maintenance


@dataclass
class Done:
    """What came of it so far."""

    proofs: list[Proof] = field(default_factory=list)
    saved: Saved = field(default_factory=Saved)
    away_ms: int = 0
    swapped: bool = False


def swap(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """The module's act."""
    login, run = Login.of(params), run_of(params)
    kept = kept_name(login.database, run.run_id)
    plan = Plan(
        login,
        login_to(login, params["maintenance_db"]),
        run,
        Names(login.database, params["database"], kept),
        tuple(name for name in params["containers"] if name),
        params["db_container"],
        params["bookkeeping_table"],
        services.Limits(params["stop_seconds"], params["healthy_seconds"]),
        # Ansible unquotes a value once more than the shell does.
        params["swap_back_command"].replace("{database}", kept if quote(kept) == kept else quote(f'"{kept}"')),
        params["drop_command"].replace("{database}", quote(kept)),
    )
    with Journal(run, dry=check_mode).step("restore.check"), acting(run, dry=check_mode):
        plan = _checked(plan, check_mode)
    if check_mode:
        return _told(plan, Done(_planned()), changed=True)
    done = Done()
    try:
        # The guardian shares the claim, so that no other run begins before it has repaired; and no session or thread.
        with acting(run), guarded(lambda: repair(plan)), ending_in_order():
            _swap(plan, Journal(run), done)
    except BaseException as error:
        if plan.copy and not done.swapped:
            drop_database(plan.maintenance_again(), plan.names.incoming)
        if not isinstance(error, ReleaseError):
            raise
        told = _told(plan, done, changed=done.swapped)
        told.pop("message")
        raise ReleaseError(error.message, **{**error.facts, **told}) from error
    return _told(plan, done, changed=True)


def _checked(plan: Plan, check_mode: bool) -> Plan:
    """Refuse names that are not this database's; where there is no live database nothing is kept."""
    names, database = plan.names, plan.login.database
    reason = ""
    if not (plan.copy or is_kept(names.incoming, database)):
        reason = f"{names.incoming} is no database that a restore of {database} made"
    with (
        closing(connect(plan.maintenance, "dbrelease swap")) as connection,
        connection.cursor(cursor_factory=RealDictCursor) as cursor,
    ):
        known = {row["datname"] for row in select(cursor, "SELECT datname FROM pg_database")}
        held = select(cursor, "SELECT gid FROM pg_prepared_xacts WHERE database IN %s", ((database, names.incoming),))
    if not reason and names.incoming not in known and not (check_mode and plan.copy):
        reason = f"the server has no database {names.incoming}"
    if names.kept in known:
        reason = f"the name {names.kept} is taken"
    if held:
        reason = f"there are {len(held)} prepared transactions, which keep a database from being renamed"
    if reason:
        raise ReleaseError(
            f"Swapping {names.incoming} in was refused ({reason}), and nothing was touched: "
            "see `psql --list`, and run again.",
            refused=True,
        )
    return plan if database in known else replace(plan, names=replace(names, kept=""))


def _swap(plan: Plan, journal: Journal, done: Done) -> None:
    comparison = None
    if plan.names.kept:
        with advisory_lock(plan.login, plan.run):
            # Only looked at: its session is one of those that the swap ends.
            pass
        comparison = prepare(plan.login, login_to(plan.login, plan.names.incoming), plan.bookkeeping)
    stopped = services.running(plan.containers)
    # The list is on disk before the first is stopped, for whoever comes after a kill.
    journal.append(SERVICES_STEP, "started", {"containers": stopped})
    begun = time.monotonic()
    failure: BaseException | None = None
    try:
        services.stop(stopped, plan.limits)
        _exchange(plan, journal, comparison, done)
    except BaseException as error:
        failure = error
        raise
    finally:
        if comparison is not None:
            comparison.close()
        _start(plan, journal, stopped, begun, done, failure)
    listed = [proof.as_dict() for proof in done.proofs]
    if message := sentence(listed):
        raise ReleaseError(message)


def _exchange(plan: Plan, journal: Journal, comparison: Comparison | None, done: Done) -> None:
    if comparison is not None:
        with journal.step("restore.rows") as step:
            done.saved = comparison.save(plan.directory, plan.maintenance, _header(plan))
            proof = _rows_proof(done.saved)
            step.facts.update(done.saved.facts())
            step.prove(proof)
            done.proofs.append(proof)
    with journal.step("restore.swap") as step:
        step.facts.update(incoming=plan.names.incoming, kept=plan.names.kept, live=plan.names.live)
        begun = time.monotonic()
        reading = comparison.pid if comparison is not None else None
        release = comparison.close if comparison is not None else lambda: None
        exchange(plan.maintenance, plan.names, reading, release, plan.maintenance_again)
        done.swapped = True
        proof = _swapped_proof(plan, round((time.monotonic() - begun) * 1000))
        step.facts.update(swap_back=plan.swap_back, drop=plan.drop)
        step.prove(proof)
        done.proofs.append(proof)


def _start(
    plan: Plan, journal: Journal, stopped: list[str], begun: float, done: Done, failure: BaseException | None
) -> None:
    """Whatever happened; a failure to start does not hide what happened before."""
    try:
        services.start(stopped)
        seen = services.wait_until_healthy(stopped, plan.limits)
    except ReleaseError as error:
        journal.append(SERVICES_STEP, "failed", {"containers": stopped, "message": error.message})
        if failure is None:
            raise
        return
    done.away_ms = round((time.monotonic() - begun) * 1000) if stopped else 0
    left = [name for name in plan.containers if name not in stopped]
    proof = services.prove(seen, done.away_ms, left)
    done.proofs.append(proof)
    facts = {"containers": stopped, "away_ms": done.away_ms, "proofs": [proof.as_dict()]}
    journal.append(SERVICES_STEP, "failed" if proof.status == "fail" else "passed", facts)


def repair(plan: Plan) -> None:
    """For the guardian of a killed swap: connections are allowed, the containers run; the next run does the rest."""
    allow_connections(plan.maintenance, [plan.names.live, plan.names.incoming, plan.names.kept], plan.maintenance_again)
    journal = Journal(plan.run)
    last = [line for line in journal.read() if line["run_id"] == plan.run.run_id and line["step"] == SERVICES_STEP]
    if last and last[-1]["event"] == "started":
        stopped = last[-1]["facts"]["containers"]
        services.start(stopped)
        message = "The swap was killed; connections are allowed again and the containers were started."
        journal.append(SERVICES_STEP, "failed", {"containers": stopped, "message": message})


def _header(plan: Plan) -> str:
    return (
        f"-- Rows of the database {plan.names.live} that {plan.names.incoming}, which took its place, does not hold.\n"
        f"-- Saved {utc_now().isoformat(timespec='seconds')} by run {plan.run.run_id}, with the application stopped.\n"
        f"-- Read it before you run it: psql --dbname={plan.names.live} --file=replay.sql\n"
    )


def _rows_proof(saved: Saved) -> Proof:
    facts = saved.facts()
    counted = "; ".join(
        f"{table}: {counts['new']} new, {counts['changed']} changed, {counts['deleted']} deleted"
        + ("" if counts["known"] else " (a table that is not in the database that takes its place)")
        for table, counts in facts["tables"].items()
    )
    detail = f"{counted}: {saved.directory}." if saved.rows else "There are none."
    if saved.large_objects:
        detail += f" {saved.large_objects} large objects differ, and are only in the database that was replaced."
    return Proof(
        ROWS_PROOF,
        "Rows that only the replaced database has are saved, with a script that writes them again",
        "inconclusive" if saved.large_objects else "pass",
        observed=facts,
        detail=detail,
        remedy="Copy what is needed from the database that was kept." if saved.large_objects else "",
    )


def _swapped_proof(plan: Plan, duration_ms: int) -> Proof:
    names = plan.names
    way = f" Swap it back: {plan.swap_back} . Drop it: {plan.drop} ." if names.kept else ""
    kept = f" What was there stays as {names.kept}.{way}" if names.kept else " There was none before."
    return Proof(
        SWAPPED_PROOF,
        "The restored database is in place, and the one before it is kept",
        "pass",
        expected={"live": names.incoming},
        observed={"live": names.incoming, "kept": names.kept},
        detail=f"{names.incoming} is now {names.live}.{kept}",
        duration_ms=duration_ms,
    )


def _planned() -> list[Proof]:
    titles = {
        ROWS_PROOF: "Rows that only the replaced database has are saved, with a script that writes them again",
        SWAPPED_PROOF: "The restored database is in place, and the one before it is kept",
        services.SERVICES_PROOF: "The application is up again",
    }
    return [
        Proof(name, title, "skipped", detail="Planned; check mode swaps nothing.") for name, title in titles.items()
    ]


def _told(plan: Plan, done: Done, *, changed: bool) -> dict[str, Any]:
    listed, names = [proof.as_dict() for proof in done.proofs], plan.names
    return {
        "changed": changed,
        "database": names.live,
        "kept": names.kept,
        "swap_back_command": plan.swap_back if names.kept else "",
        "drop_command": plan.drop if names.kept else "",
        "rows": done.saved.facts(),
        "away_ms": done.away_ms,
        "proofs": listed,
        "message": sentence(listed),
        "diff": {
            "before": f"{names.incoming}\n{names.live}\n" if names.kept else f"{names.incoming}\n",
            "after": f"{names.live} (was {names.incoming})\n"
            + (f"{names.kept} (was {names.live})\n" if names.kept else ""),
        },
    }
