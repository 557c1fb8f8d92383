"""The saved output of a migration: every attempt, line by line as it comes, without the password."""

from __future__ import annotations

import os
from pathlib import Path

from ..core.files import create_private, sync_directory, write_failure
from ..core.plain_text import printable
from ..core.proof import Proof
from ..core.redaction import masked

LOG_PROOF = "migrate.log"
KEPT_BYTES = 1 << 20


class MigrationLog:
    """Takes a command's output as bytes; a log that cannot be written never stops the command."""

    def __init__(self, path: Path, secret: str | None) -> None:
        """Create the file; OSError where that is not possible."""
        self.path = path
        self.bytes = 0
        self.error: OSError | None = None
        self._secret = secret
        self._rest = b""
        self._kept = bytearray()
        self._descriptor: int | None = create_private(path)

    def begin(self, header: str) -> None:
        """Open the next attempt: what follows is its output."""
        self._kept.clear()
        self._write(f"=== {header}\n")

    def feed(self, data: bytes) -> None:
        """Take a piece of output; whole lines are written, so that no secret is cut in two."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line.decode(errors="replace"))

    def end(self, footer: str) -> str:
        """Close the attempt; returns its output (the last megabyte) as it came, for the next step to read."""
        if self._rest:
            self._line(self._rest.decode(errors="replace"))
            self._rest = b""
        self._write(f"=== {footer}\n")
        return self._kept.decode(errors="replace")

    def close(self) -> Proof:
        """Make it durable; the proof fails where any of it could not be written."""
        if self._descriptor is not None:
            try:
                os.fsync(self._descriptor)
                os.close(self._descriptor)
                sync_directory(self.path.parent)
            except OSError as error:
                self.error = self.error or error
            self._descriptor = None
        return Proof(
            LOG_PROOF,
            "The migration's output is saved",
            "fail" if self.error else "pass",
            expected=str(self.path),
            observed={"bytes": self.bytes},
            detail=write_failure(self.path, self.error).message if self.error else f"{self.path}, {self.bytes} bytes.",
        )

    def _line(self, line: str) -> None:
        self._kept.extend(line.encode(errors="replace") + b"\n")
        if len(self._kept) > 2 * KEPT_BYTES:
            del self._kept[:-KEPT_BYTES]
        self._write(f"{line}\n")

    def _write(self, text: str) -> None:
        if self._descriptor is None or self.error is not None:
            return
        data = printable(masked(text, self._secret), lines=True).encode(errors="replace")
        try:
            while data:
                written = os.write(self._descriptor, data)
                self.bytes += written
                data = data[written:]
        except OSError as error:
            self.error = error
