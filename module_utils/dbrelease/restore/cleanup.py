"""What a killed restore may leave on the server and in its container, and how each is repaired."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..core.journal import Run
from ..core.journal_schema import schema_error
from ..core.proof import Proof
from ..core.restore_names import copied_by, dump_folder, is_kept
from ..host.commands import Commands, commands_in
from ..host.lifecycle import SERVICES_STEP, Stopping, start
from ..postgres.session import Login, select, server_reason, session
from ..runs.database_lock import NameLock

REMOVE_TIMEOUT_S = 60
MAINTENANCE = "postgres"
FOREIGN_PROOF = "restore.foreign_copies"
NAMES = "SELECT datname AS name, datallowconn AS open FROM pg_database ORDER BY datname"


def repair_restore(
    login: Login, run: Run, dead: Collection[str], db_container: str, events: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Repair what killed restores left around the database of `login`, except their copies; a sentence for each.

    dead: the interrupted runs. Raises ReleaseError where another run, of any target, acts on the database.
    """
    maintenance = login.to(_maintenance_db(events))
    with closing(NameLock(maintenance, login.database, run, dead)) as lock:
        lock.take()
        return _repair_restore(maintenance, login.database, db_container, events)


def _repair_restore(
    maintenance: Login, database: str, db_container: str, events: Sequence[Mapping[str, Any]]
) -> list[str]:
    with session(maintenance, "dbrelease leftovers") as cursor:
        done = _reopen(cursor, database)
    if db_container:
        commands = commands_in(db_container)
        done += [f"Removed {folder} in {commands.place}." for folder in remove_dumps(commands, runs_of(events))]
    if stopping := left_stopped(events):
        start(stopping)
        done.append(f"Started {', '.join(stopping.containers)}.")
    return done


def runs_of(events: Sequence[Mapping[str, Any]]) -> set[str]:
    """The runs that a journal knows: this target removes nothing of other runs."""
    return {line["run_id"] for line in events}


def settle(cursor: Cursor, database: str, runs: Collection[str]) -> list[str]:
    """Drop the copies that these runs never swapped in, and allow connections to the live database and to kept ones.

    The cursor is one of an autocommit session in another database of the server. Returns what was done, a sentence
    each; nothing where there was nothing to do. Call it only while the database's name is locked.
    Raises ReleaseError for a copy that cannot be dropped.
    """
    done = []
    for name in (row["name"] for row in select(cursor, NAMES)):
        if copied_by(name, database) in runs:
            try:
                cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
            except psycopg2.Error as error:
                raise ReleaseError(
                    f"Dropping {name}, a restored copy that was never swapped in, failed ({server_reason(error)}): "
                    "remove the cause, and rerun the playbook."
                ) from error
            done.append(f"Dropped {name}, a restored copy that was never swapped in.")
    return done + _reopen(cursor, database)


def _reopen(cursor: Cursor, database: str) -> list[str]:
    done = []
    for row in select(cursor, NAMES):
        if not row["open"] and (row["name"] == database or is_kept(row["name"], database)):
            cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(row["name"])))
            done.append(f"Allowed connections to {row['name']} again.")
    return done


def foreign_copies(cursor: Cursor, database: str, runs: Collection[str]) -> list[Proof]:
    """Report copies of the database that none of these runs made: they stay. Empty where there are none."""
    names = (row["name"] for row in select(cursor, NAMES))
    found = [name for name in names if (run_id := copied_by(name, database)) and run_id not in runs]
    if not found:
        return []
    return [
        Proof(
            FOREIGN_PROOF,
            "This target's journal knows every copy of the database",
            "inconclusive",
            expected=[],
            observed=found,
            detail=f"Made by unknown runs, and not changed: {', '.join(found)}.",
            remedy="Drop each one that no run of another target needs with `dropdb`.",
        )
    ]


def remove_dumps(commands: Commands, runs: Collection[str]) -> list[str]:
    """Remove the dumps that these runs' restores left where pg_restore runs; returns their folders."""
    folders = {dump_folder(run_id) for run_id in runs}
    top = dump_folder("").rpartition("/")[0]
    listed = commands.run(["ls", top], timeout_s=REMOVE_TIMEOUT_S).stdout.split()
    found = [folder for entry in listed if (folder := f"{top}/{entry}") in folders]
    if found:
        commands.run(["rm", "-rf", *found], timeout_s=REMOVE_TIMEOUT_S)
    return found


def left_stopped(events: Sequence[Mapping[str, Any]]) -> Stopping | None:
    """What the newest swap stopped, if no later line says that it was started again."""
    newest = _newest_of_services(events)
    return (
        Stopping.of(newest) if newest and newest["event"] == "started" and newest["facts"].get("containers") else None
    )


def never_started(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Containers that the newest swap stopped and could not start again."""
    newest = _newest_of_services(events)
    return list(newest["facts"].get("containers", ())) if newest and newest["event"] != "passed" else []


def _maintenance_db(events: Sequence[Mapping[str, Any]]) -> str:
    """The one from which the newest swap renamed: any other may be missing, or closed to this user."""
    names = (line["facts"].get("maintenance_db") for line in reversed(events) if line["step"] == SERVICES_STEP)
    return next((name for name in names if isinstance(name, str)), MAINTENANCE)


def _newest_of_services(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    # A malformed line names no container that could be started: the one before it counts.
    return next((line for line in reversed(events) if line["step"] == SERVICES_STEP and not schema_error(line)), None)
