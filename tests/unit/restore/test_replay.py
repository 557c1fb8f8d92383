"""The replay script: whatever was written since the backup, in whatever shape, is there again once it was run."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import restore_world
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.host import lifecycle
from ansible.module_utils.dbrelease.postgres.large_objects import read_large_objects
from ansible.module_utils.dbrelease.postgres.session import LOST_CLIENT, Login
from ansible.module_utils.dbrelease.postgres.table_shape import Table, read_shapes
from ansible.module_utils.dbrelease.restore.swap import live_scan
from ansible.module_utils.dbrelease.restore.swap.replay_sql import beginning
from own_sessions import connect
from psycopg2.extras import RealDictCursor
from restore_world import World
from waits import until_an_idle_session_is_ended

world = restore_world.world

# Each case: what was there at the backup, and what was written to it since.
CASES = {
    "equal rows without a key": (
        "CREATE TABLE plain (a int, b json); INSERT INTO plain SELECT 1, '{\"x\": 1}' FROM generate_series(1, 3)",
        "DELETE FROM plain WHERE ctid = (SELECT min(ctid) FROM plain);INSERT INTO plain VALUES (1, '[]'), (NULL, NULL)",
    ),
    "updated without a key": (
        "CREATE TABLE plain (a int, b text, p point); INSERT INTO plain VALUES (1, 'it''s', '(1,2)'), (2, NULL, NULL)",
        "UPDATE plain SET b = E'\\\\ $$ ''now''' || a; DELETE FROM plain WHERE a = 2",
    ),
    "json with the escape of NUL, and other text that scripts break on": (
        "CREATE TABLE odd (id int PRIMARY KEY, j json, t text)",
        "INSERT INTO odd VALUES (2, NULL, ''), (1, '{\"nul\": \"\\u0000\"}',"
        " E'\\\\.\\n$dbrelease$ '':x %s \\r\\t \\x01 🙂')",
    ),
    "names in another schema, with capitals, quotes and other letters": (
        'CREATE SCHEMA "Büro"; CREATE TABLE "Büro"."Pläne ""A""" ("Nr." serial PRIMARY KEY, "wert %" text)',
        'INSERT INTO "Büro"."Pläne ""A""" ("wert %") SELECT \'ä\' UNION ALL SELECT NULL',
    ),
    "names with a percent sign": (
        "CREATE SCHEMA \"%s 'it'\";"
        'CREATE TABLE "%s \'it\'"."100% ""A"" %(b)s" (id serial PRIMARY KEY, "%I" text);'
        'INSERT INTO "%s \'it\'"."100% ""A"" %(b)s" ("%I") VALUES (1), (2);'
        'CREATE TABLE "%s \'it\'"."nobody writes %d" (id int)',
        'UPDATE "%s \'it\'"."100% ""A"" %(b)s" SET "%I" = 3 WHERE id = 1;'
        'INSERT INTO "%s \'it\'"."100% ""A"" %(b)s" ("%I") VALUES (4)',
    ),
    "generated and identity columns": (
        "CREATE TABLE made (id uuid PRIMARY KEY, n bigint GENERATED ALWAYS AS IDENTITY, a int,"
        " b int GENERATED ALWAYS AS (a * 2) STORED); INSERT INTO made (id, a) VALUES (gen_random_uuid(), 1)",
        "UPDATE made SET a = 7; INSERT INTO made (id, a) VALUES (gen_random_uuid(), 2)",
    ),
    "a unique value that went over to a new row": (
        "CREATE TABLE projects (id int PRIMARY KEY, code text UNIQUE);"
        "CREATE TABLE drawings (id int PRIMARY KEY, project_id int REFERENCES projects ON DELETE SET NULL);"
        "INSERT INTO projects VALUES (1, 'A'), (2, 'B'); INSERT INTO drawings VALUES (1, 1), (2, 1)",
        "DELETE FROM projects WHERE id = 1; INSERT INTO projects VALUES (3, 'A'); UPDATE drawings SET project_id = 3",
    ),
    "children that moved away from a parent that is gone": (
        "CREATE TABLE parents (id int PRIMARY KEY, code text UNIQUE);"
        "CREATE TABLE children (id int PRIMARY KEY, parent_id int REFERENCES parents ON DELETE RESTRICT);"
        "INSERT INTO parents VALUES (1, 'a'), (2, 'b'); INSERT INTO children VALUES (1, 1), (2, 1)",
        "UPDATE children SET parent_id = 2 WHERE id = 1; DELETE FROM children WHERE id = 2;"
        "DELETE FROM parents WHERE id = 1",
    ),
    "children that a cascade would take along": (
        "CREATE TABLE parents (id int PRIMARY KEY, code text UNIQUE);"
        "CREATE TABLE children (id int PRIMARY KEY, parent_id int REFERENCES parents ON DELETE CASCADE, more text);"
        "INSERT INTO parents VALUES (1, 'a'), (2, 'b'); INSERT INTO children VALUES (1, 1, 'kept'), (2, 1, 'lost')",
        "UPDATE children SET parent_id = 2 WHERE id = 1; DELETE FROM parents WHERE id = 1",
    ),
    "grandchildren that a cascade would take along": (
        "CREATE TABLE projects (id int PRIMARY KEY, code text UNIQUE);"
        "CREATE TABLE folders (id int PRIMARY KEY, project_id int REFERENCES projects ON DELETE CASCADE);"
        "CREATE TABLE files (id int PRIMARY KEY, folder_id int REFERENCES folders ON DELETE CASCADE);"
        "INSERT INTO projects VALUES (1, 'A'), (2, 'B'); INSERT INTO folders VALUES (1, 1);"
        "INSERT INTO files VALUES (1, 1)",
        "UPDATE folders SET project_id = 2; DELETE FROM projects WHERE id = 1",
    ),
    "rows that refer to rows of their own table": (
        "CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree); INSERT INTO tree VALUES (1, NULL)",
        "INSERT INTO tree SELECT n, n + 1 FROM generate_series(2, 1500) n UNION SELECT 1501, 1;"
        "UPDATE tree SET up = 900 WHERE id = 1",
    ),
    "a row that is gone, and one of the same key in a table that inherits": (
        "CREATE TABLE papers (id int PRIMARY KEY, said text, code text UNIQUE);"
        "CREATE TABLE plans (scale int, PRIMARY KEY (id)) INHERITS (papers);"
        "INSERT INTO papers VALUES (1, 'gone', 'a'), (2, 'old', 'b');"
        "INSERT INTO plans VALUES (1, 'kept', 'a', 50), (2, 'as it was', 'b', 100)",
        "DELETE FROM ONLY papers WHERE id = 1; UPDATE ONLY papers SET said = 'new' WHERE id = 2",
    ),
    "such a row that was in use till then": (
        "CREATE TABLE papers (id int PRIMARY KEY);"
        "CREATE TABLE plans (PRIMARY KEY (id)) INHERITS (papers); INSERT INTO papers VALUES (1), (2);"
        "INSERT INTO plans VALUES (1), (2); CREATE TABLE pins (id int PRIMARY KEY, paper int REFERENCES papers);"
        "INSERT INTO pins VALUES (1, 1)",
        "UPDATE pins SET paper = 2; DELETE FROM ONLY papers WHERE id = 1",
    ),
}


@pytest.mark.parametrize(("before", "written"), CASES.values(), ids=CASES.keys())
def test_the_script_brings_back_what_was_written(world: World, before: str, written: str) -> None:
    result, live = world.written_since(before, written)
    assert world.every_row() != live
    (folder,) = world.state.glob("rows_since_backup_*")
    assert {path.suffix for path in folder.iterdir()} == {".jsonl", ".sql"}
    done = world.replay()
    assert done.returncode == 0, done.stderr
    assert world.every_row() == live
    assert result["rows"]["directory"] == str(folder)


def test_no_timeout_of_the_database_ends_the_comparison(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session that looked at the copy waits, in its transaction, until the application has stopped."""
    world.execute(f"ALTER DATABASE {world.login.database} SET idle_in_transaction_session_timeout = '100ms'")
    world.back_up()
    world.execute("UPDATE orders SET title = 'changed' WHERE id = 1")
    monkeypatch.setattr(lifecycle, "stop", lambda *_: until_an_idle_session_is_ended(world.login, in_transaction=True))
    result = world.swap(world.restore()["database"])
    assert result["rows"]["tables"]["public.orders"]["changed"] == 1


# What was done to the live database since the backup, and the values of columns that only it has.
COLUMNS: dict[str, tuple[str, dict[str, tuple[list[str], int]]]] = {
    "values in one of two": (
        "ALTER TABLE accounts ADD COLUMN note text, ADD COLUMN \"% more\" int;"
        "UPDATE accounts SET note = 'precious' WHERE id < 4",
        {"public.accounts": (["note"], 3)},
    ),
    "values in both, of rows that are otherwise equal": (
        'ALTER TABLE "Odd ""name" ADD COLUMN "% more" json, ADD COLUMN x point;'
        'UPDATE "Odd ""name" SET "% more" = \'{}\', x = \'(1,2)\'',
        {'public."Odd ""name"': (["% more", "x"], 2)},
    ),
    "no value": ("ALTER TABLE accounts ADD COLUMN note text", {}),
    "what the table gives by itself": (
        "ALTER TABLE accounts ADD COLUMN a varchar(10) NOT NULL DEFAULT 'it''s',"
        "ADD COLUMN b numeric(10, 2) DEFAULT 1.5, ADD COLUMN c json DEFAULT '{}', ADD COLUMN d int DEFAULT -1,"
        "ADD COLUMN e bool DEFAULT false, ADD COLUMN f mood DEFAULT 'sad', ADD COLUMN g text[] DEFAULT '{}',"
        "ADD COLUMN h char(3) DEFAULT 'x', ADD COLUMN i int GENERATED ALWAYS AS (id * 2) STORED",
        {},
    ),
    "another value than that": (
        "ALTER TABLE accounts ADD COLUMN a int NOT NULL DEFAULT 1; UPDATE accounts SET a = 2 WHERE id = 1",
        {"public.accounts": (["a"], 1)},
    ),
    "what was computed": (
        "ALTER TABLE accounts ADD COLUMN at timestamptz DEFAULT now()", {"public.accounts": (["at"], 50)},
    ),
    "a value that is null in part": (
        "CREATE TYPE two AS (a int, b int); ALTER TABLE accounts ADD COLUMN both_of two;"
        "UPDATE accounts SET both_of = (1, NULL) WHERE id = 1",
        {"public.accounts": (["both_of"], 1)},
    ),
    "rows that are new, too": (
        "ALTER TABLE accounts ADD COLUMN note text; INSERT INTO accounts (name, note) VALUES ('new', 'precious')",
        {"public.accounts": (["note"], 1)},
    ),
    "rows of a table that inherits": (
        "ALTER TABLE accounts ADD COLUMN note text; CREATE TABLE shops () INHERITS (accounts);"
        "INSERT INTO shops VALUES (1, 'shop', 'sad', 'in a file')",
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("written", "expected"), COLUMNS.values(), ids=COLUMNS.keys())
def test_values_of_columns_that_only_the_live_database_has_are_reported(
    world: World, written: str, expected: dict[str, tuple[list[str], int]]
) -> None:
    result, _ = world.written_since("SELECT 1", written)
    assert {key: (found["names"], found["rows"]) for key, found in result["rows"]["columns"].items()} == expected
    (proof,) = [proof for proof in result["proofs"] if proof["name"] == "restore.rows_saved"]
    assert proof["status"] == ("inconclusive" if expected else "pass")
    for table, (names, rows) in expected.items():
        assert f"values of {table} in {', '.join(names)} ({rows} row" in proof["detail"]
    assert bool(proof["remedy"]) == bool(expected)


def test_large_objects_that_differ_are_counted(world: World) -> None:
    world.execute("SELECT lo_from_bytea(4711, 'same'), lo_from_bytea(4712, 'old'), lo_from_bytea(4713, 'gone')")
    world.back_up()
    world.execute("SELECT lo_put(4712, 0, 'new'), lo_unlink(4713), lo_from_bytea(4714, 'since')")
    result = world.swap(world.restore()["database"])
    assert (result["rows"]["rows"], result["rows"]["large_objects"]) == (0, 3)
    (proof,) = [proof for proof in result["proofs"] if proof["name"] == "restore.rows_saved"]
    assert (proof["status"], "3 large objects that differ" in proof["detail"]) == ("inconclusive", True)
    assert world.execute("SELECT convert_from(lo_get(4712), 'UTF8')") == [("old",)]


def test_pages_of_a_large_object_in_another_order_differ(world: World) -> None:
    """A sum of hashes that is linear in the columns sees such an exchange by chance only."""
    numbers = range(1, 13)
    seen = []
    for pages in ("repeat('a', 2048) || repeat({}::text, 2048)", "repeat({}::text, 2048) || repeat('a', 2048)"):
        for number in numbers:
            world.execute(f"SELECT lo_from_bytea({number}, convert_to({pages.format(number % 10)}, 'UTF8'))")
        with (
            closing(connect(world.login, "tests")) as session,
            session.cursor(cursor_factory=RealDictCursor) as cursor,
        ):
            seen.append(read_large_objects(cursor))
        for number in numbers:
            world.execute(f"SELECT lo_unlink({number})")
    assert [number for number in numbers if seen[0][number] == seen[1][number]] == []


def test_large_objects_that_may_not_be_read_are_counted(world: World) -> None:
    world.execute("SELECT lo_from_bytea(4711, 'secret')")
    with closing(connect(world.login, "tests")) as session, session.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(f"SET ROLE {world.role}")
        assert read_large_objects(cursor) == {4711: None}


@pytest.fixture
def oddly_named(server: Login, run_parameters: dict[str, Any]) -> Iterator[World]:
    """A database whose name every tool must quote."""
    name = f"test_{secrets.token_hex(6)} Odd=\"name\" 'ä' %s"
    login = replace(server, database=name)
    world = World(login, server, run_parameters, secrets.token_hex(4))
    quoted = name.replace('"', '""')
    world.execute(f'CREATE DATABASE "{quoted}"', server.database)
    world.execute("CREATE TABLE alembic_version (version_num text); CREATE TABLE plain (a int)")
    try:
        yield world
    finally:
        world.execute(f'DROP DATABASE "{quoted}" WITH (FORCE)', server.database)


def test_a_name_that_needs_quotes_is_restored_swapped_and_dropped(oddly_named: World) -> None:
    world = oddly_named
    world.back_up()
    world.execute("INSERT INTO plain VALUES (1)")
    back = "ansible-playbook -e restore_swap_back={database}"
    result = world.swap(world.restore()["database"], drop_command="dropdb {database}", swap_back_command=back)
    assert world.tables()["public.plain"][0] == 0
    # Ansible takes one pair of quotes off the value.
    assert shlex.split(result["swap_back_command"])[-1] == f'restore_swap_back="{result["kept"]}"'
    where = {"PGHOST": world.login.host, "PGPORT": str(world.login.port), "PGUSER": world.login.user}
    environment = {**os.environ, **where, "PGPASSWORD": world.login.password or ""}
    subprocess.run(shlex.split(result["drop_command"]), check=True, env=environment)
    assert world.databases() == {world.login.database: True}


def test_a_table_that_is_dropped_during_the_look_ends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.back_up()
    world.execute("CREATE TABLE extra (id int); INSERT INTO extra VALUES (1); DELETE FROM orders WHERE id = 7")

    def late(cursor: RealDictCursor) -> dict[str, Table]:
        found = read_shapes(cursor)
        world.execute("DROP TABLE IF EXISTS extra")
        return found

    monkeypatch.setattr(live_scan, "read_shapes", late)
    assert world.restore(state="live")["swap"]["rows"]["tables"].keys() == {"public.orders"}
    assert world.execute("SELECT count(*) FROM orders") == [(3000,)]


def test_text_of_no_known_encoding_is_one_sentence(server: Login, run_parameters: dict[str, Any]) -> None:
    name = f"test_{secrets.token_hex(6)}"
    world = World(replace(server, database=name), server, run_parameters, secrets.token_hex(4))
    world.execute(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'", "postgres"
    )
    try:
        world.execute(
            "CREATE TABLE alembic_version (version_num text); CREATE TABLE plain (id int PRIMARY KEY, a text)"
        )
        world.back_up()
        world.execute("INSERT INTO plain VALUES (1, E'\\xe9')")
        with pytest.raises(
            ReleaseError, match=r"text of the database is no valid UTF8, as SQL_ASCII allows\): nothing was swapped"
        ):
            world.restore(state="live")
        assert world.databases() == {name: True}
        assert world.execute("SELECT count(*) FROM plain") == [(1,)]
    finally:
        world.execute(f"DROP DATABASE {name} WITH (FORCE)", "postgres")


def test_a_script_sets_nothing_that_is_of_the_restores_own_sessions() -> None:
    assert [name for name in LOST_CLIENT if name in beginning()] == []
