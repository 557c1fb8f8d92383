"""Copy a file of a release to where the application needs it: always a new file, in its own folder, through no link."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import time
from pathlib import Path, PurePosixPath

import docker.errors

from ..core.errors import ReleaseError
from ..host.commands import docker_client
from ..release.requirements import PayloadFile

MODE = 0o644


def copy_to_target(item: PayloadFile, content: bytes) -> None:
    """Create the file on the target; raises ReleaseError where it exists, or where a link leads out of its folder.

    Other users may write to the application's folders, also after preflight. So the folder is opened first and its
    real path is checked; the file is created in that open folder.
    """
    destination = Path(item.destination)
    try:
        folder = os.open(destination.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _failed(item, os.strerror(error.errno or 0)) from error
    try:
        really = Path(f"/proc/self/fd/{folder}").readlink()
        if item.folder and not really.is_relative_to(os.path.realpath(item.folder)):
            raise ReleaseError(
                f"Copying {item.destination} was refused (a link leads to {really}, out of {item.folder}), and it was "
                "not written: find out who made that link, remove it, and rerun the playbook.",
                refused=True,
            )
        _create(item, folder, destination.name, content)
    finally:
        os.close(folder)


def _create(item: PayloadFile, folder: int, name: str, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, MODE, dir_fd=folder)
    except FileExistsError as error:
        raise ReleaseError(
            f"Copying {item.destination} was refused (something with that name was created after preflight), and it "
            "was not written: find out who put it there, move it to another folder, and rerun the playbook.",
            refused=True,
        ) from error
    except OSError as error:
        raise _failed(item, os.strerror(error.errno or 0)) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), MODE)  # the umask may have removed bits
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        os.unlink(name, dir_fd=folder)
        raise _failed(item, os.strerror(error.errno or errno.EIO)) from error


def copy_to_container(item: PayloadFile, content: bytes, container: str) -> None:
    """Create the file in a container: the engine resolves the path there, and replaces a link with the file."""
    destination = PurePosixPath(item.destination)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(destination.name)
        entry.size, entry.mode, entry.mtime = len(content), MODE, int(time.time())
        archive.addfile(entry, io.BytesIO(content))
    client = docker_client()
    try:
        client.api.put_archive(container, str(destination.parent), packed.getvalue())
    except (docker.errors.DockerException, OSError) as error:
        raise _failed(item, " ".join(str(error).split())) from error
    finally:
        client.close()


def _failed(item: PayloadFile, reason: str) -> ReleaseError:
    return ReleaseError(
        f"Copying {item.destination} failed ({reason}): check that its folder exists and is writable, and rerun the "
        "playbook."
    )
