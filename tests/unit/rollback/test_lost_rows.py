"""Rows that are about to be lost are on disk first, and come back."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import shared_database
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.files import publish
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from ansible.module_utils.dbrelease.rollback import lost_rows
from ansible.module_utils.dbrelease.rollback.lost_rows import NOTHING, Saved, save_rows
from own_sessions import connect
from psycopg2 import sql
from replayed_rows import replay

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


@pytest.fixture
def notes(session: Any) -> Any:
    with session.cursor() as cursor:
        cursor.execute(TABLE)
    return session


def test_names_are_written_as_the_rows_are(server: Login, tmp_path: Path) -> None:
    name = f"test_{secrets.token_hex(6)}"
    session = connect(server, "tests")
    with session.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C'")
    login = replace(server, database=name)
    try:
        with closing(connect(login, "tests")) as western, western.cursor() as cursor:
            cursor.execute(
                """CREATE TABLE notes (id int PRIMARY KEY, "größe" text); INSERT INTO notes VALUES (1, 'ä')"""
            )
            saved = save(login, tmp_path)
            cursor.execute("DELETE FROM notes")
            where = [f"--host={server.host}", f"--port={server.port}", f"--username={server.user}", f"--dbname={name}"]
            environment = {**os.environ, "PGPASSWORD": server.password or ""}
            subprocess.run(["psql", "-X", "-q", *where, f"--file={saved['replay']}"], env=environment, check=True)
            cursor.execute('SELECT "größe" FROM notes')
            assert cursor.fetchall() == [("ä",)]
    finally:
        with session.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
        session.close()


def test_what_was_saved_comes_back_and_only_once(database: Any, notes: Any, tmp_path: Path) -> None:
    before = rows(notes)
    saved = save(database, tmp_path)
    with notes.cursor() as cursor:
        cursor.execute("DELETE FROM notes WHERE id > 1")
    replay(notes, saved["replay"])
    assert rows(notes) == before
    replay(notes, saved["replay"])
    assert rows(notes) == before


def test_without_its_script_no_file_stays(
    database: Any, notes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(temporary: Path, path: Path) -> None:
        if path.suffix == ".sql":
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(temporary, path)

    monkeypatch.setattr(lost_rows, "publish", full)
    with pytest.raises(ReleaseError, match="make room there"):
        save(database, tmp_path)
    assert not list(tmp_path.iterdir())


# The columns of the table, and its rows.
SHAPES = {
    "types whose length is not in their name": (
        "id int PRIMARY KEY, a char(5), b bit(4), c char(3)[], d bit(2)[], e bit varying(9), f \"char\", g varchar(3)",
        "(1, 'abc', B'1010', '{ab,\"c  \"}', '{10,01}', B'101', 'x', 'abc'), (2, 'ab', B'0001', NULL, NULL, NULL, '',"
        " '')",
    ),
    "a key that is checked late": ("id int PRIMARY KEY DEFERRABLE, a text", "(1, 'a'), (2, 'b')"),
    "another value that is checked late": (
        "id int PRIMARY KEY, \"the Code\" text UNIQUE DEFERRABLE INITIALLY DEFERRED, a int",
        "(1, 'a', 1), (2, NULL, 2), (3, NULL, 3)",
    ),
    "ranges that are checked late, beside a key": (
        "id int PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&) DEFERRABLE",
        "(1, '[1,5)'), (2, '[5,9)')",
    ),
    "a key that is checked late, with another column in it": (
        "a text, b int, id int, PRIMARY KEY (id, b) INCLUDE (a) DEFERRABLE", "('a', 1, 1), ('b', 1, 2)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "values"), SHAPES.values(), ids=SHAPES.keys())
def test_rows_of_any_shape_come_back_and_only_once(
    database: Any, session: Any, tmp_path: Path, columns: str, values: str
) -> None:
    with session.cursor() as cursor:
        cursor.execute(f"CREATE TABLE notes ({columns}); INSERT INTO notes VALUES {values}")
    before = rows(session)
    saved = save(database, tmp_path)
    for remaining in (0, 1, len(before)):
        with session.cursor() as cursor:
            cursor.execute(f"DELETE FROM notes WHERE id > {remaining}")
        replay(session, saved["replay"])
        assert rows(session) == before


# The table, which of its columns are saved, and whether its key keeps a row from coming back twice.
LATE = {
    "a partitioned table": (
        "CREATE TABLE notes (id int PRIMARY KEY DEFERRABLE, a text) PARTITION BY LIST (id);"
        "CREATE TABLE every PARTITION OF notes DEFAULT", "*", True,
    ),
    "ranges without a key": (
        "CREATE TABLE notes (id int, a text, EXCLUDE USING gist (int4range(id, id, '[]') WITH &&) DEFERRABLE)",
        "*", False,
    ),
    "a key of which nothing is saved": (
        "CREATE TABLE notes (id int, a text, n serial UNIQUE DEFERRABLE)", "id, a", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("create", "columns", "keyed"), LATE.values(), ids=LATE.keys())
def test_rows_come_back_where_a_constraint_is_checked_late(
    database: Any, session: Any, tmp_path: Path, create: str, columns: str, keyed: bool
) -> None:
    with session.cursor() as cursor:
        cursor.execute(f"{create}; INSERT INTO notes VALUES (1, 'a'), (2, 'b')")
    saved = save(database, tmp_path, f"SELECT {columns} FROM notes WHERE id = 2")
    with session.cursor() as cursor:
        cursor.execute("DELETE FROM notes WHERE id = 2")
    for _ in range(2 if keyed else 1):
        replay(session, saved["replay"])
    with session.cursor() as cursor:
        cursor.execute("SELECT id, a FROM notes ORDER BY id")
        assert cursor.fetchall() == [(1, "a"), (2, "b")]


# The table, its rows, what becomes of its sequence in the table that is made anew, and the next two keys.
BY_DEFAULT = "CREATE TABLE notes (id int GENERATED BY DEFAULT AS IDENTITY {} PRIMARY KEY, a text)"
THREE = "INSERT INTO notes (a) VALUES ('a'), ('b'), ('c')"
RESTARTED = "ALTER SEQUENCE notes_id_seq RESTART {}"
OWNED = "CREATE SEQUENCE own; CREATE TABLE notes ({}, a text); ALTER SEQUENCE own OWNED BY notes.id"
SEQUENCES = {
    "identity": ("CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text)", THREE, "", 4, 5),
    "serial": ("CREATE TABLE notes (a text, id smallserial PRIMARY KEY)", THREE, "", 4, 5),
    "of a partitioned table": (
        "CREATE TABLE notes (id serial PRIMARY KEY, a text) PARTITION BY LIST (id);"
        "CREATE TABLE every PARTITION OF notes DEFAULT", THREE, "", 4, 5,
    ),
    "of a column that is no integer": (OWNED.format("id numeric DEFAULT nextval('own')"), THREE, "", 4, 5),
    "of a domain": ("CREATE DOMAIN key AS int; " + OWNED.format("id key DEFAULT nextval('own')"), THREE, "", 4, 5),
    "a step before the last row": (BY_DEFAULT.format(""), THREE, RESTARTED.format(3), 4, 5),
    "farther already": (
        BY_DEFAULT.format(""), THREE, RESTARTED.format(100) + "; SELECT nextval('notes_id_seq')", 101, 102,
    ),
    "farther, and never used": (BY_DEFAULT.format(""), THREE, RESTARTED.format(100), 100, 101),
    "downwards": (BY_DEFAULT.format("(INCREMENT -1)"), THREE, "", -4, -5),
    "downwards, and farther already": (BY_DEFAULT.format("(INCREMENT -1)"), THREE, RESTARTED.format(-100), -100, -101),
    "by steps, from which a row departs": (
        BY_DEFAULT.format("(INCREMENT 10)"), "INSERT INTO notes VALUES (1, 'a'), (25, 'b')", "", 31, 41,
    ),
    "a row beyond its bounds": (
        BY_DEFAULT.format("(MAXVALUE 100)"), "INSERT INTO notes VALUES (-7, 'a'), (2, 'b'), (200, 'c')", "", 3, 4,
    ),
    "a row at its bound of 64 bits": (
        "CREATE TABLE notes (id bigserial PRIMARY KEY, a text)",
        f"INSERT INTO notes VALUES ({2**63 - 3}, 'a')", "", 2**63 - 2, 2**63 - 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("create", "values", "anew", "following", "later"), SEQUENCES.values(), ids=SEQUENCES.keys())
def test_after_rows_came_back_the_next_one_has_a_key_of_its_own(
    database: Any, session: Any, tmp_path: Path, create: str, values: str, anew: str, following: int, later: int
) -> None:
    with session.cursor() as cursor:
        cursor.execute(f"{create}; {values}")
        before, saved = rows(session), save(database, tmp_path)
        cursor.execute(f"DROP TABLE notes CASCADE; DROP DOMAIN IF EXISTS key; {create}; {anew}")
        replay(session, saved["replay"])
        assert rows(session) == before
        for key in (following, later):
            cursor.execute("INSERT INTO notes (a) VALUES ('new') RETURNING id")
            assert cursor.fetchall() == [(key,)]
            replay(session, saved["replay"])


def test_a_sequence_of_what_is_no_number_is_left_alone(database: Any, session: Any, tmp_path: Path) -> None:
    with session.cursor() as cursor:
        cursor.execute(OWNED.format("\"id\" text DEFAULT 'n' || nextval('own')") + f"; {THREE}")
        before, saved = rows(session), save(database, tmp_path)
        cursor.execute("DELETE FROM notes")
    replay(session, saved["replay"])
    assert rows(session) == before


@pytest.mark.parametrize("name", ["Odd \"%s's", "replay_key", "last_value"])
def test_a_sequence_is_found_whatever_its_column_is_called(
    database: Any, session: Any, tmp_path: Path, name: str
) -> None:
    create = sql.SQL("CREATE TABLE notes ({} serial PRIMARY KEY, id int DEFAULT 0)").format(sql.Identifier(name))
    with session.cursor() as cursor:
        cursor.execute(create)
        cursor.execute("INSERT INTO notes DEFAULT VALUES")
        saved = save(database, tmp_path)
        cursor.execute("DROP TABLE notes")
        cursor.execute(create)
        replay(session, saved["replay"])
        cursor.execute("INSERT INTO notes DEFAULT VALUES")
    assert len(rows(session)) == 2


def test_a_replay_that_is_refused_leaves_the_sequence_where_it_was(database: Any, session: Any, tmp_path: Path) -> None:
    create = BY_DEFAULT.format("")
    with session.cursor() as cursor:
        cursor.execute(f"{create}; {THREE}")
        saved = save(database, tmp_path)
        cursor.execute(f"DROP TABLE notes; {create}; INSERT INTO notes (a) VALUES ('other')")
        with pytest.raises(psycopg2.errors.RaiseException):
            replay(session, saved["replay"])
        cursor.execute("ROLLBACK")
        cursor.execute("SELECT last_value, is_called FROM notes_id_seq")
        assert cursor.fetchall() == [(1, True)]


# The table, what stands in the place of the saved row (1, 'a', 'x'), and what the row is called.
REPLACED = {
    "another key": ("id int PRIMARY KEY, a text UNIQUE, b text", "(7, 'a', 'x')", "(1,a,x)"),
    "another value": ("id int PRIMARY KEY, a text, b text", "(1, 'a', 'y')", "(1,a,x)"),
    "a value that was none": ("id int PRIMARY KEY, a text, b text", "(1, 'a', NULL)", "(1,a,x)"),
    "a key that is checked late": ("id int PRIMARY KEY DEFERRABLE, a text, b text", "(1, 'a', 'y')", "(1,a,x)"),
    "names that PL/pgSQL might take for its own": (
        "replay_there int PRIMARY KEY, replay_written text, \"%\" text", "(1, 'a', 'y')", "(1,a,x)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "other", "named"), REPLACED.values(), ids=REPLACED.keys())
def test_rows_with_others_in_their_place_are_not_said_to_be_back(
    database: Any, session: Any, tmp_path: Path, columns: str, other: str, named: str
) -> None:
    with session.cursor() as cursor:
        cursor.execute(f"CREATE TABLE notes ({columns}); INSERT INTO notes VALUES (1, 'a', 'x'), (2, 'b', 'x')")
        saved = save(database, tmp_path)
        cursor.execute(f"TRUNCATE notes; INSERT INTO notes VALUES {other}")
        with pytest.raises(psycopg2.errors.RaiseException, match="unique values of 1 of them") as raised:
            replay(session, saved["replay"])
        assert named in str(raised.value.diag.message_detail)
        cursor.execute("ROLLBACK")
        cursor.execute("SELECT count(*) FROM notes")
        assert cursor.fetchall() == [(1,)]
        cursor.execute("TRUNCATE notes; INSERT INTO notes VALUES (2, 'b', 'x')")
        for reported in ("1 rows were put back, and 1 skipped", "0 rows were put back, and 2 skipped"):
            replay(session, saved["replay"])
            assert reported in session.notices[-1]


def test_a_trigger_that_changes_rows_is_none_that_has_them_differ(
    database: Any, session: Any, tmp_path: Path
) -> None:  # fmt: skip
    with session.cursor() as cursor:
        cursor.execute("CREATE TABLE notes (id int PRIMARY KEY, a text); INSERT INTO notes VALUES (1, 'a'), (2, 'b')")
        saved = save(database, tmp_path)
        cursor.execute(
            "CREATE FUNCTION pg_temp.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.a := ''z''; RETURN NEW; END';"
            "CREATE TRIGGER t BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION pg_temp.f(); TRUNCATE notes"
        )
    replay(session, saved["replay"])
    assert rows(session) == [("(1,z)",), ("(2,z)",)]


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
