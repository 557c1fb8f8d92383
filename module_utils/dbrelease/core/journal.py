"""The journal: one JSON object a line, append-only, fsynced: the one memory of what happened on a target."""

from __future__ import annotations

import gc
import json
import os
import re
import secrets
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal

from .display import facts_for_people, json_text
from .errors import ReleaseError
from .journal_schema import schema_error
from .own_files import make_private_directory, open_own, reading
from .proof import Proof, failures, not_run, sentence

Event = Literal["started", "passed", "failed", "refused", "skipped"]
JOURNAL_NAME = "journal.jsonl"
RUN_ID = r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}"
TEXTS = ("ts", "run_id", "release", "environment", "playbook", "step", "event")
LONGEST_TEXT = 200
# Of the format of a line, which has no key `version` in this one. A format that older programs would misread has a
# higher one in each of its lines.
VERSION = 1
# This version writes none of them in a line; a newer one names its format by one of them.
VERSION_KEYS = frozenset({"version", "schema_version", "format", "format_version", "journal_version", "schema", "v"})
# Every module of a run reads all of it, and keeps it in memory. A run writes some 50 lines; one of them has what is
# recorded of each table.
MOST_BYTES = 128 << 20
MOST_LINES = 1_000_000
# What is recorded may be as large as others make it. So large a line is refused while the journal can still be read;
# a short line, for which there is room, reports how the step ended.
LONG_LINE, ROOM_FOR_ENDS = 64 << 10, 4 << 20
LONG_JOURNAL = 10_000


def utc_now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


def new_run_id(now: datetime) -> str:
    """Sortable by time and unique: `20261123T164500Z-1a2b3c`."""
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


@cache
def stamp(run_id: str) -> str:
    """The time part of a run id in the runbook's file-name form: `20261123_164500`."""
    moment = run_id.split("-")[0]
    if not re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", moment):
        raise ValueError(f"{moment!r} is no time of a run")
    day, time = moment[:8], moment[9:15]
    # Not by strptime, which takes a fifth of a second for the identifiers of 10,000 runs.
    datetime(int(day[:4]), int(day[4:6]), int(day[6:]), int(time[:2]), int(time[2:4]), int(time[4:]), tzinfo=UTC)
    return f"{day}_{time}"


@dataclass(frozen=True)
class Run:
    """One execution of a playbook on a target; every journal line carries these."""

    run_id: str
    release: str
    environment: str
    playbook: str
    state_dir: str

    @property
    def directory(self) -> Path:
        """Where this run's evidence goes."""
        return Path(self.state_dir) / "runs" / self.run_id


class Journal:
    """Appends events of one run, and reads every run's.

    A dry journal (check mode) writes nothing; `events` holds what it wrote or would have written.
    """

    def __init__(self, run: Run, *, dry: bool = False) -> None:
        self.run = run
        self.dry = dry
        self.path = Path(run.state_dir) / JOURNAL_NAME
        self.events: list[dict[str, Any]] = []

    def append(self, step: str, event: Event, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write one line and return it; raises ReleaseError when the state directory cannot take it."""
        line = {
            "ts": utc_now().isoformat(timespec="milliseconds"),
            "run_id": self.run.run_id,
            "release": self.run.release,
            "environment": self.run.environment,
            "playbook": self.run.playbook,
            "step": step,
            "event": event,
            "facts": facts_for_people(dict(facts or {})),
        }
        self.events.append(line)
        if not self.dry:
            self._write([line])
        return line

    def adopt(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write lines of dry journals of other runs, all or none; see append."""
        if lines:
            self._write(lines)

    def judge(
        self, step: str, proofs: Sequence[Mapping[str, Any]], facts: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Write and return the line that closes a stage by its proofs; raises ReleaseError where one failed.

        It raises, too, where a claim could not run: nothing is known of it. `could_not_run` is then set if none failed.
        """
        message, red = sentence(proofs), [proof["name"] for proof in failures(proofs)]
        unknown = [proof["name"] for proof in not_run(proofs)]
        judged = {**(facts or {}), "claims": len(proofs), "red": red, "not_run": unknown, "message": message}
        line = self.append(step, "failed" if red or unknown else "passed", judged)
        if red or unknown:
            raise ReleaseError(message, line=line, could_not_run=not red)
        return line

    def _write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(f"{json_text(line, default=str)}\n" for line in lines)
        try:
            make_private_directory(self.path.parent)
            descriptor = open_own(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            try:
                # A run that was killed while it wrote may have left half a line: never continue it.
                size = os.fstat(descriptor).st_size
                if len(text) > LONG_LINE and size + len(text.encode()) > MOST_BYTES - ROOM_FOR_ENDS:
                    raise _too_large(self.path, f"{size} bytes, and {len(text)} more were to be written", "Writing")
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                _write_whole(descriptor, ("\n" if torn else "").encode() + text.encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ReleaseError(
                f"Writing the journal {self.path} failed ({error.strerror}): "
                "make release_state_dir a folder that the deploying user can write, with room left, and rerun the "
                "playbook."
            ) from error

    def read(self) -> list[dict[str, Any]]:
        """Every complete line of the journal, oldest first; a torn or foreign one is skipped.

        Raises ReleaseError where the journal cannot be read, is not ours alone, or is larger than any that runs write.
        """
        try:
            with reading(self.path) as file:
                return list(_known_lines(self.path, file))
        except FileNotFoundError:
            return []
        except _NewerError as error:
            raise ReleaseError(
                f"Reading the journal {self.path} was refused (a newer version of this program wrote it, in format "
                f"{error.version}, and this one reads format {VERSION}): run the version that wrote it.",
                refused=True,
            ) from error
        except OSError as error:
            raise ReleaseError(
                f"Reading the journal {self.path} failed ({error.strerror}): "
                "make release_state_dir a folder that the deploying user can read."
            ) from error

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Journal `started`, then `passed`, `failed` or `refused`, whatever happens inside."""
        self.append(name, "started")
        step = Step()
        try:
            yield step
        except ReleaseError as error:
            facts = {**step.facts, **error.facts, "message": error.message}
            self.append(name, "refused" if error.refused else "failed", facts)
            raise
        except BaseException as error:
            self.append(name, "failed", {**step.facts, "message": f"{type(error).__name__} in {name}"})
            raise
        failed = any(proof["status"] == "fail" for proof in step.facts.get("proofs", ()))
        ended: Event = "skipped" if step.skipped else "passed"
        self.append(name, "refused" if step.refused else "failed" if failed else ended, step.facts)


@dataclass
class Step:
    """What a step reports about itself; it becomes the facts of its closing journal line."""

    facts: dict[str, Any] = field(default_factory=dict)
    refused: bool = False
    skipped: bool = False

    def skip(self, message: str) -> None:
        """Close the step as skipped: what it is for could not be done here, and the run goes on without it."""
        self.skipped = True
        self.facts["message"] = message

    def refuse(self) -> None:
        """Close the step as refused: nothing was begun because a rule forbids it."""
        self.refused = True

    def prove(self, *proofs: Proof) -> None:
        """Add proofs; a failed one closes the step as failed."""
        self.facts.setdefault("proofs", []).extend(proof.as_dict() for proof in proofs)


def _write_whole(descriptor: int, line: bytes) -> None:
    """Write all of a line or nothing: a full disk takes the beginning of a line, and reports it only afterwards."""
    begun = os.fstat(descriptor).st_size
    written = 0
    try:
        while written < len(line):
            written += os.write(descriptor, line[written:])
    except OSError:
        # Unless another process has appended to it.
        if os.fstat(descriptor).st_size == begun + written:
            os.ftruncate(descriptor, begun)
        raise


class _NewerError(Exception):
    """A line of an unknown format: its meaning, and its effect on other lines, cannot be determined."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version


@dataclass
class _Known:
    """What this process has read of a journal: the events of its first lines, and the checksum of these."""

    length: int = 0
    checksum: int = 0
    lines: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)


_decode = json.JSONDecoder().decode
# What _decode calls, without a search for spaces before and behind each line.
_scan: Callable[[str, int], tuple[Any, int]] = vars(json.JSONDecoder())["scan_once"]
# A module reads the journal several times, and what others append between two of them is little.
_KNOWN: dict[Path, _Known] = {}


def _known_lines(path: Path, file: IO[bytes]) -> Iterator[dict[str, Any]]:
    size = os.fstat(file.fileno()).st_size
    if size > MOST_BYTES:
        raise _too_large(path, f"it has {size} bytes, of {MOST_BYTES} at most")
    text = memoryview(file.read(MOST_BYTES))
    known = _KNOWN.get(path) or _Known()
    if zlib.crc32(text[: known.length]) != known.checksum:  # it was not only added to
        known = _Known()
    whole = bytes(text[known.length :])
    added, last = whole[: whole.rfind(b"\n") + 1], whole[whole.rfind(b"\n") + 1 :]  # which may be written on
    known.lines += added.count(b"\n")
    if known.lines > MOST_LINES:
        raise _too_large(path, f"it has more than {MOST_LINES} lines")
    with _no_collection():
        lines = added.decode(errors="replace").split("\n")[:-1]
        known.events += filter(None, map(_event_of, lines))
        if len(lines) > LONG_JOURNAL:
            gc.freeze()
    known.checksum = zlib.crc32(added, known.checksum)
    known.length += len(added)
    _KNOWN[path] = known
    return chain(known.events, filter(None, [_event_of(last.decode(errors="replace"))] if last else []))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Nothing of what is read becomes garbage, and searching it again and again takes a third of the time.

    So the events of a long journal are excluded from later collections, too: they stay until the module ends.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _event_of(line: str) -> dict[str, Any] | None:
    try:
        value, end = _scan(line, 0)
        if end != len(line):
            value = _decode(line)  # which takes spaces around it, and nothing else
    except (StopIteration, ValueError, RecursionError):
        return None
    if isinstance(value, dict) and not VERSION_KEYS.isdisjoint(value) and (newer := _newer_format(value)):
        raise _NewerError(newer)
    return value if _is_event(value) else None


def _newer_format(value: Mapping[str, Any]) -> int:
    """The format that a line of a newer version names, under whatever key and as a number or a text; else 0."""
    for key in VERSION_KEYS & value.keys():
        number = re.fullmatch(r"v?(\d{1,6})(?:\.\d+)*", str(value[key]), re.ASCII | re.IGNORECASE)
        if number and int(number[1]) > VERSION:
            return int(number[1])
    return 0


def _too_large(path: Path, why: str, what: str = "Reading") -> ReleaseError:
    return ReleaseError(
        f"{what} the journal {path} was refused ({why}): find out what wrote to it, save a copy of it, remove the "
        "lines of releases that will not be rolled back, and rerun the playbook.",
        refused=True,
    )


def _is_event(value: Any) -> bool:
    """Whether it has all that `append` writes, as readers rely on it; what it has besides is a later version's."""
    if not isinstance(value, dict) or not isinstance(value.get("facts"), dict):
        return False
    try:
        # The lines of a run have the first four in common, and all runs the other two.
        run = (value["run_id"], value["release"], value["environment"], value["playbook"])
        if not (_are_texts_of_a_run(*run) and _are_texts(value["step"], value["event"])):
            return False
        ts = value["ts"]
        return isinstance(ts, str) and len(ts) <= LONGEST_TEXT and datetime.fromisoformat(ts).tzinfo is not None
    except (KeyError, TypeError, ValueError):  # TypeError: of what is not hashable, and so no text
        return False


@cache
def _are_texts(*values: Any) -> bool:
    return all(isinstance(value, str) and len(value) <= LONGEST_TEXT for value in values)


@cache
def _are_texts_of_a_run(run_id: Any, *more: Any) -> bool:
    if not _are_texts(run_id, *more) or not re.fullmatch(RUN_ID, run_id):
        return False
    stamp(run_id)  # ValueError where it is no moment
    return True


def last_facts(
    events: list[dict[str, Any]], *, release: str, environment: str, step: str, event: Event = "passed"
) -> dict[str, Any] | None:
    """The facts of the newest such line of a release in an environment, or None; ReleaseError for malformed ones."""
    for line in reversed(events):
        if (line["release"], line["environment"], line["step"], line["event"]) == (release, environment, step, event):
            if wrong := schema_error(line):
                raise ReleaseError(
                    f"Reading the journal failed (in the last line of step {step}, of run {line['run_id']}, {wrong}): "
                    "correct that line, or remove it."
                )
            facts: dict[str, Any] = line["facts"]
            return facts
    return None
