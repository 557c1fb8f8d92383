"""Remove files from a container, or from the target, and restore them, also while the container is stopped."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import docker.errors

from ..core.errors import ReleaseError
from .commands import Commands, commands_in, docker_client

TIMEOUT_S = 60
ROOT = "0"
# One word for each path: its sha256, or `none` where it is not a plain file.
SUMS = """
for path; do
  if [ -f "$path" ] && [ ! -L "$path" ] && sum=$(sha256sum < "$path"); then echo "${sum%% *}"; else echo none; fi
done
"""


def sums_of(commands: Commands, paths: Sequence[str]) -> dict[str, str]:
    """Read the sha256 of each path, or `none`; raises ReleaseError where that fails."""
    if not paths:
        return {}
    finished = commands.run(["sh", "-c", SUMS, "sh", *paths], timeout_s=TIMEOUT_S)
    lines = finished.stdout.split()
    if finished.status != 0 or len(lines) != len(paths):
        said = " ".join(finished.stderr.split()) or f"status {finished.status}"
        raise ReleaseError(
            f"Reading files in {commands.place} failed ({said}): check that it is running, and has a shell and "
            "sha256sum."
        )
    return dict(zip(paths, lines, strict=True))


class RemovedFiles:
    """Files of one container, or of the target where `container` is empty; removed files are kept in memory."""

    def __init__(self, container: str) -> None:
        """Read nothing yet."""
        self._container = container
        self._kept: dict[str, tuple[bytes, int]] = {}

    @property
    def paths(self) -> list[str]:
        """The removed files."""
        return sorted(self._kept)

    def remove(self, paths: Sequence[str]) -> None:
        """Keep each file's content, and remove all; where that fails, raises ReleaseError and leaves all in place."""
        if not paths:
            return
        commands = commands_in(self._container or None, user=ROOT)
        try:
            kept = {path: self._read(path) for path in paths}
        except (OSError, docker.errors.DockerException) as error:
            raise self._failed("Reading", paths, error) from error
        # From here on the caller restores files that may already be removed.
        self._kept = kept
        finished = commands.run(["rm", "-f", "--", *paths], timeout_s=TIMEOUT_S)
        if finished.status != 0:
            self.put_back()
            raise self._failed("Removing", paths, " ".join(finished.stderr.split()) or f"status {finished.status}")

    def put_back(self) -> None:
        """Restore the files, also into a stopped container; raises ReleaseError."""
        kept, self._kept = self._kept, {}
        try:
            for path, (content, mode) in kept.items():
                self._write(path, content, mode)
        except (OSError, docker.errors.DockerException) as error:
            raise self._failed("Restoring", list(kept), error) from error

    def _read(self, path: str) -> tuple[bytes, int]:
        if not self._container:
            return Path(path).read_bytes(), Path(path).stat().st_mode & 0o7777
        client = docker_client()
        try:
            chunks, _ = client.api.get_archive(self._container, path)
            return b"".join(chunks), 0
        finally:
            client.close()

    def _write(self, path: str, content: bytes, mode: int) -> None:
        if not self._container:
            if not os.path.lexists(path):
                Path(path).write_bytes(content)
                Path(path).chmod(mode)
            return
        client = docker_client()
        try:
            client.api.put_archive(self._container, str(PurePosixPath(path).parent), content)
        finally:
            client.close()

    def _failed(self, doing: str, paths: Sequence[str], error: object) -> ReleaseError:
        place = f"container {self._container}" if self._container else "the target"
        named = " ".join(shlex.quote(path) for path in paths)
        return ReleaseError(
            f"{doing} the release's files in {place} failed ({' '.join(str(error).split())}): "
            f"make sure that they are writable there ({named}), and rerun the playbook."
        )
