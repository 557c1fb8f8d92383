"""dropped_rows: what is saved is exactly what was accepted, and the script puts the very rows back."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest
import shared_database
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.postgres.session import Login
from dropped_rows import act
from own_sessions import connect
from replayed_rows import replay

database, emptied = shared_database.database, shared_database.emptied

TABLE = """
CREATE TABLE order_items (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text, at timestamptz, raw bytea, extra json, tags text[],
    doubled int GENERATED ALWAYS AS (7 * 2) STORED, "odd name" numeric);
"""
ROWS = """
INSERT INTO order_items (note, at, raw, extra, tags, "odd name") VALUES
    ('plain', now(), '\\x00ff', '{"a": 1}', '{a,"b c"}', 1.50),
    (E'it''s a \\\\ back\\nslash %s {x} 😀 $$; DROP TABLE order_items; --', NULL, NULL, NULL, NULL, NULL),
    ('kept', now(), NULL, NULL, NULL, NULL)
"""
WANTED = "SELECT id FROM order_items WHERE note <> 'kept';"
Save = Callable[..., dict[str, Any]]


@pytest.fixture
def save(
    session: psycopg2.extensions.connection, login_parameters: dict[str, Any], run_parameters: dict[str, Any]
) -> Save:
    with session.cursor() as cursor:
        cursor.execute(TABLE)
        cursor.execute(ROWS)

    def save(expected: int = 2, rows: str = WANTED, check_mode: bool = False) -> dict[str, Any]:
        losses = [{"table": "order_items", "key": ["id"], "rows": rows}]
        return act({**login_parameters, "run": run_parameters, "losses": losses, "expected": expected}, check_mode)

    return save


def test_rows_of_a_partitioned_table_with_capitals_in_its_name_are_saved(
    session: psycopg2.extensions.connection, login_parameters: dict[str, Any], run_parameters: dict[str, Any]
) -> None:
    with session.cursor() as cursor:
        cursor.execute('CREATE TABLE "Links" (id int PRIMARY KEY, "By" text) PARTITION BY RANGE (id)')
        cursor.execute('CREATE TABLE first PARTITION OF "Links" FOR VALUES FROM (0) TO (2)')
        cursor.execute('CREATE TABLE second PARTITION OF "Links" FOR VALUES FROM (2) TO (9)')
        cursor.execute("""INSERT INTO "Links" VALUES (1, 'us'), (2, 'us'), (3, 'them')""")
    losses = [{"table": "Links", "key": ["id"], "rows": """SELECT id FROM "Links" WHERE "By" = 'us'"""}]
    params = {**login_parameters, "run": run_parameters, "losses": losses, "expected": 2}
    (saved,) = act(params, False)["files"]
    with session.cursor() as cursor:
        cursor.execute("""DELETE FROM "Links" WHERE "By" = 'us'""")
        replay(session, saved["replay"])
        cursor.execute('SELECT id FROM "Links" ORDER BY id')
        assert cursor.fetchall() == [(1,), (2,), (3,)]


def in_parts(parts: int) -> list[dict[str, Any]]:
    rows = "SELECT id FROM order_items WHERE note <> 'kept' AND id % {} = {}"
    return [{"table": "order_items", "key": ["id"], "rows": rows.format(parts, part)} for part in range(parts)]


def test_rows_of_one_table_by_several_queries_have_files_of_their_own(
    save: Save,
    session: psycopg2.extensions.connection,
    login_parameters: dict[str, Any],
    run_parameters: dict[str, Any],
) -> None:
    before = content(session)
    with session.cursor() as cursor:
        cursor.execute("INSERT INTO order_items (note) SELECT 'more' FROM generate_series(1, 4)")
    params = {**login_parameters, "run": run_parameters, "losses": in_parts(4), "expected": 6}
    saved = act(params, False)["files"]
    assert len({*[file["path"] for file in saved], *[file["replay"] for file in saved]}) == 8
    assert files(run_parameters) == sorted(Path(file[key]).name for file in saved for key in ("path", "replay"))
    with session.cursor() as cursor:
        cursor.execute("DELETE FROM order_items WHERE note <> 'kept'")
    for file in saved:
        assert Path(file["replay"]).name in Path(file["replay"]).read_text() and file["rows"]
        replay(session, file["replay"])
    assert len(content(session)) == len(before) + 4


def test_where_a_later_file_fails_none_stays(
    save: Save, login_parameters: dict[str, Any], run_parameters: dict[str, Any]
) -> None:
    broken = {"table": "order_items", "key": ["id"], "rows": "SELECT 1 / 0 AS id"}
    params = {**login_parameters, "run": run_parameters, "losses": [*in_parts(2), broken], "expected": 2}
    with pytest.raises(ReleaseError, match="division by zero"):
        act(params, False)
    assert files(run_parameters) == []


def content(session: psycopg2.extensions.connection) -> list[Any]:
    with session.cursor() as cursor:
        cursor.execute("SELECT t::text FROM order_items t ORDER BY id")
        return cursor.fetchall()


def files(run_parameters: dict[str, Any]) -> list[str]:
    return sorted(path.name for path in Path(run_parameters["state_dir"]).glob("lost_rows*"))


def test_the_script_puts_back_the_very_rows(
    save: Save,
    session: psycopg2.extensions.connection,
    database: Login,
    run_parameters: dict[str, Any],
) -> None:
    before = content(session)
    result = save()
    assert (result["changed"], result["rows"], result["message"]) == (True, 2, "")
    (saved,) = result["files"]
    script, rows = Path(saved["replay"]), Path(saved["path"])
    assert [stat.S_IMODE(path.stat().st_mode) for path in (script, rows)] == [0o600, 0o600]
    assert len(rows.read_text().splitlines()) == 3  # with the names of the columns
    with session.cursor() as cursor:
        cursor.execute("DELETE FROM order_items WHERE note <> 'kept'")
    for _ in range(2):
        replay(session, str(script))
        assert content(session) == before
    facts = Journal(Run(**run_parameters)).read()[-1]["facts"]
    digest = subprocess.run(["sha256sum", rows], capture_output=True, text=True, check=True).stdout.split()[0]
    assert facts["files"][0]["sha256"] == digest


def psql(login: Login, script: str) -> subprocess.CompletedProcess[str]:
    where = [f"--host={login.host}", f"--port={login.port}", f"--username={login.user}", f"--dbname={login.database}"]
    environment = {**os.environ, "PGPASSWORD": login.password or ""}
    command = ["psql", "-X", *where, "-f", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_by_psql_it_reports_how_many_and_fails_where_others_are_in_their_place(
    save: Save, session: psycopg2.extensions.connection, database: Login
) -> None:
    before = content(session)
    result = save()
    (saved,) = result["files"]
    assert "or reports that other rows are in their place" in result["proofs"][0]["detail"]
    with session.cursor() as cursor:
        cursor.execute("DELETE FROM order_items WHERE note <> 'kept'")
        cursor.execute("INSERT INTO order_items (id, note) OVERRIDING SYSTEM VALUE VALUES (1, 'by a new deployment')")
    replaced = content(session)
    red = psql(database, saved["replay"])
    assert (red.returncode, content(session)) == (3, replaced)
    assert "unique values of 1 of them" in red.stderr and "Nothing was changed." in red.stderr
    with session.cursor() as cursor:
        cursor.execute("DELETE FROM order_items WHERE id = 1")
    for reported in ("2 rows were put back, and 0 skipped", "0 rows were put back, and 2 skipped"):
        back = psql(database, saved["replay"])
        assert (back.returncode, content(session)) == (0, before) and reported in back.stderr


def test_the_second_call_of_a_run_writes_nothing(save: Save, run_parameters: dict[str, Any]) -> None:
    first, second = save(), save()
    assert (second["changed"], second["files"], second["session_settings"]) == (
        False,
        first["files"],
        first["session_settings"],
    )
    assert files(run_parameters) == [
        "lost_rows_order_items_20260102_030405.tsv",
        "lost_rows_order_items_20260102_030405_replay.sql",
    ]
    Path(first["files"][0]["path"]).write_text("changed")
    with pytest.raises(ReleaseError, match="is not what this run saved"):
        save()


def test_check_mode_writes_nothing(save: Save, run_parameters: dict[str, Any]) -> None:
    assert save(check_mode=True)["changed"] is True
    assert not Path(run_parameters["state_dir"]).exists()


@pytest.mark.parametrize(
    ("expected", "rows", "says"),
    [
        (1, WANTED, r"2 are there now, and 1 accepted"),
        (3, WANTED, r"2 are there now, and 3 accepted"),
        (2, "DELETE FROM order_items RETURNING id", r"failed"),
        (2, "SELECT id FROM order_items) AS x); DELETE FROM order_items; --", r"failed"),
        (2, "SELECT id FROM no_such_table", r"no_such_table.* nothing was rolled back"),
    ],
)
def test_a_refusal_leaves_no_file_and_no_change(
    save: Save,
    session: psycopg2.extensions.connection,
    run_parameters: dict[str, Any],
    expected: int,
    rows: str,
    says: str,
) -> None:
    before = content(session)
    with pytest.raises(ReleaseError, match=says):
        save(expected, rows)
    assert (files(run_parameters), content(session)) == ([], before)


IN_PARTS = """
DROP TABLE order_items;
CREATE TABLE order_items (id int, note text) PARTITION BY RANGE (id);
CREATE TABLE early PARTITION OF order_items FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
CREATE TABLE first PARTITION OF early FOR VALUES FROM (0) TO (5);
INSERT INTO order_items VALUES (1, 'plain'), (2, 'plain');
"""


@pytest.mark.parametrize(
    ("does", "write"),
    [("SELECT", "INSERT INTO order_items (note) VALUES ('more')"), (IN_PARTS, "INSERT INTO first VALUES (3, 'more')")],
    ids=["of the table", "of a partition of a partition"],
)
def test_a_writer_that_has_not_committed_refuses(
    save: Save,
    database: Login,
    monkeypatch: pytest.MonkeyPatch,
    run_parameters: dict[str, Any],
    does: str,
    write: str,
) -> None:
    monkeypatch.setattr("ansible.module_utils.dbrelease.rollback.in_database.SETTLE_S", 0.2)
    other = connect(database, "slow writer")
    with other.cursor() as cursor:
        for statement in (does, "BEGIN", write):
            cursor.execute(statement)
        with pytest.raises(ReleaseError, match=r"slow writer.* has not committed") as raised:
            save()
    other.close()
    assert raised.value.refused
    assert files(run_parameters) == []
