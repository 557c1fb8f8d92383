"""alembic_revision: a real Alembic project on a real Postgres, with real locks, and every way a move can end."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import alembic_revision as module
import docker
import psycopg2
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.redaction import masked, url_passwords
from ansible.module_utils.dbrelease.host.commands import Finished, HostCommands, commands_in
from ansible.module_utils.dbrelease.migrate import alembic
from ansible.module_utils.dbrelease.migrate import role as alembic_role
from ansible.module_utils.dbrelease.migrate.outcome import Move, Outcome, judge
from ansible.module_utils.dbrelease.migrate.preview import preview
from ansible.module_utils.dbrelease.postgres import revision as version_table
from ansible.module_utils.dbrelease.postgres import terminate
from ansible.module_utils.dbrelease.postgres.session import LOST_CLIENT, Login
from ansible.module_utils.dbrelease.postgres.session import connect as engine_connect
from left_sessions import left_sessions
from lock_waits import let_go_after
from own_sessions import connect
from psycopg2.extras import RealDictCursor
from run_ids import RUN_ID
from waits import until

ROOT = Path(__file__).resolve().parents[3]
PASSWORD = 'c4n4ry/p@ss:w%rd+"x é'
COMMAND = [sys.executable, "-m", "alembic"]
FIRST, SECOND = "aaaa00000001", "bbbb00000002"
STAMP = "20260102_030405"

ENV = """
import os
from alembic import context
from sqlalchemy import create_engine, pool
url = os.environ["TEST_DATABASE_URL"]
print("a line of the application's own")
if context.is_offline_mode():
    context.configure(url=url, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(url, poolclass=pool.NullPool, connect_args={connect_args}).connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
        {after}
"""
REVISION = """
import sqlalchemy as sa
from alembic import context, op
revision = "{revision}"
down_revision = {down}

def upgrade():
    {up}

def downgrade():
    {back}
"""
CREATE = """
    op.execute("CREATE TABLE order_items (id int)")
    op.execute("INSERT INTO order_items VALUES (1), (2), (3)")
    print("Migrated 3 order items")
"""

Project = Callable[..., Path]
Make = Callable[..., dict[str, Any]]


def revision(name: str, down: str | None, up: str = "pass", back: str = "pass") -> str:
    return REVISION.format(revision=name, down=repr(down), up=up.strip(), back=back.strip())


@pytest.fixture
def project(tmp_path: Path, database: Login, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Makes an Alembic project whose second revision has a given body, its database at the first revision."""
    folder = tmp_path / "application"

    def make(
        up: str = CREATE,
        *,
        after: str = "pass",
        back: str = 'op.execute("DROP TABLE order_items")',
        connect_args: Mapping[str, str] | None = None,
    ) -> Path:
        (folder / "migrations" / "versions").mkdir(parents=True)
        (folder / "alembic.ini").write_text("[alembic]\nscript_location = migrations\n")
        (folder / "migrations" / "env.py").write_text(ENV.format(after=after, connect_args=dict(connect_args or {})))
        (folder / "migrations" / "script.py.mako").write_text("")
        orders = 'op.execute("CREATE TABLE orders (id int)")'
        (folder / "migrations" / "versions" / "first.py").write_text(revision(FIRST, None, orders))
        (folder / "migrations" / "versions" / "second.py").write_text(revision(SECOND, FIRST, up, back))
        with closing(connect(database, "tests")) as session, session.cursor() as cursor:
            cursor.execute("DROP SCHEMA IF EXISTS ops")
            cursor.execute("CREATE TABLE orders (id int)")
            cursor.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
            cursor.execute("INSERT INTO alembic_version VALUES (%s)", (FIRST,))
        return folder

    monkeypatch.setenv("TEST_DATABASE_URL", url_of(database))
    return make


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[str]:
    """A container like the stack's backend, whose history nobody else changes."""
    engine, migrations = docker.from_env(), tmp_path / "migrations"
    shutil.copytree(ROOT / "stack/backend/migrations", migrations)
    made = engine.containers.run(
        "drawing-backend:stack",
        ["sleep", "600"],
        name=f"test_backend_{secrets.token_hex(4)}",
        init=True,
        detach=True,
        environment={f"POSTGRES_{name}": "nobody" for name in ("HOST", "USER", "PASSWORD", "DB")},
        volumes={str(migrations): {"bind": "/app/migrations", "mode": "rw"}},
    )
    yield str(made.name)
    made.remove(force=True)
    engine.close()


def url_of(login: Login) -> str:
    password = quote(login.password or "", safe="")
    return f"postgresql+psycopg2://{login.user}:{password}@{login.host}:{login.port}/{login.database}"


@pytest.fixture
def parameters(login_parameters: dict[str, Any], run_parameters: dict[str, Any]) -> Make:
    def make(workdir: Path | None, **changes: Any) -> dict[str, Any]:
        return {
            **login_parameters,
            "run": run_parameters,
            "backend_container": None,
            "workdir": str(workdir) if workdir else None,
            "command": COMMAND,
            "from_revision": FIRST,
            "revision": SECOND,
            "direction": "upgrade",
            "bookkeeping_table": "alembic_version",
            "lock": {"timeout_ms": 200, "attempts": 5, "deadline_seconds": 30},
            "timeout_seconds": 60,
            "success_pattern": None,
            "log_label": "migration_log",
            "preview_files": [],
            "tables": ["orders"],
            "budget": {"write_wait_ms": 1000},
            "session_settings": {},
            **changes,
        }

    return make


@pytest.fixture
def state(run_parameters: dict[str, Any]) -> Path:
    return Path(run_parameters["state_dir"])


def journal(state: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (state / "journal.jsonl").read_text().splitlines()]


def events(state: Path) -> list[tuple[str, str]]:
    return [(line["step"], line["event"]) for line in journal(state)]


def status_of(proofs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {proof["name"]: proof["status"] for proof in proofs}


def query(login: Login, sql: str) -> list[Any]:
    with closing(connect(login, "tests")) as session, session.cursor() as cursor:
        cursor.execute(sql)
        return [row[0] for row in cursor.fetchall()]


def revisions(login: Login) -> list[str]:
    return sorted(query(login, "SELECT version_num FROM alembic_version"))


def has_table(login: Login, table: str) -> bool:
    return query(login, f"SELECT to_regclass('{table}') IS NOT NULL") == [True]


class TestMove:
    def test_upgrade_moves_saves_and_proves(
        self, project: Project, parameters: Make, state: Path, database: Login
    ) -> None:
        result = module.act(parameters(project(), success_pattern="Migrated [0-9]+ order items"), False)
        assert (result["changed"], result["message"], result["attempts"]) == (True, "", 1)
        assert (result["revisions_before"], result["revisions_after"]) == ([FIRST], [SECOND])
        assert revisions(database) == [SECOND]
        assert status_of(result["proofs"]) == {
            "migrate.preview": "pass",
            "migrate.upgrade": "pass",
            "migrate.log": "pass",
        }
        log, shown = state / f"migration_log_{STAMP}.log", state / f"migration_preview_{STAMP}.sql"
        assert (result["log"], result["preview"]) == (str(log), str(shown))
        assert {stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()} == {0o600}
        assert "Migrated 3 order items\n" in log.read_text()
        assert re.search(r"=== \S+ attempt 1: .* upgrade bbbb00000002 in the target\n", log.read_text())
        assert "=== exit status 0 after" in log.read_text()
        assert "CREATE TABLE order_items" in shown.read_text() == result["preview_sql"]
        assert "CREATE TABLE orders" not in shown.read_text()
        assert "CREATE TABLE order_items" in result["diff"]["after"]
        assert events(state) == [
            ("preview", "started"),
            ("preview", "passed"),
            ("upgrade", "started"),
            ("upgrade", "passed"),
        ]
        facts = journal(state)[-1]["facts"]
        assert facts["from_revision"], facts["to_revision"] == (FIRST, SECOND)
        assert facts["after"]["xid"] > facts["before"]["xid"]
        assert facts["after"]["tables"]["public.order_items"]["inserted"] == 3
        assert "public.order_items" not in facts["before"]["tables"]

    def test_second_time_runs_nothing(self, project: Project, parameters: Make, state: Path) -> None:
        folder = project()
        first = module.act(parameters(folder), False)
        before = sorted(path.name for path in state.iterdir())
        second = module.act(parameters(folder, command=["/nowhere/alembic"]), False)
        assert (second["changed"], second["attempts"], second["log"]) == (False, 0, "")
        assert second.keys() == first.keys()
        assert status_of(second["proofs"])["migrate.upgrade"] == "pass"
        assert sorted(path.name for path in state.iterdir()) == before
        assert events(state)[-1] == ("upgrade", "skipped")

    def test_check_mode_shows_and_writes_nothing(
        self, project: Project, parameters: Make, state: Path, database: Login
    ) -> None:
        folder = project()
        before = sorted(folder.rglob("*"))
        planned = module.act(parameters(folder), True)
        assert planned["changed"] is True
        assert "CREATE TABLE order_items" in planned["preview_sql"]
        assert status_of(planned["proofs"]) == {
            "migrate.preview": "pass",
            "migrate.preview_reads_only": "pass",
            "migrate.upgrade": "skipped",
            "migrate.log": "skipped",
        }
        assert not state.exists()
        assert sorted(folder.rglob("*")) == before
        assert (revisions(database), has_table(database, "order_items")) == ([FIRST], False)
        assert planned.keys() == module.act(parameters(folder), False).keys()
        assert module.act(parameters(folder), True)["changed"] is False

    @pytest.mark.parametrize("refuses", [True, False])
    def test_a_downgrade_that_refuses_by_itself_is_refused(
        self, project: Project, parameters: Make, state: Path, refuses: bool
    ) -> None:
        why = "3 items were written since they were counted" if refuses else "no"
        folder = project(back=f"""op.execute("DO $$ BEGIN RAISE EXCEPTION '{why}'; END $$")""")
        module.act(parameters(folder), False)
        back = {"direction": "downgrade", "from_revision": SECOND, "revision": FIRST, "log_label": "rollback_log"}
        with pytest.raises(ReleaseError, match=why) as raised:
            module.act(parameters(folder, **back), False)
        assert (raised.value.refused, raised.value.facts["changed"]) == (refuses, False)
        assert ("Rerun the rollback" in raised.value.message) is refuses
        assert journal(state)[-1]["event"] == ("refused" if refuses else "failed")

    def test_downgrade_is_the_way_back(self, project: Project, parameters: Make, state: Path, database: Login) -> None:
        folder = project()
        module.act(parameters(folder), False)
        back = {"from_revision": SECOND, "revision": FIRST, "direction": "downgrade", "log_label": "rollback_log"}
        run = {**parameters(folder)["run"], "run_id": "20260102T040000Z-fedcba"}
        result = module.act(parameters(folder, **back, run=run), False)
        assert (result["changed"], revisions(database), has_table(database, "order_items")) == (True, [FIRST], False)
        assert result["log"].endswith("rollback_log_20260102_040000.log")
        assert "DROP TABLE order_items" in result["preview_sql"]
        assert events(state)[-1] == ("downgrade", "passed")

    @pytest.mark.parametrize("writes", [True, False])
    def test_what_env_py_creates_when_it_is_started_is_not_the_migrations(
        self, project: Project, parameters: Make, state: Path, database: Login, writes: bool
    ) -> None:
        folder = project("op.execute('CREATE TABLE order_items (id int)')")
        env = folder / "migrations" / "env.py"
        if writes:
            made = 'connection.exec_driver_sql("CREATE SCHEMA IF NOT EXISTS ops"); connection.commit()'
            configured = "        context.configure(connection=connection)"
            env.write_text(env.read_text().replace(configured, f"        {made}\n{configured}"))
        module.act(parameters(folder), False)
        facts = journal(state)[-1]["facts"]
        assert facts.get("made_when_started") == (["SCHEMA ops"] if writes else None)
        assert (revisions(database), has_table(database, "order_items")) == ([SECOND], True)

    def test_the_preview_of_check_mode_reports_what_it_changed(
        self, project: Project, parameters: Make, database: Login
    ) -> None:
        folder = project()
        env = folder / "migrations" / "env.py"
        given = "connect_args={'options': '-c default_transaction_read_only=off'}"
        offline = f"with create_engine(os.environ['TEST_DATABASE_URL'], {given}).begin() as writer:\n"
        offline += "    writer.exec_driver_sql('CREATE SCHEMA IF NOT EXISTS ops')\n"
        text = env.read_text()
        seen = status_of(module.act(parameters(folder), True)["proofs"])
        assert seen["migrate.preview_reads_only"] == "pass"
        first, _, rest = text.partition("\nurl")
        env.write_text(f"{first}\n{offline}url{rest}")
        planned = module.act(parameters(folder), True)
        assert query(database, "SELECT count(*) FROM pg_namespace WHERE nspname = 'ops'") == [1]
        assert status_of(planned["proofs"])["migrate.preview_reads_only"] == "inconclusive"

    def test_another_runs_files_are_left_alone(self, project: Project, parameters: Make, state: Path) -> None:
        state.mkdir()
        taken = [state / f"migration_log_{STAMP}.log", state / f"migration_preview_{STAMP}.sql"]
        for path in taken:
            path.write_text("another run's")
        result = module.act(parameters(project()), False)
        assert [path.read_text() for path in taken] == ["another run's"] * 2
        assert result["log"].endswith(f"migration_log_{STAMP}_{RUN_ID[-6:]}.log")

    def test_session_settings_join_the_applications_own(
        self, project: Project, parameters: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = ("work_mem", "lock_timeout", *LOST_CLIENT, "application_name")
        shown = ", ".join(f"current_setting('{name}')" for name in names)
        up = f'print("set:", *op.get_bind().execute(sa.text("SELECT {shown}")).one())'
        monkeypatch.setenv("PGOPTIONS", "-c work_mem=5MB")
        monkeypatch.setenv("PGAPPNAME", "the_application")
        text = Path(module.act(parameters(project(up)), False)["log"]).read_text()
        assert f"set: 5MB 200ms 500ms 30 10 3 60000 dbrelease-upgrade-{RUN_ID}\n" in text


class TestRefusal:
    @pytest.mark.parametrize(
        ("statement", "found"),
        [
            ("UPDATE alembic_version SET version_num = '000000000000'", "at 000000000000, expected exactly"),
            ("INSERT INTO alembic_version VALUES ('cccc00000003')", f"at {FIRST} and cccc00000003, expected exactly"),
            (f"INSERT INTO alembic_version VALUES ('{SECOND}')", f"at {FIRST} and {SECOND}, expected exactly"),
            ("DELETE FROM alembic_version", "at no revision, expected exactly"),
            ("DROP TABLE alembic_version", "at no revision, expected exactly"),
        ],
        ids=["another revision", "two heads", "both", "an empty table", "no table"],
    )
    @pytest.mark.parametrize("check_mode", [True, False])
    def test_any_other_revision(
        self,
        statement: str,
        found: str,
        check_mode: bool,
        project: Project,
        parameters: Make,
        state: Path,
        session: psycopg2.extensions.connection,
        database: Login,
    ) -> None:
        folder = project()
        session.cursor().execute(statement)
        with pytest.raises(ReleaseError, match=found) as raised:
            module.act(parameters(folder), check_mode)
        assert raised.value.refused
        assert not has_table(database, "order_items")
        assert state.exists() is not check_mode
        if not check_mode:
            assert events(state) == [("upgrade", "refused")]

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"login_password": "wrong", "login_user": "nobody_here"}, "Connecting to .* failed"),
            ({"backend_container": "test_backend_nowhere"}, "No such container"),
            ({"success_pattern": "Migrated [0-9"}, "success_pattern .* was refused .*regular expression"),
            ({"command": ["/nowhere/alembic"]}, "Running /nowhere/alembic in the target failed .*not found"),
        ],
    )
    def test_unreachable_gives_one_sentence(
        self, changes: dict[str, Any], reason: str, project: Project, parameters: Make, database: Login
    ) -> None:
        with pytest.raises(ReleaseError, match=reason):
            module.act(parameters(project(), **changes), False)
        assert revisions(database) == [FIRST]

    def test_state_directory_that_cannot_be_written(
        self, project: Project, parameters: Make, tmp_path: Path, database: Login
    ) -> None:
        (tmp_path / "file").write_text("")
        run = {**parameters(None)["run"], "state_dir": str(tmp_path / "file" / "state")}
        with pytest.raises(ReleaseError, match="release_state_dir"):
            module.act(parameters(project(), run=run), False)
        assert revisions(database) == [FIRST]


class TestFailure:
    @pytest.mark.parametrize(
        ("up", "after", "message", "left"),
        [
            pytest.param(
                'op.execute("SELECT missing FROM orders")',
                "pass",
                r"status 1 \(.*column \"missing\" does not exist\); the database is still at aaaa00000001",
                [FIRST],
                id="a failing migration",
            ),
            pytest.param(
                'op.get_context().autocommit_block().__enter__(); op.execute("CREATE TABLE half (id int)"); raise '
                'RuntimeError("half way")',
                "pass",
                r"status 1 \(RuntimeError: half way\); the database is still at aaaa00000001",
                [FIRST],
                id="a migration that commits a part and then fails",
            ),
            pytest.param(
                CREATE,
                'raise RuntimeError("too late")',
                r"status 1 \(RuntimeError: too late\); nevertheless the database is now at bbbb00000002",
                [SECOND],
                id="a migration that commits and then fails",
            ),
            pytest.param(
                'import os, time; op.execute("LOCK TABLE orders"); child = os.fork() == 0; '
                "(os.close(1), os.close(2), time.sleep(60)) if child else None; os._exit(1)",
                "pass",
                r"status 1 .*; the database is still at aaaa00000001",
                [FIRST],
                id="a migration that leaves a child with its session",
            ),
            pytest.param(
                CREATE,
                'raise RuntimeError("canceling statement due to lock timeout")',
                r"status 1 \(RuntimeError: .*lock timeout\); nevertheless the database is now at bbbb00000002",
                [SECOND],
                id="a migration that commits and then meets a lock",
            ),
            pytest.param(
                'op.execute("COMMIT"); op.execute("UPDATE alembic_version SET version_num = \'cccc\'"); '
                'op.execute("COMMIT"); raise RuntimeError("elsewhere")',
                "pass",
                r"now at cccc, which is neither aaaa00000001 nor bbbb00000002",
                ["cccc"],
                id="a migration that ends elsewhere",
            ),
            pytest.param(
                'op.execute("ROLLBACK"); import os; os._exit(0)',
                "pass",
                r"Alembic ended with status 0; the database is still at aaaa00000001",
                [FIRST],
                id="status 0 that moved nothing",
            ),
        ],
    )
    def test_what_happened_is_said(
        self,
        up: str,
        after: str,
        message: str,
        left: list[str],
        project: Project,
        parameters: Make,
        state: Path,
        database: Login,
    ) -> None:
        with pytest.raises(ReleaseError, match=message) as raised:
            module.act(parameters(project(up, after=after)), False)
        assert not raised.value.refused
        assert revisions(database) == left
        assert raised.value.facts["changed"] is (left != [FIRST])
        assert status_of(raised.value.facts["proofs"])["migrate.upgrade"] == "fail"
        assert status_of(raised.value.facts["proofs"])["migrate.log"] == "pass"
        assert "attempt 1" in Path(raised.value.facts["log"]).read_text()
        assert "attempt 2" not in Path(raised.value.facts["log"]).read_text()
        assert events(state)[-1] == ("upgrade", "failed")
        facts = journal(state)[-1]["facts"]
        assert (facts["attempts"], facts["revisions"]) == (1, left)
        assert left_sessions(database) == []

    def test_missing_success_line(self, project: Project, parameters: Make, database: Login) -> None:
        with pytest.raises(
            ReleaseError, match=r"the database is at bbbb00000002, but its output has no line .*/Done in/"
        ):
            module.act(parameters(project(), success_pattern="Done in"), False)
        assert revisions(database) == [SECOND]

    def test_timeout_ends_the_servers_session_too(
        self, project: Project, parameters: Make, state: Path, database: Login
    ) -> None:
        up = 'op.execute("LOCK TABLE orders"); op.execute("SELECT pg_sleep(120)")'
        begun = time.monotonic()
        with pytest.raises(ReleaseError, match="did not end in time and was terminated; the database is still at"):
            module.act(parameters(project(up), timeout_seconds=4), False)
        assert time.monotonic() - begun < 30
        assert left_sessions(database) == []
        assert query(database, "SELECT count(*) FROM pg_locks WHERE relation = 'orders'::regclass") == [0]

    def test_a_program_whose_end_was_not_seen_is_ended_before_it_connects(
        self, project: Project, parameters: Make, database: Login, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run, left = HostCommands.run, list[subprocess.Popen[bytes]]()

        def lost(commands: HostCommands, argv: Sequence[str], **given: Any) -> Finished:
            if "upgrade" not in argv or "--sql" in argv:
                return run(commands, argv, **given)
            environment = {**os.environ, **given["environment"]}
            slowly = ["sh", "-c", 'sleep 30; exec "$@"', "sh", *argv]
            left.append(subprocess.Popen(slowly, env=environment, cwd=commands._workdir))
            raise ReleaseError("The connection to the container was lost.")

        monkeypatch.setattr(HostCommands, "run", lost)
        with pytest.raises(ReleaseError, match="was lost"):
            module.act(parameters(project()), False)
        (program,) = left
        assert program.wait(5) == -signal.SIGKILL
        assert revisions(database) == [FIRST]

    def test_a_module_that_is_asked_to_end_ends_alembic(
        self, project: Project, parameters: Make, state: Path, database: Login
    ) -> None:
        """As the report does with one that outlived its task's time: nothing may commit after it."""
        up = 'op.execute("LOCK TABLE orders"); op.execute("SELECT pg_sleep(120)")'

        def ask() -> None:
            while not query(database, "SELECT 1 FROM pg_locks WHERE relation = to_regclass('orders')"):
                time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGTERM)

        def unheard(*_: Any) -> None:
            raise RuntimeError("the module did not hear it")

        before = signal.signal(signal.SIGTERM, unheard)
        asker = threading.Thread(target=ask)
        asker.start()
        with pytest.raises(ReleaseError, match=r"ended by SIGTERM.*; the database is still at"):
            module.act(parameters(project(up)), False)
        asker.join()
        signal.signal(signal.SIGTERM, before)
        assert left_sessions(database) == []
        assert revisions(database) == [FIRST]
        assert events(state)[-1] == ("upgrade", "failed")

    def test_program_that_outlives_its_client_is_cut_off(self, database: Login) -> None:
        left = psycopg2.connect(
            host=database.host,
            port=database.port,
            user=database.user,
            password=database.password,
            dbname=database.database,
            application_name="dbrelease-left-behind",
        )
        assert terminate.end_sessions(database, "dbrelease-left-behind") == 1
        with pytest.raises(psycopg2.OperationalError):
            left.cursor().execute("SELECT 1")
        assert terminate.end_sessions(database, "dbrelease-left-behind") == 0

    def test_log_that_cannot_be_written_does_not_stop_the_migration(
        self, project: Project, parameters: Make, database: Login, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("ansible.module_utils.dbrelease.migrate.log.os.write", full, raising=True)
        monkeypatch.setattr("ansible.module_utils.dbrelease.core.journal.Journal._write", lambda *_: None)
        with pytest.raises(
            ReleaseError, match=r"“The migration's output is saved” failed: .*make room there"
        ) as raised:
            module.act(parameters(project()), False)
        assert revisions(database) == [SECOND]
        assert status_of(raised.value.facts["proofs"])["migrate.upgrade"] == "pass"


@pytest.fixture
def blocker(database: Login) -> Iterator[psycopg2.extensions.connection]:
    with closing(connect(database, "nightly report")) as session:
        yield session


class TestOwner:
    """db_user owns the database and is no superuser, and the backend connects as another role."""

    @pytest.fixture
    def owner(self, session: psycopg2.extensions.connection, database: Login) -> Iterator[Login]:
        role = f'an "owner" \\ {secrets.token_hex(4)}'
        quoted, cursor = '"' + role.replace('"', '""') + '"', session.cursor()
        cursor.execute(f"CREATE ROLE {quoted} LOGIN PASSWORD %s", (PASSWORD,))
        cursor.execute(f'ALTER DATABASE "{database.database}" OWNER TO {quoted}; GRANT {quoted} TO CURRENT_USER')
        cursor.execute(f"ALTER SCHEMA public OWNER TO {quoted}")
        yield replace(database, user=role, password=PASSWORD)
        cursor.execute(f"REASSIGN OWNED BY {quoted} TO CURRENT_USER; DROP OWNED BY {quoted}; DROP ROLE {quoted}")

    def owned(self, cursor: psycopg2.extensions.cursor, login: Login) -> None:
        for table in ("orders", "alembic_version"):
            cursor.execute("ALTER TABLE {} OWNER TO {}".format(table, '"' + login.user.replace('"', '""') + '"'))

    @pytest.mark.parametrize("asked", [True, False])
    def test_what_a_superuser_of_the_backend_makes_is_the_owners(
        self,
        project: Project,
        parameters: Make,
        owner: Login,
        database: Login,
        session: psycopg2.extensions.connection,
        asked: bool,
    ) -> None:
        folder = project()
        self.owned(session.cursor(), owner)
        login = {"login_user": owner.user, "login_password": PASSWORD}
        result = module.act(parameters(folder, act_as_owner=asked, **login), False)
        assert (result["message"], revisions(database)) == ("", [SECOND])
        made_by = query(database, "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname = 'order_items'")
        assert made_by == [owner.user if asked else database.user]
        back = parameters(folder, act_as_owner=asked, direction="downgrade", from_revision=SECOND, revision=FIRST)
        assert module.act({**back, **login}, False)["message"] == ""

    def test_a_backend_that_may_not_act_as_the_owner_goes_on_as_itself(
        self,
        project: Project,
        parameters: Make,
        owner: Login,
        database: Login,
        session: psycopg2.extensions.connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        folder, role, cursor = project(), f"backend_{secrets.token_hex(4)}", session.cursor()
        self.owned(cursor, owner)
        cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD %s; GRANT ALL ON SCHEMA public TO {role}", (PASSWORD,))
        cursor.execute(f"GRANT ALL ON alembic_version TO {role}")
        monkeypatch.setenv("TEST_DATABASE_URL", url_of(replace(database, user=role, password=PASSWORD)))
        try:
            asked = parameters(folder, act_as_owner=True, login_user=owner.user, login_password=PASSWORD)
            assert module.act(asked, False)["message"] == ""
            made_by = "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname = 'order_items'"
            assert query(database, made_by) == [role]
        finally:
            cursor.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

    @pytest.mark.parametrize("who", ["superuser", "stranger"])
    def test_only_an_owner_is_acted_for(
        self, project: Project, owner: Login, database: Login, session: psycopg2.extensions.connection, who: str
    ) -> None:
        project()
        if who == "superuser":
            self.owned(session.cursor(), owner)
        asking = database if who == "superuser" else owner
        assert alembic_role.owner_of(asking, "alembic_version") == ""


class TestLocks:
    UP = 'op.execute("ALTER TABLE orders ADD COLUMN extra int")'

    def test_retry_succeeds_once_the_lock_is_free(
        self, project: Project, parameters: Make, blocker: psycopg2.extensions.connection, state: Path, database: Login
    ) -> None:
        folder = project(self.UP)
        blocker.cursor().execute("BEGIN; SELECT count(*) FROM orders")

        def let_go_at_the_second_attempt() -> None:
            log, deadline = state / f"migration_log_{STAMP}.log", time.monotonic() + 60
            while time.monotonic() < deadline and not (log.exists() and "attempt 2" in log.read_text()):
                time.sleep(0.05)
            blocker.cursor().execute("ROLLBACK")

        letting_go = threading.Thread(target=let_go_at_the_second_attempt)
        letting_go.start()
        result = module.act(parameters(folder, lock={"timeout_ms": 300, "attempts": 40, "deadline_seconds": 60}), False)
        letting_go.join()
        assert result["attempts"] > 1
        assert [waited["application"] for waited in result["lock_waits"]] == ["nightly report"]
        assert revisions(database) == [SECOND]
        assert f"attempt {result['attempts']}" in Path(result["log"]).read_text()

    def test_giving_up_names_the_blocker(
        self, project: Project, parameters: Make, blocker: psycopg2.extensions.connection, state: Path, database: Login
    ) -> None:
        folder = project(self.UP)
        blocker.cursor().execute("BEGIN; SELECT count(*) FROM orders WHERE id = 4711")
        with pytest.raises(ReleaseError) as raised:
            module.act(parameters(folder, lock={"timeout_ms": 300, "attempts": 2, "deadline_seconds": 30}), False)
        message = raised.value.message
        assert "stopped after 2 attempts" in message
        assert "nightly report" in message and "4711" not in message
        assert f"the database is still at {FIRST}" in message
        facts = journal(state)[-1]["facts"]
        assert (facts["attempts"], facts["lock_waits"][0]["application"]) == (2, "nightly report")
        assert revisions(database) == [FIRST]

    def test_deadline_bounds_the_attempts(
        self, project: Project, parameters: Make, blocker: psycopg2.extensions.connection
    ) -> None:
        folder = project(self.UP)
        blocker.cursor().execute("BEGIN; SELECT count(*) FROM orders")
        with pytest.raises(ReleaseError, match="stopped after 1 attempt "):
            module.act(parameters(folder, lock={"timeout_ms": 200, "attempts": 100, "deadline_seconds": 0}), False)


# A URL's own options take the place of PGOPTIONS, and its application_name that of PGAPPNAME.
OPTIONS = {"options": "-c search_path=public"}
UNNAMED = {**OPTIONS, "application_name": "shop"}


class TestLimitsThatDoNotReachIt:
    def test_a_session_that_waits_too_long_is_ended(
        self, project: Project, parameters: Make, blocker: psycopg2.extensions.connection, database: Login
    ) -> None:
        folder = project(TestLocks.UP, connect_args=OPTIONS)
        blocker.cursor().execute("BEGIN; SELECT count(*) FROM orders")
        begun = time.monotonic()
        said = r"was stopped \(its session \d+ waited .* lock_timeout \(200 ms\) did not reach it .*nightly report"
        with pytest.raises(ReleaseError, match=said) as raised:
            module.act(parameters(folder), False)
        assert time.monotonic() - begun < 30
        assert f"the database is still at {FIRST}" in raised.value.message
        assert (raised.value.facts["attempts"], revisions(database)) == (1, [FIRST])
        assert left_sessions(database) == []

    def test_one_that_may_not_be_ended_is_reported(
        self,
        project: Project,
        parameters: Make,
        blocker: psycopg2.extensions.connection,
        database: Login,
        session: psycopg2.extensions.connection,
    ) -> None:
        folder, role = project(TestLocks.UP, connect_args=OPTIONS), f"plain_{secrets.token_hex(4)}"
        blocker.cursor().execute("BEGIN; SELECT count(*) FROM orders")
        cursor = session.cursor()
        cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD %s; GRANT SELECT ON alembic_version TO {role}", (PASSWORD,))
        try:
            # It may wait for 3 x 200 ms and 2 s.
            with let_go_after(database, blocker, 4):
                result = module.act(parameters(folder, login_user=role, login_password=PASSWORD), False)
        finally:
            cursor.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        (doubt,) = [proof for proof in result["proofs"] if proof["name"] == "migrate.lock_limits"]
        assert doubt["status"] == "inconclusive"
        assert re.match(r"Its session \d+ waited for a lock .* db_user may not terminate it", doubt["detail"])
        assert revisions(database) == [SECOND]

    def test_one_that_nobody_waits_behind_goes_on(
        self, project: Project, parameters: Make, blocker: psycopg2.extensions.connection, database: Login
    ) -> None:
        index = "CREATE INDEX CONCURRENTLY orders_id ON orders (id)"
        up = f'with op.get_context().autocommit_block(): op.execute("{index}")'
        folder = project(up, connect_args=OPTIONS)
        blocker.cursor().execute("BEGIN; LOCK TABLE orders IN ROW EXCLUSIVE MODE")
        with let_go_after(database, blocker, 4):
            module.act(parameters(folder), False)
        assert query(database, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'orders_id'::regclass") == [True]

    @pytest.mark.parametrize(("connect_args", "doubted"), [({}, False), (OPTIONS, False), (UNNAMED, True)])
    def test_a_session_of_another_name_is_reported(
        self, connect_args: dict[str, str], doubted: bool, project: Project, parameters: Make, database: Login
    ) -> None:
        folder = project('op.execute("SELECT pg_sleep(2)")', connect_args=connect_args)
        result = module.act(parameters(folder), False)
        doubts = [proof for proof in result["proofs"] if proof["name"] == "migrate.lock_limits"]
        assert [proof["status"] for proof in doubts] == ["inconclusive"] * doubted
        assert all('application "shop"' in proof["detail"] for proof in doubts)
        assert revisions(database) == [SECOND]

    def test_nobody_elses_session_is_ended(
        self, project: Project, parameters: Make, blocker: psycopg2.extensions.connection, database: Login
    ) -> None:
        folder, done = project(TestLocks.UP, connect_args=OPTIONS), list[bool]()
        blocker.cursor().execute("BEGIN; SELECT count(*) FROM orders")

        def wait_longer() -> None:
            with closing(connect(database, "shop")) as other:
                other.cursor().execute("BEGIN; LOCK TABLE orders")
                done.append(True)

        other = threading.Thread(target=wait_longer)
        other.start()
        with pytest.raises(ReleaseError, match="was stopped"):
            module.act(parameters(folder), False)
        blocker.cursor().execute("ROLLBACK")
        other.join()
        assert done


LOCKS = """
    op.execute("LOCK TABLE orders IN SHARE MODE")
    op.execute("CREATE TABLE order_items (id int)")
    op.execute("SELECT pg_sleep(60)")
"""
SLEEPING = "FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND datname = current_database()"
SLEEPS = f"SELECT count(*) {SLEEPING}"
# For ten times the budget.
SLEEPS_LONG = f"{SLEEPS} AND clock_timestamp() - query_start > interval '1 s'"


class TestOverBudget:
    """Stopped only where another session waits for what it holds, and where nothing of it can be committed."""

    def test_it_is_stopped_and_the_writer_goes_on(
        self, project: Project, parameters: Make, state: Path, database: Login
    ) -> None:
        given = parameters(project(LOCKS), budget={"write_wait_ms": 300})
        with self.others(database, "INSERT INTO orders VALUES (7)") as ended:
            with pytest.raises(ReleaseError) as raised:
                module.act(given, False)
            until(ended, "the writer waits on")
        assert re.search(
            r'was stopped \(pid \d+ \(user "\w+", application "other", .*waited for public.orders for at least '
            r"\d{3} ms behind it, and the budget is 300 ms; rehearse the release .*write_wait_ms\); "
            r"the database is still at aaaa00000001",
            raised.value.message,
        )
        assert (revisions(database), has_table(database, "order_items")) == ([FIRST], False)
        assert query(database, "SELECT id FROM orders") == [7]
        assert (raised.value.facts["attempts"], events(state)[-1]) == (1, ("upgrade", "failed"))
        facts = journal(state)[-1]["facts"]
        assert facts["longest_wait"]["table"] == "public.orders"
        assert facts["longest_wait"]["ms"] >= 300
        assert any(lock["mode"] == "SHARE" for one in facts["observation"]["statements"] for lock in one["locks"])

    @pytest.mark.parametrize(
        ("body", "statement", "why_not"),
        [
            pytest.param(LOCKS, "SELECT FROM orders", None, id="nobody waits"),
            pytest.param(
                """
    with context.get_context().autocommit_block():
        op.execute("CREATE TABLE early (id int)")
    op.execute("LOCK TABLE orders IN SHARE MODE")
    op.execute("SELECT pg_sleep(60)")
""",
                "INSERT INTO orders VALUES (7)",
                "a part of it may already be committed",
                id="a part is committed",
            ),
            pytest.param(
                """
    op.execute("UPDATE alembic_version SET version_num = version_num")
    op.execute("SELECT pg_sleep(60)")
""",
                "UPDATE alembic_version SET version_num = version_num",
                None,
                id="another migration waits",
            ),
        ],
    )
    def test_it_goes_on(
        self, project: Project, parameters: Make, state: Path, database: Login, body: str, statement: str, why_not: str
    ) -> None:
        given = parameters(project(body), budget={"write_wait_ms": 100})
        watch = connect(database, "tests")
        with self.others(database, statement), closing(watch), watch.cursor() as cursor:
            moving = threading.Thread(target=self.move, args=(given,))
            moving.start()
            until(lambda: count(cursor, SLEEPS), "it does not migrate")
            until(lambda: count(cursor, SLEEPS_LONG), "it was stopped")
            cursor.execute(f"SELECT pg_cancel_backend(pid) {SLEEPING}")
            moving.join()
        longest = journal(state)[-1]["facts"]["longest_wait"]
        assert (longest["not_stopped"] if longest else None) == why_not

    def test_a_migration_that_waits_itself_is_not_stopped(
        self, project: Project, parameters: Make, database: Login
    ) -> None:
        given = parameters(project('op.execute("ALTER TABLE orders ADD COLUMN note text")'))
        given |= {"lock": {"timeout_ms": 1500, "attempts": 5, "deadline_seconds": 30}, "budget": {"write_wait_ms": 300}}
        blocker = connect(database, "reader")
        blocker.cursor().execute("BEGIN; SELECT FROM orders")
        writer = connect(database, "other")
        with closing(blocker), closing(writer), let_go_after(database, blocker, 1.0):
            insert = threading.Thread(target=writer.cursor().execute, args=("INSERT INTO orders (id) VALUES (7)",))
            begin = threading.Timer(0, lambda: self.when_it_waits(database, insert))
            begin.start()
            result = module.act(given, False)
            begin.join()
            insert.join()
        assert (result["revisions_after"], result["message"]) == ([SECOND], "")

    @contextmanager
    def others(self, database: Login, statement: str) -> Iterator[Callable[[], bool]]:
        """Another session executes the statement as soon as the migration sleeps; whether it has ended."""
        other, watch = connect(database, "other"), connect(database, "tests")

        def act() -> None:
            with closing(watch), watch.cursor() as cursor:
                until(lambda: count(cursor, SLEEPS), "it does not migrate")
            other.cursor().execute(statement)

        thread = threading.Thread(target=act)
        thread.start()
        try:
            yield lambda: not thread.is_alive()
        finally:
            thread.join()
            other.close()

    def move(self, given: dict[str, Any]) -> None:
        with pytest.raises(ReleaseError, match="canceling statement due to user request"):
            module.act(given, False)

    def when_it_waits(self, database: Login, thread: threading.Thread) -> None:
        with closing(connect(database, "tests")) as watch, watch.cursor() as cursor:
            waiting = (
                "FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE orders%' AND wait_event_type = 'Lock'"
                " AND datname = current_database()"
            )
            until(lambda: count(cursor, f"SELECT count(*) {waiting}"), "it does not wait")
        thread.start()


def count(cursor: psycopg2.extensions.cursor, statement: str) -> int:
    cursor.execute(statement)
    return int(cursor.fetchall()[0][0])


class TestPreview:
    @pytest.fixture(autouse=True)
    def temporary_folder_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Other workers of the tests make previews in the machine's at the same time."""
        folder = tmp_path / "temporary"
        folder.mkdir()
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)

    def test_migration_that_reads_data_is_inconclusive_and_goes_on(self, project: Project, parameters: Make) -> None:
        up = 'print(op.get_bind().execute(sa.text("SELECT count(*) FROM orders")).scalar_one())'
        result = module.act(parameters(project(up)), False)
        shown = result["proofs"][0]
        assert (shown["name"], shown["status"]) == ("migrate.preview", "inconclusive")
        assert "Alembic could not print the SQL" in shown["detail"]
        assert (result["preview"], result["preview_sql"], result["changed"]) == ("", "", True)

    def test_files_that_alembic_does_not_have_yet(self, project: Project, parameters: Make) -> None:
        folder = project()
        second = folder / "migrations" / "versions" / "second.py"
        files = [{"name": "second.py", "content": second.read_text()}, {"name": "back.sql", "content": "SELECT 1"}]
        second.unlink()
        before, temporary = sorted(folder.rglob("*")), left_in_temporary_folder()
        planned = module.act(parameters(folder, preview_files=files), True)
        assert "CREATE TABLE order_items" in planned["preview_sql"]
        assert sorted(folder.rglob("*")) == before
        assert left_in_temporary_folder() == temporary
        without = module.act(parameters(folder), True)
        assert without["proofs"][0]["status"] == "inconclusive"
        broken = [{"name": "second.py", "content": "raise RuntimeError('broken file')"}]
        planned = module.act(parameters(folder, preview_files=broken), True)
        assert "broken file" in planned["proofs"][0]["detail"]
        assert left_in_temporary_folder() == temporary

    def test_preview_that_hangs_leaves_nothing(
        self, project: Project, parameters: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ansible.module_utils.dbrelease.migrate.preview.PREVIEW_TIMEOUT_S", 4)
        folder, temporary = project(), left_in_temporary_folder()
        (folder / "migrations" / "versions" / "second.py").unlink()
        hanging = [{"name": "second.py", "content": "import time; time.sleep(60)"}]
        planned = module.act(parameters(folder, preview_files=hanging), True)
        assert "no answer in 4 s" in planned["proofs"][0]["detail"]
        assert left_in_temporary_folder() == temporary

    def test_in_the_container_nothing_is_left(self, backend: str) -> None:
        commands = commands_in(backend)
        command = ["python3", "-m", "alembic"]
        (head,) = alembic.script_heads(commands, command)
        new = revision(SECOND, head, 'op.execute("CREATE TABLE shown_only (id int)")')
        find = ["find", "/tmp", "/app", "-name", "*preview*", "-o", "-name", "*second*"]
        before = commands.run(find, timeout_s=30).stdout
        shown = preview(commands, command, "upgrade", head, SECOND, {"second.py": new})
        assert shown.proof.status == "pass", shown.proof.detail
        assert "CREATE TABLE shown_only" in shown.sql
        assert commands.run(find, timeout_s=30).stdout == before


def left_in_temporary_folder() -> list[str]:
    return sorted(path.name for path in Path(tempfile.gettempdir()).glob("dbrelease_preview_*"))


class Answering:
    """A place where every command prints the same."""

    place = "the test"

    def __init__(self, status: int, stdout: str, stderr: str = "") -> None:
        self._answer = (status, stdout, stderr)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: int,
        environment: Mapping[str, str] | None = None,
        stdin: IO[bytes] | None = None,
        on_stdout: Callable[[bytes], None] | None = None,
        workdir: str | None = None,
    ) -> Finished:
        return Finished(tuple(argv), *self._answer, duration_ms=1, timed_out=self._answer[0] == 124)


class TestReaders:
    @pytest.mark.parametrize(
        ("printed", "heads", "current"),
        [
            ("1a2b (head)\n", ["1a2b"], ["1a2b"]),
            ("INFO  [alembic.runtime] Will assume\n1a2b\n", [], ["1a2b"]),
            ("3c4d (head)\n1a2b (stable) (head)\n", ["1a2b", "3c4d"], ["1a2b", "3c4d"]),
            ("1a2b (effective head)\n", ["1a2b"], ["1a2b"]),
            ("loading: models\n", [], []),
            ("", [], []),
        ],
    )
    def test_output_of_alembic(self, printed: str, heads: list[str], current: list[str]) -> None:
        assert alembic.script_heads(Answering(0, printed), ["alembic"]) == heads
        assert alembic.alembic_current(Answering(0, printed), ["alembic"]) == current

    @pytest.mark.parametrize(
        ("status", "stderr", "reason"),
        [
            (255, "  FAILED: Can't locate revision identified by '9'\n", "status 255 .FAILED: Can't locate revision"),
            (127, "timeout: failed to run command", "alembic was not found"),
            (124, "", "no answer in 60 s"),
            (1, "Traceback\nsqlalchemy.exc.X: cannot reach postgresql://u:c4n4ry@h/d\n(Background)\n", "u:.{3}@h/d"),
        ],
    )
    def test_failure_says_why(self, status: int, stderr: str, reason: str) -> None:
        with pytest.raises(ReleaseError, match=reason) as raised:
            alembic.script_heads(Answering(status, "", stderr), ["alembic"])
        assert "c4n4ry" not in raised.value.message

    def test_real_project_with_two_heads(self, project: Project) -> None:
        folder = project()
        (folder / "migrations" / "versions" / "other.py").write_text(revision("cccc", FIRST))
        commands = HostCommands(str(folder))
        assert alembic.script_heads(commands, COMMAND) == [SECOND, "cccc"]
        assert alembic.alembic_current(commands, COMMAND) == [FIRST]

    def test_bookkeeping_table_in_another_schema(self, session: psycopg2.extensions.connection) -> None:
        with session.cursor(cursor_factory=RealDictCursor) as cursor:
            cursor.execute('CREATE SCHEMA book; CREATE TABLE book."Kept" (version_num text)')
            cursor.execute("""INSERT INTO book."Kept" VALUES ('b'), ('a')""")
            assert version_table.database_revisions(cursor, "book.Kept") == ["a", "b"]
            assert version_table.database_revisions(cursor, "book.kept") == []
            cursor.execute("CREATE TABLE wrong (id int)")
            with pytest.raises(ReleaseError, match=r"version_num.*check that it is Alembic's"):
                version_table.database_revisions(cursor, "wrong")


@pytest.mark.parametrize(
    ("outcome", "status", "said"),
    [
        (Outcome(0, "Done", ["2"]), "pass", "status 0 and the database is at 2"),
        (Outcome(0, "", ["2"]), "fail", "has no line that matches success_pattern"),
        (Outcome(0, "Done", ["1"]), "fail", "status 0; the database is still at 1"),
        (Outcome(0, "Done", []), "fail", "now at no revision"),
        (Outcome(0, "Done", None), "fail", "could not be read back"),
        (Outcome(1, "Done", ["2"]), "fail", "status 1 (Done); nevertheless the database is now at 2"),
        (Outcome(1, "", ["1"]), "fail", "it printed nothing"),
        (Outcome(137, "Done", ["1"]), "fail", "Alembic was killed (status 137); the database is still at 1"),
        (Outcome(124, "", ["1"], timed_out=True), "fail", "did not end in time"),
        (Outcome(None, "", ["2"], cause="The engine went away."), "fail", "The engine went away; nevertheless"),
        (Outcome(1, "", ["1", "3"]), "fail", "1 and 3, which is neither"),
    ],
)
def test_verdict(outcome: Outcome, status: str, said: str) -> None:
    proof = judge(Move("upgrade", "1", "2", "Done"), outcome)
    assert proof.status == status
    assert said in proof.detail
    assert bool(proof.remedy) is (status == "fail")


@pytest.mark.parametrize(
    "text",
    [
        f"raw {PASSWORD} in a line",
        f"postgresql://user:{quote(PASSWORD, safe='')}@host/db",
        f"postgresql://user:{quote(PASSWORD)}@host/db",
        f"json {json.dumps(PASSWORD)} and repr {PASSWORD!r}",
        f"Basic {base64.b64encode(PASSWORD.encode()).decode()}",
    ],
)
def test_password_is_masked_in_every_form(text: str) -> None:
    kept = masked(text, PASSWORD)
    assert "***" in kept
    for form in (PASSWORD, quote(PASSWORD), quote(PASSWORD, safe=""), base64.b64encode(PASSWORD.encode()).decode()):
        assert form not in kept
    assert "c4n4ry" not in kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("redis://:hidden@host", "redis://:***@host"),
        (
            "postgresql+psycopg2://app:hidden@host/db and x://y:hidden@z",
            "postgresql+psycopg2://app:***@host/db and x://y:***@z",
        ),
        ("host=h password=hidden user=u", "host=h password=*** user=u"),
        ("password='hid den' user=u", "password=*** user=u"),
        ("http://host:8001/path me@example.org", "http://host:8001/path me@example.org"),
    ],
)
def test_anyones_password_is_masked_where_it_stands(text: str, kept: str) -> None:
    assert masked(text, None) == kept


def test_passwords_of_urls_are_found_wherever_they_are_in_the_options() -> None:
    options = {"url": "http://u:hid%40den@host", "api": {"more": [{"base": "https://:other@host/x"}, 8001, None]}}
    assert list(url_passwords(options)) == ["hid%40den", "other"]
    assert list(url_passwords({"url": "http://host:8001/a@b", "text": "a:b@c"})) == []


def test_password_is_nowhere(
    project: Project,
    parameters: Make,
    state: Path,
    database: Login,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A migration that prints its connection string, fails with it in its traceback, and shows it in its SQL."""
    role = f"canary_{secrets.token_hex(4)}"
    up = """
    import os
    print(os.environ["TEST_DATABASE_URL"])
    if not context.is_offline_mode():
        print(op.get_bind().engine.url.password)
    op.execute("SELECT '" + op.get_context().opts.get("secret", os.environ["TEST_DATABASE_URL"]) + "'")
    if not context.is_offline_mode():
        raise RuntimeError("cannot reach " + os.environ["TEST_DATABASE_URL"])
    """
    folder = project(up)
    with closing(connect(database, "tests")) as session, session.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD %s", (PASSWORD,))
        try:
            monkeypatch.setenv("TEST_DATABASE_URL", url_of(replace(database, user=role, password=PASSWORD)))
            asked = parameters(folder, login_user=role, login_password=PASSWORD)
            results = [module.act(asked, True)]
            with pytest.raises(ReleaseError) as raised:
                module.act(asked, False)
        finally:
            cursor.execute(f"DROP ROLE {role}")
    reported = repr(results) + json.dumps(results) + raised.value.message + repr(raised.value.facts)
    reported += "".join(capfd.readouterr())
    written = b"".join(path.read_bytes() for path in state.rglob("*") if path.is_file())
    assert b"cannot reach postgresql+psycopg2://" in written
    assert "cannot reach" in raised.value.message
    for form in (PASSWORD, quote(PASSWORD, safe=""), base64.b64encode(PASSWORD.encode()).decode(), "c4n4ry"):
        assert form not in reported
        assert form.encode() not in written


# What somebody has set for the application's short statements, and what a migration needs.
SET_FOR_THE_ROLE = {
    "statement_timeout": "400ms",
    "idle_in_transaction_session_timeout": "400ms",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "max_parallel_workers_per_gather": "8",
}
SLOW = """
    op.execute("CREATE TABLE order_items AS SELECT current_setting('transaction_isolation') AS isolation,"
               " current_setting('max_parallel_workers_per_gather') AS workers, pg_sleep(0.6)::text AS slept")
    import time; time.sleep(0.6)
"""


def test_what_is_set_for_the_role_does_not_decide_what_it_does(
    project: Project, parameters: Make, database: Login
) -> None:
    folder = project(SLOW)
    with closing(connect(database, "tests")) as session, session.cursor() as cursor:
        for name, value in SET_FOR_THE_ROLE.items():
            cursor.execute(f"ALTER DATABASE \"{database.database}\" SET {name} = '{value}'")
    result = module.act(parameters(folder), False)
    assert status_of(result["proofs"])["migrate.upgrade"] == "pass"
    # By a session of the engine: one of the tests' own would have the short limits.
    with closing(engine_connect(database, "tests")) as reader, reader.cursor() as cursor:
        cursor.execute("SELECT isolation || workers FROM public.order_items")
        assert cursor.fetchall() == [("read committed0",)]
