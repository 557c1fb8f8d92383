"""Rows that are about to be lost are on disk first, and come back."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import shared_database
from ansible.module_utils.dbrelease.database import connect, transaction
from ansible.module_utils.dbrelease.errors import ReleaseError
from ansible.module_utils.dbrelease.lost_rows import NOTHING, Saved, save_rows

database, emptied = shared_database.database, shared_database.emptied
RUN = "20260102T030405Z-abcdef"
TABLE = """
CREATE TABLE notes (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "Odd ""name" text, size numeric(6,2), taken timestamptz,
  tags text[], body jsonb, raw bytea, twice numeric GENERATED ALWAYS AS (size * 2) STORED);
INSERT INTO notes ("Odd ""name", size, taken, tags, body, raw) VALUES
  (E'a tab\\t, a line\\nend, \\\\. and a '' and "', 1.50, '2026-01-02 03:04:05.678+09',
   '{a,"b c"}', '{"a": [1]}', '\\x00ff'),
  (E'\\\\.', NULL, NULL, '{}', NULL, ''),
  ('Ωä', -1, 'infinity', NULL, 'null', NULL)
"""


def save(login: Any, folder: Path, query: str = "SELECT * FROM notes", run_id: str = RUN) -> Saved:
    session = connect(login, "tests")
    try:
        with transaction(session, read_only=True, isolation="REPEATABLE READ") as cursor:
            return save_rows(cursor, query, "notes", folder, run_id, "lost_notes")
    finally:
        session.close()


def rows(session: Any) -> list[Any]:
    with session.cursor() as cursor:
        cursor.execute("SELECT t::text FROM notes t ORDER BY id")
        return list(cursor.fetchall())


def replay(session: Any, path: str) -> None:
    """What psql does with the script: the rows between COPY and `\\.` are its input."""
    head, rest = Path(path).read_text(encoding="utf-8").split("FROM STDIN;\n")
    body, tail = rest.rsplit("\n\\.\n", 1)
    statements = [line for line in head.splitlines() if not line.startswith(("--", "\\"))]
    with session.cursor() as cursor:
        cursor.execute("\n".join(statements).removesuffix("COPY lost_rows "))
        with Path(path).with_suffix(".body").open("w+", encoding="utf-8") as file:
            file.write(body + "\n")
            file.seek(0)
            cursor.copy_expert("COPY lost_rows FROM STDIN", file)
        cursor.execute(tail)


@pytest.fixture
def notes(session: Any) -> Any:
    with session.cursor() as cursor:
        cursor.execute(TABLE)
    return session


def test_what_was_saved_comes_back_and_only_once(database: Any, notes: Any, tmp_path: Path) -> None:
    before = rows(notes)
    saved = save(database, tmp_path)
    with notes.cursor() as cursor:
        cursor.execute("DELETE FROM notes WHERE id > 1")
    replay(notes, saved["replay"])
    assert rows(notes) == before
    replay(notes, saved["replay"])
    assert rows(notes) == before


def test_both_files_are_private_and_counted(database: Any, notes: Any, tmp_path: Path) -> None:
    saved = save(database, tmp_path, "SELECT * FROM notes WHERE id < 3;")
    assert saved["rows"] == 2
    assert saved["sha256"] == hashlib.sha256(Path(saved["path"]).read_bytes()).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "lost_notes_20260102_030405.tsv", "lost_notes_20260102_030405_replay.sql",
    ]  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert "2 rows of notes" in Path(saved["replay"]).read_text(encoding="utf-8")


def test_a_file_of_another_run_is_never_overwritten(database: Any, notes: Any, tmp_path: Path) -> None:
    first, second = save(database, tmp_path), save(database, tmp_path, run_id="20260102T030405Z-123456")
    assert first["path"] != second["path"]
    assert len(list(tmp_path.iterdir())) == 4


def test_nothing_to_save_writes_nothing(database: Any, notes: Any, tmp_path: Path) -> None:
    assert save(database, tmp_path, "SELECT * FROM notes WHERE false") == NOTHING
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELECT nothing FROM notes", "42703"),
        ("SELECT 1 AS other FROM notes", "none of its columns"),
        ("DELETE FROM notes RETURNING *", "syntax error"),
    ],
)
def test_a_bad_query_is_one_sentence_and_no_file(
    database: Any, notes: Any, tmp_path: Path, query: str, says: str
) -> None:  # fmt: skip
    with pytest.raises(ReleaseError, match=says):
        save(database, tmp_path, query)
    assert not list(tmp_path.iterdir())
    assert len(rows(notes)) == 3


def test_a_folder_that_cannot_be_written_is_one_sentence(database: Any, notes: Any) -> None:
    with pytest.raises(ReleaseError, match="release_state_dir"):
        save(database, Path("/proc/nothing"))


def test_a_row_that_the_table_refuses_changes_nothing(database: Any, notes: Any, tmp_path: Path) -> None:
    saved = save(database, tmp_path)
    with notes.cursor() as cursor:
        cursor.execute("DELETE FROM notes; ALTER TABLE notes ADD CHECK (size > 0)")
    with pytest.raises(psycopg2.errors.CheckViolation):
        replay(notes, saved["replay"])
    with notes.cursor() as cursor:
        cursor.execute("ROLLBACK")
    assert rows(notes) == []
