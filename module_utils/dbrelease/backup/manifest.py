"""The manifest of a backup: written last, so that a dump without one is no backup."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..core.display import json_text
from ..core.errors import ReleaseError
from ..core.files import replace_private, write_private
from ..core.journal import Run, stamp, utc_now
from ..core.json_shape import EACH, difference
from ..core.own_files import read_own, reading
from ..host.commands import CHUNK
from .baseline import Baseline
from .dump import FORMAT, Decoded, Dumped

Manifest = dict[str, Any]
# The keys written by build() that are read. Older manifests lack some of them.
SHAPE = {
    "run_id": str,
    "file": str,
    "sha256": str,
    "bytes": int,
    "snapshot_at?": str,
    "revision?": str,
    "server_version?": str,
    "tool_version?": str,
    "database_bytes?": (int, None),
    "settings?": {
        "owner": str,
        "encoding": str,
        "collate": str,
        "ctype": str,
        "acl?": ([str], None),
        "comment?": (str, None),
        "locale_provider?": (str, None),
        "locale?": (str, None),
        "icu_rules?": (str, None),
        "tablespace?": (str, None),
        "connection_limit?": int,
        "database_settings?": ([str], None),
        "role_settings?": ({EACH: [str]}, None),
    },
    "sequences?": ({EACH: {"last_value": int, "increment": int}}, None),
    "tables?": {EACH: {"rows": int, "fingerprint": str, "columns": [str]}},
    "decoded?": ({"sha256?": str}, None),
    "by_root?": bool,
    "restored?": ({"schema_sha256?": str}, None),
}


def paths(run: Run, label: str) -> dict[str, Path]:
    """The files of one run's baseline and backup, by kind."""
    folder, moment = Path(run.state_dir), stamp(run.run_id)
    backup = f"backup_before_{label}_{moment}"
    return {
        "path": folder / f"{backup}.dump",
        "manifest": folder / f"{backup}.manifest.json",
        "json": folder / f"pre_migration_state_{moment}.json",
        "txt": folder / f"pre_migration_state_{moment}.txt",
    }


def build(run: Run, label: str, baseline: Baseline, tool: str, dumped: Dumped, decoded: Decoded, name: str) -> Manifest:
    """Return all that a restore, and the comparison with the restored database, need."""
    facts = baseline.facts
    now = utc_now().isoformat(timespec="milliseconds")
    return {
        "release": run.release,
        "label": label,
        "environment": run.environment,
        "run_id": run.run_id,
        "created_at": now,
        "snapshot_at": facts["taken_at"],
        "file": name,
        "sha256": dumped.sha256,
        "bytes": dumped.bytes,
        "format": FORMAT,
        "tool_version": tool,
        **{
            key: facts[key]
            for key in (
                "reading",
                "server_version",
                "system_identifier",
                "database",
                "database_oid",
                "database_bytes",
                "revision",
                "xid",
                "settings",
                "sequences",
            )
        },
        "tables": {
            table: {key: state[key] for key in ("rows", "fingerprint", "columns")}
            for table, state in facts["tables"].items()
        },
        "decoded": {"at": now, "bytes": decoded.bytes, "sha256": decoded.sha256, "duration_ms": decoded.duration_ms},
        "by_root": facts.get("by_root", False),
        "restored": None,
    }


def write(path: Path, manifest: Manifest, run_id: str) -> None:
    """Write it completely or not at all; raises ReleaseError."""
    write_private(path, json_text(manifest, indent=1, default=str) + "\n", run_id)


def mark_restored(path: Path, manifest: Manifest, restored: dict[str, Any], run_id: str) -> None:
    """Record in the manifest that, when and as what the backup was restored and compared; raises ReleaseError."""
    text = json_text({**manifest, "restored": restored}, indent=1, default=str) + "\n"
    replace_private(path, text.encode("utf-8", "replace"), run_id)


def read(path: Path) -> Manifest | None:
    """Read the manifest, or None if it is missing; raises ReleaseError if it is invalid, or not this user's alone."""
    try:
        manifest: Manifest = json.loads(read_own(path).decode())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ReleaseError(f"Reading the manifest {path} failed ({error}): use another backup.") from error
    if wrong := difference(manifest, SHAPE):
        raise ReleaseError(f"Reading the manifest {path} failed ({wrong}): use another backup.")
    return manifest


def hash_file(path: Path) -> tuple[str, int]:
    """Return a file's sha256 and size; raises ReleaseError if it cannot be read, or is not this user's alone."""
    return read_manifest_file(path)[:2]


def read_manifest_file(path: Path, beginning: int = 0) -> tuple[str, int, bytes]:
    """Return the same, and its first bytes, `beginning` of them."""
    digest, size, begins = hashlib.sha256(), 0, b""
    try:
        with reading(path) as file:
            while data := file.read(CHUNK):
                begins = begins or data[:beginning]
                digest.update(data)
                size += len(data)
    except OSError as error:
        raise ReleaseError(f"Reading {path} failed ({error.strerror}): use another backup.") from error
    return digest.hexdigest(), size, begins
