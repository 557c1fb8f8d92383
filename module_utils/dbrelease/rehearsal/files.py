"""The files that a running container has besides those of its image, copied to a container that was just created.

Nothing is mounted there: a mounted folder could be written to, and a mounted socket leads to the live database.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, cast

import docker
import docker.errors

from ..host.commands import engine_reason
from ..host.inspect import Attributes
from ..release.requirements import PayloadFile

# Of one folder; a folder with more is no program with its settings.
BYTES_AT_MOST, FILES_AT_MOST = 256 << 20, 50_000
IN_MEMORY = 16 << 20
CHUNK = 1 << 20
PAX_NAMES = ("path", "linkpath")


@dataclass(frozen=True)
class NewFile:
    """A file of the release, and its content."""

    item: PayloadFile
    content: bytes


def roots_of(attributes: Attributes, workdir: str, payload: Sequence[PayloadFile]) -> list[str]:
    """The folders and files to copy: the working folder, what is mounted, and the folders of the payload."""
    given = [
        workdir,
        *(mount["Destination"] for mount in attributes.get("Mounts") or ()),
        *(str(PurePosixPath(item.destination).parent) for item in payload),
    ]
    paths = sorted({PurePosixPath(one) for one in given if one.startswith("/") and one.strip("/")})
    return [str(path) for path in paths if not any(other in path.parents for other in paths)]


def hidden_in(attributes: Attributes, state_dir: str) -> list[str]:
    """Where the container sees the state directory of the runs, which has dumps and is not copied."""
    own, found = PurePosixPath(os.path.realpath(state_dir)), []
    for mount in attributes.get("Mounts") or ():
        source = PurePosixPath(os.path.realpath(mount.get("Source") or "/"))
        if source == own or source in own.parents:
            found.append(str(PurePosixPath(mount["Destination"]) / own.relative_to(source)))
    return found


def copy_files(
    client: docker.DockerClient, source: str, target: str, roots: Sequence[str], hidden: Sequence[str]
) -> list[str]:
    """Copy from one container to the other, and return what was left out, with the reason; raises what the SDK does."""
    left_out = []
    for root in roots:
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as spooled:
            try:
                stream, _ = client.api.get_archive(source, root, chunk_size=CHUNK)
                with tarfile.open(fileobj=spooled, mode="w|") as kept:
                    reason = _filter(cast(IO[bytes], _Readable(stream)), kept, str(PurePosixPath(root).parent), hidden)
            except docker.errors.NotFound:
                reason = "it does not exist"
            except (docker.errors.APIError, tarfile.TarError) as error:
                reason = f"copying it failed: {engine_reason(error)}"
            if reason:
                left_out.append(f"{root} ({reason})")
                continue
            spooled.seek(0)
            client.api.put_archive(target, "/", spooled)
    return left_out


def _filter(stream: IO[bytes], kept: tarfile.TarFile, parent: str, hidden: Sequence[str]) -> str:
    """Write each plain file, folder and link under its whole path; returns why the folder is left out, or nothing."""
    total = count = 0
    with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as archive:
        for entry in archive:
            path = PurePosixPath(parent) / entry.name
            if any(path == PurePosixPath(one) or PurePosixPath(one) in path.parents for one in hidden):
                continue
            if not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()):
                continue
            if ".." in path.parts:
                return "it has a name that leads out of it"
            total, count = total + entry.size, count + 1
            if total > BYTES_AT_MOST or count > FILES_AT_MOST:
                return f"it has more than {BYTES_AT_MOST >> 20} MiB or {FILES_AT_MOST} files"
            entry.name = str(path).lstrip("/")
            # tarfile would write the names that these give.
            entry.pax_headers = {key: value for key, value in entry.pax_headers.items() if key not in PAX_NAMES}
            if entry.islnk():
                entry.linkname = str(PurePosixPath(parent) / entry.linkname).lstrip("/")
            kept.addfile(entry, archive.extractfile(entry) if entry.isreg() else None)
    return ""


class _Readable:
    """What tarfile reads from: the pieces that the engine sends."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = iter(pieces), b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data
