"""A backup as a new database beside the live one: restored, analyzed and compared with its manifest, or dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import make_dsn

from ..backup.baseline import read_settings
from ..backup.dump import tool_environment
from ..backup.schema_text import hashed, schema_of
from ..core.display import last_words
from ..core.errors import ReleaseError
from ..core.journal import Journal, Run, Step
from ..core.own_files import reading
from ..core.progress import position_in, progress_of
from ..core.proof import Proof
from ..core.redaction import masked
from ..core.restore_names import dump_folder
from ..host.commands import Finished
from ..postgres.could_not_run import advised
from ..postgres.progress_meters import SizeMeter
from ..postgres.session import (
    LOST_CLIENT_OPTIONS,
    NO_WORKERS,
    TRANSACTIONS,
    Connection,
    Login,
    as_declared,
    connect,
    options_of,
    select,
    server_reason,
    session,
    transaction,
    without_timeouts,
)
from ..postgres.terminate import end_sessions
from .compare import compare, read_state
from .plan import CopyTarget
from .settings import apply_session_settings, apply_settings, create_closed, prove_settings
from .source import Backup

REMOVE_TIMEOUT_S = 60
DROP_STEP = "restore.drop"
SUBSCRIPTION = re.compile(r"^\d+; \d+ \d+ SUBSCRIPTION - (.+) \S+$", re.MULTILINE)
# The right to use the template's own tablespace is checked only where it is named, and only superusers have it.
TABLESPACES = """
SELECT spcname FROM pg_tablespace WHERE oid <> (SELECT dattablespace FROM pg_database WHERE datname = 'template0')
"""
# mkdir takes no existing folder and follows no link of another user; but where /tmp is not sticky, another user could
# replace what was made in it.
ONLY_OURS = """
found=$(find "${1%/*}/" -maxdepth 0 -perm -2 ! -perm -1000) || exit
if [ "$found" ]; then echo "${1%/*} is writable by others, and not sticky: chmod +t it" >&2; exit 1; fi
"""
# What the server reports where the dump or the role makes a restore fail, and what to do about it.
UNQUALIFIED = (
    "a restore has an empty search_path, where {} names something without its schema; restore this dump by hand into a "
    "new database, by pg_restore --section=pre-data, there ALTER FUNCTION ... SET search_path = ..., and then "
    "--section=data and --section=post-data"
)
CAUSES = (
    (re.compile(r"(?:function|operator|type|relation) .+ does not exist"), UNQUALIFIED),
    (
        re.compile(r"must be (?:a )?member of role|must be able to SET ROLE|must be owner of"),
        "grant that role to db_user, or let a superuser be db_user, and rerun the playbook",
    ),
    (
        re.compile(r"permission denied to create|[Mm]ust be superuser|must have CREATE privilege"),
        "let a superuser be db_user, or restore as one, and rerun the playbook",
    ),
    (
        re.compile(r"extension .+ is not available|could not open extension control file"),
        "install the files of that extension on the server, and rerun the playbook",
    ),
    (
        re.compile(r"can only create extension in database"),
        "restore to another server, as one server has that extension in one database only",
    ),
)
# Of the context that the server reports only the function's name is shown: the rest may quote a row.
CALLER = re.compile(r"""CONTEXT:\s+(?:PL/pgSQL|SQL) function "?([\w.]+(?:\([\w .,\[\]]*\))?)""")
QUOTED = re.compile(r"Command was:|DETAIL:|CONTEXT:")
# The copy is worth nothing until it is swapped in, and the swap's own commit makes everything before it durable.
SESSION_OPTIONS = (
    f"-c synchronous_commit=off -c maintenance_work_mem=256MB {LOST_CLIENT_OPTIONS} "
    f"{options_of({**TRANSACTIONS, **NO_WORKERS})} -c idle_session_timeout=0 -c role=none"
)


@dataclass(frozen=True)
class Copy:
    """What is known of a copy; the hash of its schema is empty where that could not be read."""

    proofs: list[Proof]
    schema_sha256: str


def make_copy(
    place: CopyTarget,
    backup: Backup,
    major: int,
    journal: Journal,
    meanwhile: AbstractContextManager[None],
    step: Step | None = None,
) -> Copy:
    """Create, restore, apply the settings, compare; after any failure, and where a proof fails, the copy is dropped.

    meanwhile: work beside pg_restore, which loads a large table with one processor. step: of the journal, which gets
    the series of its progress.
    """
    created = False
    try:
        with reachable_dump(place, backup, journal.run, step) as path:
            _create(place, backup, major)
            created = True
            # Rows are loaded, and compared, as the sessions of the database write and read them.
            _apply_session_settings(place, backup)
            left_out = _subscriptions(place, path)
            with meanwhile:
                # The live database has the same rows and indexes, and what its updates have left.
                size = SizeMeter(place.maintenance, place.login.database, backup.content.get("database_bytes"))
                with progress_of(journal.run, "restore", size, step):
                    _restore(place, path, side_by_side=not backup.content.get("by_root"))
                with progress_of(journal.run, "compare"):
                    copy = _read(place, backup)
                copy.proofs.append(_apply_settings(place, backup, left_out))
    except BaseException as error:
        if created:
            with suppress(ReleaseError):  # where the server has stopped, they have ended
                end_sessions(place.maintenance, place.application_name)
            drop_or_leave(place.maintenance, place.login.database, journal, error)
        raise
    if any(proof.status == "fail" for proof in copy.proofs):
        drop_database(place.maintenance, place.login.database)
    return copy


def drop_or_leave(maintenance: Login, name: str, journal: Journal, cause: BaseException | None) -> None:
    """Drop a copy; where the server has stopped, a step that stays open in the journal makes the next run drop it."""
    try:
        drop_database(maintenance, name)
    except ReleaseError as error:
        with suppress(ReleaseError):
            journal.append(DROP_STEP, "started", {"database": name, "message": error.message})
        # The operator needs the first failure.
        if isinstance(cause, ReleaseError):
            cause.message += f" (The copy {name} still exists; the next run drops it.)"


@contextmanager
def reachable_dump(
    place: CopyTarget, backup: Backup, run: Run | None = None, step: Step | None = None
) -> Iterator[str]:
    """The dump where pg_restore can seek in it: in the container a private copy, which is removed afterwards."""
    if not place.inside:
        yield str(backup.path)
        return
    folder = dump_folder(place.run_id)
    # One program, so that the deadline ends all of it.
    script = ONLY_OURS + 'umask 077; rm -rf "$1"; mkdir "$1" && exec dd of="$1/dump" bs=1M'
    try:
        with (
            reading(backup.path) as file,
            progress_of(run, "copy_dump", position_in(file), step),
        ):
            finished = place.commands.run(["sh", "-c", script, "sh", folder], timeout_s=place.timeout_s, stdin=file)
        if finished.status == 0:
            finished = place.commands.run(["sha256sum", f"{folder}/dump"], timeout_s=place.timeout_s)
        if finished.status != 0 or finished.stdout.split()[:1] != [backup.content["sha256"]]:
            reason = last_words(finished.stderr, 300) or "the copied file differs from the backup"
            raise ReleaseError(
                f"Copying {backup.path} into {place.commands.place} failed ({reason}): check that its /tmp has room "
                "and is sticky, and rerun the playbook."
            )
        yield f"{folder}/dump"
    except BaseException:
        # A container that has stopped is the cause itself; the next restore removes what is left.
        with suppress(ReleaseError):
            place.commands.run(["rm", "-rf", folder], timeout_s=REMOVE_TIMEOUT_S)
        raise
    place.commands.run(["rm", "-rf", folder], timeout_s=REMOVE_TIMEOUT_S)


def _create(place: CopyTarget, backup: Backup, major: int) -> None:
    name = place.login.database
    try:
        with session(place.maintenance, place.application_name) as cursor:
            tablespaces = [row["spcname"] for row in select(cursor, TABLESPACES)]
            create_closed(cursor, name, backup.content["settings"], major, tablespaces)
    except psycopg2.Error as error:
        raise ReleaseError(
            f"Creating the database {name} failed ({server_reason(error)}): "
            f"{advised(error, 'remove the cause, and rerun the playbook.')}"
        ) from error


def _restore(place: CopyTarget, path: str, *, side_by_side: bool = True) -> None:
    """First every row, then what acts on rows: jobs side by side make the triggers of a partitioned table before its
    partitions are filled, as that table itself has no rows to wait for. Rows that are loaded through partitioned tables
    are loaded by one job: several would wait for one another, and an older pg_restore empties what another one filled.
    """
    one = replace(place, jobs=1)
    _restore_sections(place if side_by_side else one, path, ("--section=pre-data", "--section=data"))
    _restore_sections(place, path, ("--section=post-data",))


def _restore_sections(place: CopyTarget, path: str, sections: Sequence[str]) -> None:
    # A database that has a subscription cannot be dropped, and two must not share one.
    argv = ["pg_restore", "--exit-on-error", "--no-subscriptions", f"--jobs={place.jobs}", "--no-password", *sections]
    # As a connection string, because a bare name that contains = is read as one.
    argv += [f"--dbname={make_dsn(dbname=place.login.database)}", path]
    environment = tool_environment(place.login, place.application_name, inside=place.inside)
    finished = place.commands.run(
        argv, timeout_s=place.timeout_s, environment={**environment, "PGOPTIONS": SESSION_OPTIONS}
    )
    if finished.status != 0:
        raise _restore_failure(place, finished)


def _subscriptions(place: CopyTarget, path: str) -> list[str]:
    """The subscriptions in the dump, in words: they are not restored."""
    listed = place.commands.run(["pg_restore", "--list", path], timeout_s=place.timeout_s)
    return [f"the subscription {name}, to be created again" for name in SUBSCRIPTION.findall(listed.stdout)]


def _restore_failure(place: CopyTarget, finished: Finished) -> ReleaseError:
    text = " ".join(finished.stderr.split())
    # The first error is the cause; the statement and the row that are quoted after it are not shown.
    text = masked(QUOTED.split(text[max(text.find("error:"), 0) :])[0].strip(), place.login.password)[:400]
    advice = advice_for(finished.stderr)
    reason = f"not done within {place.timeout_s} s" if finished.timed_out else text or f"status {finished.status}"
    return ReleaseError(
        f"Restoring into the new database {place.login.database} by pg_restore in {place.commands.place} failed "
        f"({reason}): the live database was not touched; {advice}."
    )


def advice_for(stderr: str) -> str:
    """What to do about a restore that failed, by the output of pg_restore."""
    text = " ".join(stderr.split())
    caller = CALLER.search(text)
    named = f"the function {caller[1]}" if caller else "a function"
    found = next((advice for cause, advice in CAUSES if cause.search(QUOTED.split(text)[0])), None)
    return found.format(named) if found else "remove the cause, and rerun the playbook"


def _read(place: CopyTarget, backup: Backup) -> Copy:
    """Compare, gather statistics, which are in no dump, and read the schema; side by side, for none of them writes."""
    with ThreadPoolExecutor(2) as pool:
        analyzed, schema = pool.submit(_analyze, place), pool.submit(_schema_sha256, place)
        seen, _ = read_state(place.login, place.comparing_name)
    analyzed.result()
    return Copy([compare(backup.content, seen)], schema.result())


def _analyze(place: CopyTarget) -> None:
    try:
        with session(place.login, place.application_name) as cursor:
            without_timeouts(cursor, local=False)
            # What the settings of the database say would have it pass over tables of others, or give way to autovacuum.
            cursor.execute("SET ROLE NONE; SET lock_timeout = 0")
            # It evaluates expressions of indexes, as the owner of each, and these find names as sessions do.
            with as_declared(cursor):
                cursor.execute("ANALYZE")
    except psycopg2.Error as error:
        raise ReleaseError(
            f"ANALYZE of {place.login.database} failed ({server_reason(error)}): "
            f"{advised(error, 'rerun the playbook.')}"
        ) from error


def _schema_sha256(place: CopyTarget) -> str:
    """It only saves a later restore some work."""
    try:
        return hashed(
            schema_of(place.login, place.commands, place.timeout_s, place.comparing_name, inside=place.inside)
        )
    except ReleaseError:
        return ""


def _apply_session_settings(place: CopyTarget, backup: Backup) -> None:
    with _applying(place) as connection, transaction(connection) as cursor:
        apply_session_settings(cursor, place.login.database, backup.content["settings"])


def _apply_settings(place: CopyTarget, backup: Backup, left_out: Sequence[str]) -> Proof:
    expected = backup.content["settings"]
    with _applying(place) as connection:
        with transaction(connection) as cursor:
            apply_settings(cursor, place.login.database, expected)
        seen = _settings_of(place.login)
        with transaction(connection, read_only=True) as cursor:
            return prove_settings(cursor, expected, seen, left_out)


@contextmanager
def _applying(place: CopyTarget) -> Iterator[Connection]:
    """A session in another database of the server; raises ReleaseError."""
    try:
        with closing(connect(place.maintenance, place.application_name)) as connection:
            yield connection
    except psycopg2.Error as error:
        raise ReleaseError(
            f"Applying the settings of the backup to {place.login.database} failed ({server_reason(error)}): "
            f"{advised(error, 'let db_user set what the manifest says, and rerun the playbook.')}"
        ) from error


def _settings_of(login: Login) -> dict[str, Any]:
    with (
        closing(connect(login, "dbrelease restore settings")) as connection,
        transaction(connection, read_only=True) as cursor,
    ):
        return read_settings(cursor)


def drop_database(maintenance: Login, name: str) -> bool:
    """Drop the database and end its sessions; returns whether it existed."""
    try:
        with session(maintenance, "dbrelease drop") as cursor:
            if not select(cursor, "SELECT FROM pg_database WHERE datname = %s", (name,)):
                return False
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
            return True
    except psycopg2.Error as error:
        raise ReleaseError(
            f"Dropping the database {name} failed ({server_reason(error)}): drop it with `dropdb --force {name}`."
        ) from error
