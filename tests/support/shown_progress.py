"""What a module shows of its progress while it works, read as soon as it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core import progress
from ansible.module_utils.dbrelease.core.files import replace_private


def shown_progress(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every state of the file of progress from here on; also a step of a moment is measured."""
    shown: list[dict[str, Any]] = []

    def record(path: Path, content: bytes, *arguments: Any, **options: Any) -> None:
        if path.name == progress.FILE_NAME:
            shown.append(json.loads(content))
        replace_private(path, content, *arguments, **options)

    monkeypatch.setattr(progress, "replace_private", record)
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    return shown
