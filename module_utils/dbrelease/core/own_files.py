"""Files that are ours alone: in folders that no other user may write, opened without following a link, or refused.

A user who may write a folder may replace a file by a link, and then we would read, fill or empty its target. So each
folder from the root down belongs to root or to the deploying user, and no other user may write it; what is below cannot
be exchanged between a check and an opening. The files themselves are checked once they are open.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import ReleaseError

ROOT_UID = 0
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
MOST_LINKS = 40
# Of what is read into memory as a whole: a manifest, a baseline, evidence.
MOST_BYTES = 256 << 20
SEE_WHO = "find out who created it, and remove it"
ADVICE = "set release_state_dir to a folder of the deploying user or of root, such as /var/lib/dbrelease"


@dataclass(frozen=True)
class Finding:
    """What is wrong with a path, and what to do about it."""

    what: str
    remedy: str


def owner_of(status: os.stat_result) -> int:
    """The user that a file belongs to."""
    return status.st_uid


def is_ours(status: os.stat_result) -> bool:
    """Whether a file belongs to this process' user, or to root, who may write everything anyway."""
    return owner_of(status) in (os.geteuid(), ROOT_UID)


def finding_on(folder: str | Path) -> Finding | None:
    """Why another user could change a folder's content, or create it if it is missing; None where none can.

    A link above it is followed where only root can have made it, as /var/run is one; the folder itself must not be one.
    """
    whole = Path(folder) if Path(folder).is_absolute() else Path.cwd() / folder
    here, names, links = Path("/"), _names(whole), 0
    if found := _finding_on_one(here, here.lstat()):
        return found
    while names:
        name = names.pop()
        # Behind a link it is another folder than its text names.
        path = here.parent if name == ".." else here / name
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None  # it does not exist yet, and no other user can create it here; or the kernel will refuse it
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if not names or links > MOST_LINKS or not _is_roots(here, status):
                return Finding(f"{path} is a link", "find out who created it, and name the folder that it points to")
            leads_to = path.readlink()
            names += _names(leads_to)
            here = Path("/") if leads_to.is_absolute() else here
        elif found := _finding_on_one(path, status):
            return found
        else:
            here = path
    return _finding_on_one(here, here.lstat(), last=True)


def _names(path: Path) -> list[str]:
    """The last one first."""
    return [name for name in reversed(path.parts) if name != path.anchor]


def _finding_on_one(path: Path, status: os.stat_result, *, last: bool = False) -> Finding | None:
    if not is_ours(status):
        return Finding(f"{path} belongs to {name_of(owner_of(status))}", ADVICE)
    # In a folder like /tmp no user may replace another's entries; but any user may add some.
    if status.st_mode & OTHERS_WRITE and (last or not status.st_mode & stat.S_ISVTX):
        shared = status.st_mode & stat.S_ISVTX
        remedy = f"name a folder in it, or {ADVICE}" if shared else f"`chmod go-w {path}`, or {ADVICE}"
        return Finding(f"{path} is writable by {_writers(status)}", remedy)
    return None


def _is_roots(folder: Path, link: os.stat_result) -> bool:
    there = folder.lstat()
    return owner_of(link) == owner_of(there) == ROOT_UID and not there.st_mode & OTHERS_WRITE


def _writers(status: os.stat_result) -> str:
    """Where there is an access control list, the bits of the group say what it allows at most."""
    bits = {stat.S_IWGRP: "its group", stat.S_IWOTH: "others"}
    return " and ".join(who for bit, who in bits.items() if status.st_mode & bit)


def name_of(uid: int) -> str:
    """A user, for a sentence."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user id {uid}"


def demand_own_folder(folder: str | Path) -> None:
    """Raise ReleaseError where another user could change what is in a folder, or what is created there."""
    if found := finding_on(folder):
        raise ReleaseError(
            f"Using the folder {folder} on the target was refused ({found.what}, so others may change what is kept "
            f"there), and nothing was written: {found.remedy}, and rerun the playbook.",
            refused=True,
        )


def make_private_directory(path: Path) -> None:
    """The folder and its missing parents, each created with mode 0700; raises ReleaseError unless it is ours."""
    demand_own_folder(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    if missing:  # another process may have created it first
        demand_own_folder(path)


def open_own(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a file of ours, or with O_CREAT make it with mode 0600; never through a link.

    Raises OSError where that is not possible, and ReleaseError where the file or its folder is not ours alone.
    """
    demand_own_folder(path.parent)
    try:
        # A pipe in its place must not block us.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # Other systems than Linux report a link otherwise; a pipe without a reader cannot be opened for writing.
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise _not_ours(path, Finding("it is a link", SEE_WHO)) from error
        if error.errno == errno.ENXIO:
            raise _not_ours(path, Finding("it is no regular file", SEE_WHO)) from error
        raise
    try:
        if found := _finding_on_file(path, os.fstat(descriptor)):
            raise _not_ours(path, found)
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _finding_on_file(path: Path, status: os.stat_result) -> Finding | None:
    if not stat.S_ISREG(status.st_mode):
        return Finding("it is no regular file", SEE_WHO)
    if not is_ours(status):
        return Finding(
            f"it belongs to {name_of(owner_of(status))}",
            f"find out who created it; if it is yours, chown it to {_me()}",
        )
    if status.st_mode & OTHERS_WRITE:
        return Finding(
            f"it is writable by {_writers(status)}",
            f"check that it has the content that you expect, and `chmod go-w {path}`",
        )
    if status.st_nlink > 1:
        return Finding(f"it has {status.st_nlink} names", "find out where the others are, and replace it by a copy")
    return None


def _not_ours(path: Path, found: Finding) -> ReleaseError:
    return ReleaseError(
        f"Opening {path} was refused ({found.what}), and nothing was read or written there: {found.remedy}, and "
        "rerun the playbook.",
        refused=True,
    )


def _me() -> str:
    return name_of(os.geteuid()).removeprefix("user ")


def reading(path: Path) -> BinaryIO:
    """A file of ours, open to be read; see open_own."""
    return os.fdopen(open_own(path), "rb")


def read_own(path: Path, limit: int = MOST_BYTES) -> bytes:
    """What is in a file of ours; see open_own. Raises ReleaseError where it is larger than the limit."""
    with reading(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ReleaseError(
            f"Reading {path} was refused (it is larger than {limit} bytes): find out what wrote to it.", refused=True
        )
    return data


def kept_in(folder: str | Path, name: str) -> Path:
    """The path of a file that a record names: only its file name counts, in the folder that has the record.

    The state directory may have been moved with its content; and no record may name a file outside of it.
    """
    return Path(folder) / Path(name).name
