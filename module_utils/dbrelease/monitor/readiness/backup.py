"""Whether the backup of the release still exists unchanged, and can be restored."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import make_dsn
from psycopg2.extras import RealDictCursor

from ...backup.baseline import read_settings
from ...backup.dump import tool_environment
from ...backup.manifest import Manifest, hash_file, read
from ...core.display import last_words
from ...core.errors import ReleaseError
from ...core.own_files import kept_in, reading
from ...core.proof import Proof
from ...core.restore_names import proof_name
from ...host.commands import commands_in
from ...postgres.could_not_run import advised
from ...postgres.fingerprints import read_tables
from ...postgres.session import (
    LOST_CLIENT_OPTIONS,
    NO_WORKERS,
    TRANSACTIONS,
    Login,
    connect,
    options_of,
    select,
    server_reason,
    transaction,
)
from ...restore.copy import advice_for, drop_database
from ...restore.settings import apply_session_settings, create_closed

KEPT = "The backup from before the release exists and is unchanged"
RESTORABLE = "The backup can be restored"
SESSION_OPTIONS = f"{LOST_CLIENT_OPTIONS} {options_of({**TRANSACTIONS, **NO_WORKERS})} -c idle_session_timeout=0"
CRITERION = "readiness.restorable"
RESTORED_PROOF = "backup.restorable"
RESTORE_NOW = "Rerun the playbook with -e readiness_restore=true, which restores it into a temporary database."
NO_WAY_BACK = "Until it can be restored, this backup is no way back to the state before the release."
TAKE_CARE = "Without it the state before the release cannot be restored: find it in your copies of the state directory."


def kept(facts: Mapping[str, Any] | None, state_dir: str) -> tuple[Proof, Manifest | None]:
    """The journal's newest backup of the release: its file is as recorded in the journal and the manifest."""
    if not facts:
        return Proof("readiness.backup", KEPT, "fail", detail="The journal records no backup.", remedy=TAKE_CARE), None
    path, expected = kept_in(state_dir, facts["path"]), {"sha256": facts["sha256"], "bytes": facts["bytes"]}
    try:
        manifest = read(kept_in(state_dir, facts["manifest"]))
        sha256, size = hash_file(path)
    except ReleaseError as error:
        return Proof("readiness.backup", KEPT, "fail", expected=expected, detail=error.message, remedy=TAKE_CARE), None
    observed = {"sha256": sha256, "bytes": size}
    wrong = ""
    if manifest is None:
        wrong = f"There is no manifest {facts['manifest']}."
    elif observed != expected or manifest["sha256"] != sha256:
        wrong = f"{path} has {size} bytes and sha256 {sha256[:12]}..., which differs from what was written."
    if wrong:
        proof = Proof(
            "readiness.backup", KEPT, "fail", expected=expected, observed=observed, detail=wrong, remedy=TAKE_CARE
        )
        return proof, None
    detail = f"{path}, {size} bytes, hashed again now."
    return Proof("readiness.backup", KEPT, "pass", expected=expected, observed=observed, detail=detail), manifest


def claims(proofs: Sequence[Proof]) -> list[Proof]:
    """The backup's own claim, which was inconclusive when the backup was taken, from the criterion that checks it."""
    return [replace(proof, name=RESTORED_PROOF) for proof in proofs if proof.name == CRITERION]


def restorable(
    manifest: Manifest | None, path: str, login: Login, container: str, run_id: str, *, now: bool, timeout_s: int
) -> Proof:
    """It was restored as a test before, or is now (`now`), and the result matches the manifest."""
    name = CRITERION
    if manifest is None:
        return Proof(name, RESTORABLE, "fail", detail="There is no complete backup to restore.", remedy=TAKE_CARE)
    if not now:
        if manifest.get("restored"):
            return Proof(name, RESTORABLE, "pass", detail="A test restored it before.", observed=manifest["restored"])
        return Proof(name, RESTORABLE, "inconclusive", detail="No test has restored it.", remedy=RESTORE_NOW)
    begun = time.monotonic()
    try:
        with throwaway(login, run_id, manifest.get("settings") or {}) as copy:
            restore(path, copy, container, timeout_s)
            different = compare(copy, manifest)
    except ReleaseError as error:
        return Proof(name, RESTORABLE, "fail", detail=error.message, remedy=NO_WAY_BACK)
    spent = round((time.monotonic() - begun) * 1000)
    if different:
        detail = f"The restored tables differ from the manifest: {', '.join(different)}."
        return Proof(name, RESTORABLE, "fail", observed=different, detail=detail, remedy=NO_WAY_BACK, duration_ms=spent)
    detail = f"Restored into a temporary database now: rows and fingerprints of {len(manifest['tables'])} tables match."
    return Proof(name, RESTORABLE, "pass", observed=[], detail=detail, duration_ms=spent)


@contextmanager
def throwaway(login: Login, run_id: str, settings: Mapping[str, Any]) -> Iterator[Login]:
    """An empty database beside the application's, dropped afterwards in every outcome; raises ReleaseError.

    settings: of the backup; its session settings are applied.
    """
    # If this run is killed, the next one finds and drops it by this name.
    name = proof_name(login.database, run_id)
    with (
        closing(connect(login, "dbrelease readiness")) as session,
        session.cursor(cursor_factory=RealDictCursor) as cursor,
    ):
        try:
            # A backup without settings is of a database like the live one. Its objects get no owner.
            like, (me,) = settings or read_settings(cursor), select(cursor, "SELECT current_user AS owner")
            major = session.server_version // 10_000
            create_closed(cursor, name, {**like, **me}, major, tablespaces=())
        except psycopg2.Error as error:
            advice = advised(
                error, "allow the deploying user to create databases with the encoding and the locale of the backup."
            )
            raise ReleaseError(
                f"Creating a temporary database beside {login.label} failed ({server_reason(error)}): {advice}"
            ) from error
        try:
            _set(cursor, name, settings)
            yield replace(login, database=name)
        finally:
            drop_database(login, name)


def _set(cursor: RealDictCursor, name: str, settings: Mapping[str, Any]) -> None:
    try:
        apply_session_settings(cursor, name, settings)
    except psycopg2.Error as error:
        raise ReleaseError(
            f"Applying the settings of the backup to {name} failed ({server_reason(error)}): "
            f"{advised(error, 'allow the deploying user to set what the manifest records.')}"
        ) from error


def restore(path: str, copy: Login, container: str, timeout_s: int) -> None:
    """pg_restore the dump into an empty database, to its end; raises ReleaseError."""
    commands = commands_in(container or None)
    argv = [
        "pg_restore",
        "--exit-on-error",
        "--no-subscriptions",
        "--no-password",
        "--no-owner",
        "--no-privileges",
        # As a connection string: a bare name that contains = would be parsed as one.
        f"--dbname={make_dsn(dbname=copy.database)}",
    ]
    environment = tool_environment(copy, "dbrelease readiness", inside=bool(container))
    try:
        with reading(Path(path)) as file:
            finished = commands.run(
                argv, timeout_s=timeout_s, environment={**environment, "PGOPTIONS": SESSION_OPTIONS}, stdin=file
            )
    except OSError as error:
        raise ReleaseError(f"Reading {path} failed ({error.strerror}): use another backup.") from error
    if finished.status != 0:
        reason = last_words(finished.stderr, 300, copy.password) or f"status {finished.status}"
        raise ReleaseError(
            f"Restoring {path} by pg_restore in {commands.place} failed ({reason}): {advice_for(finished.stderr)}."
        )


def compare(copy: Login, manifest: Manifest) -> list[str]:
    """The tables whose content in the copy differs from the manifest."""
    tables = manifest["tables"]
    with closing(connect(copy, "dbrelease readiness")) as session:
        try:
            with transaction(session, read_only=True, isolation="REPEATABLE READ", commit=False) as cursor:
                restored = read_tables(cursor, only={name: table["columns"] for name, table in tables.items()})
                present = read_tables(cursor)
        except psycopg2.Error as error:
            raise ReleaseError(
                f"Reading the restored copy failed ({server_reason(error)}): {advised(error, 'rerun the playbook.')}"
            ) from error
    different = [
        name
        for name, table in tables.items()
        if (restored[name]["rows"], restored[name]["fingerprint"]) != (table["rows"], table["fingerprint"])
    ]
    return sorted({*different, *(name for name in present if name not in tables)})
