"""restored_info: whatever differs from the baseline in catalog, rows, revision or observation is seen."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2.extensions
import pytest
import shared_database
from ansible.module_utils.dbrelease.backup.baseline import read_baseline
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.migrate.move import read_counters
from ansible.module_utils.dbrelease.postgres.catalog_text import read_lines
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from ansible.module_utils.dbrelease.verify.write_attribution import migration_transactions
from own_sessions import connect
from restored_info import act

database, emptied = shared_database.database, shared_database.emptied

SCHEMA = """
CREATE TYPE mood AS ENUM ('fair', 'foul');
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
CREATE TABLE accounts (id int PRIMARY KEY, name text DEFAULT 'x' NOT NULL, feels mood,
    CONSTRAINT named CHECK (name <> ''));
CREATE TABLE orders (id serial PRIMARY KEY, account_id int REFERENCES accounts ON DELETE SET NULL);
CREATE INDEX by_account ON orders (account_id);
CREATE VIEW named_accounts AS SELECT name FROM accounts;
CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
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
    before = read_counters(database)
    execute(database, *UP)
    journal.append("upgrade", "passed", {"before": before, "after": read_counters(database)})

    def look(*down: str, after: list[str] | None = None, altered: list[str] | None = None) -> dict[str, dict[str, Any]]:
        before = read_counters(database)
        execute(database, *down)
        journal.append("downgrade", "passed", {"before": before, "after": read_counters(database)})
        execute(database, *(after or []))
        params = {
            **login_parameters,
            "run": run_parameters,
            "created": ["order_items"],
            "altered": altered or [],
            "bookkeeping_table": "alembic_version",
            "settle_seconds": 1.0,
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


def test_the_settings_of_a_database_are_recorded_as_hashes(
    database: Login, session: psycopg2.extensions.connection
) -> None:
    execute(database, of_database("ALTER DATABASE %I SET app.key = 's3cret'"))
    with transaction(session, read_only=True) as cursor:
        lines = read_lines(cursor)
    assert [line for line in lines if line.startswith("setting app.key of the database: ")]
    assert "s3cret" not in str(lines)


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
    given = {"created": ["order_items"], "altered": [], "bookkeeping_table": "alembic_version", "settle_seconds": 1.0}
    result = act({**login_parameters, "run": run_parameters, **given}, False)
    found = {proof["name"].removeprefix("restored."): proof for proof in result["proofs"]}
    assert statuses(found) == {**dict.fromkeys(ALL, "pass"), "public.audit": "inconclusive"}
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
        "run": run_parameters,
    }
    result = act({**login_parameters, **params}, False)
    assert [(proof["name"], proof["status"]) for proof in result["proofs"]] == [("restored.baseline", "inconclusive")]
    assert ("another version" in result["proofs"][0]["detail"]) == (otherwise is not None)
    assert (result["compared"], result["message"]) == (False, "")
