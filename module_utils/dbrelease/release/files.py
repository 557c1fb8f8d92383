"""The files of a release: regular files in its folder, of a size that a release has, read once and without waiting."""

from __future__ import annotations

import os
import stat
from pathlib import Path

# A migration, a script, a list of codes: what is larger is no part of a change that somebody has reviewed.
LIMIT_BYTES = 4 << 20
MIB = 1 << 20


class UnfitError(Exception):
    """Why a file is none that a release may have; its text is what was found."""


def read_file(directory: Path, name: str, limit: int = LIMIT_BYTES) -> bytes:
    """What the file of a release holds; raises UnfitError, and OSError where it cannot be read."""
    folder = directory.resolve()
    try:
        path = (folder / name).resolve()
    except RuntimeError as error:
        raise UnfitError(f"`{name}`, whose links lead in a circle") from error
    if not path.is_relative_to(folder):
        raise UnfitError(f"`{name}`, which leads out of it")
    # The way is resolved: a link in its last place was put there since. What nobody writes to is not waited for.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise UnfitError(f"no file `{name}` there") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnfitError(f"`{name}`, which is no regular file")
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UnfitError(f"`{name}`, which is larger than {limit // MIB} MiB")
    return content


def place_of(directory: Path, name: str) -> Path:
    """The file itself, with no link in the way to it."""
    return (directory / name).resolve()
