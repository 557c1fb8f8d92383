"""Which client programs fit which server, and that others are refused before anything is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import restore_world
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.postgres.client_tools import fitting_clients, in_words
from ansible.module_utils.dbrelease.postgres.session import select
from ansible.module_utils.dbrelease.restore import server as restore_server
from restore_world import WRITTEN, World
from rewritten_manifest import rewrite

world = restore_world.world


@pytest.mark.parametrize(
    ("server", "dumped_by", "fit", "words"),
    [
        (14, 0, {14, 15, 16}, "14 or 15 or 16"),
        (15, 0, {15, 16}, "15 or 16"),
        (16, 0, {16}, "16"),
        (17, 0, {17, 18, 19}, "17 or later"),
        (18, 0, {18, 19}, "18 or later"),
        (14, 15, {15, 16}, "15 or 16"),
        (15, 14, {15, 16}, "15 or 16"),
        (17, 15, {17, 18, 19}, "17 or later"),
        (17, 18, {18, 19}, "18 or later"),
        (14, 17, set(), ""),
        (16, 17, set(), ""),
    ],
)
def test_client_programs_fit_a_server(server: int, dumped_by: int, fit: set[int], words: str) -> None:
    fitting = fitting_clients(server, dumped_by)
    assert {major for major in range(9, 20) if major in fitting} == fit
    assert in_words(fitting) == words


@pytest.mark.parametrize(
    ("client", "dumped_by", "reported"),
    [
        ("17.12", "15.9", "install the client programs of PostgreSQL 15 or 16 there"),
        ("14.2", "14.2", "install the client programs of PostgreSQL 15 or 16 there"),
        ("15.9", "16.2", "install the client programs of PostgreSQL 16 there"),
        ("17.12", "17.12", "restore to a server of PostgreSQL 17 or later, or another backup"),
    ],
    ids=["newer programs", "older programs", "older than those of the backup", "backup by newer programs"],
)
def test_client_programs_that_do_not_fit_are_refused_before_anything_is_touched(
    world: World, monkeypatch: pytest.MonkeyPatch, client: str, dumped_by: str, reported: str
) -> None:
    dump = Path(world.back_up()["dump"])
    world.execute(WRITTEN)
    rewrite(dump, server_version="15.9", tool_version=f"pg_dump (PostgreSQL) {dumped_by}")

    def asked(*arguments: Any) -> list[dict[str, Any]]:
        return [{**row, "major": 15} if "major" in row else row for row in select(*arguments)]

    monkeypatch.setattr(restore_server, "select", asked)
    monkeypatch.setattr(restore_server, "tool_version", lambda *_: f"pg_restore (PostgreSQL) {client}")
    before = (world.databases(), world.tables(), world.files())
    with pytest.raises(ReleaseError, match="nothing was touched") as raised:
        world.restore()
    assert raised.value.refused
    assert reported in raised.value.message
    assert (world.databases(), world.tables(), world.files()) == before
