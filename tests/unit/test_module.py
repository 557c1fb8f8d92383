"""run_module: whatever ends a module's work is one sentence, or a traceback that is a defect."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import pytest
import shared_database
from ansible.module_utils.dbrelease import module
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect

database, emptied = shared_database.database, shared_database.emptied


class Failed(Exception):
    """With what the module said."""


class Module:
    def __init__(self, **_: Any) -> None:
        self.params: dict[str, Any] = {}
        self.check_mode = False
        self.no_log_values: set[str] = set()

    def fail_json(self, msg: str, **_: Any) -> None:
        raise Failed(msg)


def test_a_session_that_the_server_ends_is_one_sentence(database: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AnsibleModule", Module)

    def act(_params: Mapping[str, Any], _check_mode: bool) -> dict[str, Any]:
        with closing(connect(database, "tests")) as session, session.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return {}

    with pytest.raises(Failed, match=r"session with the database failed \(.*\): .* rerun the playbook"):
        module.run_module({}, act)


def test_a_defect_stays_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AnsibleModule", Module)
    with pytest.raises(ZeroDivisionError):
        module.run_module({}, lambda *_: {"a": 1 // 0})


def test_what_was_imported_is_not_looked_through_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AnsibleModule", Module)
    frozen: list[int] = []

    def act(_params: Mapping[str, Any], _check_mode: bool) -> dict[str, Any]:
        frozen.append(gc.get_freeze_count())
        raise ReleaseError("Enough was seen.")

    try:
        with pytest.raises(Failed, match="Enough was seen"):
            module.run_module({}, act)
    finally:
        gc.unfreeze()
    assert frozen[0] > 10_000
