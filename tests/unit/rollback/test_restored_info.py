"""restored_info: whatever differs from the baseline in catalog, rows, revision or observation is seen."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest
import shared_database
from ansible.module_utils.dbrelease.backup.baseline import read_baseline
from ansible.module_utils.dbrelease.backup.dump import tool_environment
from ansible.module_utils.dbrelease.backup.schema_text import Schema, catalog_of, parsed, schema_of, schema_of_dump
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.host.commands import Finished, HostCommands
from ansible.module_utils.dbrelease.migrate.move import read_counters
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from ansible.module_utils.dbrelease.rollback.back_to_baseline import compare_catalog, prove_catalog
from ansible.module_utils.dbrelease.verify.write_attribution import migration_transactions
from own_sessions import connect
from restored_info import act

database, emptied = shared_database.database, shared_database.emptied

SCHEMA = """
DROP SCHEMA IF EXISTS ops CASCADE;
CREATE TYPE mood AS ENUM ('fair', 'foul');
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
CREATE TABLE accounts (id int PRIMARY KEY, name text DEFAULT 'x' NOT NULL, feels mood,
    CONSTRAINT named CHECK (name <> ''));
CREATE TABLE orders (id serial PRIMARY KEY, account_id int REFERENCES accounts ON DELETE SET NULL);
CREATE INDEX by_account ON orders (account_id);
CREATE VIEW named_accounts AS SELECT name FROM accounts;
CREATE FUNCTION of(mood) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION many() RETURNS void LANGUAGE sql AS '
UPDATE accounts
SET name = ''a'';
';
CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE COLLATION german (provider = icu, locale = 'de-x-icu');
CREATE FUNCTION added(int, int) RETURNS int LANGUAGE sql AS 'SELECT $1 + $2';
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = added);
CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE TEXT SEARCH CONFIGURATION words (COPY = english);
DROP FOREIGN DATA WRAPPER IF EXISTS wrapper CASCADE;
CREATE FOREIGN DATA WRAPPER wrapper;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER wrapper OPTIONS (host 'one');
CREATE STATISTICS by_both ON id, account_id FROM orders;
CREATE POLICY everyone ON accounts;
CREATE TRIGGER same BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
DROP PUBLICATION IF EXISTS published;
CREATE PUBLICATION published FOR TABLE orders;
INSERT INTO alembic_version VALUES ('a1');
INSERT INTO accounts SELECT i, 'account ' || i FROM generate_series(1, 20) i;
INSERT INTO orders (account_id) SELECT 1 + i % 20 FROM generate_series(1, 5000) i;
"""
# So many orders that no tests beside these have as many transactions meanwhile, who might have deleted them.
UP = ["BEGIN", "CREATE TABLE order_items (id int)", "UPDATE alembic_version SET version_num = 'b2'", "COMMIT"]
DOWN = ["BEGIN", "DROP TABLE order_items", "UPDATE alembic_version SET version_num = 'a1'", "COMMIT"]
COUNT = {"name": "accounts", "title": "Accounts", "sql": "SELECT count(*) AS accounts FROM accounts"}
Session = psycopg2.extensions.connection
Look = Callable[..., dict[str, dict[str, Any]]]


def execute(login: Login, *statements: str) -> None:
    connection = connect(login, "somebody")
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


def catalog(database: Login) -> Schema:
    return catalog_of(database, HostCommands(), "tests", inside=False)


@pytest.fixture
def look(
    database: Login,
    session: psycopg2.extensions.connection,
    login_parameters: dict[str, Any],
    run_parameters: dict[str, Any],
) -> Look:
    """Deployed; then what a test says, and the comparison."""
    execute(database, SCHEMA)
    shared_database.await_inserts(database, accounts=20, orders=5000)
    journal = Journal(Run(**run_parameters))
    with transaction(session, read_only=True, isolation="REPEATABLE READ") as cursor:
        journal.append("baseline", "passed", read_baseline(cursor, [COUNT], "alembic_version").facts)
    journal.append("backup", "passed", {"catalog": catalog(database).facts()})
    before = read_counters(database)
    execute(database, *UP)
    journal.append("upgrade", "passed", {"before": before, "after": read_counters(database)})

    def look(
        *down: str,
        after: list[str] | None = None,
        altered: list[str] | None = None,
        made: list[str] | None = None,
    ) -> dict[str, dict[str, Any]]:
        before = read_counters(database)
        execute(database, *down)
        moved = {"before": before, "after": read_counters(database), "made_when_started": made}
        journal.append("downgrade", "passed", moved)
        execute(database, *(after or []))
        params = {
            **login_parameters,
            "run": run_parameters,
            "created": ["order_items"],
            "altered": altered or [],
            "bookkeeping_table": "alembic_version",
            "settle_seconds": 1.0,
            "db_container": "",
        }
        result = act(params, False)
        assert (result["changed"], result["compared"]) == (False, True)
        return {proof["name"].removeprefix("restored."): proof for proof in result["proofs"]}

    return look


def statuses(proofs: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: proof["status"] for name, proof in proofs.items()}


ALL = [
    "catalog",
    "public.accounts",
    "public.orders",
    "public.alembic_version",
    "order_items.absent",
    "observation.accounts",
]


def test_what_is_as_before_passes_and_again(look: Look) -> None:
    assert statuses(look(*DOWN)) == dict.fromkeys(ALL, "pass")
    assert statuses(look()) == dict.fromkeys(ALL, "pass")


def of_database(statement: str) -> str:
    """A statement about the database that it is run in, whose name is at the %I."""
    quoted = statement.replace("'", "''")
    return f"DO $$ BEGIN EXECUTE format('{quoted}', current_database()); END $$"


CATALOG = [
    "ALTER TABLE accounts ADD more int",
    "ALTER TABLE accounts ALTER name DROP DEFAULT",
    "ALTER TABLE accounts ALTER name DROP NOT NULL",
    "ALTER TABLE accounts DROP CONSTRAINT named",
    "ALTER TABLE orders ALTER account_id TYPE bigint",
    "DROP INDEX by_account",
    "CREATE INDEX more ON orders (id)",
    "ALTER TABLE orders DROP CONSTRAINT orders_account_id_fkey",
    "GRANT SELECT ON accounts TO PUBLIC",
    "GRANT SELECT (name) ON accounts TO PUBLIC",
    "ALTER TABLE accounts OWNER TO pg_monitor",
    "ALTER TYPE mood ADD VALUE 'odd'",
    "ALTER SEQUENCE orders_id_seq INCREMENT 2",
    "CREATE OR REPLACE VIEW named_accounts AS SELECT upper(name) AS name FROM accounts",
    "CREATE OR REPLACE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 2'",
    "CREATE TRIGGER t BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "ALTER TABLE accounts ENABLE ROW LEVEL SECURITY",
    "COMMENT ON TABLE accounts IS 'x'",
    "ALTER TABLE accounts ALTER name SET STATISTICS 500",
    "ALTER TABLE accounts ALTER name SET STORAGE EXTERNAL",
    "ALTER TABLE accounts ALTER name SET COMPRESSION pglz",
    "ALTER TABLE accounts ALTER id SET (n_distinct = 5)",
    "ALTER TABLE orders CLUSTER ON by_account",
    "ALTER STATISTICS by_both SET STATISTICS 500",
    "ALTER STATISTICS by_both OWNER TO pg_monitor",
    "COMMENT ON COLUMN accounts.name IS 'x'",
    "COMMENT ON CONSTRAINT named ON accounts IS 'x'",
    "COMMENT ON INDEX by_account IS 'x'",
    "COMMENT ON SCHEMA public IS 'x'",
    "COMMENT ON FUNCTION one() IS 'x'",
    "COMMENT ON TYPE mood IS 'x'",
    "COMMENT ON TRIGGER same ON orders IS 'x'",
    "COMMENT ON POLICY everyone ON accounts IS 'x'",
    "ALTER PUBLICATION published OWNER TO pg_monitor",
    "ALTER PUBLICATION published SET (publish = 'insert')",
    "ALTER PUBLICATION published DROP TABLE orders",
    of_database("ALTER DATABASE %I OWNER TO pg_monitor"),
    of_database("GRANT CREATE ON DATABASE %I TO PUBLIC"),
    of_database("ALTER DATABASE %I CONNECTION LIMIT 90"),
    of_database("ALTER DATABASE %I SET work_mem = '5MB'"),
    of_database("ALTER ROLE CURRENT_USER IN DATABASE %I SET work_mem = '6MB'"),
    of_database("COMMENT ON DATABASE %I IS 'x'"),
    "CREATE TABLE left_over (id int)",
    "CREATE SCHEMA left_over",
    "DROP COLLATION german; CREATE COLLATION german (provider = icu, locale = 'fr-x-icu')",
    "CREATE COLLATION french (provider = icu, locale = 'fr-x-icu')",
    "DROP OPERATOR === (int, int)",
    "ALTER OPERATOR === (int, int) OWNER TO pg_monitor",
    "CREATE OR REPLACE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int, INITCOND = '1')",
    "ALTER TEXT SEARCH CONFIGURATION words DROP MAPPING FOR email",
    "ALTER SERVER elsewhere OPTIONS (SET host 'two')",
    "CREATE USER MAPPING FOR CURRENT_USER SERVER elsewhere OPTIONS (password 'x')",
    "CREATE CAST (mood AS int) WITH FUNCTION of(mood)",
    "CREATE OR REPLACE FUNCTION many() RETURNS void LANGUAGE sql AS '\nUPDATE accounts\nSET name = ''b'';\n'",
]


@pytest.mark.parametrize("change", CATALOG)
def test_every_change_of_the_catalog_is_red(look: Look, change: str) -> None:
    proof = look(*DOWN, change)["catalog"]
    assert proof["status"] == "fail", proof
    assert proof["sample"]


@pytest.fixture
def elsewhere(server: Login) -> Iterator[str]:
    """A tablespace beside the database's own."""
    name = f"test_{secrets.token_hex(6)}"
    execute(server, "SET allow_in_place_tablespaces = on", f"CREATE TABLESPACE {name} LOCATION ''")
    yield name
    execute(server, f"DROP TABLESPACE {name}")


@pytest.mark.parametrize("moved", ["TABLE accounts", "INDEX by_account"])
def test_another_tablespace_is_red(look: Look, database: Login, elsewhere: str, moved: str) -> None:
    try:
        assert look(*DOWN, f"ALTER {moved} SET TABLESPACE {elsewhere}")["catalog"]["status"] == "fail"
    finally:
        execute(database, "DROP TABLE accounts, orders CASCADE")


def test_nothing_is_recorded_of_what_a_setting_or_a_password_is(database: Login) -> None:
    execute(database, SCHEMA, of_database("ALTER DATABASE %I SET app.key = 's3cret'"))
    execute(database, "CREATE USER MAPPING FOR CURRENT_USER SERVER elsewhere OPTIONS (password 's3cret')")
    recorded = catalog(database).facts()
    assert "DATABASE PROPERTIES of the database" in recorded["objects"]
    assert "s3cret" not in str(recorded)


def test_a_difference_names_the_object(look: Look) -> None:
    changes = ["DROP COLLATION german", "CREATE TABLE left_over (id int)", CATALOG[-6]]
    proof = look(*DOWN, *changes)["catalog"]
    assert proof["sample"] == [
        {"object": "AGGREGATE public.total(integer)", "change": "changed"},
        {"object": "COLLATION public.german", "change": "missing"},
        {"object": "TABLE public.left_over", "change": "new"},
    ]
    assert "COLLATION public.german: missing" in proof["detail"]


def test_the_dump_has_the_same_objects(database: Login, tmp_path: Path) -> None:
    execute(database, SCHEMA, of_database("ALTER DATABASE %I SET work_mem = '5MB'"))
    path = tmp_path / "one.dump"
    environment = {**os.environ, **tool_environment(database, "tests", inside=False)}
    subprocess.run(["pg_dump", "-Fc", f"--file={path}"], env=environment, check=True)
    path.chmod(0o600)
    assert schema_of_dump(path, HostCommands(), 60, whole=True).objects == parsed_objects(database)


def test_under_another_name_a_database_is_the_same(database: Login, server: Login) -> None:
    """As it is after a swap."""
    one = replace(database, database=f"test_{secrets.token_hex(4)}")
    two = replace(database, database=f'Two "of {secrets.token_hex(4)}')
    quoted = two.database.replace('"', '""')
    execute(server, f"CREATE DATABASE {one.database} TEMPLATE template0")
    try:
        settings = ["ALTER DATABASE %I SET work_mem = '5MB'", "COMMENT ON DATABASE %I IS 'x'"]
        execute(one, *map(of_database, settings), of_database("GRANT CREATE ON DATABASE %I TO PUBLIC"))
        before = parsed_objects(one)
        execute(server, f'ALTER DATABASE {one.database} RENAME TO "{quoted}"')
        assert parsed_objects(two) == before
    finally:
        execute(server, f"DROP DATABASE IF EXISTS {one.database}", f'DROP DATABASE IF EXISTS "{quoted}"')


def parsed_objects(database: Login) -> Mapping[str, str]:
    return schema_of(database, HostCommands(), 60, "tests", inside=False, whole=True).objects


def test_what_is_not_allowed_to_be_read_is_not_equal(
    look: Look, database: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_dump locks every table, and may not lock one that it may not read."""
    reader = replace(database, user=f"reader_{secrets.token_hex(4)}", password="reader")
    execute(database, f"CREATE ROLE {reader.user} LOGIN PASSWORD 'reader'", f"GRANT pg_read_all_data TO {reader.user}")
    execute(database, "CREATE SCHEMA hidden", "CREATE TABLE hidden.one (id int)")
    try:
        assert "TABLE hidden.one" in catalog(reader).objects
        execute(database, f"REVOKE pg_read_all_data FROM {reader.user}")
        proof, _ = compare_catalog(reader, catalog(database).facts(), HostCommands(), inside=False)
        assert (proof.status, "permission denied" in proof.detail) == ("inconclusive", True)
    finally:
        execute(database, "DROP SCHEMA hidden CASCADE", f"DROP ROLE {reader.user}")


def test_an_index_that_was_left_invalid_is_red(look: Look) -> None:
    """pg_dump leaves it out."""
    proof = look(*DOWN, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'by_account'::regclass")["catalog"]
    assert {"object": "INDEX public.by_account (validity)", "change": "new"} in proof["sample"]


@pytest.mark.parametrize("text", ["", "--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE public.a"])
def test_a_catalog_that_was_cut_short_is_refused(database: Login, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    commands = HostCommands()
    monkeypatch.setattr(
        HostCommands, "run", lambda *argv, **given: Finished(argv=("pg_dump",), status=0, stdout=text, stderr="",
                                                             duration_ms=0, timed_out=False)
    )  # fmt: skip
    with pytest.raises(ReleaseError, match="its end is missing"):
        catalog_of(database, commands, "tests", inside=False)


HEAD = "\n-- Dumped from database version {0}\n-- Dumped by pg_dump version {0}\n\nSET row_security = off;\n\n"
ONE = "--\n-- Name: {0}; Type: VIEW; Schema: public; Owner: me\n--\n\nCREATE VIEW public.{0} AS\n{1};\n\n\n"


@pytest.mark.parametrize(
    ("before", "now", "status"),
    [
        (("15.1", " SELECT 1"), ("15.1", " SELECT 1"), "pass"),
        (("15.1", " SELECT 1"), ("15.2", " SELECT 1"), "pass"),
        (("15.1", " SELECT 1"), ("15.1", " SELECT 2"), "fail"),
        (("15.1", " SELECT 1"), ("15.2", " SELECT 2"), "inconclusive"),
    ],
)
def test_where_a_version_has_words_of_its_own_nothing_is_claimed(
    before: tuple[str, str], now: tuple[str, str], status: str
) -> None:
    one, two = (parsed(HEAD.format(version) + ONE.format("seen", text)) for version, text in (before, now))
    proof = prove_catalog(Schema.of(one.facts()), two)
    assert proof.status == status
    assert status == "pass" or "VIEW public.seen: changed" in proof.detail


@pytest.mark.parametrize("recorded", [None, ["table one: owner me"], {"objects": {}}, {}])
def test_what_another_version_recorded_is_not_compared(recorded: object) -> None:
    assert prove_catalog(Schema.of(recorded), Schema({"TABLE public.one": "x"})).status == "inconclusive"


RED: list[tuple[str, list[str], str]] = [
    ("not dropped", ["UPDATE alembic_version SET version_num = 'a1'"], "order_items.absent"),
    ("another revision", [*DOWN, "UPDATE alembic_version SET version_num = 'c3'"], "public.alembic_version"),
    ("a second revision", [*DOWN, "INSERT INTO alembic_version VALUES ('c3')"], "public.alembic_version"),
    ("rewrites rows", [*DOWN[:-1], "UPDATE accounts SET name = 'y' WHERE id < 4", "COMMIT"], "public.accounts"),
    ("deletes rows", [*DOWN[:-1], "DELETE FROM orders", "COMMIT"], "public.orders"),
    ("drops a table", [*DOWN, "DROP TABLE orders"], "public.orders"),
]


@pytest.mark.parametrize(("down", "red"), [row[1:] for row in RED], ids=[row[0] for row in RED])
def test_what_the_downgrade_does_to_rows_is_red(look: Look, down: list[str], red: str) -> None:
    assert statuses(look(*down))[red] == "fail"


def test_what_the_application_wrote_since_is_not_red(look: Look) -> None:
    proofs = statuses(look(*DOWN, after=["INSERT INTO accounts VALUES (99, 'new')"]))
    assert proofs["public.accounts"] == proofs["observation.accounts"] == "inconclusive"
    assert "fail" not in proofs.values()


# What a migration writes to fill a column is still written when the column is gone again.
FILLED = [
    "BEGIN",
    "ALTER TABLE accounts ADD more int",
    "UPDATE accounts SET more = 1",
    "ALTER TABLE accounts DROP more",
]


@pytest.mark.parametrize(("altered", "status"), [([], "fail"), (["accounts"], "inconclusive")])
def test_rows_that_the_migration_filled_are_not_red_where_it_may(look: Look, altered: list[str], status: str) -> None:
    after = ["INSERT INTO accounts VALUES (99, 'new')"]
    proofs = statuses(look(*FILLED, *DOWN[1:], after=after, altered=altered))
    assert (proofs["public.accounts"], proofs["catalog"]) == (status, "pass")


def test_a_filled_table_that_nobody_else_wrote_is_as_before(look: Look) -> None:
    assert statuses(look(*FILLED, *DOWN[1:], altered=["accounts"])) == dict.fromkeys(ALL, "pass")


def test_a_filled_table_that_lost_what_it_held_is_red(look: Look) -> None:
    spoiled = [FILLED[0], FILLED[1], f"{FILLED[2]}, name = 'y'", FILLED[3]]
    assert statuses(look(*spoiled, *DOWN[1:], altered=["accounts"]))["public.accounts"] == "fail"


AUDIT = """
CREATE TABLE audit (id int GENERATED ALWAYS AS IDENTITY, what text);
INSERT INTO audit (what) VALUES ('before');
CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO audit (what) VALUES (tg_tag); END $$;
CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION note();
"""


def test_rows_that_a_trigger_added_on_both_ways_are_reported(
    database: Login, login_parameters: dict[str, Any], run_parameters: dict[str, Any], session: Session
) -> None:
    execute(database, SCHEMA, AUDIT)
    journal = Journal(Run(**run_parameters))
    with transaction(session, read_only=True, isolation="REPEATABLE READ") as cursor:
        journal.append("baseline", "passed", read_baseline(cursor, [COUNT], "alembic_version").facts)
    for step, statements in (("upgrade", UP), ("downgrade", DOWN)):
        before = read_counters(database)
        execute(database, *statements)
        journal.append(step, "passed", {"before": before, "after": read_counters(database)})
        if step == "upgrade":
            journal.append("guards", "passed", {"migration_xids": xids(session)})
    given = {"created": ["order_items"], "altered": [], "db_container": "", "settle_seconds": 1.0}
    given["bookkeeping_table"] = "alembic_version"
    result = act({**login_parameters, "run": run_parameters, **given}, False)
    found = {proof["name"].removeprefix("restored."): proof for proof in result["proofs"]}
    unproven = {"public.audit": "inconclusive", "catalog": "inconclusive"}  # no backup recorded the catalog
    assert statuses(found) == {**dict.fromkeys(ALL, "pass"), **unproven}
    assert "event trigger note inserts into it" in found["public.audit"]["detail"]


def xids(session: Session) -> list[int]:
    with transaction(session, read_only=True) as cursor:
        return migration_transactions(cursor, 0, ["alembic_version"])


JOBS = {
    "adds": (["CREATE TABLE part (id serial PRIMARY KEY)"], "inconclusive"),
    "drops": (["DROP VIEW named_accounts", "DROP TABLE orders"], "fail"),  # the view is no table
    "adds an index to a table that was there": (["CREATE INDEX more ON accounts (name)"], "fail"),
}


@pytest.mark.parametrize(("after", "status"), JOBS.values(), ids=JOBS.keys())
def test_tables_that_another_job_adds_are_no_failure(look: Look, after: list[str], status: str) -> None:
    assert look(*DOWN, after=after)["catalog"]["status"] == status


STARTED = {
    "made when it was started": (["CREATE SCHEMA ops"], ["SCHEMA ops"], "inconclusive"),
    "a table with its key": (
        ["CREATE SCHEMA ops", "CREATE TABLE ops.v (v text PRIMARY KEY)", "COMMENT ON SCHEMA ops IS 'x'"],
        ["SCHEMA ops", "TABLE ops.v", "INDEX ops.v_pkey"],
        "inconclusive",
    ),
    "a release's own": (["CREATE SCHEMA ops", "CREATE TABLE ops.left (id int)"], ["SCHEMA ops"], "fail"),
    "changed and not new": (["ALTER TABLE accounts ADD extra int"], ["TABLE public.accounts"], "fail"),
    "nothing recorded": (["CREATE SCHEMA ops"], [], "fail"),
}


@pytest.mark.parametrize(("left", "made", "status"), STARTED.values(), ids=STARTED.keys())
def test_what_env_py_makes_is_not_the_releases(look: Look, left: list[str], made: list[str], status: str) -> None:
    proof = look(*DOWN[:-1], *left, "COMMIT", made=made)["catalog"]
    assert (proof["status"], "Alembic was started" in proof["detail"]) == (status, status == "inconclusive")


SEEN_OTHERWISE = {"xid": 1, "tables": {}}


@pytest.mark.parametrize(
    "otherwise",
    [None, {**SEEN_OTHERWISE, "reading": 1}, SEEN_OTHERWISE],
    ids=["none", "another version", "an old one"],
)
def test_without_a_baseline_nothing_is_claimed(
    database: Login, login_parameters: dict[str, Any], run_parameters: dict[str, Any], otherwise: dict[str, Any] | None
) -> None:
    if otherwise is not None:
        Journal(Run(**run_parameters)).append("baseline", "passed", otherwise)
    params: dict[str, Any] = {
        "created": [],
        "altered": [],
        "bookkeeping_table": "alembic_version",
        "settle_seconds": 1.0,
        "db_container": "",
        "run": run_parameters,
    }
    result = act({**login_parameters, **params}, False)
    assert [(proof["name"], proof["status"]) for proof in result["proofs"]] == [("restored.baseline", "inconclusive")]
    assert ("another version" in result["proofs"][0]["detail"]) == (otherwise is not None)
    assert (result["compared"], result["message"]) == (False, "")
