"""Baseline and backup, one act on one exported snapshot: both describe the same instant, while others write."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extras import RealDictCursor

from ..core.display import json_text
from ..core.errors import ReleaseError
from ..core.files import publish, temporary_name, write_failure, write_private
from ..core.journal import Journal, Run, Step
from ..core.own_files import read_own
from ..core.progress import Counter, progress_of
from ..core.proof import Proof, Status, sentence
from ..core.signals import ending_in_order
from ..host.client_programs import tool_version
from ..host.commands import Commands, commands_in
from ..postgres.admitted import not_admitted
from ..postgres.could_not_run import advised
from ..postgres.hash_partitions import scattered
from ..postgres.progress_meters import DumpMeter
from ..postgres.restorable import read_obstacles
from ..postgres.sequences import read_values
from ..postgres.session import connect, giving_back_locks, server_reason, transaction
from ..runs.work import Work
from . import dump, manifest
from .baseline import Baseline, as_text, export_snapshot, read_baseline, read_identity
from .dump import Dumped, DumpFile, Limits, dumping, verify_dump
from .schema_text import schema_of_dump

BASELINE_PROOF = "baseline.documented"
SAVED_PROOF = "backup.saved"
DECODED_PROOF = "backup.decoded"
RESTORABLE_PROOF = "backup.restorable"
TITLES = {
    BASELINE_PROOF: "The pre-migration state is documented",
    SAVED_PROOF: "The database backup is saved",
    DECODED_PROOF: "The backup was read back and decoded in full",
    RESTORABLE_PROOF: "The backup can be restored",
}
NOT_YET = "Saved and readable, not yet restored."
RESTORE_IT = "Restore it for proof: the readiness playbook with -e readiness_restore=true."


@dataclass(frozen=True)
class BackupPlan:
    """What is dumped and recorded, and where."""

    work: Work
    label: str
    inside: bool
    observations: list[Mapping[str, Any]]
    changed: Mapping[str, Any]
    bookkeeping_table: str
    timeout_s: int

    @property
    def run(self) -> Run:
        """The run that the module was called for."""
        return self.work.run

    @property
    def paths(self) -> dict[str, Path]:
        """The files of this run."""
        return manifest.paths(self.run, self.label)

    @property
    def dump(self) -> Limits:
        """Who dumps, under which name, and for how long."""
        return Limits(self.work.login, f"dbrelease-dump-{self.run.run_id}"[:63], self.inside, self.timeout_s)


def back_up(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """The module's act; `changed` is false only where this run's backup exists already and is whole."""
    container = params["db_container"]
    plan = BackupPlan(
        Work.of(params, check_mode),
        params["label"],
        bool(container),
        params["observations"],
        params.get("changed") or {},
        params["bookkeeping_table"],
        params["timeout_seconds"],
    )
    if check_mode:
        return _planned(plan)
    existing = _existing(plan)
    if existing is not None:
        return existing
    commands = commands_in(container)
    with plan.work.journal.step("backup") as step, plan.work.alone_on_database(), ending_in_order():
        tool = tool_version(commands, "pg_dump")
        tool_version(commands, "pg_restore")
        temporary = temporary_name(plan.paths["path"], plan.run.run_id)
        try:
            baseline, dumped = _take(plan, commands, temporary, step)
            result = _keep(plan, commands, tool, baseline, dumped, step)
        finally:
            temporary.unlink(missing_ok=True)
    return result


def _take(plan: BackupPlan, commands: Commands, temporary: Path, step: Step) -> tuple[Baseline, Dumped]:
    """Read the baseline while pg_dump runs; the snapshot's session is closed when this returns or raises."""
    # Only this run writes under this name: a file of that name was left when it was killed.
    temporary.unlink(missing_ok=True)
    try:
        with (
            closing(connect(plan.work.login, f"dbrelease-baseline-{plan.run.run_id}"[:63])) as connection,
            transaction(connection, read_only=True, isolation="REPEATABLE READ") as cursor,
        ):
            snapshot = export_snapshot(cursor)
            # A locked table must not keep this session open, and with it hold back the vacuum of the whole server.
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{dump.LOCK_WAIT_LIMIT_MS}ms",))
            # Before pg_dump reads them: no snapshot covers them, and the dump must not be behind what is recorded.
            sequences = read_values(cursor)
            admission = not_admitted(plan.work.login, plan.run.run_id)
            obstacles = " ".join(filter(None, [admission, _obstacles(cursor)]))
            limits = replace(plan.dump, by_root=bool(scattered(cursor)))
            file = DumpFile(temporary)
            meter = DumpMeter(plan.work.login, limits.application_name, lambda: file.bytes)
            with (
                progress_of(plan.run, "dump", meter, step),
                dumping(commands, file, snapshot, limits) as dumped_meanwhile,
            ):
                with plan.work.journal.step("baseline") as inner:
                    baseline = _document(plan, cursor, inner)
                dumped = dumped_meanwhile.result()
    except psycopg2.Error as error:
        advice = advised(
            error,
            "check that the database runs, that db_user may read all of it, and that no session keeps a table locked.",
        )
        raise ReleaseError(
            f"Reading the baseline of the {plan.work.login.label} failed ({server_reason(error)}): {advice}"
        ) from error
    return Baseline(
        {**baseline.facts, "sequences": sequences, "obstacles": obstacles, "by_root": limits.by_root}
    ), dumped


def _obstacles(cursor: RealDictCursor) -> str:
    """What is known to stop a restore, in sentences; or why that cannot be checked."""
    try:
        with giving_back_locks(cursor):
            return read_obstacles(cursor).words()
    except psycopg2.Error as error:
        if cursor.connection.closed:
            raise
        return f"It could not be checked what would stop a restore ({server_reason(error)})."


def _restorable(obstacles: str) -> Proof:
    """Only a restore proves it; until then it is inconclusive."""
    detail = f"{NOT_YET} {obstacles}".strip()
    return replace(_proof(RESTORABLE_PROOF, "inconclusive", detail), remedy=RESTORE_IT)


def _document(plan: BackupPlan, cursor: RealDictCursor, step: Step) -> Baseline:
    baseline = read_baseline(cursor, plan.observations, plan.bookkeeping_table, plan.changed)
    files = {key: str(plan.paths[key]) for key in ("json", "txt")}
    kept = json_text(baseline.facts, indent=1, default=str) + "\n"
    write_private(plan.paths["json"], kept, plan.run.run_id)
    write_private(plan.paths["txt"], as_text(baseline), plan.run.run_id)
    step.facts.update({key: value for key, value in baseline.facts.items() if key != "settings"}, files=files)
    summary = baseline.summary()
    step.prove(
        _proof(
            BASELINE_PROOF,
            "pass",
            f"{summary['row_count']} rows in {summary['table_count']} tables, "
            f"{len(plan.observations)} observations: {files['txt']}.",
            observed={key: summary[key] for key in ("table_count", "row_count", "revision")},
        )
    )
    return baseline


def _keep(
    plan: BackupPlan, commands: Commands, tool: str, baseline: Baseline, dumped: Dumped, step: Step
) -> dict[str, Any]:
    """Decode what is on disk, then give it its name, then write the manifest."""
    path = plan.paths["path"]
    read = Counter(total=dumped.bytes)
    with progress_of(plan.run, "decode", read, step):
        decoded = verify_dump(dumped.path, dumped.sha256, commands, plan.timeout_s, read.advance_to)
    catalog = _catalog(plan, commands, baseline, dumped.path)
    try:
        publish(dumped.path, path)
    except OSError as error:
        raise write_failure(path, error) from error
    content = manifest.build(plan.run, plan.label, baseline, tool, dumped, decoded, path.name)
    try:
        manifest.write(plan.paths["manifest"], content, plan.run.run_id)
    except ReleaseError:
        # Without its manifest it is no backup, and must not look like one.
        if not os.path.lexists(plan.paths["manifest"]):
            path.unlink(missing_ok=True)
        raise
    proofs = [
        _proof(SAVED_PROOF, "pass", f"{path}, {dumped.bytes} bytes, sha256 {dumped.sha256}.", observed=dumped.sha256),
        _proof(DECODED_PROOF, "pass", f"pg_restore decoded all {decoded.bytes} bytes.", observed=decoded.sha256),
        _restorable(baseline.facts["obstacles"]),
    ]
    facts = {**_facts(plan, content, baseline.facts["server_version"]), "duration_ms": dumped.duration_ms}
    step.facts.update(facts, **catalog)
    step.prove(*proofs)
    documented = _proof(BASELINE_PROOF, "pass", f"See {plan.paths['txt']}.")
    return _result(plan, changed=True, facts=facts, baseline=baseline.summary(), proofs=[documented, *proofs])


def _catalog(plan: BackupPlan, commands: Commands, baseline: Baseline, path: Path) -> dict[str, Any]:
    """The objects at the same instant, for the comparison after a rollback.

    Other users may have made objects of any size: where they cannot be read, that comparison is inconclusive, and the
    backup is still good.
    """
    try:
        schema = schema_of_dump(path, commands, plan.timeout_s, whole=True)
    except (ReleaseError, OSError) as error:
        return {"no_catalog": str(error)}
    return {"catalog": schema.with_unsaid(baseline.facts["unsaid"]).facts()}


def _facts(plan: BackupPlan, content: manifest.Manifest, server_version: str) -> dict[str, Any]:
    return {
        "path": str(plan.paths["path"]),
        "manifest": str(plan.paths["manifest"]),
        "sha256": content["sha256"],
        "bytes": content["bytes"],
        "duration_ms": 0,
        "tool_version": content["tool_version"],
        "server_version": server_version,
        "decoded": True,
    }


def _existing(plan: BackupPlan) -> dict[str, Any] | None:
    """The result of this run's backup where it exists and is whole; raises ReleaseError where its names are taken."""
    content = manifest.read(plan.paths["manifest"])
    if content is None:
        taken = next((path for path in plan.paths.values() if os.path.lexists(path)), None)
        if taken is not None:
            raise _refused(plan.work.journal, f"{taken} exists without a manifest, and a run never overwrites a file")
        return None
    if content["run_id"] != plan.run.run_id:
        raise _refused(plan.work.journal, f"{plan.paths['manifest']} belongs to run {content['run_id']}")
    if manifest.hash_file(plan.paths["path"]) != (content["sha256"], content["bytes"]):
        raise _refused(plan.work.journal, f"{plan.paths['path']} is not what its manifest says")
    facts = _facts(plan, content, content["server_version"])
    try:
        baseline = json.loads(read_own(plan.paths["json"]))
    except (OSError, ValueError) as error:
        raise _refused(plan.work.journal, f"the baseline {plan.paths['json']} cannot be read") from error
    detail = "This run's backup exists already and has the sha256 of its manifest."
    proofs = [
        _proof(name, "pass", detail, observed=content["sha256"]) for name in TITLES if name != RESTORABLE_PROOF
    ] + [_restorable("")]
    plan.work.journal.append("backup", "skipped", {**facts, "proofs": [proof.as_dict() for proof in proofs]})
    return _result(plan, changed=False, facts=facts, baseline=Baseline(baseline).summary(), proofs=proofs)


def _refused(journal: Journal, reason: str) -> ReleaseError:
    error = ReleaseError(f"Taking the backup was refused ({reason}): start a new run.", refused=True)
    journal.append("backup", "refused", {"message": error.message})
    return error


def _planned(plan: BackupPlan) -> dict[str, Any]:
    """Check mode: what would be dumped, and how large it is at most; reads, and writes nothing."""
    with (
        closing(connect(plan.work.login, f"dbrelease-plan-{plan.run.run_id}"[:63])) as connection,
        transaction(connection, read_only=True) as cursor,
    ):
        identity = read_identity(cursor)
    facts = {
        **{key: str(plan.paths[key]) for key in ("path", "manifest")},
        "sha256": "",
        "bytes": 0,
        "duration_ms": 0,
        "tool_version": "",
        "server_version": identity["server_version"],
        "decoded": False,
    }
    proofs = [_proof(name, "skipped", "Planned; check mode takes no backup.") for name in TITLES]
    return _result(plan, changed=True, facts=facts, baseline=identity, proofs=proofs)


def _result(
    plan: BackupPlan, *, changed: bool, facts: dict[str, Any], baseline: dict[str, Any], proofs: list[Proof]
) -> dict[str, Any]:
    listed = [proof.as_dict() for proof in proofs]
    # Not `path`: Ansible adds a file's owner, mode and size to a result that has that key.
    renamed = {("dump" if key == "path" else key): value for key, value in facts.items()}
    return {
        "changed": changed,
        **renamed,
        "files": {key: str(plan.paths[key]) for key in ("json", "txt")},
        "baseline": baseline,
        "proofs": listed,
        "message": sentence(listed),
    }


def _proof(name: str, status: Status, detail: str, *, observed: object = None) -> Proof:
    return Proof(name, TITLES[name], status, observed=observed, detail=detail)
