"""A role that nobody trusts has tables of its own in the database: what it wrote is not run, and nobody awaits it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import preflight_info
import pytest
import reconcile
from ansible.module_utils.dbrelease.backup.baseline import read_baseline, read_settings
from ansible.module_utils.dbrelease.backup.schema_text import catalog_of, differences, parsed
from ansible.module_utils.dbrelease.core import journal
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.options import run_of
from ansible.module_utils.dbrelease.core.restore_names import REPLAY
from ansible.module_utils.dbrelease.host.commands import HostCommands
from ansible.module_utils.dbrelease.postgres import session as engine
from ansible.module_utils.dbrelease.postgres.declared_select import select_declared
from ansible.module_utils.dbrelease.postgres.dependents import dependents_of
from ansible.module_utils.dbrelease.postgres.fingerprints import read_tables
from ansible.module_utils.dbrelease.postgres.lock_retry import session_in_words
from ansible.module_utils.dbrelease.postgres.outside_functions import BeyondError
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from ansible.module_utils.dbrelease.postgres.table_shape import read_shapes
from ansible.module_utils.dbrelease.postgres.trusted_roles import trusted_roles
from ansible.module_utils.dbrelease.restore.settings import (
    apply_session_settings,
    apply_settings,
    create_closed,
    prove_settings,
)
from ansible.module_utils.dbrelease.restore.swap.added_columns import only_live
from ansible.module_utils.dbrelease.restore.swap.archive import RowArchive
from ansible.module_utils.dbrelease.restore.swap.live_compare import prepare
from ansible.module_utils.dbrelease.restore.swap.live_scan import LiveScan
from ansible.module_utils.dbrelease.restore.swap.result import rows_proof
from ansible.module_utils.dbrelease.rollback import back_to_baseline
from ansible.module_utils.dbrelease.verify import write_attribution
from ansible.module_utils.dbrelease.verify.write_attribution import Memory, compare
from hostile_role import Stranger, stranger_in
from own_sessions import connect

SCHEMA = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('a1');
CREATE TABLE orders (id int PRIMARY KEY, title text);
INSERT INTO orders SELECT n, 'order ' || n FROM generate_series(1, 20) n;
"""
# Whoever runs it would do what the stranger wants, and learns nothing of it. The server counts the calls.
SPRING = """
CREATE FUNCTION public.spring() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$
"""
CALLS = "SELECT coalesce(sum(pg_stat_get_function_calls(oid)), 0) FROM pg_proc WHERE proname = 'spring'"
OURS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
ITEMS = {
    "columns": {"id": {"type": "integer", "nullable": False}},
    "indexes": {},
    "constraints": {"items_pkey": {"type": "primary_key", "columns": ["id"]}},
}
RELEASE = {
    "release": "sample",
    "migration": {"command": ["true"], "from_revision": "a1", "to_revision": "b2"},
    "tables": {"existing": {"orders": ["id"]}, "created": {"items": ITEMS}},
}


@pytest.fixture
def stranger(server: Login) -> Iterator[Stranger]:
    """In a database in which each call of a function is counted."""
    name = f"test_{secrets.token_hex(6)}"
    shop = replace(server, database=name)
    with closing(connect(server, "tests")) as session, session.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        cursor.execute(f"ALTER DATABASE {name} SET track_functions = 'all'")
        try:
            with closing(connect(shop, "tests")) as inside, inside.cursor() as making:
                making.execute(SCHEMA)
            with stranger_in(shop, server) as found:
                found.runs(SPRING)
                yield found
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def shop(stranger: Stranger) -> Login:
    """As the engine comes."""
    return replace(stranger.server, database=stranger.login.database)


@pytest.fixture
def given(shop: Login, run_parameters: dict[str, Any]) -> dict[str, Any]:
    """The options that every module has."""
    where = {"login_host": shop.host, "login_port": shop.port, "login_user": shop.user, "login_db": shop.database}
    return {**where, "login_password": shop.password, "ssl_mode": shop.ssl_mode, "run": run_parameters}


def options(module: Any, given: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The defaults of a module, and what a test says."""
    return {**{name: option.get("default") for name, option in module.OPTIONS.items()}, **given, **more}


def calls(shop: Login) -> int:
    """How often the stranger's function was called by sessions that have ended; all of the engine's have."""
    with closing(connect(shop, "tests counting")) as session, session.cursor() as cursor:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            cursor.execute(OURS)
            if cursor.fetchall() == [(0,)]:
                break
            time.sleep(0.02)
        cursor.execute(CALLS)
        ((found,),) = cursor.fetchall()
    return int(found)


PREFLIGHT: dict[str, Any] = {
    "release": RELEASE, "services": {}, "address_problem": "", "backend_container": "", "db_container": "",
    "workdir": "", "api_base_url": "", "staging_evidence_path": "", "require_staging_evidence": False,
}  # fmt: skip


def test_a_view_under_the_name_of_a_new_table_is_not_counted(
    shop: Login, stranger: Stranger, given: dict[str, Any]
) -> None:
    stranger.runs(
        "CREATE VIEW public.items AS SELECT id FROM (SELECT public.spring() AS id OFFSET 0) AS s WHERE id = 1"
    )
    before = calls(shop)
    answer = preflight_info.act(options(preflight_info, given, **PREFLIGHT), True)
    proofs = {proof["name"]: proof for proof in answer["proofs"]}
    assert calls(shop) == before
    assert proofs["preflight.created_absent"]["detail"] == "items already exists (a view)."


RECONCILE: dict[str, Any] = {
    "created": {"items": ITEMS}, "from_revision": "a1", "to_revision": "b2",
    "services": {"guards": [], "containers": {}, "api_base_url": "", "timeout_seconds": 1},
}  # fmt: skip
CASTS = [
    "CREATE TYPE public.bait AS ENUM ('worm')",
    "CREATE FUNCTION public.swallow_json(public.bait) RETURNS json LANGUAGE plpgsql AS "
    "$$ BEGIN PERFORM public.spring(); RETURN '1'; END $$",
    "CREATE CAST (public.bait AS json) WITH FUNCTION public.swallow_json(public.bait)",
    "CREATE FUNCTION public.swallow_text(public.bait) RETURNS text LANGUAGE plpgsql AS "
    "$$ BEGIN PERFORM public.spring(); RETURN ''; END $$",
    "CREATE CAST (public.bait AS text) WITH FUNCTION public.swallow_text(public.bait)",
    "CREATE DOMAIN public.bait_one AS public.bait",
    "CREATE DOMAIN public.bait_two AS public.bait_one",
]


def test_a_cast_to_json_of_a_strangers_type_is_not_called(
    shop: Login, stranger: Stranger, given: dict[str, Any]
) -> None:
    """Where it has made a table under the name of one that a release creates, whose rows are shown."""
    stranger.runs(*CASTS, "CREATE TABLE public.items (id int, one public.bait)")
    stranger.runs("INSERT INTO public.items VALUES (1, 'worm')")
    before = calls(shop)
    try:
        answer: Any = reconcile.act(options(reconcile, given, **RECONCILE), True)
    except ReleaseError as error:
        answer = error.message
    assert calls(shop) == before
    assert stranger.role in str(answer) and "1 row" in str(answer), answer


def test_a_cast_to_text_below_two_domains_is_not_called(shop: Login, stranger: Stranger) -> None:
    stranger.runs(*CASTS, "CREATE TABLE public.lure (of_two public.bait_two)")
    stranger.runs("INSERT INTO public.lure VALUES ('worm')")
    before = calls(shop)
    with closing(engine.connect(shop, "tests")) as session, transaction(session, isolation="REPEATABLE READ") as cursor:
        assert read_tables(cursor)["public.lure"]["rows"] == 1
    assert calls(shop) == before


@pytest.mark.parametrize("where", ["a schema of db_user's name", "a schema that comes first"])
def test_a_table_that_is_found_in_place_of_the_applications_is_reported_and_makes_nobody_trusted(
    shop: Login, stranger: Stranger, given: dict[str, Any], where: str
) -> None:
    """Whoever may write the revision is trusted; and whoever makes the table that is found may write it."""
    own = shop.user if "name" in where else "early"
    with closing(connect(shop, "tests")) as session, session.cursor() as cursor:
        cursor.execute(f"GRANT CREATE ON DATABASE {shop.database} TO {stranger.role}")
        if own == "early":
            cursor.execute(f'ALTER DATABASE {shop.database} SET search_path = "$user", early, public')
    stranger.runs(
        f'CREATE SCHEMA "{own}"',
        f'CREATE TABLE "{own}".alembic_version (version_num text)',
        f"INSERT INTO \"{own}\".alembic_version VALUES ('b2')",
        f'CREATE TABLE "{own}".orders (id int)',
        f'GRANT USAGE ON SCHEMA "{own}" TO PUBLIC',
    )
    with closing(engine.connect(shop, "tests")) as session, transaction(session) as cursor:
        cursor.execute("SELECT oid::bigint FROM pg_roles WHERE rolname = %s", (stranger.role,))
        (row,) = cursor.fetchall()
        assert row["oid"] not in trusted_roles(cursor, shop.database)
    answer = preflight_info.act(options(preflight_info, given, **PREFLIGHT), True)
    proofs = {proof["name"]: proof for proof in answer["proofs"]}
    assert proofs["preflight.strangers"]["status"] == "fail"
    assert f'the relation "orders" in "{own}" is "{stranger.role}"\'s' in proofs["preflight.strangers"]["detail"]
    with (
        closing(engine.connect(shop, "tests")) as session,
        transaction(session) as cursor,
        pytest.raises(BeyondError, match="not trusted"),
    ):
        select_declared(cursor, "SELECT count(*) AS many FROM orders")


def test_the_default_of_a_strangers_domain_is_not_checked_for_it(shop: Login, stranger: Stranger) -> None:
    """A column that only the live database has is counted at a swap: to write its default is to check it."""
    stranger.runs(
        "CREATE DOMAIN public.bait AS text CHECK (public.spring() = 1)",
        "CREATE DOMAIN public.bait_two AS public.bait",
        "CREATE TYPE public.bait_row AS (one public.bait)",
        "CREATE TABLE public.lure (a int, b public.bait DEFAULT 'x', c public.bait_two DEFAULT 'x',"
        " d public.bait[] DEFAULT '{x}', e public.bait_row DEFAULT '(x)')",
        "INSERT INTO public.lure VALUES (1)",
    )
    before = calls(shop)
    with closing(engine.connect(shop, "tests")) as session, transaction(session) as cursor:
        live = read_shapes(cursor)["public.lure"]
        found = only_live(cursor, live, replace(live, columns=("a",)))
    assert calls(shop) == before
    assert found is not None and found.names == ("b", "c", "d", "e")


BASELINE = """
CREATE TABLE public.lure (a int, b text);
INSERT INTO public.lure VALUES (1, 'x');
CREATE VIEW public.lure_seen AS SELECT a FROM public.lure;
GRANT SELECT ON public.lure TO PUBLIC
"""


@pytest.fixture
def memory(shop: Login, stranger: Stranger) -> Memory:
    """What was recorded while the stranger behaved."""
    stranger.runs(*BASELINE.split(";"))
    with closing(engine.connect(shop, "tests")) as session, transaction(session, isolation="REPEATABLE READ") as cursor:
        return Memory(read_baseline(cursor, [], "alembic_version").facts, None)


def statuses(login: Login, memory: Memory) -> dict[str, str]:
    """As verify finds the tables."""
    given: dict[str, Any] = {"except_tables": [], "altered_tables": [], "bookkeeping_tables": ["alembic_version"]}
    proofs = compare(login, memory, **given, settle_seconds=0)
    return {proof.name.removeprefix("untouched.public."): proof.status for proof in proofs}


@pytest.mark.parametrize(
    "deed",
    [
        "DROP TABLE public.lure CASCADE",
        "TRUNCATE public.lure",
        "ALTER TABLE public.lure DROP COLUMN b",
        "DROP TABLE public.lure CASCADE; CREATE TABLE public.lure (a int, b text)",
        "DROP TABLE public.lure CASCADE; CREATE VIEW public.lure AS SELECT public.spring() AS a, 'x' AS b",
    ],
)
def test_what_a_stranger_does_to_its_own_table_turns_no_release_red(
    shop: Login, stranger: Stranger, memory: Memory, deed: str
) -> None:
    """A red table is taken back by default, and with it a good release."""
    stranger.runs(deed)
    assert statuses(shop, memory) == {"lure": "inconclusive", "orders": "pass"}


def test_the_applications_own_table_still_turns_it_red(shop: Login, stranger: Stranger, memory: Memory) -> None:
    with closing(connect(shop, "tests")) as session, session.cursor() as cursor:
        # By the migration: what another job empties is reported.
        cursor.execute("BEGIN; TRUNCATE orders; UPDATE alembic_version SET version_num = version_num; COMMIT")
    assert statuses(shop, memory) == {"lure": "pass", "orders": "fail"}


def test_a_table_that_its_owner_lets_nobody_read_turns_no_release_red(
    shop: Login, stranger: Stranger, memory: Memory
) -> None:
    """db_user owns the database, and is no superuser."""
    owner = replace(shop, user=f"owner_{secrets.token_hex(4)}", password="owner")
    with closing(connect(shop, "tests")) as session, session.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {owner.user} LOGIN PASSWORD 'owner'")
        try:
            cursor.execute(f"GRANT SELECT ON orders, alembic_version TO {owner.user}")
            assert statuses(owner, memory) == {"lure": "pass", "orders": "pass"}
            stranger.runs("REVOKE ALL ON public.lure FROM PUBLIC")
            assert statuses(owner, memory) == {"lure": "inconclusive", "orders": "pass"}
        finally:
            cursor.execute(f"DROP OWNED BY {owner.user}")
            cursor.execute(f"DROP ROLE {owner.user}")


def test_nobody_waits_for_a_table_that_a_stranger_holds(
    shop: Login, stranger: Stranger, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be held for hours, and so may what a view of the stranger's reads."""
    monkeypatch.setattr(write_attribution, "LOCK_WAIT_MS", 300)
    monkeypatch.setattr(back_to_baseline, "LOCK_WAIT_MS", 300)
    compared: list[dict[str, str]] = []

    def compares() -> None:
        catalog, _ = back_to_baseline.compare_catalog(shop, None, HostCommands(), inside=False)
        proofs = back_to_baseline.compare_with_baseline(
            shop,
            memory,
            None,
            bookkeeping_table="alembic_version",
            created=[],
            altered=[],
            settle_seconds=0,
            catalog=catalog,
        )
        compared.append({proof.name.removeprefix("restored."): proof.status for proof in proofs})

    with closing(connect(stranger.login, "a stranger")) as holder, holder.cursor() as holding:
        holding.execute("BEGIN")
        holding.execute("LOCK TABLE public.lure IN ACCESS EXCLUSIVE MODE")
        comparing = threading.Thread(target=compares, daemon=True)
        comparing.start()
        comparing.join(10)
        assert not comparing.is_alive(), "It waits for the stranger."
    assert compared == [
        {
            "catalog": "inconclusive",
            "public.alembic_version": "pass",
            "public.lure": "inconclusive",
            "public.orders": "pass",
        }
    ]


def test_a_trigger_of_a_strangers_own_table_keeps_no_release_from_being_taken_back(
    shop: Login, stranger: Stranger
) -> None:
    stranger.runs(
        "CREATE TABLE public.lure (a int)",
        "CREATE FUNCTION public.pulled() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM 1 FROM orders; RETURN NEW; END $$",
        "CREATE TRIGGER pulls AFTER INSERT ON public.lure FOR EACH ROW EXECUTE FUNCTION public.pulled()",
    )
    with closing(connect(shop, "tests")) as session, session.cursor() as cursor:
        cursor.execute("CREATE TABLE other (a int)")
        cursor.execute(
            "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM 1 FROM orders; RETURN NEW; END $$"
        )
        cursor.execute("CREATE TRIGGER notes AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION noted()")
    with closing(engine.connect(shop, "tests")) as session, transaction(session, read_only=True) as reading:
        found = dependents_of(reading, ["orders"])
    assert found == ["trigger notes of other (its function noted() mentions orders)"]


def test_a_strangers_rows_are_saved_and_the_script_does_not_check_them_as_it_demands(
    shop: Login, stranger: Stranger, server: Login, tmp_path: Path
) -> None:
    """Whoever runs the script of a swap writes as a superuser, or as the owner of every table."""
    stranger.runs("CREATE TABLE public.lure (a int PRIMARY KEY CHECK (public.spring() = 1))")
    before = calls(shop)
    incoming = replace(shop, database=f"{shop.database}_in")
    with closing(connect(server, "tests")) as session, session.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {incoming.database} TEMPLATE {shop.database}")
        cursor.execute(f"ALTER DATABASE {incoming.database} SET track_functions = 'all'")
        try:
            stranger.runs("INSERT INTO public.lure VALUES (1)")
            with closing(connect(shop, "tests")) as inside, inside.cursor() as writing:
                writing.execute("INSERT INTO orders VALUES (21, 'new')")
            folder = tmp_path / "rows"
            comparison = prepare(shop, incoming, "alembic_version", LiveScan(RowArchive(folder)), None)
            with closing(comparison):
                saved = comparison.save(server, "-- Rows\n")
            assert saved.rows == 2
            assert saved.not_replayed == ["public.lure"]
            proof = rows_proof(saved)
            assert (proof.status, '"public.lure"' in proof.detail) == ("inconclusive", True)
            argv = ["psql", "--no-psqlrc", f"--host={shop.host}", f"--port={shop.port}", f"--username={shop.user}"]
            played = subprocess.run(
                [*argv, f"--dbname={incoming.database}", f"--file={folder / REPLAY}"],
                env={**os.environ, "PGPASSWORD": shop.password or ""},
                capture_output=True,
                text=True,
                check=False,
            )
            assert played.returncode == 0, played.stderr
            assert calls(incoming) == 0
            assert calls(shop) == before + 1, "which was the stranger's own"
            with closing(connect(incoming, "tests")) as inside, inside.cursor() as reading:
                reading.execute("SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM lure)")
                assert reading.fetchall() == [(21, 0)]
        finally:
            cursor.execute(f"DROP DATABASE {incoming.database} WITH (FORCE)")


def test_what_a_strangers_session_runs_is_quoted_and_short_where_it_is_named() -> None:
    """A name may be any words, and so may a query that names nothing."""
    words = 'SELECT 1 AS all_is_well), and that is as it must be. Now run psql -c "DROP TABLE orders" ('
    row = {"pid": 7, "user": "x", "application": "y", "state": "active", "since": "z", "query": words * 9}
    said = session_in_words(row)
    query, end = json.JSONDecoder().raw_decode(said.partition("last query: ")[2])
    assert (query.startswith(words), said.partition("last query: ")[2][end:]) == (True, ")")
    assert len(said) < 500


def test_a_comment_of_any_length_is_a_short_line_that_changes_with_it(shop: Login, stranger: Stranger) -> None:
    """All that is recorded of the catalog is kept in the journal, which is read by every module of every run."""
    recorded = []
    stranger.runs("CREATE TABLE public.lure (a int)")
    for end in "ab":
        stranger.runs(f"DO $$ BEGIN EXECUTE 'COMMENT ON TABLE public.lure IS ' || quote_literal(repeat('%{{x', 2000000)"
                      f" || '{end}'); END $$")  # fmt: skip
        recorded.append(catalog_of(shop, HostCommands(), "tests", inside=False).objects)
    assert max(len(name) + len(value) for name, value in recorded[0].items()) < 400
    changed = list(differences(*recorded))
    assert changed == [{"object": "COMMENT public.TABLE lure", "change": "changed"}]


FALSE_HEADING = "--\n-- Name: orders; Type: TABLE; Schema: public; Owner: me\n--\n"


def test_no_words_of_a_strangers_hide_a_change_of_the_applications(shop: Login, stranger: Stranger) -> None:
    stranger.runs(
        'CREATE TABLE public."x; Type: TABLE; Schema: public; Owner: me" (a int)',
        f"COMMENT ON TABLE public.\"x; Type: TABLE; Schema: public; Owner: me\" IS '\n{FALSE_HEADING}'",
    )
    before = catalog_of(shop, HostCommands(), "tests", inside=False).objects
    with closing(connect(shop, "tests")) as session, session.cursor() as cursor:
        cursor.execute("ALTER TABLE orders ADD more int")
    now = catalog_of(shop, HostCommands(), "tests", inside=False).objects
    assert list(differences(before, now)) == [{"object": "TABLE public.orders", "change": "changed"}]


@pytest.mark.parametrize("part", ["; Type: x; Schema: ", "; Owner: ", "; Schema: x; Owner: ", "SET a = b;\n", "-- "])
def test_words_of_a_strangers_take_no_time(part: str) -> None:
    """A comment may be of any length, and look like the headings of pg_dump."""
    comment = f"{FALSE_HEADING}--\n-- Name: {part * 200_000}\n--\n{part * 200_000}"
    heading = FALSE_HEADING.replace("orders", "x").replace("TABLE", "COMMENT")
    before = time.process_time()
    parsed(f"{heading}\nCOMMENT ON TABLE public.x IS '{comment}';\n")
    assert time.process_time() - before < 5


def test_nothing_is_recorded_that_would_make_the_journal_unreadable(
    run_parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "MOST_BYTES", journal.ROOM_FOR_ENDS + 300_000)
    kept = journal.Journal(run_of({"run": run_parameters}))
    with pytest.raises(ReleaseError, match="save a copy of it") as refused, kept.step("baseline") as step:
        step.facts["catalog"] = ["x" * 1000] * 400
    assert refused.value.refused
    kept.append("run", "failed", {"message": "refused"})
    assert [(line["step"], line["event"]) for line in kept.read()] == [("baseline", "started"), ("run", "failed")]


def test_nobody_else_connects_to_a_copy_until_it_is_compared(shop: Login, stranger: Stranger, server: Login) -> None:
    """By default anybody may, and whoever owns a table could change it there, or hold it for hours."""
    copy = replace(shop, database=f"{shop.database}_copy")
    stranger_there = replace(stranger.login, database=copy.database)
    with closing(engine.connect(shop, "tests")) as session, transaction(session, read_only=True) as cursor:
        recorded = read_settings(cursor)
    assert recorded["acl"] is None
    with closing(engine.connect(server, "tests")) as session:
        try:
            with session.cursor() as cursor:
                create_closed(cursor, copy.database, recorded, session.server_version // 10000, [])
                apply_session_settings(cursor, copy.database, recorded)
            with pytest.raises(ReleaseError, match="permission denied for database"):
                connect(stranger_there, "a stranger")
            with transaction(session) as writing:
                apply_settings(writing, copy.database, recorded)
            connect(stranger_there, "a stranger").close()
            with closing(connect(copy, "tests")) as inside, transaction(inside, read_only=True) as reading:
                proof = prove_settings(reading, recorded, read_settings(reading))
            assert proof.status == "pass", proof.observed
        finally:
            with session.cursor() as cursor:
                cursor.execute(f"DROP DATABASE IF EXISTS {copy.database} WITH (FORCE)")
