"""Files of a run: for the deploying user only, complete or absent, and never over another run's file."""

from __future__ import annotations

import errno
import os
import shlex
from contextlib import suppress
from itertools import chain, count
from pathlib import Path

from .errors import ReleaseError
from .own_files import make_private_directory, open_own

STATE_DIR = "release_state_dir"
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP)


def temporary_name(path: Path, run_id: str) -> Path:
    """Where a file is written until it is complete: the run in its name shows whose it is after a kill."""
    return path.with_name(f"{path.name}.tmp.{run_id}")


def create_private(path: Path, *, setting: str = STATE_DIR) -> int:
    """Open a new file for reading and writing, mode 0600 whatever the umask is; FileExistsError where there is one.

    In the state directory it raises ReleaseError where the folder is not ours alone. A checkout on the controller,
    which another `setting` names, is its operators' responsibility.
    """
    if setting == STATE_DIR:
        make_private_directory(path.parent)
        return open_own(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def publish(temporary: Path, path: Path) -> None:
    """Give a complete, fsynced file its name, in one step and never over an existing one (FileExistsError)."""
    try:
        # link() refuses an existing name, which rename() would replace.
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        temporary.rename(path)
    else:
        temporary.unlink()
    sync_directory(path.parent)


def sync_directory(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str, run_id: str) -> None:
    """Write a complete new file, fsynced, mode 0600; raises ReleaseError and leaves nothing where that fails."""
    temporary = temporary_name(path, run_id)
    try:
        # Only this run writes under this name: an existing file was left when the run was killed.
        temporary.unlink(missing_ok=True)
        descriptor = create_private(temporary)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    except OSError as error:
        raise write_failure(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def replace_private(path: Path, data: bytes, run_id: str, *, setting: str = STATE_DIR, durable: bool = True) -> None:
    """Write a complete file, fsynced, mode 0600, in place of the one that this same run may have left there.

    setting: the setting that names the folder, for the ReleaseError where writing fails; see create_private.
    durable: false for a file that is worth nothing after a crash, which is not fsynced.
    """
    temporary = temporary_name(path, run_id)
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(create_private(temporary, setting=setting), "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            sync_directory(path.parent)
    except OSError as error:
        raise write_failure(path, error, setting) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def put_command(path: str, run_id: str) -> str:
    """For a shell, which has the text of a file as its input: the same as replace_private, but for the fsync.

    The folder is one that a module has just written to, so it is ours alone; even so no link is written through.
    """
    part, whole = shlex.quote(f"{path}.tmp.{run_id}"), shlex.quote(path)
    return f"umask 077 && rm -f {part} && set -C && cat > {part} && mv -f {part} {whole}"


def unused(path: Path, run_id: str) -> Path:
    """The path, or the first free one: with this run's own part in its name, or with a number after that.

    Another run of the same second may have the path, and this one may write several files that would have one name.
    """
    own = f"{path.stem}_{run_id.rsplit('-', 1)[-1]}"
    stems = chain([path.stem, own], (f"{own}_{number}" for number in count(2)))
    return next(free for stem in stems if not os.path.lexists(free := path.with_name(f"{stem}{path.suffix}")))


def write_failure(path: Path, error: OSError, setting: str = STATE_DIR) -> ReleaseError:
    """The sentence for a file that could not be written."""
    if isinstance(error, FileExistsError):
        return ReleaseError(
            f"Writing {path} was refused (it exists, and a run never overwrites a file): start a new run."
        )
    reason = os.strerror(error.errno) if error.errno else str(error)
    advice = (
        "make room there"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        else f"make {setting} a folder that you can write"
    )
    return ReleaseError(f"Writing {path} failed ({reason}): {advice}, and rerun the playbook.")
