"""Where there is no room for the rows that are saved: one sentence, no swap, and no file that keeps the disk full."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.postgres.session import Login
from restore_world import World, world_of

ROOM = 100_000
# One row in the script, and in its file.
IN_SCRIPT = len(f"('1000', '{'x' * 90}'),\n")
LINE = len(json.dumps({"change": "new", "row": {"id": "1000", "said": "x" * 90}})) + 1


@pytest.fixture
def world(database: Login, server: Login, run_parameters: dict[str, Any]) -> Iterator[World]:
    with world_of(database, server, run_parameters) as made:
        made.execute("CREATE TABLE one (id int PRIMARY KEY, said text); CREATE TABLE two (LIKE one INCLUDING ALL)")
        made.back_up()
        yield made


@contextmanager
def little_room() -> Iterator[None]:
    """No file can become larger, as on a full disk: what was not written is tried again as the file is closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def filled(table: str, rows: int) -> str:
    return f"INSERT INTO {table} SELECT n, repeat('x', 90) FROM generate_series(1000, {999 + rows}) n"


HALF = ROOM // 2 // IN_SCRIPT + 10
WRITTEN = {
    "the rows of one table": filled("one", 2 * ROOM // LINE),
    "its last row": filled("one", ROOM // LINE + 2),
    "the script of two": f"{filled('one', HALF)}; {filled('two', HALF)}",
    "the rows of a table that the copy lacks": f"CREATE TABLE more (id int, said text); {filled('more', 2000)}",
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN.keys())
@pytest.mark.parametrize("at_once", [False, True], ids=["swapped later", "swapped by the restore"])
def test_no_room_is_one_sentence_and_leaves_no_file(world: World, written: str, at_once: bool) -> None:
    world.execute(written)
    copy = "" if at_once else world.restore()["database"]
    live, files = world.tables(), set(world.files())
    with little_room(), pytest.raises(ReleaseError, match=r"failed \(File too large\): make room") as raised:
        world.restore(state="live") if at_once else world.swap(copy)
    assert "rows_since_backup_" in raised.value.message
    assert set(world.files()) == files
    assert not list(world.state.glob("rows_since_backup_*"))
    assert (world.tables(), world.databases()) == (live, {world.login.database: True})
