"""What Alembic says is read as it means it, and how its sessions begin is asked of themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.options import environment_of
from ansible.module_utils.dbrelease.core.redaction import masked
from ansible.module_utils.dbrelease.host.commands import HostCommands, WithEnvironment
from ansible.module_utils.dbrelease.migrate import alembic
from ansible.module_utils.dbrelease.migrate.alembic_engine import session_environment
from ansible.module_utils.dbrelease.migrate.method import method_for
from ansible.module_utils.dbrelease.postgres.lock_retry import LockLimits
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect
from pooler import pooler

COMMAND = [sys.executable, "-m", "alembic"]
NAME = "dbrelease-probe-20260102T030405Z-a1b2c3"
ENV = """
import os
from alembic import context
from sqlalchemy import create_engine, pool
print("abc123 (head)")
print("f00d")
with create_engine(os.environ["TEST_DATABASE_URL"], poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection, version_table="Kept", version_table_schema="ops")
    with context.begin_transaction():
        context.run_migrations()
"""

Make = Callable[..., HostCommands]


def url_of(login: Login, pooler_port: int | None = None) -> str:
    """The database itself, or by a pooler, which is on this machine wherever the server is."""
    password = quote(login.password or "", safe="")
    where = f"127.0.0.1:{pooler_port}" if pooler_port else f"{login.host}:{login.port}"
    return f"postgresql+psycopg2://{login.user}:{password}@{where}/{login.database}"


@pytest.fixture
def place(tmp_path: Path, database: Login, monkeypatch: pytest.MonkeyPatch) -> HostCommands:
    """Where Alembic has two lines, of which one depends on the other, and an env.py that prints what looks like one."""
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = migrations\n")
    (tmp_path / "migrations" / "env.py").write_text(ENV)
    for name, lines in {
        "root": "down_revision = None",
        "left": "down_revision = 'root'\nbranch_labels = ('shop',)",
        "right": "down_revision = 'root'\ndepends_on = 'left'",
    }.items():
        (versions / f"{name}.py").write_text(f"revision = '{name}'\n{lines}\ndef upgrade(): pass\n")
    with closing(connect(database, "tests")) as session, session.cursor() as cursor:
        cursor.execute('CREATE SCHEMA ops; CREATE TABLE ops."Kept" (version_num varchar(32) PRIMARY KEY)')
        cursor.execute("""INSERT INTO ops."Kept" VALUES ('right')""")
    monkeypatch.setenv("TEST_DATABASE_URL", url_of(database))
    return HostCommands(str(tmp_path))


@pytest.mark.parametrize("command", [COMMAND, [str(Path(sys.executable).parent / "alembic")]], ids=["module", "script"])
def test_what_env_py_prints_is_no_revision(place: HostCommands, command: list[str]) -> None:
    assert alembic.script_heads(place, command) == ["right"], "the other line is one that it depends on"
    assert alembic.alembic_current(place, command) == ["right"]
    assert alembic.script_history(place, command) == {"right": ("root", "left"), "left": ("root",), "root": ()}


def test_several_heads_with_labels(place: HostCommands, tmp_path: Path) -> None:
    (tmp_path / "migrations/versions/more.py").write_text("revision = 'more'\ndown_revision = 'left'\n")
    assert alembic.script_heads(place, COMMAND) == ["more", "right"]


def asked(place: HostCommands) -> alembic.Current:
    environment = session_environment(place, NAME, LockLimits(321), {"dbrelease.probe": "arrived"})
    return alembic.current_with(place, COMMAND, environment)


def test_one_start_reads_the_revision_and_the_heads(place: HostCommands, tmp_path: Path) -> None:
    assert asked(place).heads == alembic.script_heads(place, COMMAND) == ["right"]
    (tmp_path / "migrations/versions/more.py").write_text("revision = 'more'\ndown_revision = 'left'\n")
    assert asked(place).heads == ["more", "right"]


def test_a_session_says_which_settings_reached_it(place: HostCommands, database: Login) -> None:
    seen = asked(place)
    assert seen.session is not None
    assert (seen.revisions, seen.refused, seen.session.lacks(321)) == (["right"], "", [])
    assert (seen.session.application_name, seen.session.role) == (NAME, database.user)
    assert seen.session.lacks(322) == ["lock_timeout"]


def test_the_role_that_migrates_has_its_own_login(
    place: HostCommands, database: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of(database)
    monkeypatch.delenv("TEST_DATABASE_URL")
    given = {"TEST_DATABASE_URL": url, "MIGRATION_PASSWORD": "of-the-migrator", "MIGRATION_ROLE": "migrator"}
    params = {"environment": given, "login_user": "app"}
    seen = alembic.alembic_current(WithEnvironment(place, environment_of(params)), COMMAND)
    assert seen == ["right"]
    shown = masked(f"of-the-migrator as migrator by {url}")
    assert "of-the-migrator" not in shown and " as migrator by " in shown and str(database.password) not in shown


def test_a_pooler_that_drops_the_settings_is_noticed(
    place: HostCommands, database: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pooler(database.host, database.port, refuses=False) as port:
        monkeypatch.setenv("TEST_DATABASE_URL", url_of(database, port))
        seen = asked(place)
    assert seen.session is not None
    assert seen.session.lacks(321) == ["lock_timeout", "dbrelease.*"], "PGAPPNAME is no option, and arrives"


def test_a_pooler_that_refuses_the_settings_is_named(
    place: HostCommands, database: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pooler(database.host, database.port, refuses=True) as port:
        monkeypatch.setenv("TEST_DATABASE_URL", url_of(database, port))
        seen = asked(place)
    assert (seen.revisions, seen.session) == (["right"], None)
    assert "unsupported startup parameter: options" in seen.refused


def test_what_fails_without_the_settings_too_is_not_blamed_on_them(place: HostCommands, tmp_path: Path) -> None:
    (tmp_path / "migrations/env.py").write_text("raise SystemExit(3)")
    with pytest.raises(ReleaseError, match="status 3"):
        asked(place)


def test_the_way_back_is_one_that_works(
    place: HostCommands, database: Login, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = {"run": {"run_id": "r"}, "backend_container": "", "workdir": str(tmp_path), "command": COMMAND}
    with_file, without = {**asked, "script": "SELECT 1"}, {**asked, "script": " \n"}
    assert method_for(with_file)[0] == "alembic"
    for refuses, reason in ((False, "dbrelease.* did not reach"), (True, "unsupported startup parameter")):
        with pooler(database.host, database.port, refuses=refuses) as port:
            monkeypatch.setenv("TEST_DATABASE_URL", url_of(database, port))
            method, said = method_for(with_file)
            assert (method, reason in said) == ("sql", True)
            assert method_for(without)[0] == "alembic", "there is no other"
