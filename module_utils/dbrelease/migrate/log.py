"""Save the output of a migration: every attempt, line by line as it arrives, without the password."""

from __future__ import annotations

import os
from pathlib import Path

from ..core.files import create_private, sync_directory, unused, write_failure
from ..core.journal import Run, stamp
from ..core.plain_text import printable
from ..core.proof import Proof
from ..core.redaction import masked

LOG_PROOF = "migrate.log"
KEPT_BYTES = 1 << 20
# A program may print endlessly, and without line breaks, until its time limit: an hour by default.
LOG_BYTES_AT_MOST, LINE_BYTES_AT_MOST = 64 << 20, 1 << 20


def file_of(run: Run, label: str, suffix: str) -> Path:
    """A free path in the state directory, with the time of the run in its name."""
    return unused(Path(run.state_dir) / f"{label}_{stamp(run.run_id)}{suffix}", run.run_id)


def open_log(run: Run, label: str, secret: str | None) -> MigrationLog:
    """The log of a move of this run; raises ReleaseError where it cannot be created."""
    path = file_of(run, label, ".log")
    try:
        return MigrationLog(path, secret)
    except OSError as error:
        raise write_failure(path, error) from error


class MigrationLog:
    """Takes a command's output as bytes; a log that cannot be written never stops the command."""

    def __init__(self, path: Path, secret: str | None) -> None:
        """Create the file; raises OSError where that fails."""
        self.path = path
        self.bytes = 0
        self.error: OSError | None = None
        self._secret = secret
        self._rest = bytearray()
        self._kept = bytearray()
        self._too_long = False
        self._left_out: list[str] = []
        self._descriptor: int | None = create_private(path)

    def begin(self, header: str) -> None:
        """Begin the next attempt: the output that follows is its own."""
        self._kept.clear()
        self._write(f"=== {header}\n")

    def feed(self, data: bytes) -> None:
        """Add a piece of output; only whole lines are written, so that no secret is cut in two."""
        *ends, begun = data.split(b"\n")
        for end in ends:
            self._add(end)
            self._end_line()
        self._add(begun)

    def _add(self, part: bytes) -> None:
        """Add a part of a line; a line that is too long is omitted whole: cut, it could end with half a secret."""
        room = LINE_BYTES_AT_MOST - len(self._rest)
        self._too_long = self._too_long or len(part) > room
        self._rest += part[: max(room, 0)]

    def _end_line(self) -> None:
        if self._too_long:
            self._leave_out(f"a line of more than {LINE_BYTES_AT_MOST} bytes is omitted")
        else:
            self._line(self._rest.decode(errors="replace"))
        self._rest.clear()
        self._too_long = False

    def _leave_out(self, what: str) -> None:
        if what not in self._left_out:
            self._left_out.append(what)
            self._write(f"=== {what}\n")

    def end(self, footer: str) -> str:
        """End the attempt; return its output (the last megabyte) unmasked, for the next step to read."""
        if self._rest:
            self._end_line()
        self._write(f"=== {footer}\n")
        return self._kept.decode(errors="replace")

    def close(self) -> Proof:
        """Make the file durable; the proof fails where that fails, and is inconclusive where a part is omitted."""
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
            "fail" if self.error else "inconclusive" if self._left_out else "pass",
            expected=str(self.path),
            observed={"bytes": self.bytes},
            detail=write_failure(self.path, self.error).message if self.error else self._detail(),
        )

    def _detail(self) -> str:
        left_out = f", but {' and '.join(self._left_out)}" if self._left_out else ""
        return f"{self.path}, {self.bytes} bytes{left_out}."

    def _line(self, line: str) -> None:
        self._kept.extend(line.encode(errors="replace") + b"\n")
        if len(self._kept) > 2 * KEPT_BYTES:
            del self._kept[:-KEPT_BYTES]
        if self.bytes < LOG_BYTES_AT_MOST:
            self._write(f"{line}\n")
        else:
            self._leave_out(f"the output after {LOG_BYTES_AT_MOST} bytes is omitted")

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
