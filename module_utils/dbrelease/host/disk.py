"""Read how much room a file system has, on the target or in a container."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import ReleaseError
from .commands import Commands

TIMEOUT_S = 30
MIB = 1 << 20
MARGIN_BYTES = 64 * MIB


@dataclass(frozen=True)
class Room:
    """A mounted file system, and its free bytes."""

    mount: str
    free: int

    def is_that_of(self, other: Room) -> bool:
        """Whether both are one disk: the same free room makes that most likely, as with a container and its volume."""
        return self.mount == other.mount or abs(self.free - other.free) <= MARGIN_BYTES


def room_at(commands: Commands, folder: str) -> Room:
    """Read the free room of a folder there; raises ReleaseError where that fails."""
    finished = commands.run(["df", "-Pk", folder], timeout_s=TIMEOUT_S)
    # Filesystem 1024-blocks Used Available Capacity Mounted-on; only the last may contain blanks.
    fields = finished.stdout.splitlines()[-1].split(maxsplit=5) if finished.stdout.strip() else []
    if finished.status != 0 or len(fields) < 6 or not fields[3].isdigit():
        reason = " ".join(finished.stderr.split()) or f"status {finished.status}"
        raise ReleaseError(f"Reading the free room at {folder} in {commands.place} failed ({reason}).")
    return Room(fields[5], int(fields[3]) * 1024)
