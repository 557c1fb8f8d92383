"""The payload of release 8_1a on a real Postgres with real rows: up, assert, down, assert the same, up again."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
import sqlalchemy.exc
import yaml
from alembic import command
from alembic.config import Config
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.rollback.in_database import counting_settings
from own_sessions import connect
from waits import until

ROOT = Path(__file__).resolve().parents[3]
BACKEND = ROOT / "stack" / "backend"
RELEASE = ROOT / "releases" / "8_1a"
BEFORE, AFTER = "0ab370a9afb6", "f4c8a2b5e1d9"
TABLE = "drawing_project_associations"
LOCK_TIMEOUT_S = 0.5  # of the revision, where nobody set another
DELTA = (RELEASE / "migrations" / "data_migration_phase_a.sql").read_text(encoding="utf-8")

ROWS = """
    INSERT INTO projects (id, name, code)
    SELECT md5('p' || n)::uuid,
           (ARRAY['O''Hare "North"', '100%% Solar', '東京タワー 🗼', E'two\\nlines'])[1 + n %% 4], 'P' || n
    FROM generate_series(1, greatest(3, %(rows)s / 10)) n;
    INSERT INTO drawings (id, title, file_path, project_id)
    SELECT md5('d' || n)::uuid,
           (ARRAY['Owner''s; -- copy', '%%s %%(x)s', 'Pumpe 🛠️', '$1 {{ x }} \\'])[1 + n %% 4], '/' || n,
           CASE WHEN n %% 10 > 0 THEN md5('p' || 1 + n %% (greatest(3, %(rows)s / 10) - 1))::uuid END
    FROM generate_series(1, %(rows)s) n;
    INSERT INTO components (drawing_id, label) SELECT id, title FROM drawings LIMIT 100;
"""

CATALOG = """
    SELECT 'column', attrelid::regclass::text, attname, format_type(atttypid, atttypmod) || attnotnull
           || coalesce(pg_get_expr(adbin, adrelid), '')
    FROM pg_attribute LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
    WHERE attnum > 0 AND NOT attisdropped AND attrelid IN (
        SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind <> 'i')
    UNION ALL
    SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL
    SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'trigger', tgrelid::regclass::text, tgfoid::regproc::text, count(*)::text
    FROM pg_trigger GROUP BY tgrelid, tgfoid
    UNION ALL
    SELECT 'type', '', typname, typtype::text FROM pg_type WHERE typnamespace = 'public'::regnamespace
    ORDER BY 1, 2, 3
"""


@dataclass
class Alembic:
    """Alembic as a library, with the history of the reference application and the release's revision."""

    config: Config
    database: Login

    def to(self, revision: str) -> None:
        move = command.downgrade if self.revision() == AFTER else command.upgrade
        move(self.config, revision)

    def revision(self) -> str:
        with reading(self.database) as ask:
            if ask("SELECT to_regclass('alembic_version') IS NULL") == [(True,)]:
                return ""
            return str(ask("SELECT version_num FROM alembic_version")[0][0])


Ask = Callable[[str], list[tuple[Any, ...]]]


@contextmanager
def reading(login: Login) -> Iterator[Ask]:
    session = connect(login, "tests")
    with session.cursor() as cursor:

        def ask(sql: str) -> list[tuple[Any, ...]]:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

        yield ask
    session.close()


@pytest.fixture
def alembic(database: Login, monkeypatch: pytest.MonkeyPatch) -> Alembic:
    monkeypatch.syspath_prepend(str(BACKEND))
    monkeypatch.setenv("POSTGRES_HOST", database.host)
    monkeypatch.setenv("POSTGRES_PORT", str(database.port))
    monkeypatch.setenv("POSTGRES_USER", database.user)
    monkeypatch.setenv("POSTGRES_PASSWORD", database.password or "")
    monkeypatch.setenv("POSTGRES_DB", database.database)
    config = Config()
    config.set_main_option("script_location", str(BACKEND / "migrations"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", f"{BACKEND / 'migrations' / 'versions'}\n{RELEASE / 'migrations'}")
    return Alembic(config, database)


@pytest.fixture
def before(alembic: Alembic, session: Any) -> Alembic:
    """At the from-revision, with 1,000 drawings."""
    alembic.to(BEFORE)
    fill(session, 1000)
    return alembic


def fill(session: Any, rows: int) -> None:
    with session.cursor() as cursor:
        cursor.execute(ROWS, {"rows": rows})


def state(login: Login) -> dict[str, Any]:
    """The catalog, and every row that the application owns."""
    with reading(login) as ask:
        return {
            "catalog": ask(CATALOG),
            "rows": {
                table: ask(f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY id)) FROM {table} t")
                for table in ("projects", "drawings", "components")
            },
            "revision": ask("SELECT * FROM alembic_version"),
        }


def pairs(login: Login) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    with reading(login) as ask:
        return (
            set(ask("SELECT id::text, project_id::text FROM drawings WHERE project_id IS NOT NULL")),
            set(ask(f"SELECT drawing_id::text, project_id::text FROM {TABLE}")),
        )


def psql(login: Login, path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`psql -f`, from the host or, where it has none, from the reference stack's database container."""
    argv = ["psql", "--no-psqlrc", *options, "-f", "-"]
    environment = {"PGPASSWORD": login.password or "", "PGUSER": login.user, "PGDATABASE": login.database}
    if shutil.which("psql"):
        environment |= {"PGHOST": login.host, "PGPORT": str(login.port)}
    else:
        argv = ["docker", "exec", "-i", *(f"--env={name}" for name in environment), "drawing_postgres", *argv]
    with path.open("rb") as file:
        return subprocess.run(
            argv, stdin=file, env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )


def by_alembic(alembic: Alembic) -> None:
    alembic.to(BEFORE)


def by_sql(alembic: Alembic) -> None:
    finished = psql(alembic.database, RELEASE / "migrations" / "rollback_phase_a.sql")
    assert "Phase A rolled back" in finished.stderr, finished


def test_upgrade_copies_every_pair_and_says_how_many(before: Alembic, capsys: pytest.CaptureFixture[str]) -> None:
    before.to(AFTER)
    assert capsys.readouterr().out.splitlines()[-1] == "✓ Phase A Complete: Migrated 900 drawing-project associations"
    wanted, found = pairs(before.database)
    assert len(found) == 900 and found == wanted
    with reading(before.database) as ask:
        assert ask(f"SELECT DISTINCT assigned_by, assigned_at IS NULL FROM {TABLE}") == [("migration_8.1a", False)]


def test_upgrade_builds_what_the_release_declares(before: Alembic) -> None:
    before.to(AFTER)
    declared = yaml.safe_load((RELEASE / "release.yml").read_text(encoding="utf-8"))["tables"]["created"][TABLE]
    with reading(before.database) as ask:
        columns = ask(f"""
            SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull, pg_get_expr(adbin, adrelid)
            FROM pg_attribute LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
            WHERE attrelid = '{TABLE}'::regclass AND attnum > 0 ORDER BY attnum""")
        constraints = ask(f"""
            SELECT conname, pg_get_constraintdef(oid)
            FROM pg_constraint WHERE conrelid = '{TABLE}'::regclass AND contype <> 'n' ORDER BY 1""")
        indexes = ask(f"SELECT indexname FROM pg_indexes WHERE tablename = '{TABLE}' ORDER BY 1")
    assert {name: {"type": type_, "nullable": null} for name, type_, null, _ in columns} == declared["columns"]
    assert {name: default for name, *_, default in columns if default} == {
        "id": "gen_random_uuid()", "assigned_at": "now()",
    }  # fmt: skip
    assert constraints == [
        (f"{TABLE}_drawing_id_fkey", "FOREIGN KEY (drawing_id) REFERENCES drawings(id) ON DELETE CASCADE NOT VALID"),
        (f"{TABLE}_pkey", "PRIMARY KEY (id)"),
        (f"{TABLE}_project_id_fkey", "FOREIGN KEY (project_id) REFERENCES projects(id) ON DELETE CASCADE NOT VALID"),
        ("uq_drawing_project_association", "UNIQUE (drawing_id, project_id)"),
    ]
    assert {name for name, _ in constraints} == set(declared["constraints"])
    assert [name for (name,) in indexes] == sorted([*declared["indexes"], f"{TABLE}_pkey"])


@pytest.mark.parametrize("down", [by_alembic, by_sql])
def test_the_way_back_leaves_what_was_there_and_the_way_up_is_open_again(
    before: Alembic, down: Callable[[Alembic], None]
) -> None:
    first = state(before.database)
    before.to(AFTER)
    up = state(before.database)
    assert up["rows"] == first["rows"] and up["catalog"] != first["catalog"]
    down(before)
    assert state(before.database) == first
    before.to(AFTER)
    assert state(before.database) == up


def test_an_empty_database_migrates_too(alembic: Alembic, capsys: pytest.CaptureFixture[str]) -> None:
    alembic.to(AFTER)
    assert "Migrated 0 drawing-project associations" in capsys.readouterr().out


def test_a_table_that_is_already_there_is_left_as_it_is(before: Alembic) -> None:
    with reading(before.database) as ask:
        ask(f"CREATE TABLE {TABLE} (note text)")
        ask(f"INSERT INTO {TABLE} VALUES ('theirs')")
    there = state(before.database)
    with pytest.raises(sqlalchemy.exc.ProgrammingError, match=f'relation "{TABLE}" already exists'):
        before.to(AFTER)
    assert state(before.database) == there
    with reading(before.database) as ask:
        assert ask(f"SELECT note FROM {TABLE}") == [("theirs",)]


@pytest.mark.parametrize("output", ["ascii", "latin-1"])
def test_an_output_that_cannot_show_the_tick_undoes_nothing(
    before: Alembic, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w", encoding=output) as stream:
        monkeypatch.setattr("sys.stdout", stream)
        before.to(AFTER)
    assert (tmp_path / "log").read_text() == "? Phase A Complete: Migrated 900 drawing-project associations\n"
    assert before.revision() == AFTER


def test_the_sql_preview_is_whole_and_runs_as_it_is(before: Alembic) -> None:
    """What `alembic upgrade from:to --sql` prints, played to the same database, gives the same catalog and pairs."""
    with reading(before.database) as ask:
        ask(preview(before, f"{BEFORE}:{AFTER}"))
    by_preview = state(before.database)
    wanted, found = pairs(before.database)
    assert found == wanted
    with reading(before.database) as ask:
        ask(preview(before, f"{AFTER}:{BEFORE}"))
    before.to(AFTER)
    assert state(before.database) == by_preview


def preview(alembic: Alembic, span: str) -> str:
    buffer = io.StringIO()
    config = Config(output_buffer=buffer)
    for name in ("script_location", "path_separator", "version_locations"):
        config.set_main_option(name, str(alembic.config.get_main_option(name)))
    (command.upgrade if span.startswith(BEFORE) else command.downgrade)(config, span, sql=True)
    return buffer.getvalue()


def test_the_preview_shows_the_order_that_spares_writers(before: Alembic, capsys: pytest.CaptureFixture[str]) -> None:
    text = preview(before, f"{BEFORE}:{AFTER}")
    steps = r"^\s*(CREATE TABLE|INSERT INTO \w+|ALTER TABLE|CREATE (?:UNIQUE )?INDEX|UPDATE \w+|BEGIN|COMMIT).*?;"
    assert re.findall(steps, text, re.MULTILINE | re.DOTALL) == [
        "BEGIN", "CREATE TABLE", f"INSERT INTO {TABLE}", "ALTER TABLE", "ALTER TABLE", "CREATE INDEX", "CREATE INDEX",
        "ALTER TABLE", "ALTER TABLE", "UPDATE alembic_version", "COMMIT",
    ]  # fmt: skip
    foreign_keys = re.findall(r"ADD CONSTRAINT \w+ FOREIGN KEY.*?;", text)
    assert len(foreign_keys) == 2 and all("NOT VALID" in key for key in foreign_keys)
    assert "Phase A Complete" not in capsys.readouterr().out


@dataclass
class Writer(threading.Thread):
    """An application that writes all the while; `longest` is the longest that one statement took, in seconds."""

    login: Login
    longest: float = 0
    writes: int = 0
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.stopping = threading.Event()

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        statements = (
            "INSERT INTO drawings (title, file_path, project_id) SELECT 'live', '/live', id FROM projects LIMIT 1",
            "UPDATE drawings SET project_id = (SELECT id FROM projects LIMIT 1) WHERE id = md5('d' || %s)::uuid",
            "UPDATE projects SET description = %s::text WHERE id = md5('p1')::uuid",
            "DELETE FROM drawings WHERE id = md5('d' || 1 + 2 * %s)::uuid",
            "DELETE FROM projects WHERE id = md5('p' || 10 + %s)::uuid",
        )
        with connect(self.login, "writer").cursor() as cursor:
            while not self.stopping.wait(0.002):
                begun = time.monotonic()
                try:
                    statement = statements[self.writes % len(statements)]
                    cursor.execute(statement, (self.writes,) if "%s" in statement else None)
                except psycopg2.Error as error:
                    self.errors.append(str(error))
                self.longest = max(self.longest, time.monotonic() - begun)
                self.writes += 1

    def __enter__(self) -> Writer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.join(30)


def finalize(login: Login) -> dict[str, int]:
    """The release's finalize steps in their order; what each had pending."""
    steps = yaml.safe_load((RELEASE / "release.yml").read_text(encoding="utf-8"))["migration"]["finalize"]
    found = {}
    with reading(login) as ask:
        for step in steps:
            found[step["name"]] = int(ask(step["pending"])[0][0])
            if found[step["name"]]:
                ask(step.get("sql") or (RELEASE / step["file"]).read_text(encoding="utf-8"))
    return found


def upgrade_with_retries(alembic: Alembic) -> tuple[float, int]:
    """As the migrate role does it; the duration of the attempt that succeeded, and how many a lock timeout ended."""
    for given_up in range(10):
        begun = time.monotonic()
        try:
            alembic.to(AFTER)
        except sqlalchemy.exc.OperationalError as error:
            assert "lock timeout" in str(error), error
        else:
            return time.monotonic() - begun, given_up
    raise AssertionError("ten attempts were ended by a lock timeout")


def test_writers_hardly_wait_and_what_they_write_is_brought_in_line(alembic: Alembic, session: Any) -> None:
    alembic.to(BEFORE)
    fill(session, 200_000)
    with session.cursor() as cursor:
        cursor.execute("ANALYZE")
    with Writer(alembic.database) as writer:
        until(lambda: writer.writes > 10, "the application did not write")
        duration, given_up = upgrade_with_retries(alembic)
        finalize(alembic.database)
    print(f"upgrade {duration:.2f} s, {writer.writes} writes, the longest {writer.longest:.3f} s")
    assert writer.errors == []
    assert writer.longest < duration / 2 + (LOCK_TIMEOUT_S if given_up else 0)
    finalize(alembic.database)
    wanted, found = pairs(alembic.database)
    assert found == wanted
    assert set(finalize(alembic.database).values()) == {0}
    with reading(alembic.database) as ask:
        assert ask(f"SELECT conname FROM pg_constraint WHERE conrelid = '{TABLE}'::regclass AND NOT convalidated") == []


@pytest.mark.parametrize(("start", "road"), [(BEFORE, "up"), (AFTER, "alembic"), (AFTER, "sql")])
def test_a_busy_writer_makes_it_give_up_early_and_leave_everything(before: Alembic, start: str, road: str) -> None:
    if start == AFTER:
        before.to(AFTER)
    there = state(before.database)
    busy = connect(before.database, "busy")
    with busy.cursor() as cursor:
        # Whoever does not give up gets through at last, and is seen to.
        cursor.execute("SET idle_in_transaction_session_timeout = '6s'")
        cursor.execute("BEGIN; UPDATE projects SET description = 'busy' WHERE code = 'P1'")
        begun = time.monotonic()
        if road == "sql":
            finished = psql(before.database, RELEASE / "migrations" / "rollback_phase_a.sql")
            assert "canceling statement due to lock timeout" in finished.stderr
        else:
            with pytest.raises(sqlalchemy.exc.OperationalError, match="lock timeout"):
                before.to(AFTER if road == "up" else BEFORE)
        assert time.monotonic() - begun < 5
        cursor.execute("ROLLBACK")
    busy.close()
    assert state(before.database) == there


@pytest.mark.parametrize("options", [(), ("--set=ON_ERROR_STOP=1",), ("--single-transaction",)])
@pytest.mark.parametrize(
    ("revisions", "shown"),
    [([BEFORE], BEFORE), (["9e9e"], "9e9e"), ([AFTER, "9e9e"], f"9e9e, {AFTER}"), ([], "(none)")],
)
def test_the_sql_way_back_refuses_any_other_revision(
    before: Alembic, options: tuple[str, ...], revisions: list[str], shown: str
) -> None:
    before.to(AFTER)
    with reading(before.database) as ask:
        ask("DELETE FROM alembic_version")
        for revision in revisions:
            ask(f"INSERT INTO alembic_version VALUES ('{revision}')")
    there = state(before.database)
    finished = psql(before.database, RELEASE / "migrations" / "rollback_phase_a.sql", *options)
    assert f"Phase A is not rolled back: the database is at revision {shown}" in finished.stderr
    assert state(before.database) == there


def go_back(alembic: Alembic, road: str, settings: Mapping[str, str]) -> None:
    """As a run does it, with what it tells the session."""
    if road == "alembic":
        options = " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in settings.items())
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PGOPTIONS", options)
            by_alembic(alembic)
        return
    with reading(alembic.database) as ask:
        for name, value in settings.items():
            ask(f"SELECT set_config('{name}', '{value}', false)")
        ask((RELEASE / "migrations" / "rollback_phase_a.sql").read_text())


def failure_of(alembic: Alembic, road: str, settings: Mapping[str, str]) -> str:
    """What the way back says, and nothing is changed; empty where it is done."""
    there = state(alembic.database)
    try:
        go_back(alembic, road, settings)
    except Exception as error:
        assert state(alembic.database) == there
        return str(error)
    return ""


ROADS = ["alembic", "sql"]
WRITTEN = "1 associations that would be lost were written since they were counted"
ONLY_RECORD = "1 associations differ from drawings written since they were counted"


@pytest.mark.parametrize("written", ["before", "meanwhile", "in a savepoint", "after"])
@pytest.mark.parametrize("road", ROADS)
def test_no_way_back_drops_an_association_that_was_written_after_the_count(
    before: Alembic, road: str, written: str
) -> None:
    before.to(AFTER)
    with reading(before.database) as application, closing(connect(before.database, "count")) as session:
        writes = {"before": "COMMIT", "after": "ROLLBACK"}.get(written, "SELECT 1")
        application("BEGIN")
        application("UPDATE drawings SET title = title WHERE id = md5('d1')::uuid")  # it has its transaction id now
        if written == "in a savepoint":  # and this one, which no snapshot lists, has another
            application("SAVEPOINT inside")
            application("UPDATE drawings SET title = title WHERE id = md5('d2')::uuid")
        if written == "before":
            application(f"UPDATE {TABLE} SET assigned_by = 'x' WHERE drawing_id = md5('d2')::uuid")
        application(writes)
        with reading(before.database) as later:  # one that began after it and has ended: the count must list the first
            later("UPDATE projects SET description = 'later' WHERE code = 'P2'")
        settings = counting_settings(session, [TABLE])
        if written != "before":
            application(f"UPDATE {TABLE} SET assigned_by = 'x' WHERE drawing_id = md5('d2')::uuid")
        if written in ("meanwhile", "in a savepoint"):
            application("COMMIT")
    failure = failure_of(before, road, settings)
    assert (WRITTEN in failure) == (written != "before"), failure
    assert bool(failure) == (written != "before")


@pytest.mark.parametrize(
    ("write", "says"),
    [
        ("UPDATE drawings SET project_id = NULL WHERE id = md5('d1')::uuid", ONLY_RECORD),
        ("UPDATE drawings SET project_id = md5('p9')::uuid WHERE id = md5('d1')::uuid", ONLY_RECORD),
        ("UPDATE drawings SET title = 'another' WHERE id = md5('d1')::uuid", ""),
        ("DELETE FROM drawings WHERE id = md5('d1')::uuid", ""),  # its association goes with it
        ("INSERT INTO drawings (title, file_path, project_id) VALUES ('n', '/n', md5('p2')::uuid)", ""),
    ],
)
@pytest.mark.parametrize("begun", ["after", "in a savepoint"])
@pytest.mark.parametrize("road", ROADS)
def test_no_way_back_drops_what_a_drawing_knew_until_after_the_count(
    before: Alembic, road: str, begun: str, write: str, says: str
) -> None:
    before.to(AFTER)
    with closing(connect(before.database, "count")) as session, reading(before.database) as ask:
        if begun == "in a savepoint":
            ask("BEGIN")
            ask("UPDATE drawings SET title = title WHERE id = md5('d3')::uuid")
            ask("SAVEPOINT inside")
            ask("UPDATE drawings SET title = title WHERE id = md5('d2')::uuid")
            with reading(before.database) as later:
                later("UPDATE projects SET description = 'later' WHERE code = 'P2'")
        settings = counting_settings(session, [TABLE])
        ask(write)
        if begun == "in a savepoint":
            ask("COMMIT")
    failure = failure_of(before, road, settings)
    assert (says in failure) and bool(failure) == bool(says), failure


@pytest.mark.parametrize("road", ROADS)
def test_no_way_back_drops_an_association_that_was_written_while_it_waited(before: Alembic, road: str) -> None:
    before.to(AFTER)
    with closing(connect(before.database, "count")) as session:
        settings = counting_settings(session, [TABLE])
    failure = "lock timeout"
    while "lock timeout" in failure:
        with reading(before.database) as reader, reading(before.database) as writer, ThreadPoolExecutor(1) as pool:
            reader("BEGIN")
            reader("SELECT count(*) FROM projects")
            going = pool.submit(failure_of, before, road, settings)
            while not going.done() and not writer("SELECT 1 FROM pg_locks WHERE NOT granted"):
                time.sleep(0.005)
            writer(f"UPDATE {TABLE} SET assigned_by = 'x' WHERE drawing_id = md5('d2')::uuid")
            reader("ROLLBACK")
            failure = going.result()
    assert WRITTEN in failure, failure


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dbrelease.counted_in": "1@1"}, "was counted in another database"),
        ({"dbrelease.counted_in": ""}, "was counted in another database"),
        ({"search_path": "other, public"}, "was counted in another database"),  # where a table of that name is
        ({"role": "pg_monitor"}, "row-level security policy"),  # which would hide a row that was written since
        ({"dbrelease.counted_at": ""}, "did not tell this session when it counted"),
        ({"default_transaction_isolation": "serializable"}, "it must be READ COMMITTED"),
    ],
)
@pytest.mark.parametrize("road", ROADS)
def test_no_way_back_is_gone_by_a_session_that_cannot_see_what_would_be_lost(
    before: Alembic, road: str, change: dict[str, str], says: str
) -> None:
    before.to(AFTER)
    with reading(before.database) as ask:
        ask("CREATE SCHEMA other")
        ask(f"CREATE TABLE other.{TABLE} (LIKE {TABLE})")
        for table in ("projects", "drawings", "alembic_version", TABLE):
            ask(f"ALTER TABLE {table} OWNER TO pg_monitor")
        ask(f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        ask(f"CREATE POLICY migrated ON {TABLE} USING (assigned_by = 'migration_8.1a')")
    with closing(connect(before.database, "dbrelease-lock-some-run")) as session:
        settings = counting_settings(session, [TABLE])
        failure = failure_of(before, road, {**settings, **change})
        assert says in failure, failure
        assert failure_of(before, road, settings) == ""


UNSEEN = "SET session_replication_role = replica; "  # as if the copy had read the rows before
DRIFT = {
    "a drawing was added": "INSERT INTO drawings (title, file_path, project_id) VALUES ('n', '/n', md5('p2')::uuid)",
    "a drawing changed its project": "UPDATE drawings SET project_id = md5('p9')::uuid WHERE id = md5('d1')::uuid",
    "a drawing left its project": "UPDATE drawings SET project_id = NULL WHERE id = md5('d1')::uuid",
    "a drawing joined a project": "UPDATE drawings SET project_id = md5('p2')::uuid WHERE id = md5('d10')::uuid",
    "a drawing was deleted during the copy": UNSEEN + "DELETE FROM drawings WHERE title LIKE '%s%'",
    "a project was deleted during the copy": UNSEEN + "DELETE FROM projects WHERE code = 'P3'; "
    "UPDATE drawings SET project_id = NULL WHERE project_id = md5('p3')::uuid",
}


@pytest.mark.parametrize("drift", DRIFT.values(), ids=DRIFT.keys())
def test_finalize_repairs_what_was_written_meanwhile(before: Alembic, drift: str) -> None:
    before.to(AFTER)
    with reading(before.database) as ask:
        ask(f"ALTER TABLE {TABLE} SET (autovacuum_enabled = false)")
        # The server may have been earlier.
        analyzed = bool(ask(f"SELECT FROM pg_statistic WHERE starelid = '{TABLE}'::regclass LIMIT 1"))
        ask(drift)
    assert pairs(before.database)[0] != pairs(before.database)[1]
    pending = finalize(before.database)
    assert [name for name, left in pending.items() if not left] == (["analyze"] if analyzed else [])
    wanted, found = pairs(before.database)
    assert found == wanted
    assert finalize(before.database) == dict.fromkeys(pending, 0)


def test_the_delta_pass_runs_by_psql_too_and_keeps_what_others_assigned(before: Alembic) -> None:
    before.to(AFTER)
    with reading(before.database) as ask:
        ask(f"""INSERT INTO {TABLE} (drawing_id, project_id, assigned_by)
                VALUES (md5('d1')::uuid, md5('p5')::uuid, 'someone'), (md5('d1')::uuid, md5('p6')::uuid, NULL)""")
        ask("UPDATE drawings SET project_id = md5('p7')::uuid WHERE id IN (md5('d1')::uuid, md5('d2')::uuid)")
    answers = [psql(before.database, RELEASE / "migrations" / "data_migration_phase_a.sql", "-At").stdout for _ in "12"]
    assert [sorted(line.split("|")[0] for line in answer.splitlines()) for answer in answers] == [
        ["added", "added", "removed", "removed"],
        [],
    ]
    with reading(before.database) as ask:
        theirs = ask(f"SELECT assigned_by FROM {TABLE} WHERE drawing_id = md5('d1')::uuid ORDER BY 1 NULLS LAST")
    assert theirs == [("migration_8.1a",), ("someone",), (None,)]


def test_the_delta_pass_keeps_what_somebody_takes_over_meanwhile(before: Alembic) -> None:
    before.to(AFTER)
    removed: list[list[tuple[Any, ...]]] = []
    with reading(before.database) as ask, reading(before.database) as ann, ThreadPoolExecutor(1) as pool:
        ask("UPDATE drawings SET project_id = NULL WHERE id IN (md5('d1')::uuid, md5('d2')::uuid)")
        ann("BEGIN")
        ann(f"UPDATE {TABLE} SET assigned_by = 'ann' WHERE drawing_id = md5('d1')::uuid")
        going = pool.submit(lambda: removed.append(ask(DELTA)))
        while not ann("SELECT 1 FROM pg_locks WHERE NOT granted"):
            assert not going.done()
            time.sleep(0.01)
        ann("COMMIT")
        going.result()
        assert [change for change, *_ in removed[0]] == ["removed"]
        assert ask(f"SELECT assigned_by FROM {TABLE} WHERE drawing_id = md5('d1')::uuid") == [("ann",)]


def test_the_delta_pass_leaves_a_table_that_inherits_alone(before: Alembic) -> None:
    before.to(AFTER)
    with reading(before.database) as ask:
        ask(f"CREATE TABLE archive () INHERITS ({TABLE})")
        ask(f"INSERT INTO archive SELECT * FROM ONLY {TABLE} WHERE drawing_id IN (md5('d1')::uuid, md5('d2')::uuid)")
        ask(f"DELETE FROM ONLY {TABLE} WHERE drawing_id = md5('d1')::uuid")
        ask("UPDATE drawings SET project_id = NULL WHERE id = md5('d2')::uuid")
        assert finalize(before.database)["copy_rows_written_meanwhile"] == 2
        assert ask("SELECT count(*) FROM archive") == [(2,)]
        assert ask(f"SELECT count(*) FROM ONLY {TABLE} WHERE drawing_id = md5('d1')::uuid") == [(1,)]
    assert finalize(before.database)["copy_rows_written_meanwhile"] == 0


def test_the_delta_pass_changes_no_more_at_once_than_it_may(before: Alembic) -> None:
    before.to(AFTER)
    with reading(before.database) as ask:
        ask("UPDATE drawings SET project_id = md5('p7')::uuid WHERE project_id IS DISTINCT FROM md5('p7')::uuid")
        ask("SET dbrelease.batch_rows = 2")
        changes = [sorted(change for change, *_ in ask(DELTA)) for _ in range(2)]
    assert changes == [["added", "added", "removed", "removed"]] * 2
    finalize(before.database)
    wanted, found = pairs(before.database)
    assert found == wanted


@pytest.mark.parametrize(
    "deletion", ["DELETE FROM drawings WHERE title = 'new'", "DELETE FROM projects WHERE id = md5('p4')::uuid"]
)
def test_the_delta_pass_waits_for_a_deletion_instead_of_failing(before: Alembic, deletion: str) -> None:
    before.to(AFTER)
    answers: list[list[tuple[Any, ...]]] = []

    def pass_() -> None:
        with reading(before.database) as ask:
            answers.append(ask(DELTA))

    with reading(before.database) as other, reading(before.database) as watch:
        other("INSERT INTO drawings (title, file_path, project_id) VALUES ('new', '/new', md5('p4')::uuid)")
        other("BEGIN")
        other(deletion)
        thread = threading.Thread(target=pass_)
        thread.start()
        waiting = """
            SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"""
        deadline = time.monotonic() + 30
        while watch(waiting) == [(0,)] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert watch(waiting) == [(1,)]
        other("COMMIT")
        thread.join(10)
    assert answers == [[]]
    wanted, found = pairs(before.database)
    assert found == wanted
