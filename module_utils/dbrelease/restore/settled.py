"""Check, with the application started, that the database is as the run left it, and what would change that."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import docker.errors
import psycopg2

from ..backup.schema_text import Schema, catalog_of, differences, hashed, in_words
from ..core.errors import ReleaseError
from ..core.journal import Journal
from ..core.outcome import AS_BEFORE
from ..core.proof import Proof, Status, sentence
from ..host import lifecycle
from ..host.commands import commands_in, docker_client
from ..host.inspect import inspect, service_of
from ..host.removed_files import ROOT, RemovedFiles, sums_of
from ..migrate.alembic import script_heads
from ..postgres.revision import database_revisions
from ..postgres.session import Login, connect, server_reason, transaction, without_timeouts
from ..release.requirements import PayloadFile
from ..runs.work import Work

STEP = "settled"
SWAP_STEP = "restore.swap"
REVISION_PROOF, STRUCTURE_PROOF, PAYLOAD_PROOF = "settled.revision", "settled.structure", "settled.payload"
APPLICATION = "dbrelease settled"
AGAIN = "run the rollback playbook with `-e remove_payload=true`, which removes the release's files"
# How long to wait until a program that migrates has ended, when every container is healthy.
MIGRATING_S = 60.0
POLL_S = 0.25
SHOWN_CHARACTERS = 120
# A program or a container's command that may migrate the database: Alembic itself, and wrappers of it.
MIGRATES = re.compile(r"\balembic\b|\bmigrat(?:e|ion|ions|or)\b(?!/)|\bupgrade\s+heads?\b", re.IGNORECASE)


@dataclass(frozen=True)
class Left:
    """The revisions and the catalog of a database; or why the catalog could not be read."""

    revisions: list[str]
    catalog: Schema | None
    unread: str = ""

    def facts(self) -> dict[str, Any]:
        """For the journal."""
        return {"revisions": self.revisions, "catalog": self.catalog.facts() if self.catalog else None}


def read_left(login: Login, bookkeeping_table: str, db_container: str | None) -> Left:
    """Read both; raises ReleaseError if the database does not answer, but not if the catalog cannot be read."""
    try:
        with (
            closing(connect(login, APPLICATION)) as connection,
            transaction(connection, read_only=True, commit=False) as cursor,
        ):
            without_timeouts(cursor)
            revisions = database_revisions(cursor, bookkeeping_table)
    except psycopg2.Error as error:
        raise ReleaseError(f"Reading the revision of {login.label} failed ({server_reason(error)}).") from error
    try:
        commands = commands_in(db_container or None)
        return Left(revisions, catalog_of(login, commands, APPLICATION, inside=bool(db_container)))
    except ReleaseError as error:
        return Left(revisions, None, error.message)


def settled(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """The module's act: remove the release's files where requested, wait, and read the database again."""
    work = Work.of(params, check_mode)
    files = [PayloadFile.of(item) for item in params["payload"]]
    removed: list[str] = []
    with work.journal.step(STEP) as step:
        expected = _expected(work.journal, params["revision"])
        if params["remove_payload"]:
            removed = _remove(work, params["backend_container"], files)
        containers = _running(params["containers"])
        waited = _wait(containers, params["healthy_seconds"])
        now = read_left(work.login, params["bookkeeping_table"], params["db_container"])
        starts = _commands_that_migrate(params["containers"])
        proofs = [
            _revision(expected, now, starts),
            _structure(expected, now),
            _payload(params, files, now, starts, removed, planned=check_mode),
        ]
        if waited:
            proofs.append(_still_migrating(waited))
        step.facts.update(revisions=now.revisions, removed=removed)
        step.prove(*proofs)
    listed = [proof.as_dict() for proof in proofs]
    changed = bool(removed)
    return {"changed": changed, "removed": removed, "proofs": listed, "message": sentence(listed)}


def _expected(journal: Journal, revision: str) -> Left:
    """What this run left, by its journal: the database that was swapped in, or that was compared with the baseline."""
    catalog, revisions = None, [revision] if revision else []
    for line in journal.read():
        if line["run_id"] != journal.run.run_id or line["event"] not in ("passed", "failed"):
            continue
        if line["step"] == SWAP_STEP and (left := line["facts"].get("left")):
            catalog, revisions = Schema.of(left["catalog"]), list(left["revisions"])
        if line["step"] == AS_BEFORE:
            catalog = Schema.of(line["facts"].get("catalog")) or catalog
    return Left(revisions, catalog)


def _remove(work: Work, container: str, files: Sequence[PayloadFile]) -> list[str]:
    left = still_there(container, files)
    if left and not work.check_mode:
        with work.alone_on_target():
            RemovedFiles(container).remove(left)
    return left


def still_there(container: str, files: Sequence[PayloadFile]) -> list[str]:
    """The destinations that contain the release's own file; a file with other content is not the release's."""
    sums = sums_of(commands_in(container or None, user=ROOT), [item.destination for item in files])
    return [item.destination for item in files if sums[item.destination] == item.sha256]


def _running(containers: Sequence[str]) -> list[str]:
    return lifecycle.running([name for name in dict.fromkeys(containers) if name])


def _wait(containers: Sequence[str], healthy_s: int) -> dict[str, str]:
    """Wait until all are healthy and no program in them migrates; return those that still do at the deadline."""
    if not containers:
        return {}
    lifecycle.wait_until_healthy(containers, lifecycle.Limits(0, healthy_s))
    deadline = time.monotonic() + MIGRATING_S
    while found := _migrating(containers):
        if time.monotonic() >= deadline:
            return found
        time.sleep(POLL_S)
    return {}


def _migrating(containers: Sequence[str]) -> dict[str, str]:
    """By container, a program in it that migrates."""
    found: dict[str, str] = {}
    client = docker_client()
    try:
        for name in containers:
            try:
                listed = client.api.top(name, ps_args="-eo pid,ppid,args")
            except docker.errors.APIError:
                continue  # the container has stopped, or the engine lists no programs
            if program := migrating_program([row[:3] for row in listed["Processes"]]):
                found[name] = program
    finally:
        client.close()
    return found


def migrating_program(rows: Sequence[Sequence[str]]) -> str:
    """Find a program that migrates, by pid, parent and command line.

    A shell that starts a server after the migration still has the migration in its command line: the first program
    of a container counts only while it has started no other.
    """
    pids = {row[0] for row in rows}
    parents = {row[1] for row in rows}
    for pid, parent, command in rows:
        if MIGRATES.search(command) and (parent in pids or pid not in parents):
            return " ".join(command.split())[:SHOWN_CHARACTERS]
    return ""


def _commands_that_migrate(containers: Sequence[str]) -> dict[str, str]:
    """By container, its entrypoint and command where they mention a migration."""
    named = {name: name for name in containers if name}
    found = {}
    for name, attributes in inspect(named).items():
        config = (attributes or {}).get("Config") or {}
        command = " ".join([*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())])
        if MIGRATES.search(command):
            found[name] = " ".join(command.split())[:SHOWN_CHARACTERS]
    return found


def _mentioned(starts: Mapping[str, str]) -> str:
    return "; ".join(
        f"the command of container {name} mentions a migration (`{text}`)" for name, text in starts.items()
    )


def _revision(expected: Left, now: Left, starts: Mapping[str, str]) -> Proof:
    title = "With the application running, the database is still at the revision that the run left"
    if not expected.revisions:
        detail = f"The run did not record at which revision it left the database; it is at {_named(now.revisions)}."
        return Proof(REVISION_PROOF, title, "inconclusive", observed=now.revisions, detail=detail)
    if now.revisions == sorted(expected.revisions):
        return Proof(REVISION_PROOF, title, "pass", expected=expected.revisions, observed=now.revisions)
    why = f" ({_mentioned(starts)})" if starts else ""
    return Proof(
        REVISION_PROOF,
        title,
        "fail",
        expected=expected.revisions,
        observed=now.revisions,
        detail=f"The run left it at {_named(expected.revisions)}, but it is at {_named(now.revisions)}: "
        f"it was migrated after the application had started{why}.",
        remedy=f"Change the command of that container, or {AGAIN} first.",
    )


def _structure(expected: Left, now: Left) -> Proof:
    title = "With the application running, the structure is still the one that the run left"
    if expected.catalog is None:
        return Proof(STRUCTURE_PROOF, title, "skipped", detail="The run recorded no structure to compare with.")
    if now.catalog is None:
        detail = f"It could not be read: {now.unread}"
        return Proof(STRUCTURE_PROOF, title, "inconclusive", detail=detail)
    different = [*differences(expected.catalog.objects, now.catalog.objects)]
    status: Status = "fail" if different else "pass"
    return Proof(
        STRUCTURE_PROOF,
        title,
        status,
        expected={"sha256": hashed(expected.catalog)},
        observed={"sha256": hashed(now.catalog)},
        detail=f"After the start {in_words(different)}." if different else "",
        sample=different,
        remedy="" if status == "pass" else "Read the logs of the application's containers since their start.",
    )


def _payload(
    params: Mapping[str, Any],
    files: Sequence[PayloadFile],
    now: Left,
    starts: Mapping[str, str],
    removed: Sequence[str],
    *,
    planned: bool,
) -> Proof:
    """Check that the backend's migrations end at the database's revision; if not, its next start may migrate it."""
    title = "Nothing in the backend applies the release again"
    container = params["backend_container"]
    if container and service_of(container, inspect({"one": container})["one"]).status != "running":
        detail = f"Container {container} is not running, so its files were not read."
        return Proof(PAYLOAD_PROOF, title, "skipped", detail=detail)
    if planned and removed:
        return Proof(PAYLOAD_PROOF, title, "skipped", detail=f"Planned: {', '.join(removed)} would be removed.")
    commands = commands_in(container or None, workdir=params["workdir"] or None)
    left = still_there(container, files)
    try:
        heads, unread = script_heads(commands, params["command"]), ""
    except ReleaseError as error:
        heads, unread = [], error.message
    said = [f"Removed from {commands.place}: {', '.join(removed)}."] if removed else []
    facts = {"left": left, "heads": heads, "removed": list(removed)}
    if not unread and heads == now.revisions:
        said.append(f"The migrations in {commands.place} end at {_named(heads)}, the revision of the database.")
        return Proof(PAYLOAD_PROOF, title, "pass", observed=facts, detail=" ".join(said))
    if left:
        said.append(f"Files of the release are still in {commands.place}: {', '.join(left)}.")
    said.append(
        unread or f"The migrations there end at {_named(heads)}, and the database is at {_named(now.revisions)}."
    )
    again = "A backend that migrates when it starts, or `alembic upgrade head`, applies the release again"
    said.append(f"{again}: {_mentioned(starts)}." if starts else f"{again}.")
    remedy = f"Before its next start {AGAIN}." if left else "Before its next start deploy the backend of that revision."
    remedy = remedy[0].upper() + remedy[1:]
    return Proof(PAYLOAD_PROOF, title, "inconclusive", observed=facts, detail=" ".join(said), remedy=remedy)


def _still_migrating(found: Mapping[str, str]) -> Proof:
    named = "; ".join(f"in container {name} `{text}`" for name, text in found.items())
    return Proof(
        "settled.programs",
        "No program that migrates is running any more",
        "inconclusive",
        observed=dict(found),
        detail=f"After {MIGRATING_S:g} s a program is still running: {named}. What it did later was not observed.",
        remedy="Wait until it ends, and check the database's revision.",
    )


def _named(revisions: Sequence[str]) -> str:
    return " and ".join(revisions) or "no revision"
