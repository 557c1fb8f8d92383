"""Save rows that only the live database has as lines of JSON, with a script that writes them again."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import IO, Any

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ...core.files import create_private, sync_directory, write_failure
from ...core.own_files import make_private_directory
from ...core.restore_names import REPLAY
from ...host.commands import CHUNK
from ...postgres.catalog import quoted_part
from ...postgres.large_objects import LargeObjects
from ...postgres.table_shape import Pair, Table
from .added_columns import Columns
from .replay_sql import (
    ENDING,
    PINNED,
    beginning,
    delete_statement,
    given,
    held_statement,
    insert_statement,
    literal,
    plan_statement,
    qualified,
    staging_statements,
    write_statement,
)
from .row_diff import Difference

ROWS_AT_ONCE = 500
SPOOL = f"{REPLAY}.tmp"  # unlinked as soon as it is open


@dataclass
class Counts:
    """The numbers of one table's rows; `known` is false if the other database has no such table."""

    new: int = 0
    changed: int = 0
    deleted: int = 0
    known: bool = True

    @property
    def total(self) -> int:
        """The number of rows that differ."""
        return self.new + self.changed + self.deleted


@dataclass
class Saved:
    """What was saved, and where; `directory` is empty if there was nothing to save.

    large_objects: counted only; they are not rows of a table, and are not saved.
    columns: by table, the columns with values that the other database lacks; they are not replayed.
    not_replayed: the tables whose owners are not trusted; their rows are not in the script.
    moved: the tables whose rows a restore moves among partitions; their rows are not in the script.
    """

    directory: str = ""
    tables: dict[str, Counts] = field(default_factory=dict)
    large_objects: LargeObjects = field(default_factory=LargeObjects)
    columns: dict[str, Columns] = field(default_factory=dict)
    not_replayed: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """The number of rows of all tables."""
        return sum(counts.total for counts in self.tables.values())

    def facts(self) -> dict[str, Any]:
        """For the journal."""
        tables = {key: {**vars(counts)} for key, counts in self.tables.items() if counts.total}
        columns = {key: {"names": list(found.names), "rows": found.rows} for key, found in self.columns.items()}
        large = {"large_objects": self.large_objects.differing, "large_objects_unread": self.large_objects.unread}
        counted = {"rows": self.rows, **large, "columns": columns}
        return {"directory": self.directory, **counted, "tables": tables}


class RowArchive:
    """The folder of one run's saved rows; it is created only when there is something to save."""

    def __init__(self, directory: Path) -> None:
        self.saved = Saved()
        self._directory = directory
        self._deletes: list[str] = []
        self._early_deletes: list[str] = []
        self._files = ExitStack()
        self._writes: list[str] = []
        self._staging: IO[str] | None = None
        self._planned = 0
        self._names: set[str] = set()
        self._copies: dict[str, IO[str]] = {}

    def close(self) -> None:
        """Close the files. What is kept was synced; on a full disk the rest fails again, and would hide the cause."""
        with suppress(OSError):
            self._files.close()

    def discard(self) -> None:
        """Remove all that was saved: the live database still has it."""
        self.close()
        if self.saved.directory:
            rmtree(self.saved.directory, ignore_errors=True)
            self.saved = Saved()

    def copy(self, cursor: Cursor, table: Table) -> int:
        """Save a table that the other database lacks as CSV, replacing an earlier copy; return its number of rows."""
        file = self._copies.get(table.key)
        if file is None:
            file = self._copies[table.key] = self._open(table.key, ".csv")
        columns = sql.SQL(", ").join(map(sql.Identifier, given(table, table.columns)))
        text = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT WITH (FORMAT csv, HEADER, ENCODING 'UTF8')")
        try:
            file.seek(0)
            file.truncate()
            cursor.copy_expert(text.format(columns, table.source).as_string(cursor), file.buffer)  # type: ignore[attr-defined]
        except OSError as error:
            raise write_failure(Path(file.name), error) from error
        _sync(file)
        return int(cursor.rowcount)

    def note_copied(self, table: Table, rows: int) -> None:
        """Count the rows of a table that was copied, and write in the script how to load them."""
        self.saved.tables[table.key] = Counts(new=rows, known=False)
        if table.key not in self._copies:
            return
        columns = ", ".join(map(quoted_part, given(table, table.columns)))
        path = literal(self._copies[table.key].name)
        self.note(
            f"{table.key}: the database that takes its place has no such table. When it exists again:\n"
            f"\\copy {qualified(table.schema, table.name)} ({columns}) FROM {path} "
            "WITH (FORMAT csv, HEADER, ENCODING 'UTF8')"
        )

    def keep(self, pair: Pair, found: Iterable[Difference], state: str, *, replay: bool) -> None:
        """Save the rows of a table that both databases have, and write them to the script if `replay`.

        state: the expression that hashes a row of the other database, as in the differences.
        """
        counts = self.saved.tables.setdefault(pair.live.key, Counts())
        number = self._planned + 1
        batch: defaultdict[str, list[Difference]] = defaultdict(list)
        with _let_go(self._open(pair.live.key, ".jsonl")) as file:
            if replay:
                self._plan(pair, number)
            for difference in found:
                setattr(counts, difference.change, getattr(counts, difference.change) + 1)
                deleted = difference.change == "deleted"
                named = dict(zip(pair.key if deleted else pair.live.columns, difference.values, strict=True))
                line = {"change": difference.change, "key" if deleted else "row": named}
                _write(file, json.dumps(line, ensure_ascii=False) + "\n")
                if not replay:
                    continue
                rows = batch[difference.change]
                rows.append(difference)
                if len(rows) == ROWS_AT_ONCE:
                    self._stage(insert_statement(pair, rows, number))
                    rows.clear()
            for rows in batch.values():
                self._stage(insert_statement(pair, rows, number) if rows else "")
            if replay:
                self._stage(plan_statement(pair, number, state))
            _sync(file)

    def note(self, text: str) -> None:
        """Write a comment in the script."""
        self._stage("".join(f"-- {line}\n" for line in text.splitlines()))

    def finish(self, header: str) -> Saved:
        """Write the script, one transaction: unused deleted rows, the others, deleted rows in use until then."""
        if self.saved.directory:
            with _let_go(self._create(REPLAY)) as script:
                _write(script, f"{header}\\set ON_ERROR_STOP on\nBEGIN READ WRITE;\n{PINNED}{beginning()}")
                for text in _read_back(self._staging) if self._staging else ():
                    _write(script, text)
                _write(script, held_statement())
                # Children are inserted after their parents, so they are deleted before them.
                _write(script, "".join([*reversed(self._early_deletes), *self._writes, *reversed(self._deletes)]))
                _write(script, f"{ENDING}COMMIT;\n")
                _sync(script)
            sync_directory(self._directory)
        return self.saved

    def _plan(self, pair: Pair, number: int) -> None:
        """Stage the rows of a table, and plan their writes and deletes; a new row without a value needs no staging."""
        self._planned = number
        self._stage(staging_statements(pair, number))
        if given(pair.live, pair.columns):
            self._writes.append(write_statement(pair, number))
        self._deletes.append(delete_statement(pair, number))
        if pair.keyed:
            self._early_deletes.append(delete_statement(pair, number, early=True))

    def _stage(self, text: str) -> None:
        if self._staging is None:
            self._staging = self._spool()
        _write(self._staging, text)

    def _spool(self) -> IO[str]:
        """Create a file in the folder and unlink it."""
        self._make_directory()
        spool = self._create(SPOOL)
        (self._directory / SPOOL).unlink()
        return spool

    def _open(self, table: str, suffix: str) -> IO[str]:
        self._make_directory()
        return self._create(self._name(table, suffix))

    def _make_directory(self) -> None:
        if self.saved.directory:
            return
        try:
            make_private_directory(self._directory)
        except OSError as error:
            raise write_failure(self._directory, error) from error
        self.saved.directory = str(self._directory)

    def _create(self, name: str) -> IO[str]:
        path = self._directory / name
        try:
            # With an opener the file knows its name. Without newline="" it would be read back with other line ends.
            return self._files.enter_context(
                open(path, "w+", encoding="utf-8", newline="", opener=lambda *_: create_private(path))
            )
        except OSError as error:
            raise write_failure(path, error) from error

    def _name(self, table: str, suffix: str) -> str:
        plain = re.sub(r"[^\w.-]", "_", table)[:100]
        name, number = plain, 1
        while name in self._names:
            number += 1
            name = f"{plain}_{number}"
        self._names.add(name)
        return name + suffix


@contextmanager
def _let_go(file: IO[str]) -> Iterator[IO[str]]:
    """Close a file that was synced, or after a failure, as RowArchive.close() does."""
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


def _write(file: IO[str], text: str) -> None:
    try:
        file.write(text)
    except OSError as error:
        raise write_failure(Path(file.name), error) from error


def _read_back(spool: IO[str]) -> Iterator[str]:
    try:
        spool.seek(0)  # flushes the buffer
    except OSError as error:
        raise write_failure(Path(spool.name), error) from error
    while text := spool.read(CHUNK):
        yield text


def _sync(file: IO[str]) -> None:
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise write_failure(Path(file.name), error) from error
