"""The content of the files that a release brings, read on the controller, for a module that works on the target."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import ReleaseError
from .files import UnfitError, read_file


def with_content(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item of the payload with its `content` in base64; raises a refusal where the file has changed since."""
    path = Path(item["path"])
    try:
        content = read_file(path.parent, path.name)
        why = "" if hashlib.sha256(content).hexdigest() == item["sha256"] else "it has changed since the run started"
    except UnfitError as error:
        why = f"found {error}"
    except OSError as error:
        why = error.strerror or "it cannot be read"
    if why:
        raise ReleaseError(
            f"Reading {path} was refused ({why}), and nothing was copied: rerun the playbook.", refused=True
        )
    return {**item, "content": base64.b64encode(content).decode()}
