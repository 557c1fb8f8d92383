"""Rows that only the live database has, saved as lines of JSON with a script that writes them again."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import IO, Any

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from .commands import CHUNK
from .database import SESSION_SETTINGS
from .errors import ReleaseError
from .journal import make_private_directory
from .private_files import create_private, sync_directory, write_failure
from .restore_names import REPLAY
from .swap_rows import Difference, Values
from .swap_tables import Pair, Table

ROWS_AT_ONCE = 500
SPOOL = f"{REPLAY}.tmp"  # without a name as soon as it is open
TEXT_SETTINGS = {**SESSION_SETTINGS, "standard_conforming_strings": "on", "client_encoding": "UTF8"}
NOT_REPLAYED = ("client_connection_check_interval",)


@dataclass
class Counts:
    """Of one table; `known` is false where the other database has no such table."""

    new: int = 0
    changed: int = 0
    deleted: int = 0
    known: bool = True

    @property
    def total(self) -> int:
        """Rows that are not the same."""
        return self.new + self.changed + self.deleted


@dataclass
class Saved:
    """What was saved, and where; `directory` is empty where there was nothing to save.

    large_objects: how many differ; they are no rows of a table, and are not saved.
    """

    directory: str = ""
    tables: dict[str, Counts] = field(default_factory=dict)
    large_objects: int = 0

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(counts.total for counts in self.tables.values())

    def facts(self) -> dict[str, Any]:
        """For the journal."""
        tables = {key: {**vars(counts)} for key, counts in self.tables.items() if counts.total}
        counted = {"rows": self.rows, "large_objects": self.large_objects}
        return {"directory": self.directory, **counted, "tables": tables}


class Keeper:
    """The folder of one run's saved rows; it is made only when there is something to save."""

    def __init__(self, directory: Path) -> None:
        self.saved = Saved()
        self._directory = directory
        self._deletes: list[str] = []
        self._early_deletes: list[str] = []
        self._files = ExitStack()
        self._inserts: IO[str] | None = None
        self._names: set[str] = set()
        self._copies: dict[str, IO[str]] = {}

    def close(self) -> None:
        """Let go of the files."""
        self._files.close()

    def discard(self) -> None:
        """Nothing is kept: what only the live database has is still in it."""
        self.close()
        if self.saved.directory:
            rmtree(self.saved.directory, ignore_errors=True)
            self.saved = Saved()

    def copy(self, cursor: Cursor, table: Table) -> int:
        """The rows of a table that the other database lacks, as CSV, in place of an earlier copy; how many they are."""
        file = self._copies.get(table.key)
        if file is None:
            file = self._copies[table.key] = self._open(table.key, ".csv")
        file.seek(0)
        file.truncate()
        columns = sql.SQL(", ").join(map(sql.Identifier, _given(table, table.columns)))
        text = sql.SQL("COPY (SELECT {} FROM ONLY {}) TO STDOUT WITH (FORMAT csv, HEADER, ENCODING 'UTF8')")
        try:
            cursor.copy_expert(text.format(columns, table.identifier).as_string(cursor), file.buffer)  # type: ignore[attr-defined]
        except OSError as error:
            raise write_failure(Path(file.name), error) from error
        _sync(file)
        return int(cursor.rowcount)

    def note_copied(self, table: Table, rows: int) -> None:
        """Count the rows of a table that was copied, and say in the script how they can be read."""
        self.saved.tables[table.key] = Counts(new=rows, known=False)
        if table.key not in self._copies:
            return
        columns = ", ".join(map(_quoted, _given(table, table.columns)))
        path = _literal(self._copies[table.key].name)
        self.note(
            f"{table.key}: the database that takes its place has no such table. Where it is made again:\n"
            f"\\copy {_quoted(table.schema)}.{_quoted(table.name)} ({columns}) FROM {path} WITH (FORMAT csv, HEADER)"
        )

    def keep(self, pair: Pair, found: Iterable[Difference], *, replay: bool) -> None:
        """A table that both databases have; its rows are in the script only if they are to be replayed."""
        counts = self.saved.tables.setdefault(pair.live.key, Counts())
        # Rows that refer to rows of their own table are one statement: a foreign key is checked at its end.
        at_once = sys.maxsize if pair.live.key in pair.live.parents else ROWS_AT_ONCE
        with self._open(pair.live.key, ".jsonl") as file:
            batch: dict[str, list[Values]] = {"new": [], "changed": []}
            for difference in found:
                setattr(counts, difference.change, getattr(counts, difference.change) + 1)
                if difference.change == "deleted":
                    named = dict(zip(pair.key, difference.values, strict=True))
                    _write(file, json.dumps({"change": "deleted", "key": named}, ensure_ascii=False) + "\n")
                    if replay:
                        self._delete(pair, difference.values)
                    continue
                named = dict(zip(pair.live.columns, difference.values, strict=True))
                _write(file, json.dumps({"change": difference.change, "row": named}, ensure_ascii=False) + "\n")
                if not replay:
                    continue
                rows = batch[difference.change]
                rows.append(difference.values)
                if len(rows) == at_once:
                    self._insert(insert_statement(pair, rows, difference.change))
                    rows.clear()
            for change, rows in batch.items():
                if rows:
                    self._insert(insert_statement(pair, rows, change))
            _sync(file)

    def note(self, text: str) -> None:
        """A comment in the script."""
        self._insert("".join(f"-- {line}\n" for line in text.splitlines()))

    def finish(self, header: str, sequences: Mapping[tuple[str, str], int]) -> Saved:
        """Write the script, one transaction: rows that are gone, the others, those gone that were in use till then."""
        if self.saved.directory:
            with self._create(REPLAY) as script:
                settings = "".join(
                    f"SET LOCAL {name} = {_literal(value)};\n"
                    for name, value in TEXT_SETTINGS.items()
                    if name not in NOT_REPLAYED
                )
                _write(script, f"{header}\\set ON_ERROR_STOP on\nBEGIN;\n{settings}")
                # Children are inserted after their parents, so they go before them.
                _write(script, "".join(reversed(self._early_deletes)))
                self._copy_inserts(script)
                _write(script, "".join(reversed(self._deletes)))
                for (schema, name), value in sequences.items():
                    sequence = f"{_quoted(schema)}.{_quoted(name)}"
                    highest = f"greatest({value}, (SELECT last_value FROM {sequence}))"
                    _write(script, f"SELECT setval({_literal(sequence)}, {highest});\n")
                _write(script, "COMMIT;\n")
                _sync(script)
            sync_directory(self._directory)
        return self.saved

    def _delete(self, pair: Pair, key: Values) -> None:
        self._deletes.append(delete_statement(pair, key))
        if pair.keyed and pair.live.exclusive:
            self._early_deletes.append(early_delete_statement(pair, key))

    def _insert(self, text: str) -> None:
        if self._inserts is None:
            self._make_directory()
            self._inserts = self._create(SPOOL)
            (self._directory / SPOOL).unlink()
        _write(self._inserts, text)

    def _copy_inserts(self, script: IO[str]) -> None:
        if self._inserts is None:
            return
        self._inserts.seek(0)
        while text := self._inserts.read(CHUNK):
            _write(script, text)

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
            # By an opener it knows its name. Without newline="" it would be read back with other line ends.
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


def _given(table: Table, columns: Sequence[str]) -> list[str]:
    """Those of the columns that take a value."""
    return [column for column in columns if column not in table.generated]


def insert_statement(pair: Pair, rows: Sequence[Values], change: str) -> str:
    """New rows never overwrite; changed ones are written as they were in the live database."""
    columns = _given(pair.live, pair.columns)
    places = [pair.live.columns.index(column) for column in columns]
    table = _table(pair)
    if not columns:
        return f"INSERT INTO {table} DEFAULT VALUES;\n" * len(rows)
    values = ",\n".join(f"({', '.join(_literal(row[place]) for place in places)})" for row in rows)
    names = ", ".join(map(_quoted, columns))
    action = ""
    if pair.keyed:
        settable = [column for column in columns if column not in {*pair.key, *pair.live.identities}]
        assigned = ", ".join(f"{_quoted(column)} = excluded.{_quoted(column)}" for column in settable)
        update = change == "changed" and assigned
        keys = ", ".join(map(_quoted, pair.key))
        action = f"\nON CONFLICT ({keys}) DO {f'UPDATE SET {assigned}' if update else 'NOTHING'}"
    return f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE VALUES\n{values}{action};\n"


def delete_statement(pair: Pair, key: Values) -> str:
    """A row that is gone; without a key it is one of those that are equal to it, whichever."""
    if pair.keyed:
        named = zip(pair.key, key, strict=True)
        condition = " AND ".join(f"{_quoted(column)} = {_literal(value)}" for column, value in named)
        return f"DELETE FROM {_table(pair)} WHERE {condition};\n"
    # Some types know no equality, so that texts are compared.
    texts = ", ".join(f'{_quoted(column)}::text COLLATE "C"' for column in pair.key)
    values = ", ".join(map(_literal, key))
    same = f"ARRAY[{texts}]::text[] = ARRAY[{values}]::text[]"
    one = f"(SELECT ctid FROM ONLY {_table(pair)} WHERE {same} LIMIT 1)"
    return f"DELETE FROM ONLY {_table(pair)} WHERE ctid = {one};\n"


def early_delete_statement(pair: Pair, key: Values) -> str:
    """The same, where a new row may need its place; one that others still refer to goes at the end."""
    delete = delete_statement(pair, key).rstrip()
    body = f"BEGIN {delete} EXCEPTION WHEN foreign_key_violation OR restrict_violation THEN NULL; END"
    return f"DO {_literal(body)};\n"


def _table(pair: Pair) -> str:
    return f"{_quoted(pair.live.schema)}.{_quoted(pair.live.name)}"


def _literal(value: str | None) -> str:
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _write(file: IO[str], text: str) -> None:
    try:
        file.write(text)
    except OSError as error:
        raise write_failure(Path(file.name), error) from error


def _sync(file: IO[str]) -> None:
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise ReleaseError(f"Saving the rows written since the backup failed ({error.strerror}): make room.") from error
