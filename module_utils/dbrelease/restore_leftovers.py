"""What a killed restore may leave on the server and in its container, and how each is put right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import RealDictCursor

from .commands import Commands, commands_in
from .database import Login, connect, select
from .restore_names import dump_folder, is_copy, is_kept
from .swap_services import Stopping, start

REMOVE_TIMEOUT_S = 60
MAINTENANCE = "postgres"


def repair_restore(login: Login, db_container: str, events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Put right what a killed restore left around the database of `login`, its copies apart; a sentence for each."""
    with (
        closing(connect(replace(login, database=MAINTENANCE), "dbrelease leftovers")) as connection,
        connection.cursor(cursor_factory=RealDictCursor) as cursor,
    ):
        done = settle(cursor, login.database, drop=False)
    if db_container:
        commands = commands_in(db_container)
        done += [f"Removed {folder} in {commands.place}." for folder in remove_dumps(commands)]
    if stopping := left_stopped(events):
        start(stopping)
        done.append(f"Started {', '.join(stopping.containers)}.")
    return done


def settle(cursor: Cursor, database: str, *, drop: bool = True) -> list[str]:
    """Allow connections again to the live database and those that were put aside, and drop copies never swapped in.

    The cursor is one of an autocommit session in another database of the server. Returns what was done, a sentence
    each; nothing where there was nothing to do. Call it only while no restore runs.
    """
    done = []
    for row in select(cursor, "SELECT datname AS name, datallowconn AS open FROM pg_database ORDER BY datname"):
        name = row["name"]
        if is_copy(name, database) and drop:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
            done.append(f"Dropped {name}, a restored copy that was never swapped in.")
        elif not row["open"] and (name == database or is_kept(name, database)):
            cursor.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(name)))
            done.append(f"Allowed connections to {name} again.")
    return done


def stray(cursor: Cursor, database: str) -> list[str]:
    """What settle() would do, for a plan: the names of the databases."""
    return [
        row["name"]
        for row in select(cursor, "SELECT datname AS name, datallowconn AS open FROM pg_database ORDER BY datname")
        if is_copy(row["name"], database)
        or (not row["open"] and (row["name"] == database or is_kept(row["name"], database)))
    ]


def remove_dumps(commands: Commands) -> list[str]:
    """Remove the dumps that killed restores left where pg_restore runs; returns their folders."""
    pattern = dump_folder("*")
    folder = pattern.rpartition("/")[0]
    listed = commands.run(["ls", folder], timeout_s=REMOVE_TIMEOUT_S).stdout.split()
    name = re.compile(re.escape(pattern.rpartition("/")[2]).replace(r"\*", r"[0-9A-Za-z-]+"))
    found = [f"{folder}/{entry}" for entry in listed if name.fullmatch(entry)]
    if found:
        commands.run(["rm", "-rf", *found], timeout_s=REMOVE_TIMEOUT_S)
    return found


def left_stopped(events: Sequence[Mapping[str, Any]]) -> Stopping | None:
    """What the newest swap stopped, if no later line says that it was started again."""
    newest = _newest_of_services(events)
    return Stopping.of(newest) if newest and newest["event"] == "started" and newest["facts"]["containers"] else None


def never_started(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Containers that the newest swap stopped and could not start again."""
    newest = _newest_of_services(events)
    return list(newest["facts"].get("containers") or ()) if newest and newest["event"] != "passed" else []


def _newest_of_services(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((line for line in reversed(events) if line["step"] == "restore.services"), None)
