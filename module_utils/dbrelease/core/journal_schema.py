"""What lines of the journal must contain for later readers, by their step; not everything in it may be ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .json_shape import EACH, Shape, difference

_POSITION: Shape = {"xid": int, "running?": int, "since?": int, "tables": {EACH: {"updated": int, "deleted": int}}}
_WRITERS: Shape = {"own": [[int]], "others": [[int]], "single": [[int]]}
_MOVE: Shape = {
    "before?": (_POSITION, None),
    "after?": (_POSITION, None),
    "writers?": (_WRITERS, None),
    "made_when_started?": ([str], None),
}
_TABLE: Shape = {
    **{"rows": int, "fingerprint": str, "columns": [str], "oid?": int},
    **{"inserted": int, "updated": int, "deleted": int},
}
FACTS: Mapping[str, Shape] = {
    "run": {"asked?": ([str], None), "controller?": ({"pid?": (int, None)}, None)},
    "baseline": {
        "xid": int,
        "tables": {EACH: _TABLE},
        "database_oid?": (int, None),
        "counted_since?": str,
        "catalog?": ([str], None),
        "untrusted?": ([str], None),
        "observations?": ([{"name": str, "title": str, "sql": str, "rows": [{}]}], None),
    },
    "backup": {"path": str, "manifest": str, "sha256": str, "bytes": int},
    "rehearse": {"advice?": ([str], None)},
    "upgrade": _MOVE,
    "downgrade": _MOVE,
    "guards": {"migration_xids?": ([int], None)},
    "finalize": {"transactions?": ([int], None)},
    "lost_rows": {"rows": int, "session_settings": {}, "files": [{"path": str, "sha256": str}], "proofs": [{}]},
    # Without containers where another run gave the step its end.
    "restore.services": {"containers?": [str], "stop_seconds?": int, "maintenance_db?": str},
}


def schema_error(line: Mapping[str, Any], step: str = "") -> str:
    """How the facts of a line differ from the schema of its step, or of `step`; empty where they fit."""
    return difference(line["facts"], FACTS.get(step or line["step"], {}), "facts")
