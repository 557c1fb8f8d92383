"""A change is walked on a copy by a real program with Alembic's verbs: what it did, and whether it goes back."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Run
from ansible.module_utils.dbrelease.draft.walk import ANY_WAIT, LOCK, Walk
from ansible.module_utils.dbrelease.host.commands import HostCommands
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.rehearsal.change import Change
from ansible.module_utils.dbrelease.restore.plan import CopyTarget
from own_sessions import connect
from run_ids import RUN_ID
from shared_database import database, emptied

__all__ = ["database", "emptied"]

FIRST, SECOND = "aaaa00000001", "bbbb00000002"
PROGRAM = """
import os, sys
from pathlib import Path
import psycopg2
verb = sys.argv[1]
try:
    with psycopg2.connect(os.environ["TEST_DATABASE_URL"]) as session, session.cursor() as cursor:
        cursor.execute("SELECT version_num FROM alembic_version")
        print(cursor.fetchone()[0])
        if verb != "current":
            cursor.execute(Path(verb).read_text())
            cursor.execute("UPDATE alembic_version SET version_num = %s", sys.argv[2:])
except psycopg2.Error as error:
    sys.exit(f"psycopg2.Error: {error}")
"""
SCHEMA = f"""
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('{FIRST}');
CREATE TABLE orders (id int PRIMARY KEY, title text NOT NULL);
INSERT INTO orders SELECT n, 'order ' || n FROM generate_series(1, 20) n;
"""
ITEMS = "CREATE TABLE items (order_id int NOT NULL REFERENCES orders); INSERT INTO items SELECT id FROM orders"


@pytest.fixture
def copy(database: Login, emptied: None) -> Login:
    with closing(connect(database, "tests")) as session, session.cursor() as cursor:
        cursor.execute(SCHEMA)
    return replace(database, version_table="alembic_version")


def walked(
    copy: Login, folder: Path, monkeypatch: pytest.MonkeyPatch, up: str, back: str
) -> tuple[dict[str, Any], Walk]:
    user, password = quote(copy.user), quote(copy.password or "", safe="")
    monkeypatch.setenv(
        "TEST_DATABASE_URL", f"postgresql://{user}:{password}@{copy.host}:{copy.port}/{quote(copy.database)}"
    )
    state = folder / "state"
    state.mkdir(mode=0o700)
    for name, text in (("program.py", PROGRAM), ("upgrade", up), ("downgrade", back)):
        (folder / name).write_text(text)
    commands = HostCommands(workdir=str(folder))
    tables = {"existing": {"orders": ["id", "title"]}, "created": {}, "altered": {}}
    command = (sys.executable, "program.py")
    change = Change(command, FIRST, SECOND, LOCK, 60, "", ANY_WAIT, (), tables, (), (), (), ())
    run = Run(RUN_ID, "sample", "test", "draft", str(state))
    target = CopyTarget(copy, copy.to("postgres"), HostCommands(), False, RUN_ID, 1, 60)
    walk = Walk(change, run, target, copy, copy, commands)
    return walk.draft().as_dict(), walk


@pytest.mark.parametrize(
    ("up", "back", "reversible", "says"),
    [
        pytest.param(ITEMS, "DROP TABLE items", "true", "The downgrade is an inverse", id="an inverse"),
        pytest.param(
            "ALTER TABLE orders DROP title",
            "ALTER TABLE orders ADD title text NOT NULL DEFAULT ''; ALTER TABLE orders ALTER title DROP DEFAULT",
            "lossy",
            "the rows differ in public.orders",
            id="values are lost",
        ),
        pytest.param(
            ITEMS, "ALTER TABLE items RENAME TO gone", "lossy", "TABLE public.gone: new", id="a table is left"
        ),
        pytest.param(ITEMS, "SELECT 1 / 0", "false", "division by zero", id="it raises"),
    ],
)
def test_the_way_back_is_as_it_was_observed(
    copy: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, up: str, back: str, reversible: str, says: str
) -> None:
    draft, walk = walked(copy, tmp_path, monkeypatch, up, back)
    assert (draft["reversible"], says in draft["way_back"]) == (reversible, True), draft["way_back"]
    assert {proof.status for proof in walk.proofs} <= {"pass", "inconclusive", "skipped"}


def test_what_others_wait_for_is_in_the_draft(copy: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    up = f"{ITEMS}; LOCK TABLE orders IN SHARE MODE; SELECT pg_sleep(1.3)"
    draft, _ = walked(copy, tmp_path, monkeypatch, up, "DROP TABLE items")
    assert draft["budget"]["write_wait_ms"] > 1500
    assert any("a writer waited" in line for line in draft["observed"])


def test_an_upgrade_that_fails_on_the_copy_is_no_draft(
    copy: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ReleaseError, match=r"Drafting failed: .*division by zero"):
        walked(copy, tmp_path, monkeypatch, "SELECT 1 / 0", "")
