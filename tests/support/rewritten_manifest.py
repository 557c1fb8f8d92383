"""A backup's manifest, written anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def manifest_of(dump: Path) -> Path:
    return dump.with_name(dump.name.replace(".dump", ".manifest.json"))


def rewrite(dump: Path, **changes: Any) -> None:
    path = manifest_of(dump)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
