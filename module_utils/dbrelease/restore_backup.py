"""Which backup is to be restored, and that its file is what its manifest says: all refusals that need no server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import manifest
from .commands import Commands
from .dump import verify_dump
from .errors import ReleaseError
from .fingerprints import READING
from .journal import Run, last_facts
from .manifest import Manifest
from .proof import Proof

BACKUP_PROOF = "restore.backup"
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
    """A dump and what its manifest says of it."""

    path: Path
    content: Manifest

    @property
    def manifest_path(self) -> Path:
        """Beside the dump."""
        return manifest_beside(self.path)


def refused(reason: str, advice: str, **facts: Any) -> ReleaseError:
    """The sentence for a restore that is not begun."""
    return ReleaseError(f"Restoring was refused ({reason}), and nothing was touched: {advice}.", refused=True, **facts)


def manifest_beside(dump: Path) -> Path:
    """The manifest's name for a dump's."""
    return dump.with_name(f"{dump.name.removesuffix('.dump')}.manifest.json")


def find_backup(given: str, run: Run, events: list[dict[str, Any]]) -> Path:
    """The file that was asked for, else that of the last backup of this release in this environment."""
    if given:
        return Path(run.state_dir) / given
    another = "name one with restore_backup=FILE"
    try:
        facts = last_facts(events, release=run.release, environment=run.environment, step="backup")
    except ReleaseError as error:
        raise refused(error.message.rstrip("."), another) from error
    if facts is None:
        raise refused(
            f"the journal of {run.state_dir} knows no backup of release {run.release} in {run.environment}", another
        )
    return Path(facts["path"])


def read_backup(path: Path, run: Run, label: str, database: str) -> Backup:
    """The dump with its manifest, which is of this release and database; raises a refusal otherwise."""
    another = "name the dump of a backup with restore_backup=FILE"
    try:
        found = path.is_file()
    except OSError as error:
        raise refused(f"looking for the file {path} failed ({error.strerror})", another) from error
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
            f"the backup {path.name} was made by another version of this program, which hashed rows otherwise",
            "restore it by that version",
        )
    return Backup(path, content)


def verify_backup(backup: Backup, commands: Commands, timeout_s: int) -> Proof:
    """The file holds the very bytes that were dumped, and pg_restore can decode them; raises a refusal otherwise."""
    path, content = backup.path, backup.content
    another = "use another backup"
    try:
        sha256, size = manifest.hash_file(path)
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
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
        detail=f"{path}, {size} bytes, of {content.get('snapshot_at', 'an unknown time')}, run {content['run_id']}.",
    )


def _was_decoded(content: Manifest, sha256: str) -> bool:
    """Whether exactly these bytes were decoded in full when they were dumped: the same bytes decode again."""
    decoded = content.get("decoded") or {}
    return bool(decoded) and decoded.get("sha256") == sha256
