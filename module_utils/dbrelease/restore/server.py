"""Whether the server can take the restored copy: version, rights, roles and room; all checked, nothing changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg2.extensions import cursor as Cursor

from ..core.errors import ReleaseError
from ..core.proof import Proof
from ..host.client_programs import tool_version
from ..host.commands import Commands
from ..host.disk import Room, room_at
from ..postgres.client_tools import SETTING_SINCE, fitting_clients, in_words, major_of
from ..postgres.kept_log import kept_log
from ..postgres.session import Login, select
from .source import Backup, refused

ROOM_PROOF = "restore.room"
MIB = 1 << 20
# A dump is compressed: its tables and indexes are up to this much larger than the file.
EXPANSION = 6
MARGIN = 1.2
DUMP_FOLDER = "/tmp"  # noqa: S108 - a folder of its own is made in it, for its owner only

FACTS = """
SELECT current_setting('server_version_num')::int / 10000 AS major,
       r.rolsuper AS superuser, r.rolcreatedb AS may_create,
       (SELECT pg_database_size(d.oid) FROM pg_database d WHERE d.datname = %(database)s) AS live_bytes,
       (SELECT pg_get_userbyid(d.datdba) FROM pg_database d WHERE d.datname = %(database)s) AS live_owner,
       coalesce((SELECT setting FROM pg_settings WHERE name = 'data_directory'), '') AS data_directory,
       coalesce((SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = %(tablespace)s), '')
         AS tables_directory,
       current_user AS "user"
FROM pg_roles r WHERE r.rolname = current_user
"""
LOG = """
SELECT pg_size_bytes(current_setting('max_wal_size')) AS most,
       has_function_privilege('pg_ls_waldir()', 'EXECUTE') AS is_seen
"""
HELD = "SELECT coalesce(sum(size), 0)::bigint AS bytes FROM pg_ls_waldir()"
USED_BY = """
SELECT (SELECT count(*) FROM pg_prepared_xacts WHERE database = %(database)s) AS prepared,
       (SELECT count(*) FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
        WHERE d.datname = %(database)s) AS subscriptions,
       (SELECT count(*) FROM pg_replication_slots WHERE database = %(database)s) AS slots
"""


@dataclass(frozen=True)
class Server:
    """The server, as far as a restore needs to know it; its log grows by at most so many bytes, unless it is kept.

    kept_log: one sentence on why it is. tables_directory: the folder of the copy's tablespace, if it has one.
    """

    major: int
    data_directory: str
    live_bytes: int | None
    log_growth_bytes: int
    kept_log: str = ""
    tables_directory: str = ""


@dataclass
class Disk:
    """What is needed on one file system: one of its folders, its room, the bytes, and what they are for."""

    folder: str
    room: Room
    needed: int = 0
    what: list[str] = field(default_factory=list)


def check_server(cursor: Cursor, backup: Backup, database: str, commands: Commands) -> Server:
    """Refuse a server or client programs that cannot take the backup."""
    tablespace = backup.content["settings"].get("tablespace")
    (row,) = select(cursor, FACTS, {"database": database, "tablespace": tablespace})
    dumped = _major_of(backup.content["server_version"])
    if row["major"] < dumped:
        raise refused(
            f"the backup is of PostgreSQL {dumped} and the server is {row['major']}", "restore on that version or later"
        )
    try:
        client = major_of(tool_version(commands, "pg_restore"))
    except ReleaseError as error:
        raise refused(error.message.rstrip("."), "make pg_restore available there") from error
    tool, server = backup.content["tool_version"], row["major"]
    fitting = fitting_clients(server, _major_of(tool))
    if not fitting:
        raise refused(
            f"the backup was made by {tool}, and a pg_restore that reads it restores to no server before "
            f"{SETTING_SINCE}: this one is {server}",
            f"restore to a server of PostgreSQL {SETTING_SINCE} or later, or another backup",
        )
    if client not in fitting:
        raise refused(
            f"pg_restore in {commands.place} is of PostgreSQL {client}, the backup was made by {tool} "
            f"and the server is {server}",
            f"install the client programs of PostgreSQL {in_words(fitting)} there",
        )
    if not (row["superuser"] or (row["may_create"] and row["live_owner"] in (row["user"], None))):
        raise refused(
            f"the role {row['user']} may not create and rename databases",
            f"give it CREATEDB and let it own {database}, or use such a role as db_user",
        )
    if found := obstacle(cursor, database):
        raise refused(*found)
    _check_roles(cursor, backup.content["settings"])
    return Server(
        row["major"],
        row["data_directory"],
        row["live_bytes"],
        log_growth(cursor),
        kept_log=kept_log(cursor),
        tables_directory=row["tables_directory"],
    )


def log_growth(cursor: Cursor) -> int:
    """By how many bytes the server's log may grow; where the role may not read its size, the whole limit."""
    (row,) = select(cursor, LOG)
    held = select(cursor, HELD)[0]["bytes"] if row["is_seen"] else 0
    return max(0, int(row["most"]) - int(held))


def check_maintenance(doing: str, maintenance: Login, *renamed: str) -> None:
    """Refuse to work from one of the databases that will be renamed."""
    if maintenance.database in renamed:
        raise ReleaseError(
            f"{doing} was refused ({maintenance.database} is also the maintenance database, and a database that is "
            "renamed can have no session), and nothing was touched: name another database of the server as "
            "restore_maintenance_db.",
            refused=True,
        )


def obstacle(cursor: Cursor, database: str) -> tuple[str, str] | None:
    """What prevents a database from being put aside, and what to do about it."""
    (row,) = select(cursor, USED_BY, {"database": database})
    if row["prepared"] or row["subscriptions"]:
        return (
            f"{database} has {row['prepared']} prepared transactions and {row['subscriptions']} subscriptions, "
            "which keep it from being renamed",
            "end them",
        )
    if row["slots"]:
        return (
            f"{database} has {row['slots']} logical replication slots, which would stay with the database that is put "
            "aside, and the server would keep its log for them forever",
            "drop them, and create them again afterwards",
        )
    return None


def check_room(server: Server, backup: Backup, commands: Commands, *, inside: bool) -> Proof:
    """The server's disk has room for a second database of this size and its log, and pg_restore's for the dump."""
    dump_bytes = int(backup.content["bytes"])
    known = backup.content.get("database_bytes") or server.live_bytes or 0
    need = round(max(known, EXPANSION * dump_bytes) * MARGIN)
    # Each write is logged once: a small database does not fill a log that may grow large.
    log_bytes = need if server.kept_log else min(server.log_growth_bytes, need)
    title = "The server has room for a second database"
    if not inside or not server.data_directory:
        need += log_bytes
        return Proof(
            ROOM_PROOF,
            title,
            "inconclusive",
            expected={"bytes_at_least": need},
            detail=f"The server's disk cannot be checked from here. {server.kept_log}".rstrip(),
            remedy=f"Make sure that it has {need} bytes free.",
        )
    wanted = (
        (server.tables_directory or server.data_directory, need, "the database"),
        (f"{server.data_directory}/pg_wal", log_bytes, "the server's log"),
        (DUMP_FOLDER, dump_bytes + MIB, "the dump"),
    )
    try:
        disks = _disks(commands, wanted)
    except ReleaseError as error:
        raise refused(error.message.rstrip("."), "make df available there") from error
    for disk in disks:
        if disk.room.free < disk.needed:
            raise refused(
                f"{disk.folder} in {commands.place} has {disk.room.free // MIB} MiB free and "
                f"{-(-disk.needed // MIB)} MiB are needed, for {' and '.join(disk.what)}"
                f"{' together' if len(disk.what) > 1 else ''}{_in_brackets(server.kept_log)}",
                f"make {-(-(disk.needed - disk.room.free) // MIB)} MiB of room there",
            )
    expected, observed = {"bytes_at_least": disks[0].needed}, {"bytes_free": disks[0].room.free}
    return Proof(
        ROOM_PROOF,
        title,
        "pass",
        expected=expected,
        observed=observed,
        detail=f"The free space is sufficient. {server.kept_log}".rstrip(),
    )


def _in_brackets(sentence: str) -> str:
    return f" ({sentence.rstrip('.')})" if sentence else ""


def _disks(commands: Commands, wanted: Iterable[tuple[str, int, str]]) -> list[Disk]:
    """The file systems of these folders, each with the sum of what is wanted there; the first folder's is the first."""
    disks: list[Disk] = []
    for folder, needed, what in wanted:
        room = room_at(commands, folder)
        disk = next((disk for disk in disks if disk.room.is_that_of(room)), None)
        if disk is None:
            disks.append(disk := Disk(folder, room))
        disk.needed += needed
        disk.what.append(what)
    return disks


def _major_of(text: str) -> int:
    """Of a version in a manifest, which may be any text."""
    try:
        return major_of(text)
    except ReleaseError as error:
        raise refused(error.message.rstrip("."), "use another backup") from error


def _check_roles(cursor: Cursor, settings: Mapping[str, Any]) -> None:
    """The roles that the database's own settings name: they are in no dump."""
    wanted = {settings["owner"], *(settings.get("role_settings") or {})}
    known = {row["rolname"] for row in select(cursor, "SELECT rolname FROM pg_roles")}
    if missing := sorted(wanted - known):
        raise refused(f"the server has no role {', '.join(missing)}, which the backup needs", "create it")
