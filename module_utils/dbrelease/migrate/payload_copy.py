"""Puts a file of a release where the application needs it: a new one, in its own folder, through no link."""

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
    """A new file on the target itself; raises ReleaseError where there is one, or where a link leads out of its folder.

    Others may write the application's folders, also between preflight's look and this. So the folder is opened first,
    and where it really is decides; the file is made in that very folder.
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
                "not written: find out who made that link, remove it, and run again.",
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
            f"Copying {item.destination} was refused (since preflight something else has that name), and it was not "
            "written: find out who put it there, move it away, and run again.",
            refused=True,
        ) from error
    except OSError as error:
        raise _failed(item, os.strerror(error.errno or 0)) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), MODE)  # whatever the umask is
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        os.unlink(name, dir_fd=folder)
        raise _failed(item, os.strerror(error.errno or errno.EIO)) from error


def copy_to_container(item: PayloadFile, content: bytes, container: str) -> None:
    """The same in a container: the engine resolves the path in there, and replaces a link by the file."""
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
        f"Copying {item.destination} failed ({reason}): see that its folder is there and can be written, and run again."
    )
