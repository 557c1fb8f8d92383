"""The files of the evidence: each renders the one model, is complete or absent, and private to the deploying user."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..core.errors import ReleaseError
from ..core.files import create_private, sync_directory, temporary_name, write_failure
from ..core.own_files import read_own
from .junit import as_junit
from .markdown_report import as_markdown
from .model import Model


def as_json(model: Model) -> str:
    """The model itself."""
    return json.dumps(model, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


RENDERERS: dict[str, Callable[[Model], str]] = {
    "evidence.json": as_json,
    "report.md": as_markdown,
    "junit.xml": as_junit,
}


def is_written(model: Model, folder: Path) -> bool:
    """Whether every rendering of the model is already written."""
    return all(_holds(path, data) for path, data in _rendered(model, folder).items())


def write_evidence(model: Model, folder: Path) -> None:
    """Write every rendering; none gets its final name before all of them were read back."""
    rendered = _rendered(model, folder)
    temporaries = {path: temporary_name(path, model["run"]["run_id"]) for path in rendered}
    path = folder
    try:
        for path, data in rendered.items():
            _write(temporaries[path], data)
        for path, temporary in temporaries.items():
            temporary.replace(path)
        sync_directory(folder)
    except OSError as error:
        raise write_failure(path, error) from error
    finally:
        with suppress(OSError):  # then there is no file to remove
            for temporary in temporaries.values():
                temporary.unlink(missing_ok=True)


def _rendered(model: Model, folder: Path) -> dict[Path, bytes]:
    return {folder / name: render(model).encode("utf-8", "replace") for name, render in RENDERERS.items()}


def _holds(path: Path, data: bytes) -> bool:
    try:
        return read_own(path) == data
    except OSError:
        return False


def _write(temporary: Path, data: bytes) -> None:
    if temporary.parent.is_dir():
        temporary.unlink(missing_ok=True)  # left by this run, when it was killed while writing
    with os.fdopen(create_private(temporary), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if read_own(temporary) != data:
        raise ReleaseError(
            f"Writing {temporary} failed (it reads back differently): check the disk, and rerun the playbook."
        )
