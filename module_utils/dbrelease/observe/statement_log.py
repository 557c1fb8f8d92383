"""The statements of other sessions from the log of a server of our own: none is too short to be in it.

Needs the server setting `logging_collector`, which only a start can set; the rest is set here and reset afterwards.
"""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg2
from psycopg2 import sql

# What a throwaway server is to be started with.
START_SETTINGS = {"logging_collector": "on"}
SETTINGS = {
    "log_min_duration_statement": "0",
    "log_destination": "stderr,csvlog",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_temp_files": "0",
    "log_parameter_max_length": "0",
    "log_rotation_age": "0",
    "log_rotation_size": "0",
}
DEADLINE_S = 10.0
POLL_S = 0.02
CHUNK = 1 << 20
BYTES_AT_MOST = 64 << 20
KEPT_CHARACTERS = 4_000
FILE = "SELECT pg_current_logfile('csvlog')"
SIZE = "SELECT size FROM pg_stat_file(%s)"
PART = "SELECT pg_read_binary_file(%s, %s, %s)"

TIME, DATABASE, PROCESS, TAG, XID, MESSAGE, APPLICATION = 0, 2, 3, 7, 10, 13, 22
_TEMPORARY = re.compile(r'temporary file: path ".*", size (?P<bytes>\d+)', re.DOTALL)
_DURATION = re.compile(
    r"duration: (?P<ms>\d+\.\d+) ms  (?:(?P<kind>statement|parse|bind|execute)(?: [^:]*)?): (?P<text>.*)", re.DOTALL
)


class UnreadableError(Exception):
    """The log cannot be read; its text is the reason."""


@dataclass
class Logged:
    """A statement of the log; begin and end by the server's clock in ms, known to 1 ms."""

    pid: int
    begin_ms: float
    end_ms: float
    tag: str
    text: str
    xid: str = ""


@dataclass(frozen=True)
class TemporaryFile:
    """A temporary file that was removed, and how large it was."""

    bytes: int


class StatementLog:
    """The log from now on; raises UnreadableError where it cannot be switched on. close() switches it off again."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        try:
            cursor.execute("SHOW logging_collector")
            if cursor.fetchall() != [("on",)]:
                raise UnreadableError("the server was started without logging_collector")
            for name, value in SETTINGS.items():
                cursor.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
            self._reload()
            self._file = self._until(self._current, "it began no log in CSV")
            self._offset = self._size()
        except psycopg2.Error as error:
            raise UnreadableError(str(error).strip().splitlines()[0]) from error

    def close(self) -> None:
        """Log as before."""
        with suppress(psycopg2.Error):
            for name in SETTINGS:
                self._cursor.execute(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))
            self._cursor.execute("SELECT pg_reload_conf()")

    def read(self, database: str, application: str, own: set[int]) -> list[Logged | TemporaryFile]:
        """What sessions of that database did, and of that application if one is named; those of own are left out."""
        marker = f"dbrelease end {time.monotonic_ns()}"
        data, begun = bytearray(), self._offset

        def complete() -> bool:
            size = self._size()
            if size - begun > BYTES_AT_MOST:
                raise UnreadableError(f"its log has grown by more than {BYTES_AT_MOST >> 20} MiB")
            while self._offset < size:
                self._cursor.execute(PART, (self._file, self._offset, CHUNK))
                ((part,),) = self._cursor.fetchall()
                data.extend(part)
                self._offset += len(part)
            return marker.encode() in data

        try:
            # What was written to the log before this is in it when this is.
            self._cursor.execute("SELECT %s", (marker,))
            self._until(complete, "its log lags behind")
        except psycopg2.Error as error:
            raise UnreadableError(str(error).strip().splitlines()[0]) from error
        return list(parsed(data.decode("utf-8", "replace"), database, application, own))

    def _reload(self) -> None:
        self._cursor.execute("SELECT pg_reload_conf()")
        wanted = {name: value for name, value in SETTINGS.items() if name != "log_destination"}

        def active() -> bool:
            self._cursor.execute(
                "SELECT count(*) FROM unnest(%s, %s) AS w (name, setting) JOIN pg_settings s USING (name, setting)",
                (list(wanted), list(wanted.values())),
            )
            return bool(self._cursor.fetchall()[0][0] == len(wanted))

        self._until(active, "its settings of the log did not change")

    def _current(self) -> str:
        self._cursor.execute(FILE)
        return str(self._cursor.fetchall()[0][0] or "")

    def _size(self) -> int:
        self._cursor.execute(SIZE, (self._file,))
        return int(self._cursor.fetchall()[0][0])

    @staticmethod
    def _until(condition: Any, reason: str) -> Any:
        deadline = time.monotonic() + DEADLINE_S
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise UnreadableError(reason)
            time.sleep(POLL_S)
        return value


def parsed(text: str, database: str, application: str, own: set[int]) -> Iterator[Logged | TemporaryFile]:
    """The entries of a log in CSV; in the extended protocol parsing and binding belong to the execution."""
    prepared: dict[int, float] = {}
    # The reader's own limit is shorter than a long statement.
    csv.field_size_limit(BYTES_AT_MOST)
    for row in csv.reader(io.StringIO(text, newline="")):
        if len(row) <= APPLICATION or row[DATABASE] != database or not row[PROCESS].isdigit():
            continue
        pid, found = int(row[PROCESS]), _DURATION.match(row[MESSAGE])
        if pid in own or (application and row[APPLICATION] != application):
            continue
        if file := _TEMPORARY.match(row[MESSAGE]):
            yield TemporaryFile(int(file["bytes"]))
        if not found:
            continue
        end = _moment(row[TIME])
        begin = end - float(found["ms"])
        if found["kind"] in ("parse", "bind"):
            prepared.setdefault(pid, begin)
            continue
        begin = min(begin, prepared.pop(pid, begin))
        yield Logged(pid, begin, end, row[TAG], found["text"][:KEPT_CHARACTERS], row[XID] if row[XID] != "0" else "")


def _moment(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f UTC").replace(tzinfo=UTC).timestamp() * 1000
