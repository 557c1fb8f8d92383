"""Which backup is to be restored, and that its file is what its manifest says: every refusal that needs no server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backup import manifest
from ..backup.dump import verify_dump
from ..backup.manifest import Manifest
from ..core.errors import ReleaseError
from ..core.journal import Run, last_facts
from ..core.own_files import kept_in
from ..core.proof import Proof
from ..host.commands import Commands
from ..postgres.fingerprints import READING

BACKUP_PROOF = "restore.backup"
WAIVER = "restore_unknown_backup"
MAGIC = b"PGDMP"
NEEDED = {
    "release",
    "label",
    "environment",
    "database",
    "revision",
    "server_version",
    "tool_version",
    "settings",
    "tables",
}


@dataclass(frozen=True)
class Backup:
    """A dump and its manifest."""

    path: Path
    content: Manifest

    @property
    def manifest_path(self) -> Path:
        """Beside the dump."""
        return manifest_beside(self.path)


@dataclass(frozen=True)
class Demand:
    """The journal must know a dump, because restoring one runs the code in it, as the role that restores.

    known: the hashes that backups of this target have. waived: by restore_unknown_backup=true.
    """

    state_dir: str
    role: str
    known: frozenset[str]
    waived: bool = False

    @classmethod
    def of(cls, events: Sequence[Mapping[str, Any]], run: Run, role: str, *, waived: bool) -> Demand:
        """By the lines of the journal."""
        made = (line["facts"] for line in events if line["step"] == "backup" and line["event"] in ("passed", "skipped"))
        hashes = frozenset(facts["sha256"] for facts in made if isinstance(facts.get("sha256"), str))
        return cls(run.state_dir, role, hashes, waived)

    def check(self, path: Path, sha256: str) -> None:
        """Raises a refusal."""
        if sha256 not in self.known and not self.waived:
            raise refused(
                f"the journal of {self.state_dir} knows no backup with the sha256 {sha256[:12]}... of {path.name}, so "
                "its origin is unknown",
                f"name a backup of this target, or, if you trust the origin of this one, allow it with "
                f"-e {WAIVER}=true: restoring a dump runs the code in it as the database role {self.role}",
            )

    def note(self, sha256: str) -> str:
        """For the proof."""
        return "" if sha256 in self.known else f" The journal does not know it: {WAIVER} allowed it."


def refused(reason: str, advice: str, **facts: Any) -> ReleaseError:
    """The sentence for a restore that is refused."""
    return ReleaseError(f"Restoring was refused ({reason}), and nothing was touched: {advice}.", refused=True, **facts)


def manifest_beside(dump: Path) -> Path:
    """The manifest's name for a dump's."""
    return dump.with_name(f"{dump.name.removesuffix('.dump')}.manifest.json")


def find_backup(given: str, run: Run, events: list[dict[str, Any]]) -> Path:
    """The requested file, else that of the last backup of this release in this environment.

    Raises a refusal for a file outside the state directory, where other users may write.
    """
    another = "name one with restore_backup=FILE"
    if given:
        path = Path(run.state_dir) / given
        if ".." in path.parts or not path.is_relative_to(run.state_dir):
            raise refused(
                f"{given} is not in the state directory {run.state_dir}",
                "name a file there, or copy the dump and its manifest there as the deploying user",
            )
        return path
    try:
        facts = last_facts(events, release=run.release, environment=run.environment, step="backup")
    except ReleaseError as error:
        raise refused(error.message.rstrip("."), another) from error
    if facts is None:
        raise refused(
            f"the journal of {run.state_dir} knows no backup of release {run.release} in {run.environment}", another
        )
    return kept_in(run.state_dir, facts["path"])


def read_backup(path: Path, run: Run, label: str, database: str) -> Backup:
    """The dump with its manifest, which is of this release and database; raises a refusal otherwise."""
    another = "name the dump of a backup with restore_backup=FILE"
    try:
        found = path.is_file()
    except OSError as error:
        raise refused(f"checking the file {path} failed ({error.strerror})", another) from error
    if not found:
        raise refused(f"there is no file {path}", another)
    beside = manifest_beside(path)
    try:
        content = manifest.read(beside)
    except ReleaseError as error:
        raise refused(error.message.rstrip("."), another) from error
    if content is None:
        raise refused(f"{path} has no manifest {beside.name} beside it: it is no backup of this program", another)
    if missing := sorted(NEEDED - content.keys()):
        raise refused(f"the manifest {beside} lacks {', '.join(missing)}", another)
    expected = {
        "release": run.release,
        "label": label,
        "environment": run.environment,
        "database": database,
        "file": path.name,
    }
    for key, value in expected.items():
        if content[key] != value:
            raise refused(f"the backup {path.name} is of {key} {content[key]}, not {value}", another)
    if content.get("reading") != READING:
        raise refused(
            f"the backup {path.name} was made by another version of this program, which hashed rows differently",
            "restore it by that version",
        )
    return Backup(path, content)


def verify_backup(backup: Backup, commands: Commands, timeout_s: int, demand: Demand) -> Proof:
    """The file has exactly the bytes that were dumped, and pg_restore can decode them; raises a refusal otherwise.

    Before any program reads them, the journal must know them, unless this is waived.
    """
    path, content = backup.path, backup.content
    another = "use another backup"
    try:
        sha256, size, magic = manifest.read_manifest_file(path, len(MAGIC))
    except ReleaseError as error:
        raise refused(error.message.rstrip("."), another) from error
    if size != content["bytes"]:
        raise refused(
            f"{path.name} has {size} bytes, its manifest says {content['bytes']}: it was cut or changed", another
        )
    if sha256 != content["sha256"]:
        raise refused(
            f"{path.name} has sha256 {sha256[:12]}..., its manifest says {content['sha256'][:12]}...: it was changed",
            another,
        )
    if magic != MAGIC:
        raise refused(f"{path.name} is no dump in PostgreSQL's custom format", another)
    demand.check(path, sha256)
    if not _was_decoded(content, sha256):
        try:
            verify_dump(path, sha256, commands, timeout_s)
        except ReleaseError as error:
            raise refused(error.message.rstrip("."), another) from error
    return Proof(
        BACKUP_PROOF,
        "The backup is whole, and is this release's",
        "pass",
        expected=content["sha256"],
        observed=sha256,
        detail=f"{path}, {size} bytes, of {content.get('snapshot_at', 'an unknown time')}, run {content['run_id']}."
        f"{demand.note(sha256)}",
    )


def _was_decoded(content: Manifest, sha256: str) -> bool:
    """Whether exactly these bytes were decoded in full when they were dumped: the same bytes decode again."""
    decoded = content.get("decoded") or {}
    return bool(decoded) and decoded.get("sha256") == sha256
