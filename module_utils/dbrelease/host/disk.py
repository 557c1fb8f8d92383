"""How much room a file system has, on the target or in a container."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import ReleaseError
from .commands import Commands

TIMEOUT_S = 30
MIB = 1 << 20
MARGIN_BYTES = 64 * MIB


@dataclass(frozen=True)
class Room:
    """What is free on the file system that is mounted there."""

    mount: str
    free: int

    def is_that_of(self, other: Room) -> bool:
        """Whether both are one disk: most likely so with the same room free, as of a container and a volume of it."""
        return self.mount == other.mount or abs(self.free - other.free) <= MARGIN_BYTES


def room_at(commands: Commands, folder: str) -> Room:
    """The room for what is written to a folder there; raises ReleaseError where that cannot be told."""
    finished = commands.run(["df", "-Pk", folder], timeout_s=TIMEOUT_S)
    # Filesystem 1024-blocks Used Available Capacity Mounted-on; only the last may hold blanks.
    fields = finished.stdout.splitlines()[-1].split(maxsplit=5) if finished.stdout.strip() else []
    if finished.status != 0 or len(fields) < 6 or not fields[3].isdigit():
        reason = " ".join(finished.stderr.split()) or f"status {finished.status}"
        raise ReleaseError(f"Asking for the room at {folder} in {commands.place} failed ({reason}).")
    return Room(fields[5], int(fields[3]) * 1024)
