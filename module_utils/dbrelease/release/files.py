"""Read the files of a release: regular files in its folder, of a limited size, read once and without waiting."""

from __future__ import annotations

import os
import stat
from pathlib import Path

# A migration, a script, a list of codes: a larger file is not part of a change that was reviewed.
LIMIT_BYTES = 4 << 20
MIB = 1 << 20


class UnfitError(Exception):
    """A file that a release may not have; the text is what was found."""


def read_file(directory: Path, name: str, limit: int = LIMIT_BYTES) -> bytes:
    """Read a file of a release; raises UnfitError, and OSError where it cannot be read."""
    folder = directory.resolve()
    try:
        path = (folder / name).resolve()
    except RuntimeError as error:
        raise UnfitError(f"`{name}`, whose links form a loop") from error
    if not path.is_relative_to(folder):
        raise UnfitError(f"`{name}`, which leads out of it")
    # The path is resolved, so a link there is new. Opening a FIFO that has no writer must not wait.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise UnfitError(f"no file `{name}` there") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnfitError(f"`{name}`, which is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UnfitError(f"`{name}`, which is larger than {limit // MIB} MiB")
    return content


def place_of(directory: Path, name: str) -> Path:
    """The file's path, with all links resolved."""
    return (directory / name).resolve()
