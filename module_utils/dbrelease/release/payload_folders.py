"""Where the files of a release may be copied: only below the folders that the inventory names."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ..core.errors import ReleaseError
from .documents import items
from .schema_errors import found_text
from .yaml_reader import Problem

FOLDER = re.compile(r"(?:/[^/\x00-\x1f\x7f-\x9f\u2028\u2029]+)+\Z")


def checked_folders(folders: Sequence[str]) -> tuple[str, ...]:
    """Return the folders of the inventory; raises ReleaseError for one that would not confine a path below it."""
    for folder in folders:
        if not isinstance(folder, str) or not FOLDER.match(folder) or posixpath.normpath(folder) != folder:
            raise ReleaseError(
                f"Reading payload_folders of the inventory was refused ({folder!r:.100} is not a folder below / "
                "without . and .. in its path), and nothing was touched: correct it, and rerun the playbook.",
                refused=True,
            )
    return tuple(folders)


def folder_of(destination: str, folders: Sequence[str]) -> str:
    """The folder that contains the destination; empty where none does."""
    place = PurePosixPath(destination)
    return next((folder for folder in folders if PurePosixPath(folder) in place.parents), "")


def strays(release: Mapping[str, Any], folders: Sequence[str], shown: str) -> Iterator[Problem]:
    """The destinations of the payload that are below none of the folders."""
    for index, item in enumerate(items(release, "migration", "payload")):
        destination = item.get("destination")
        if isinstance(destination, str) and not folder_of(destination, folders):
            expected = f"a path below {' or '.join(folders)} (payload_folders of the inventory)" if folders else (
                "nothing, because payload_folders of the inventory names no folder"
            )  # fmt: skip
            yield Problem(shown, f"migration.payload[{index}].destination", expected, found_text(destination))
