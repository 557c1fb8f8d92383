"""The file of the claim, and the kernel's lock on it, which ends with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from ..core.errors import ReleaseError
from ..core.own_files import make_private_directory, open_own, reading
from ..core.process import connection_of, process_of
from .claim import CLAIM_NAME, SIZE, Claim, decode, encode

POLL_S = 0.1


class HeldFile:
    """The open, locked file of the claim; only its holder writes or removes it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def read(self) -> Claim | None:
        """The claim in it."""
        return decode(os.pread(self._descriptor, SIZE, 0))

    def write(self, claim: Claim | None) -> None:
        """Put a claim in it, or none."""
        os.pwrite(self._descriptor, encode(claim), 0)

    def sign(self) -> None:
        """Record this process as the holder of the lock, so that a later run can find it and end it."""
        claim = self.read()
        if claim:
            self.write(claim.held_by(process_of(os.getpid()), connection_of(os.getpid())))

    def remove(self) -> None:
        """No claim any more, and no file."""
        self.write(None)
        self._unlink()

    def let_go(self) -> None:
        """Give the lock back; a file that claims nothing does not stay."""
        try:
            claim = self.read()
            if claim is None:
                self._unlink()
            elif claim.module:
                self.write(claim.held_by(None))
        finally:
            os.close(self._descriptor)

    def _unlink(self) -> None:
        """Remove this very file only: once its name is free, another run may have given it to a new one."""
        if _is_still(self.path, self._descriptor):
            self.path.unlink()


def path_in(state_dir: str) -> Path:
    """Where the claim on a target is."""
    return Path(state_dir) / CLAIM_NAME


def peek(path: Path) -> Claim | None:
    """The claim, read without the lock; raises ReleaseError where its file is not ours alone."""
    try:
        with reading(path) as file:
            return decode(file.read(SIZE))
    except OSError:
        return None


def try_lock(path: Path, *, create: bool = True) -> HeldFile | None:
    """The locked file, or None while another process has it (or, with create=False, where there is none)."""
    try:
        while True:
            if create:
                make_private_directory(path.parent)
            descriptor = open_own(path, os.O_RDWR | (os.O_CREAT if create else 0))
            if not _flock(descriptor):
                os.close(descriptor)
                return None
            if _is_still(path, descriptor):
                return HeldFile(path, descriptor)
            # Its last holder has removed it in between: that lock is on a file without a name.
            os.close(descriptor)
    except FileNotFoundError:
        if not create:
            return None
        raise
    except OSError as error:
        raise ReleaseError(
            f"Locking {path} failed ({error.strerror}): "
            "make release_state_dir a folder that the deploying user can write, with room left, and rerun the playbook."
        ) from error


def lock(path: Path, wait_s: float, *, create: bool = True) -> HeldFile | None:
    """The same, polled for a while: a run that only reads the claim holds the lock for a moment."""
    deadline = time.monotonic() + wait_s
    while True:
        held = try_lock(path, create=create)
        if held or time.monotonic() > deadline or not (create or os.path.lexists(path)):
            return held
        time.sleep(POLL_S)


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        os.close(descriptor)
        raise
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
