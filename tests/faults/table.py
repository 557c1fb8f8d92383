"""The table: which fault, when, how that run may end, what is reported, and how the next run must end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from outside import BACKEND, POSTGRES

from faults import injections as faults
from faults import surroundings
from faults.moments import AtOnce, Held, Moment, Paused, Rehearsing, StandingStill, Step


@dataclass(frozen=True)
class Row:
    """One fault at one moment of one run, and what is asked of that run and of the next."""

    name: str
    at: Moment
    fault: faults.Fault
    ends: str = "killed"  # a pattern: how the run must end
    says: str = ""  # a pattern in what it tells; a killed run tells nothing, and the next one tells of it
    then: str = "deployed"  # how the next run must end
    playbook: str = "deploy"
    following: str = ""  # the playbook of the next run; by default the same
    lasts_s: float | None = None  # when the fault is taken away; None: after the run's end
    environment: Mapping[str, str] = field(default_factory=dict)  # of the run that the fault hits
    arguments: tuple[str, ...] = ()  # of that run
    place: Callable[[], AbstractContextManager[None]] = nullcontext
    down: bool = False  # the application stays away until the next run: nobody is left who could start it
    quick: bool = False  # also part of `make test`


# Where a stage stands still: what waits is in the middle of its work, and has committed nothing.
DUMPING = Held("backup", "dbrelease-dump-%", "components IN ACCESS EXCLUSIVE")
UPGRADING = Held("preview", "dbrelease-upgrade-%", "alembic_version IN SHARE")
ROLLING_BACK = Held("guards", "dbrelease-downgrade-%", "alembic_version IN SHARE")
VALIDATING = Held("run", "dbrelease reconcile", "drawing_project_associations IN SHARE UPDATE EXCLUSIVE")
RESTORING = Paused(POSTGRES, "pg_restore", "--exit-on-error")

CTRL_C, SIGTERM = faults.Interrupted(signal.SIGINT), faults.Interrupted(signal.SIGTERM)
CONTROLLER, MODULE, EVERYTHING = faults.controller_killed, faults.module_killed, faults.everything_killed
ALEMBIC = faults.ProgramKilled(BACKEND, "alembic")
ALEMBICS_EXEC = faults.ProgramKilled(BACKEND, "alembic", wrapper=True)
DATABASE_STOPPED = faults.ContainerDown(POSTGRES, "stop")
DATABASE_KILLED = faults.ContainerDown(POSTGRES, "kill")
BACKEND_STOPPED = faults.ContainerDown(BACKEND, "stop")
WRITER = faults.Transaction("UPDATE drawings SET title = title WHERE id = (SELECT min(id::text)::uuid FROM drawings)")
ALL_FOR_ITSELF = faults.Transaction("LOCK TABLE drawings IN ACCESS EXCLUSIVE MODE")
READER = faults.Transaction("SELECT count(*) FROM drawings")

DUMP_FAILED = (
    r"Dumping the database \S+ at \S+ as \S+ in container drawing_postgres failed"
    r"|Reading (table \S+ for its fingerprint|the baseline .*) failed"
)
UNCHANGED = r"the database is still at 0ab370a9afb6"
STILL_DEPLOYED = r"the database is still at f4c8a2b5e1d9"
KILLED = rf"Alembic was killed \(status 137\); ({UNCHANGED}|nevertheless .* at f4c8a2b5e1d9)"
NOT_BACK = rf"Alembic was killed \(status 137\); ({STILL_DEPLOYED}|nevertheless .* at 0ab370a9afb6)"
UNKNOWN = r"the revision could not be read back, so it is unknown whether the database was migrated"
BLOCKED_BY = r'blocked by pid \d+ \(user "user", application "faults holder", idle in'
BLOCKED = rf"stopped after \d+ attempts .* {BLOCKED_BY}"
ANY = "."
UNTOUCHED = r"the live database was not touched"
DAMAGED = r"its manifest says .*: it was (cut or )?changed\), and nothing was touched"


def survived(name: str, at: Moment, fault: faults.Fault, lasts_s: float | None = None) -> Row:
    """A deploy that ends well all the same; what the old code has written since is drift, and no damage."""
    return Row(name, at, fault, "deployed", ANY, "already_deployed", lasts_s=lasts_s)


def rehearsed(name: str, at: Moment, fault: faults.Fault, ends: str = "killed", says: str = "", **more: Any) -> Row:
    """A deploy that is hit while it rehearses; the live database has not been touched by then."""
    return Row(
        name, at, fault, ends, says, arguments=("-e", "rehearsal=container", "-e", "require_rehearsal=true"), **more
    )


def died_at(step: str) -> str:
    """What a run tells of a step whose module was killed."""
    return rf"The step {step} was interrupted"


DEPLOYS = [
    Row("controller killed at claim", Step("claim", "passed"), CONTROLLER, quick=True),
    Row("controller killed at recovery", Step("recovery"), CONTROLLER, place=surroundings.after_a_killed_run),
    Row(
        "module killed at recovery",
        Step("recovery"),
        MODULE,
        "failed",
        died_at("recovery"),
        place=surroundings.after_a_killed_run,
    ),
    Row("controller killed at preflight", Step("preflight"), CONTROLLER),
    Row("module killed at preflight", Step("preflight"), MODULE, "failed", died_at("preflight"), quick=True),
    # The backup
    Row("controller killed at dump", DUMPING, CONTROLLER, quick=True),
    Row("Ctrl-C at dump", DUMPING, CTRL_C),
    Row("SIGTERM at dump", DUMPING, SIGTERM),
    Row("everything killed at dump", DUMPING, EVERYTHING, quick=True),
    Row("module killed at dump", DUMPING, MODULE, "failed", died_at("baseline"), quick=True),
    Row("pg_dump killed", DUMPING, faults.ProgramKilled(POSTGRES, "pg_dump"), "failed", DUMP_FAILED, quick=True),
    Row(
        "server process killed at dump", DUMPING, faults.ServerProcessKilled("dbrelease-dump-%"), "failed", DUMP_FAILED
    ),
    Row("database stopped at dump", DUMPING, DATABASE_STOPPED, "failed", DUMP_FAILED),
    Row("database killed at dump", DUMPING, DATABASE_KILLED, "failed", DUMP_FAILED, quick=True),
    Row(
        "disk full at dump",
        StandingStill("backup"),
        faults.DiskFull(surroundings.state_directory),
        "no report",  # which has no room either
        # The journal's last page may still take a line, or not.
        r"Result of the run: The (step \w+|task .+) failed: .* \(No space left on device\): make ",
        place=surroundings.small_state_directory,
    ),
    # The rehearsal
    rehearsed("controller killed at rehearse", Step("rehearse"), CONTROLLER),
    rehearsed("everything killed while the copy is restored", Rehearsing(""), EVERYTHING, quick=True),
    rehearsed("Ctrl-C while the copy is restored", Rehearsing(""), CTRL_C),
    rehearsed("Ctrl-C while the copy is upgraded", Rehearsing("_alembic"), CTRL_C),
    rehearsed("SIGTERM while the copy is upgraded", Rehearsing("_alembic"), SIGTERM),
    rehearsed("everything killed while the copy is upgraded", Rehearsing("_alembic"), EVERYTHING),
    rehearsed("everything killed while the application answers on the copy", Rehearsing("_old"), EVERYTHING),
    rehearsed("module killed at rehearse", Rehearsing("_alembic"), MODULE, "failed", died_at("rehearse")),
    rehearsed(
        "throwaway server killed", Rehearsing("_alembic"), faults.throwaway_server_killed, "refused|failed", "rehearse"
    ),
    # The upgrade
    Row("controller killed at preview", Step("preview"), CONTROLLER),
    Row("module killed at preview", Step("preview"), MODULE, "failed", died_at("preview")),
    # It only shows: its proof is open then, and the deploy goes on.
    survived("Alembic killed at preview", Step("preview"), ALEMBIC),
    survived("a writer's lock, released in time", Step("preview"), WRITER, lasts_s=5),
    Row("a writer's lock, not released", Step("preview"), WRITER, "failed", BLOCKED),
    survived("a table locked, released in time", Step("preview"), ALL_FOR_ITSELF, lasts_s=5),
    Row("a table locked, not released", Step("preview"), ALL_FOR_ITSELF, "failed", BLOCKED),
    survived("a reader idle in its transaction all the time", AtOnce(), READER),
    Row("Alembic killed at upgrade", UPGRADING, ALEMBIC, "failed", KILLED, quick=True),
    Row("Alembic's exec killed", UPGRADING, ALEMBICS_EXEC, "failed", KILLED),
    Row(
        "server process killed at upgrade",
        UPGRADING,
        faults.ServerProcessKilled("dbrelease-upgrade-%"),
        "failed",
        UNCHANGED,
    ),
    Row("database stopped at upgrade", UPGRADING, DATABASE_STOPPED, "failed", UNKNOWN),
    Row("database killed at upgrade", UPGRADING, DATABASE_KILLED, "failed", UNKNOWN),
    Row("backend stopped at upgrade", UPGRADING, BACKEND_STOPPED, "failed", UNCHANGED),
    Row("engine restarted at upgrade", UPGRADING, faults.engine_restarted, "failed", "Alembic"),
    Row("terminal closed at upgrade", UPGRADING, faults.terminal_closed),
    Row("Ctrl-C at upgrade", UPGRADING, CTRL_C, quick=True),
    Row("SIGTERM at upgrade", UPGRADING, SIGTERM),
    Row("everything killed at upgrade", UPGRADING, EVERYTHING),
    Row("module killed at upgrade", UPGRADING, MODULE, "failed", died_at("upgrade")),
    # The module ends, and its Alembic must not commit when its run is reported.
    Row(
        "task given up at upgrade",
        UPGRADING,
        faults.task_given_up,
        "failed",
        rf"The step upgrade failed: .* ended by SIGTERM .*{UNCHANGED}",
        environment={"ANSIBLE_TASK_TIMEOUT": "15"},
    ),
    Row("controller killed at upgrade", UPGRADING, CONTROLLER, quick=True),
    # After the commit
    Row("controller killed at finalize", Step("finalize"), CONTROLLER),
    Row("everything killed at finalize", Step("finalize"), EVERYTHING),
    Row("module killed at finalize", Step("finalize"), MODULE, "failed", died_at("finalize"), quick=True),
    Row("controller killed at checks", Step("checks"), CONTROLLER, quick=True),
    # A verification that died is no verdict.
    Row(
        "module killed at checks",
        Step("checks"),
        MODULE,
        "failed",
        r"The step checks was interrupted: .* Held: .* nothing that was observed speaks against the release",
    ),
    # Its last module works on, and ends the run well.
    Row("controller killed at report", Step("report"), CONTROLLER, "killed", ANY, "already_deployed"),
]


def rows_of(playbook: str, then: str) -> Callable[..., Row]:
    """What makes the rows of another playbook than the deploy, which the next run must end as asked."""

    def row(name: str, at: Moment, fault: faults.Fault, ends: str = "killed", says: str = "", **more: Any) -> Row:
        return Row(f"{playbook}: {name}", at, fault, ends, says, then, playbook, **more)

    return row


restore, rollback = rows_of("restore", "restored"), rows_of("rollback", "rolled_back")
reconcile = rows_of("reconcile", "already_deployed")

RESTORES = [
    restore("truncated dump", AtOnce(), faults.BackupDamaged(faults.cut_short), "refused", DAMAGED, quick=True),
    restore("bit-flipped dump", AtOnce(), faults.BackupDamaged(faults.one_bit_flipped), "refused", DAMAGED, quick=True),
    restore("foreign dump", AtOnce(), faults.BackupDamaged(faults.of_another_database), "refused", DAMAGED, quick=True),
    restore("controller killed", RESTORING, CONTROLLER),
    restore("Ctrl-C", RESTORING, CTRL_C),
    restore("everything killed", RESTORING, EVERYTHING),
    restore("everything killed while the application is stopped", Step("restore.services"), EVERYTHING, down=True),
    restore("module killed", RESTORING, MODULE, "failed", died_at("restore.copy")),
    # As where a connection breaks and comes back: the module ends, and must not swap when its run is reported.
    restore(
        "task given up",
        RESTORING,
        faults.task_given_up,
        "failed",
        "Timed out after 30 second",
        environment={"ANSIBLE_TASK_TIMEOUT": "30"},
    ),
    restore("pg_restore killed", RESTORING, faults.ProgramKilled(POSTGRES, "pg_restore"), "failed", UNTOUCHED),
    restore("database stopped", RESTORING, DATABASE_STOPPED, "failed", UNTOUCHED),
    restore("database killed", RESTORING, DATABASE_KILLED, "failed", UNTOUCHED, quick=True),
    restore(
        "disk full",
        StandingStill("restore.copy"),
        faults.DiskFull(surroundings.tmp_of_database),
        "failed",
        "No space left on device",
        place=surroundings.small_tmp_of_database,
    ),
]

ROLLBACKS = [
    rollback("controller killed at guards", Step("guards"), CONTROLLER, quick=True),
    rollback("a table locked, released in time", Step("guards"), ALL_FOR_ITSELF, "rolled_back", ANY, lasts_s=5),
    # Whether the guards are through by then, or are what waits, is left open.
    rollback("a table locked, not released", Step("guards"), ALL_FOR_ITSELF, "refused|failed", BLOCKED_BY),
    rollback("Alembic killed", ROLLING_BACK, ALEMBIC, "failed", NOT_BACK, quick=True),
    rollback(
        "server process killed",
        ROLLING_BACK,
        faults.ServerProcessKilled("dbrelease-downgrade-%"),
        "failed",
        STILL_DEPLOYED,
    ),
    rollback("database killed", ROLLING_BACK, DATABASE_KILLED, "failed", UNKNOWN),
    rollback("backend stopped", ROLLING_BACK, BACKEND_STOPPED, "failed", STILL_DEPLOYED),
    rollback("module killed", ROLLING_BACK, MODULE, "failed", died_at("downgrade")),
    rollback("Ctrl-C", ROLLING_BACK, CTRL_C),
    rollback("everything killed", ROLLING_BACK, EVERYTHING),
    rollback("controller killed", ROLLING_BACK, CONTROLLER, quick=True),
    rollback("controller killed at the comparison", Step("as_before"), CONTROLLER),
]

RECONCILES = [
    reconcile(
        "everything killed, and then a deploy",
        VALIDATING,
        EVERYTHING,
        following="deploy",
        place=surroundings.foreign_key_not_valid,
    ),
    reconcile("controller killed", VALIDATING, CONTROLLER, place=surroundings.foreign_key_not_valid),
]

# Those that restore come first: they share the backup of the deploy that nothing disturbed.
TABLE = [*RESTORES, *ROLLBACKS, *RECONCILES, *DEPLOYS]
