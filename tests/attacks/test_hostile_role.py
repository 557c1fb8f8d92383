"""A database that is shared with a role that nobody trusts: it gets nowhere, and it stops nobody."""

from __future__ import annotations

import os
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import backup
import leftovers
import preflight_info
import psycopg2
import psycopg2.errors
import pytest
import sql_check_info
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.migrate import sql_engine, steps
from ansible.module_utils.dbrelease.postgres import declared_select, declared_sql
from ansible.module_utils.dbrelease.postgres import session as engine
from ansible.module_utils.dbrelease.postgres.declared_select import select_declared
from ansible.module_utils.dbrelease.postgres.fingerprints import read_tables
from ansible.module_utils.dbrelease.postgres.outside_functions import BeyondError, refuse_reaching_out
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from ansible.module_utils.dbrelease.postgres.terminate import end_sessions, sessions_of
from ansible.module_utils.dbrelease.rollback.lost_rows import save_rows
from ansible.module_utils.dbrelease.runs import database_lock
from ansible.module_utils.dbrelease.runs.database_lock import KEY, NameLock, advisory_lock, name_key
from ansible.module_utils.dbrelease.runs.exclusive import acting
from ansible.module_utils.dbrelease.verify import plans, scenarios, structure
from hostile_role import CAUGHT, Stranger, stranger_in
from own_sessions import connect
from run_ids import run_id

ONE, TWO = run_id(), run_id("20260102T030406Z")
SCHEMA = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('b2');
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE orders (id int PRIMARY KEY, title text, mood mood DEFAULT 'glad', at timestamptz DEFAULT now());
CREATE TABLE items (id int CONSTRAINT items_pkey PRIMARY KEY, order_id int,
  CONSTRAINT items_order FOREIGN KEY (order_id) REFERENCES orders ON DELETE CASCADE);
CREATE INDEX ix_items_order ON items (order_id);
INSERT INTO orders SELECT n, 'order ' || n FROM generate_series(1, 20) n;
INSERT INTO items SELECT n, n FROM generate_series(1, 20) n;
"""
ITEMS = {
    "columns": {"id": {"type": "integer", "nullable": False}, "order_id": {"type": "integer", "nullable": True}},
    "indexes": {"ix_items_order": {"columns": ["order_id"]}},
    "constraints": {
        "items_pkey": {"type": "primary_key", "columns": ["id"]},
        "items_order": {
            "type": "foreign_key",
            "columns": ["order_id"],
            "references": {"table": "orders", "columns": ["id"]},
            "on_delete": "cascade",
        },
    },
}
CHECKS = [
    {"name": "no_stray", "title": "No stray", "violations": "SELECT id FROM items WHERE order_id IS NULL"},
    {"name": "counts", "title": "Counts", "equal": "SELECT max(o.id) AS a, max(i.id) AS b FROM orders o, items i"},
]
STEP = {
    "name": "delta",
    "title": "Delta",
    "sql": "INSERT INTO items SELECT id FROM orders EXCEPT SELECT id FROM items",
    "pending": "SELECT count(*) AS pending FROM (SELECT id FROM orders EXCEPT SELECT id FROM items) AS left_over",
}


@pytest.fixture(scope="module")
def stranger(server: Login) -> Iterator[Stranger]:
    """In a shop's database in which it has set every trap."""
    name = f"test_{secrets.token_hex(6)}"
    shop = replace(server, database=name)
    with closing(connect(server, "tests")) as session, session.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            with closing(connect(shop, "tests")) as inside, inside.cursor() as making:
                making.execute(SCHEMA)
            with stranger_in(shop, server) as found:
                assert found.plants() > 200
                yield found
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def shop(stranger: Stranger) -> Login:
    """As the engine comes."""
    return replace(stranger.server, database=stranger.login.database)


@pytest.fixture
def asked(shop: Login, run_parameters: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """The options of a module: its defaults, where and for whom, and what a test says."""
    where = {"login_host": shop.host, "login_port": shop.port, "login_user": shop.user, "login_db": shop.database}

    def of(module: Any, **given: Any) -> dict[str, Any]:
        defaults = {name: option.get("default") for name, option in module.OPTIONS.items()}
        who = {**where, "login_password": shop.password, "ssl_mode": shop.ssl_mode, "run": run_parameters}
        return {**defaults, **who, **given}

    return of


RELEASE = {
    "release": "sample",
    "migration": {"command": ["true"], "from_revision": "a1", "to_revision": "b2"},
    "tables": {"existing": {"orders": ["id"]}, "created": {"items": ITEMS}},
    "checks": CHECKS,
}
LOSSES = [{"table": "items", "rows": "SELECT id FROM items", "key": ["id"]}]
GUARDS = [
    {"name": "lost", "title": "Lost", "road": "Ask.", "losses": {**LOSSES[0]}},
    {"name": "there", "title": "There", "road": "Ask.", "columns": {"orders": ["id"]}},
]
SERVICES = {"guards": [], "containers": {}, "api_base_url": "", "timeout_seconds": 1}
TABLES = {"existing": {"orders": ["id"]}, "created": {"items": ITEMS}}
NO_ALEMBIC = ("preflight.history", "preflight.revision")
READS: dict[str, tuple[Any, dict[str, Any]]] = {
    "structure": (structure, {"tables": TABLES, "revision": "b2", "bookkeeping_table": "alembic_version"}),
    "checks": (sql_check_info, {"checks": CHECKS}),
    "plans": (
        plans,
        {"plans": [{"name": "p", "title": "P", "sql": "SELECT id FROM items WHERE order_id = 1", "table": "items",
                    "index": "ix_items_order", "row_floor": 1000}]},
    ),
    "scenario": (
        scenarios,
        {"scenarios": [{"name": "s", "title": "S",
                        "steps": [{"title": "One", "sql": "DELETE FROM orders WHERE id = 1"}],
                        "leaves_nothing": "SELECT count(*) FROM orders WHERE id = 99"}]},
    ),
    "preflight": (
        preflight_info,
        {"release": RELEASE, "services": {}, "address_problem": "", "backend_container": "", "db_container": "",
         "workdir": "", "api_base_url": "", "staging_evidence_path": "", "require_staging_evidence": False},
    ),
    "backup": (backup, {"label": "1", "observations": [], "db_container": None, "timeout_seconds": 60}),
    "leftovers": (leftovers, {"backend_container": "", "db_container": "", "from_revision": "a1", "revision": "b2"}),
}  # fmt: skip


def refuse_nothing(cursor: Any) -> None:
    """In the place of what keeps a release's own text from what strangers have made."""


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts of the release are run: they meet no trap, and what the engine puts around them must not either."""
    for module in (declared_select, declared_sql, steps, sql_engine):
        monkeypatch.setattr(module, "refuse_planted", refuse_nothing)


def answer_of(act: Callable[[], Any]) -> Any:
    """A module's answer, or the sentence with which it failed."""
    try:
        return act()
    except ReleaseError as error:
        return error.message


@pytest.mark.parametrize("check_mode", [True, False], ids=["check", "run"])
@pytest.mark.parametrize("name", READS)
def test_no_trap_is_met(
    shop: Login, stranger: Stranger, asked: Any, careless: None, name: str, check_mode: bool
) -> None:
    module, given = READS[name]
    answer = answer_of(lambda: module.act(asked(module, **given), check_mode))
    assert CAUGHT not in str(answer)
    assert not stranger.is_superuser
    assert isinstance(answer, dict), answer
    red = {proof["name"] for proof in answer["proofs"] if proof["status"] == "fail"}
    assert red == ({"preflight.strangers", *NO_ALEMBIC} if name == "preflight" else set())


@pytest.mark.parametrize("name", ["checks", "plans", "scenario"])
def test_a_release_is_not_run_where_it_could_meet_one(shop: Login, stranger: Stranger, asked: Any, name: str) -> None:
    module, given = READS[name]
    answer = module.act(asked(module, **given), False)
    said = [proof["detail"] for proof in answer["proofs"] if proof["status"] == "fail"]
    assert len(said) == len(answer["proofs"])
    for words in ("an object of a role that is not trusted", '"public"', f'"{stranger.role}"', "and "):
        assert all(words in one for one in said), said


def test_preflight_refuses_and_plans_nothing(shop: Login, stranger: Stranger, asked: Any) -> None:
    module, given = READS["preflight"]
    proofs = {proof["name"]: proof for proof in module.act(asked(module, **given), True)["proofs"]}
    found = proofs["preflight.strangers"]
    assert found["status"] == "fail"
    assert stranger.role in found["detail"]
    assert found["observed"] > 20
    assert proofs["preflight.checks_plan"]["status"] == "skipped"


def test_the_traps_would_be_met(shop: Login) -> None:
    """On the role's own path, where the engine was."""
    with closing(connect(shop, "tests")) as session, session.cursor() as cursor:
        for declared_sql in (
            "SELECT 1 FROM pg_class c WHERE c.oid = 1259",
            "SELECT format('%s', relname) FROM pg_class",
            "SELECT 1 FROM pg_index WHERE indexrelid::regclass = indrelid",
        ):
            # With the right to write it would not only read it.
            cursor.execute("BEGIN READ ONLY")
            with pytest.raises(psycopg2.Error, match=CAUGHT):
                cursor.execute(declared_sql)
            cursor.execute("ROLLBACK")


def test_a_cast_to_text_of_a_strangers_type_is_not_called(shop: Login, stranger: Stranger) -> None:
    stranger.runs(
        "CREATE TYPE public.bait AS (a int)",
        "CREATE FUNCTION public.swallow(public.bait) RETURNS text LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM public.spring(); RETURN ''; END $$",
        "CREATE FUNCTION public.swallow(public.bait[]) RETURNS text LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM public.spring(); RETURN ''; END $$",
        "CREATE CAST (public.bait AS text) WITH FUNCTION public.swallow(public.bait)",
        "CREATE CAST (public.bait[] AS text) WITH FUNCTION public.swallow(public.bait[])",
        "CREATE DOMAIN public.bait_domain AS public.bait",
        "CREATE TABLE public.lure (one public.bait, many public.bait[], of_domain public.bait_domain)",
        "INSERT INTO public.lure VALUES (ROW(1), ARRAY[ROW(2)::public.bait], ROW(3)), (NULL, NULL, NULL)",
    )
    with closing(engine.connect(shop, "tests")) as session, transaction(session, isolation="REPEATABLE READ") as cursor:
        first = read_tables(cursor)["public.lure"]
    assert first["rows"] == 2
    assert not stranger.is_superuser
    stranger.runs("UPDATE public.lure SET many = ARRAY[ROW(4)::public.bait] WHERE many IS NOT NULL")
    with closing(engine.connect(shop, "tests")) as session, transaction(session, isolation="REPEATABLE READ") as cursor:
        assert read_tables(cursor)["public.lure"]["fingerprint"] != first["fingerprint"]
    stranger.runs("DROP TABLE public.lure")


def test_a_view_that_takes_the_place_of_a_table_meanwhile_is_not_read(shop: Login, stranger: Stranger) -> None:
    """Who holds the table while it is waited for decides what the name leads to afterwards."""
    stranger.runs("CREATE TABLE public.lure (a int)")
    with closing(connect(stranger.login, "a stranger")) as holder, holder.cursor() as holding:
        holding.execute("BEGIN; DROP TABLE public.lure")
        holding.execute("CREATE VIEW public.lure AS SELECT 1 AS a FROM (SELECT public.spring()) AS s")
        read: list[Any] = []

        def reads() -> None:
            try:
                with (
                    closing(engine.connect(shop, "tests")) as session,
                    transaction(session, isolation="REPEATABLE READ") as cursor,
                ):
                    read.append(read_tables(cursor, {"public.lure": ["a"]}))
            except ReleaseError as error:
                read.append(error.message)

        reader = threading.Thread(target=reads)
        reader.start()
        await_waiting(shop)
        holding.execute("COMMIT")
        reader.join()
    stranger.runs("DROP VIEW public.lure")
    assert not stranger.is_superuser
    assert CAUGHT not in str(read)
    assert "access to non-system view" in str(read), read


def await_waiting(shop: Login) -> None:
    """Until a session waits for a lock."""
    with closing(engine.connect(shop, "tests waiting")) as session, session.cursor() as cursor:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            cursor.execute("SELECT FROM pg_locks WHERE NOT granted AND locktype = 'relation'")
            if cursor.fetchall():
                return
            time.sleep(0.02)
    raise AssertionError("Nobody waits.")


def test_what_is_declared_still_finds_names_as_its_role_does(shop: Login, careless: None) -> None:
    with closing(engine.connect(shop, "tests")) as session, transaction(session) as cursor:
        assert select_declared(cursor, "SELECT max(id) AS most FROM orders") == [{"most": 20}]
        cursor.execute("SELECT current_setting('search_path') AS path")
        assert cursor.fetchall()[0]["path"] == "pg_catalog, pg_temp"
        cursor.execute("SAVEPOINT before")
        with pytest.raises(psycopg2.Error):
            select_declared(cursor, "SELECT nothing FROM orders")
        cursor.execute("SELECT current_setting('search_path') AS path")
        assert cursor.fetchall()[0]["path"] == "pg_catalog, pg_temp"


@pytest.fixture
def one(tmp_path: Path) -> Run:
    return Run(ONE, "sample", "test", "deploy", str(tmp_path / "one"))


@pytest.fixture
def two(tmp_path: Path) -> Run:
    return Run(TWO, "sample", "test", "deploy", str(tmp_path / "two"))


@pytest.fixture
def blocked(shop: Login, stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stranger has every number, one in a session without a name, and a session with the name of each of ours."""
    monkeypatch.setattr(database_lock, "WAIT_S", 0.5)
    names = (
        f"dbrelease-lock-{ONE}",
        f"dbrelease-upgrade-{TWO}",
        f"dbrelease-lock-held-{name_key(shop.database):016x}-{TWO}",
    )
    sessions = [connect(stranger.login, name) for name in names]
    sessions.append(connect(stranger.login, "a stranger"))
    for key, session in ((KEY, sessions[-1]), (name_key(shop.database), sessions[0])):
        with session.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s), set_config('application_name', '', false)", (key,))
            if session is sessions[0]:
                cursor.execute("SELECT set_config('application_name', %s, false)", (names[0],))
    yield
    for session in sessions:
        session.close()


def test_a_stranger_keeps_no_run_from_its_database(shop: Login, stranger: Stranger, blocked: None, one: Run) -> None:
    with acting(one, shop), advisory_lock(shop, replace(one, run_id=ONE)) as reported:
        assert reported
    (line,) = [line for line in Journal(one).read() if line["step"] == "database_lock"]
    (proof,) = line["facts"]["proofs"]
    assert (proof["name"], proof["status"]) == ("run.database_lock", "inconclusive")
    assert f'"dbrelease-lock-{ONE}" (pid ' in proof["detail"]
    assert f'user "{stranger.role}"' in proof["detail"]
    lock = NameLock(replace(shop, database="postgres"), shop.database, one)
    with closing(lock):
        lock.take()
        lock.take()


@pytest.mark.parametrize("named", [False, True], ids=["database", "name"])
def test_and_does_not_let_two_runs_in(shop: Login, blocked: None, one: Run, two: Run, named: bool) -> None:
    with advisory_lock(shop, one):
        with pytest.raises(ReleaseError, match=f"dbrelease-lock-held-[0-9a-f]+-{ONE}") as refused:
            if named:
                NameLock(replace(shop, database="postgres"), shop.database, two).take()
            else:
                with advisory_lock(shop, two):
                    pass
        assert refused.value.refused
    with advisory_lock(shop, two):
        pass


def test_of_two_that_begin_at_once_one_at_most_goes_on(shop: Login, blocked: None, one: Run, two: Run) -> None:
    inside, met, refused = threading.Lock(), [], []

    def runs(run: Run) -> None:
        for _ in range(4):
            try:
                with advisory_lock(shop, run):
                    met.append(inside.acquire(blocking=False))
                    time.sleep(0.03)  # plays: a run at work
                    inside.release()
            except ReleaseError:
                refused.append(run)

    threads = [threading.Thread(target=runs, args=(run,)) for run in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(met)
    assert len(met) >= 4, "and they do not keep each other out for ever"


def test_a_lock_that_is_held_by_its_number_is_seen_by_one_without(
    shop: Login, stranger: Stranger, one: Run, two: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the other way round: the stranger comes and goes."""
    monkeypatch.setattr(database_lock, "WAIT_S", 0.3)
    with closing(connect(stranger.login, "a stranger")) as session, session.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (KEY,))
        with advisory_lock(shop, one) as reported:
            assert reported
            cursor.execute("SELECT pg_advisory_unlock(%s)", (KEY,))
            with pytest.raises(ReleaseError, match=ONE), advisory_lock(shop, two):
                pass
        with advisory_lock(shop, two) as reported:
            assert not reported
            with pytest.raises(ReleaseError, match=TWO), advisory_lock(shop, one):
                pass


def test_a_strangers_words_are_quoted_and_short(shop: Login, stranger: Stranger, blocked: None, one: Run) -> None:
    with advisory_lock(shop, one) as (proof,):
        assert len(proof.detail) < 600


def test_a_strangers_session_is_nobodys_leftover(shop: Login, stranger: Stranger, blocked: None, asked: Any) -> None:
    begun = time.monotonic()
    assert end_sessions(shop, f"dbrelease-upgrade-{TWO}") == 0
    assert time.monotonic() - begun < 5
    with closing(engine.connect(shop, "tests")) as session:
        assert sessions_of(session, [ONE, TWO]) == []


def test_who_may_write_the_revision_is_no_stranger(shop: Login, stranger: Stranger, one: Run) -> None:
    """As the application's own role, which the migration connects as."""
    with closing(connect(shop, "tests")) as session, session.cursor() as cursor:
        cursor.execute(f"GRANT UPDATE ON alembic_version TO {stranger.role}")
        try:
            with (
                closing(connect(stranger.login, f"dbrelease-upgrade-{TWO}")),
                pytest.raises(ReleaseError, match=f'"dbrelease-upgrade-{TWO}"'),
                advisory_lock(shop, one),
            ):
                pass
        finally:
            cursor.execute(f"REVOKE UPDATE ON alembic_version FROM {stranger.role}")


BEYOND = [
    "SELECT pg_read_file('postgresql.conf') AS line",
    "SELECT * FROM pg_catalog.pg_ls_dir('.') AS name",
    "SELECT \"pg_read_file\"('PG_VERSION') AS line",
    "SELECT * FROM dblink('dbname=x', 'SELECT 1') AS t (a int)",
    "SELECT dblink_exec('dbname=x', 'DROP TABLE orders')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_unlink(1)",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity",
    "SELECT pg_reload_conf()",
    "SELECT set_config('role', 'postgres', false)",
    "SELECT query_to_xml('SELECT ' || 'pg_re' || 'ad_file(''x'')', true, true, '')",
    "SELECT pg_advisory_lock(1)",
    "SELECT U&\"pg\\005fread_file\"('PG_VERSION')",
    "SELECT pg_drop_replication_slot('x')",
]


@pytest.mark.parametrize("text", BEYOND)
def test_what_reaches_beyond_the_database_is_refused_by_its_name(shop: Login, careless: None, text: str) -> None:
    with (
        closing(engine.connect(shop, "tests")) as session,
        transaction(session, read_only=True) as cursor,
        pytest.raises(BeyondError),
    ):
        select_declared(cursor, text)
    with (
        closing(engine.connect(shop, "tests")) as session,
        transaction(session) as cursor,
        pytest.raises(BeyondError),
    ):
        declared_sql.prepare(cursor, text)


def test_a_table_of_such_a_name_is_no_such_function() -> None:
    for text in ("SELECT notify FROM pg_files", "SELECT id FROM dblinked_orders WHERE lo = 'lo_'"):
        refuse_reaching_out(text)


def test_a_function_that_a_check_calls_cannot_write_where_the_step_may(shop: Login, careless: None) -> None:
    """The checks that a step proves are asked in its own transaction, which commits."""
    with closing(connect(shop, "tests")) as session, session.cursor() as cursor:
        cursor.execute(
            "CREATE OR REPLACE FUNCTION emptied() RETURNS int LANGUAGE sql AS 'DELETE FROM items RETURNING 1'"
        )
    with closing(engine.connect(shop, "tests")) as session, transaction(session) as cursor:
        cursor.execute("SAVEPOINT before")
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            select_declared(cursor, "SELECT emptied() AS gone")
        cursor.execute("ROLLBACK TO SAVEPOINT before")
        assert select_declared(cursor, "SELECT count(*) AS rows FROM items") == [{"rows": 20}]
        cursor.execute("UPDATE public.orders SET title = 'still writes' WHERE id OPERATOR(pg_catalog.=) 1")


def test_a_script_that_puts_rows_back_meets_no_trap(shop: Login, stranger: Stranger, tmp_path: Path) -> None:
    with closing(connect(shop, "tests")) as session, session.cursor() as cursor:
        cursor.execute("CREATE TABLE notes (id serial PRIMARY KEY, code varchar(9) UNIQUE DEFERRABLE, mood mood)")
        cursor.execute("INSERT INTO notes (code, mood) SELECT n, 'glad' FROM generate_series(1, 3) n")
        with closing(engine.connect(shop, "tests")) as saving, transaction(saving, read_only=True) as reading:
            saved = save_rows(reading, "SELECT * FROM notes", "public.notes", tmp_path, ONE, "notes")
        cursor.execute("DELETE FROM notes")
        argv = ["psql", "--no-psqlrc", f"--host={shop.host}", f"--port={shop.port}", f"--username={shop.user}"]
        played = subprocess.run(
            [*argv, f"--dbname={shop.database}", f"--file={saved['replay']}"],
            env={**os.environ, "PGPASSWORD": shop.password or ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (played.returncode, CAUGHT in played.stderr) == (0, False), played.stderr
        cursor.execute("SELECT array_agg(id ORDER BY id) FROM notes")
        assert cursor.fetchall() == [([1, 2, 3],)]
        cursor.execute("DROP TABLE notes")
    assert not stranger.is_superuser


@pytest.mark.parametrize("name", ["structure", "checks", "plans", "scenario", "backup", "leftovers", "preflight"])
def test_a_db_user_that_owns_the_database_and_is_no_superuser_will_do(
    database: Login, server: Login, run_parameters: dict[str, Any], name: str
) -> None:
    owner = replace(database, user=f"owner_{secrets.token_hex(4)}", password="owner")
    module, given = READS[name]
    with closing(connect(server, "tests")) as session, session.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {owner.user} LOGIN PASSWORD 'owner'")
        cursor.execute(f"ALTER DATABASE {owner.database} OWNER TO {owner.user}")
        try:
            with closing(connect(owner, "tests")) as inside, inside.cursor() as making:
                making.execute(SCHEMA)
            who = {"login_user": owner.user, "login_db": owner.database, "login_password": owner.password}
            where = {"login_host": owner.host, "login_port": owner.port, "ssl_mode": owner.ssl_mode}
            defaults = {key: option.get("default") for key, option in module.OPTIONS.items()}
            answer = module.act({**defaults, **who, **where, "run": run_parameters, **given}, False)
            proofs = {proof["name"]: proof for proof in answer["proofs"]}
            red = {key for key, proof in proofs.items() if proof["status"] == "fail"}
            assert red == (set(NO_ALEMBIC) if name == "preflight" else set())
            if name == "preflight":
                assert (proofs["preflight.strangers"]["status"], proofs["preflight.strangers"]["detail"]) == (
                    "pass",
                    "",
                )
        finally:
            cursor.execute(f"ALTER DATABASE {owner.database} OWNER TO CURRENT_USER")
            with closing(connect(database, "tests")) as inside, inside.cursor() as dropping:
                dropping.execute(f"DROP OWNED BY {owner.user} CASCADE")
            cursor.execute(f"DROP ROLE {owner.user}")
