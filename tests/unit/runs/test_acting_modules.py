"""Every module that changes something refuses while another run has the target, changes nothing, and journals it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import alembic_revision
import backup
import database_swap
import leftovers
import psycopg2.extensions
import pytest
import restored_database
import sql_step
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.runs.holder import claim
from own_sessions import connect

OTHER = "20260102T030406Z-bbbbbb"
STEP = {"name": "fill", "title": "Fill", "sql": "INSERT INTO t VALUES (2)", "pending": "SELECT 1", "proves": []}


def defaults(module: Any) -> dict[str, Any]:
    return _defaults(module.OPTIONS)


def _defaults(options: dict[str, Any]) -> dict[str, Any]:
    """As Ansible gives them: those of the options in an option too."""
    return {
        name: _defaults(option["options"]) if option.get("default") == {} else option.get("default")
        for name, option in options.items()
        if not option.get("required")
    }


# It looks at the locks on the server only where a restore was interrupted.
CLAIM_ONLY = ("recovery",)
MODULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "backup": (
        backup.act,
        {"label": "x", "db_container": "", "observations": [], "bookkeeping_table": "v", "timeout_seconds": 60},
    ),
    "upgrade": (
        alembic_revision.act,
        {
            "backend_container": "", "workdir": None, "command": ["true"], "from_revision": "a1", "revision": "b2",
            "direction": "upgrade", "bookkeeping_table": "alembic_version", "lock": {}, "timeout_seconds": 60,
            "success_pattern": None, "log_label": "log", "preview_files": [], "session_settings": {},
            "tables": [], "budget": {"write_wait_ms": 1000},
        },
    ),
    "finalize": (
        sql_step.act,
        {"steps": [STEP], "checks": [], "lock": {}, "application_name": "x",
         "tables": [], "budget": {"write_wait_ms": 1000}},
    ),
    "recovery": (
        leftovers.act,
        {"backend_container": "", "db_container": "", "workdir": None, "from_revision": "a1", "revision": "b2",
         "bookkeeping_table": "alembic_version"},
    ),
    "restore.backup": (restored_database.act, defaults(restored_database)),
    "restore.check": (database_swap.act, {**defaults(database_swap), "database": "x_restore_20260101_000000_abcdef"}),
}  # fmt: skip


def held_by_another_run(run: Run, login: Login) -> Callable[[], None]:
    claim(Run(**{**vars(run), "run_id": OTHER}), {})
    return lambda: None


def held_by_another_targets_run(run: Run, login: Login) -> Callable[[], None]:
    session = connect(login, f"dbrelease-upgrade-{OTHER}")
    return session.close


@pytest.mark.parametrize(
    ("step", "hold"),
    [(step, held_by_another_run) for step in MODULES]
    + [(step, held_by_another_targets_run) for step in MODULES if step not in CLAIM_ONLY],
)
def test_it_refuses(
    step: str,
    hold: Callable[[Run, Login], Callable[[], None]],
    run_parameters: dict[str, Any],
    login_parameters: dict[str, Any],
    database: Login,
    session: psycopg2.extensions.connection,
) -> None:
    with session.cursor() as cursor:
        cursor.execute("CREATE TABLE t (n int)")
        cursor.execute("CREATE TABLE alembic_version AS SELECT 'a1'::text AS version_num")
        run = Run(**run_parameters)
        let_go = hold(run, database)
        act, options = MODULES[step]
        with pytest.raises(ReleaseError, match=OTHER) as refusal:
            act({**options, **login_parameters, "run": run_parameters}, False)
        let_go()
        assert refusal.value.refused
        assert [line["event"] for line in Journal(run).read() if line["step"] == step] == ["started", "refused"]
        cursor.execute("SELECT (SELECT count(*) FROM t), (SELECT version_num FROM alembic_version)")
        assert cursor.fetchall() == [(0, "a1")]
