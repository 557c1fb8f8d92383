"""The names that a restore gives: two databases share none, and of what carries one only its own is removed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from itertools import combinations
from pathlib import Path

import pytest
from ansible.module_utils.dbrelease.core.restore_names import copied_by, copy_name, dump_folder, is_kept, kept_name
from ansible.module_utils.dbrelease.host.commands import HostCommands
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.restore.cleanup import remove_dumps, settle
from ansible.module_utils.dbrelease.runs.database_lock import name_key
from own_sessions import connect
from psycopg2.extras import RealDictCursor

OTHER = "20200101T000000Z-abcdef"


def made(database: str, run_id: str = OTHER) -> str:
    return copy_name(database, run_id)


def unknown(database: str) -> str:
    return copy_name(database, OTHER.replace("abcdef", "fedcba"))


LONG = "s" * 39
APART = [
    pytest.param("{n}", made, "{n}", True, id="a copy of a run of this journal"),
    pytest.param("{n}", unknown, "{n}", False, id="a copy of a run of the same second elsewhere"),
    pytest.param("{n}", made, "{n}_before", False, id="a copy of a database of another name"),
    pytest.param("{n}", lambda name: kept_name(name, OTHER), "{n}_before", False, id="what is kept of another"),
    pytest.param("{n}" + LONG + "a", made, "{n}" + LONG + "b", False, id="a copy of one whose name begins alike"),
    pytest.param("{n}" + LONG + "a", made, "{n}" + LONG + "a", True, id="a copy of one whose name is cut"),
]


@pytest.mark.parametrize(("made_for", "names", "restored", "dropped"), APART)
def test_only_copies_of_this_database_by_runs_of_this_journal_are_dropped(
    server: Login, database: Login, made_for: str, names: Callable[[str], str], restored: str, dropped: bool
) -> None:
    """`restored` is the database that is restored, with a journal that knows the run OTHER."""
    name = names(made_for.replace("{n}", database.database))
    with closing(connect(server, "tests")) as session, session.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            settle(cursor, restored.replace("{n}", database.database), {OTHER})
            cursor.execute("SELECT FROM pg_database WHERE datname = %s", (name,))
            assert (cursor.rowcount == 0) is dropped
        finally:
            cursor.execute(f"DROP DATABASE IF EXISTS {name}")


def test_dumps_of_unknown_runs_stay() -> None:
    mine, others = (Path(dump_folder(run_id)) for run_id in (f"{OTHER[:-6]}{os.getpid():06x}", f"{OTHER[:-6]}fedcba"))
    for folder in (mine, others):
        folder.mkdir()
    try:
        assert remove_dumps(HostCommands(), {mine.name.removeprefix("dbrelease_restore_")}) == [str(mine)]
        assert (mine.exists(), others.exists()) == (False, True)
    finally:
        others.rmdir()


ALIKE = ["shop", "shop_before", "shop_before_restore", f"{LONG}a", f"{LONG}b", "s" * 32, "s" * 33, "s" * 63, "ü" * 31]


@pytest.mark.parametrize(("one", "two"), [*combinations(ALIKE, 2)])
def test_two_databases_share_no_names(one: str, two: str) -> None:
    theirs = {copy_name(two, OTHER), kept_name(two, OTHER), two}
    assert not {copy_name(one, OTHER), kept_name(one, OTHER)} & theirs
    assert not any(copied_by(name, one) or is_kept(name, one) for name in theirs)
    assert name_key(one) != name_key(two)


@pytest.mark.parametrize("length", [31, 32, 33, 34])
def test_a_name_that_is_not_cut_stays_as_it_is(length: int) -> None:
    database, run_id = "s" * length, OTHER
    stamped = "20200101_000000"
    assert (copy_name(database, run_id) == f"{database}_restore_{stamped}_abcdef") is (length <= 32)
    assert kept_name(database, run_id) == f"{database}_before_restore_{stamped}" or length > 32
    assert max(map(len, (copy_name(database, run_id), kept_name(database, run_id)))) <= 63
