"""What a module of a run works with."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.runs.work import Work

LOGIN = {
    **{"login_host": "10.0.0.7", "login_port": 5433, "login_user": "shop", "login_password": "x", "login_db": "shop"},
    **{"ssl_mode": "require", "ssl_root_cert": None},
}


@pytest.mark.parametrize("check_mode", [False, True])
def test_it_is_the_login_the_run_and_its_journal(run_parameters: dict[str, Any], check_mode: bool) -> None:
    work = Work.of({**LOGIN, "run": run_parameters}, check_mode)
    assert work.login == Login("10.0.0.7", 5433, "shop", "shop", "x", "require", "")
    assert work.run.run_id == run_parameters["run_id"] and work.check_mode is check_mode
    with work.journal.step("sample"):
        pass
    assert Path(work.journal.path).exists() is not check_mode


def test_nothing_of_it_is_exchanged_on_the_way(run_parameters: dict[str, Any]) -> None:
    work = Work.of({**LOGIN, "run": run_parameters}, True)
    for each in fields(work):
        with pytest.raises(FrozenInstanceError):
            setattr(work, each.name, None)


def test_check_mode_claims_nothing(run_parameters: dict[str, Any]) -> None:
    work = Work.of({**LOGIN, "run": run_parameters}, True)
    with work.alone_on_target(), work.alone_on_database():
        assert not any(Path(run_parameters["state_dir"]).glob("*"))
