"""unchanged: what the migration did is red, what the application did is not, and what is equal passes."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.migrate.move import read_counters, read_counters_before
from ansible.module_utils.dbrelease.postgres.fingerprints import COUNTED_SINCE, READING, read_tables, write_counters
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from ansible.module_utils.dbrelease.verify.unchanged import act
from ansible.module_utils.dbrelease.verify.unchanged_verdict import Evidence, Trace, Window, judge, rewritten
from ansible.module_utils.dbrelease.verify.write_attribution import migration_transactions
from own_sessions import connect
from psycopg2.extras import RealDictCursor
from shared_database import await_inserts
from waits import until, until_ended

SCHEMA = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
CREATE TABLE accounts (id int PRIMARY KEY, name text);
CREATE TABLE orders (id int PRIMARY KEY, account_id int REFERENCES accounts ON DELETE SET NULL, note json);
INSERT INTO alembic_version VALUES ('a1');
INSERT INTO accounts SELECT i, 'account ' || i FROM generate_series(1, 200) i;
INSERT INTO orders SELECT i, i, '{"a": 1}' FROM generate_series(1, 200) i;
"""
DONE = "UPDATE alembic_version SET version_num = 'b2'"


def execute(login: Login, *statements: str) -> None:
    """In a session of its own, which reports what it wrote when it ends."""
    connection = connect(login, "somebody")
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


class Deploy:
    """What a deployment leaves in the journal."""

    def __init__(self, login: Login, params: dict[str, Any]) -> None:
        self.login = login
        self.journal = Journal(Run(**params["run"]))

    def baseline(self) -> None:
        connection = connect(self.login, "baseline")
        with transaction(connection, read_only=True, isolation="REPEATABLE READ") as cursor:
            facts = {**write_counters(cursor), "reading": READING, "tables": read_tables(cursor)}
            cursor.execute("SELECT oid FROM pg_database WHERE datname = current_database()")
            facts["database_oid"] = next(iter(dict(cursor.fetchall()[0]).values()))
            cursor.execute(f"SELECT {COUNTED_SINCE} AS counted_since")
            facts["counted_since"] = next(iter(dict(cursor.fetchall()[0]).values()))
        connection.close()
        self.journal.append("baseline", "passed", facts)

    def migrate(self, *statements: str, meanwhile: Callable[[], None] = lambda: None, recorded: bool = True) -> None:
        before = read_counters_before(self.login)
        meanwhile()
        execute(self.login, "BEGIN", "CREATE TABLE IF NOT EXISTS order_items (id int)", *statements, DONE, "COMMIT")
        if recorded:
            self.journal.append("upgrade", "passed", {"before": before, "after": read_counters(self.login)})


@pytest.fixture
def params(login_parameters: dict[str, Any], run_parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        **login_parameters,
        "run": run_parameters,
        "except_tables": ["order_items"],
        "altered_tables": [],
        "bookkeeping_tables": ["alembic_version"],
        "settle_seconds": 1.0,
    }


@pytest.fixture
def deploy(database: Login, params: dict[str, Any]) -> Deploy:
    execute(database, SCHEMA)
    await_inserts(database, accounts=200, orders=200)
    deploy = Deploy(database, params)
    deploy.baseline()
    return deploy


def statuses(result: dict[str, Any]) -> dict[str, str]:
    return {proof["name"]: proof["status"] for proof in result["proofs"]}


def detail(result: dict[str, Any], table: str) -> str:
    (found,) = (proof["detail"] for proof in result["proofs"] if proof["name"] == f"untouched.{table}")
    return str(found)


def test_a_migration_that_writes_no_row_leaves_every_table_equal(params: dict[str, Any], deploy: Deploy) -> None:
    deploy.migrate("INSERT INTO order_items SELECT id FROM orders", "ALTER TABLE orders ADD extra int DEFAULT 3")
    result = act(params, False)
    assert statuses(result) == {"untouched.public.accounts": "pass", "untouched.public.orders": "pass"}
    assert (result["tables"], result["message"]) == (2, "")
    assert statuses(act(params, False)) == statuses(result)


RED = [
    ("updates", ["UPDATE accounts SET name = 'x' WHERE id <= 3"], "The migration itself wrote 3 rows of it."),
    ("inserts", ["INSERT INTO accounts VALUES (999, 'x')"], "The migration itself wrote 1 rows of it."),
    ("deletes many", ["DELETE FROM accounts WHERE id > 150"], "50 rows were deleted, by at most"),
    ("deletes all", ["DELETE FROM accounts"], "200 rows were deleted, by at most"),
    ("truncates", ["TRUNCATE accounts CASCADE"], "no session is known to have written"),
    (
        "truncates and refills",
        [
            "CREATE TEMP TABLE kept AS TABLE accounts",
            "TRUNCATE accounts CASCADE",
            "INSERT INTO accounts SELECT id, 'y' FROM kept",
        ],
        "The migration itself wrote 200 rows of it.",
    ),
    ("drops", ["DROP TABLE accounts CASCADE"], "The table no longer exists."),
    ("drops a column", ["ALTER TABLE accounts DROP name"], "The table no longer has the columns name."),
    ("renames a column", ["ALTER TABLE accounts RENAME name TO title"], "The table no longer has the columns name."),
    (
        "makes anew",
        ["DROP TABLE accounts CASCADE", "CREATE TABLE accounts (id int PRIMARY KEY, name text)"],
        "dropped and created again",
    ),
]


@pytest.mark.parametrize("recorded", [True, False], ids=["upgrade recorded", "upgrade not recorded"])
@pytest.mark.parametrize(("does", "said"), [row[1:] for row in RED], ids=[row[0] for row in RED])
def test_what_the_migration_does_to_a_table_is_red(
    params: dict[str, Any], deploy: Deploy, does: list[str], said: str, recorded: bool
) -> None:
    deploy.migrate(*does, recorded=recorded)
    result = act(params, False)
    if said.endswith("by at most") and not recorded:
        assert statuses(result)["untouched.public.accounts"] == "inconclusive"  # only the upgrade's window tells
        return
    assert statuses(result)["untouched.public.accounts"] == "fail"
    assert said in detail(result, "public.accounts")
    assert "public.accounts" in result["message"]


@contextmanager
def application(login: Login) -> Iterator[Callable[[], None]]:
    """Goes on inserting and updating, one row a transaction, until the end; a call waits for its next ten."""
    ended, written = threading.Event(), 0

    def more() -> None:
        enough = written + 10
        until(lambda: written >= enough, "the application did not write")

    def write() -> None:
        nonlocal written
        connection = connect(login, "application")
        with connection.cursor() as cursor:
            while not ended.wait(0.02):
                number = 1000 + written
                cursor.execute("INSERT INTO accounts VALUES (%s, 'new')", (number,))
                cursor.execute("UPDATE accounts SET name = name || '!' WHERE id = %s", (number % 200 + 1,))
                written += 1
        connection.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        more()
        yield more
    finally:
        ended.set()
        thread.join()


def test_what_the_application_writes_meanwhile_is_not_red(params: dict[str, Any], deploy: Deploy) -> None:
    with application(deploy.login) as more:
        deploy.migrate("INSERT INTO order_items SELECT id FROM orders")
        more()
        result = act(params, False)
    assert statuses(result) == {"untouched.public.accounts": "inconclusive", "untouched.public.orders": "pass"}
    # Of what was written just when the migration was, it may not have been seen who did.
    said = (
        r"Changed (by the application )?since the baseline: \+.*(the migration wrote none of its rows|was not observed)"
    )
    assert re.match(said, detail(result, "public.accounts"))
    assert result["message"] == ""


def test_what_others_wrote_before_the_upgrade_and_report_in_it_is_not_red(
    params: dict[str, Any], deploy: Deploy
) -> None:
    busy = connect(deploy.login, "application")
    with busy.cursor() as cursor:
        for _ in range(20):  # of a second that is reported when it is over
            cursor.execute("UPDATE accounts SET name = name || '!' WHERE id = 1")
            cursor.execute("DELETE FROM orders WHERE id IN (SELECT max(id) FROM orders)")

    observer = connect(deploy.login, "observer")

    def is_reported() -> bool:
        with busy.cursor() as cursor, observer.cursor() as other:
            cursor.execute("SELECT 1")  # at whose end the session reports, at most once a second
            other.execute("SELECT n_tup_upd >= 20 FROM pg_stat_user_tables WHERE relname = 'accounts'")
            return bool(other.fetchall()[0][0])

    def report() -> None:
        until(is_reported, "the session did not report what it wrote")
        busy.cursor().execute("UPDATE accounts SET name = 'x' WHERE id = 1")

    thread = threading.Thread(target=report)
    thread.start()
    deploy.migrate(meanwhile=thread.join)
    found = act(params, False)
    busy.close()
    observer.close()
    assert set(statuses(found).values()) == {"inconclusive"}, found["message"]


UNDER_LOAD = [
    ("updates", ["UPDATE accounts SET name = 'x' WHERE id = 200"], "The migration itself wrote 1 rows"),
    ("deletes many", ["DELETE FROM accounts WHERE id > 10"], "rows were deleted, by at most"),
    ("truncates", ["TRUNCATE accounts CASCADE"], "it was truncated or rewritten"),
]


@pytest.mark.parametrize(("does", "said"), [row[1:] for row in UNDER_LOAD], ids=[row[0] for row in UNDER_LOAD])
def test_the_migration_is_red_also_while_the_application_writes(
    params: dict[str, Any], deploy: Deploy, does: list[str], said: str
) -> None:
    with application(deploy.login):
        deploy.migrate(*does)
        result = act(params, False)
    assert statuses(result)["untouched.public.accounts"] == "fail"
    assert said in detail(result, "public.accounts")


ADD = "ALTER TABLE accounts ADD state text"
FILL = "UPDATE accounts SET state = 'new'"
ALTERED: list[
    tuple[str, list[str], str, str, str]
] = [  # statements, and the verdict alone and while others write ("" where they could not)
    ("adds a column", [ADD], "pass", "inconclusive", ""),
    ("fills it", [ADD, FILL], "pass", "inconclusive", ""),
    ("makes the table anew", ["ALTER TABLE accounts ADD at float DEFAULT random()"], "pass", "inconclusive", ""),
    (
        "changes a name besides",
        [ADD, f"{FILL}, name = 'x'"],
        "fail",
        "inconclusive",
        "the content of the baseline has changed",
    ),
    (
        "makes it anew with other names",
        [ADD, "ALTER TABLE accounts ALTER name TYPE varchar USING name || '!'"],
        "fail",
        "inconclusive",
        "the content of the baseline has changed",
    ),
    ("deletes many", [ADD, "DELETE FROM accounts WHERE id > 10"], "fail", "fail", "rows were deleted, by at most"),
    ("truncates", [ADD, "TRUNCATE accounts CASCADE"], "fail", "fail", ""),
    (
        "drops a column",
        [ADD, "ALTER TABLE accounts DROP name"],
        "fail",
        "",
        "The table no longer has the columns name.",
    ),
]


@pytest.mark.parametrize(
    ("does", "status", "said"), [(row[1], row[2], row[4]) for row in ALTERED], ids=[row[0] for row in ALTERED]
)
def test_a_table_that_is_altered_keeps_what_it_held(
    params: dict[str, Any], deploy: Deploy, does: list[str], status: str, said: str
) -> None:
    params["altered_tables"] = ["accounts"]
    deploy.migrate(*does)
    result = act(params, False)
    assert statuses(result)["untouched.public.accounts"] == status
    assert said in detail(result, "public.accounts")


UNDER_LOAD_TOO = [row for row in ALTERED if row[3]]


@pytest.mark.parametrize(
    ("does", "status"), [(row[1], row[3]) for row in UNDER_LOAD_TOO], ids=[row[0] for row in UNDER_LOAD_TOO]
)
def test_what_fills_an_altered_table_is_not_red_while_the_application_writes(
    params: dict[str, Any], deploy: Deploy, does: list[str], status: str
) -> None:
    params["altered_tables"] = ["accounts"]
    with application(deploy.login):
        deploy.migrate(*does)
        result = act(params, False)
    assert statuses(result)["untouched.public.accounts"] == status


def test_only_the_altered_table_may_be_written(params: dict[str, Any], deploy: Deploy) -> None:
    params["altered_tables"] = ["accounts"]
    deploy.migrate(ADD, FILL, "UPDATE orders SET note = '3' WHERE id = 1")
    assert statuses(act(params, False)) == {"untouched.public.accounts": "pass", "untouched.public.orders": "fail"}


APPLICATION = [
    ("one insert", ["INSERT INTO accounts VALUES (999, 'x')"]),
    ("one delete", ["DELETE FROM orders WHERE id = 7"]),
    ("one delete that sets others to null", ["DELETE FROM accounts WHERE id = 7"]),
    ("many updates at once", ["UPDATE accounts SET name = 'x'"]),
    (
        "an insert rolled back and one more",
        ["BEGIN; INSERT INTO accounts VALUES (998, 'x'); ROLLBACK", "INSERT INTO accounts VALUES (999, 'x')"],
    ),
    ("a delete rolled back and one more", ["BEGIN; DELETE FROM orders; ROLLBACK", "DELETE FROM orders WHERE id = 7"]),
    ("all updated, then deleted one by one", ["UPDATE orders SET note = '2'", "DELETE FROM orders WHERE id < 9"]),
]


# One transaction that deletes many rows while the upgrade runs is not distinguished from the migration: see the
# window's tests.
MANY_DELETES = ("a delete rolled back and one more", "all updated, then deleted one by one")
CASES = [
    pytest.param(does, when, id=f"{name}, {when}")
    for name, does in APPLICATION
    for when in ("before the upgrade", "during", "after")
    if not (when == "during" and name in MANY_DELETES)
]


@pytest.mark.parametrize(("does", "when"), CASES)
def test_the_application_alone_is_never_red(params: dict[str, Any], deploy: Deploy, does: list[str], when: str) -> None:
    if when == "before the upgrade":
        execute(deploy.login, *does)
        until_ended(deploy.login, "somebody")
    deploy.migrate(meanwhile=(lambda: execute(deploy.login, *does)) if when == "during" else lambda: None)
    if when == "after":
        execute(deploy.login, *does)
    found = statuses(act(params, False))
    assert "inconclusive" in found.values()
    assert "fail" not in found.values()


REWRITTEN = [  # what somebody did, and how many rows that took away or changed
    ("nothing", [], 0),
    ("an insert", ["INSERT INTO accounts VALUES (999, 'x')"], 0),
    ("deletes", ["DELETE FROM orders WHERE id <= 7"], 7),
    ("deletes and updates", ["DELETE FROM orders WHERE id <= 7", "UPDATE accounts SET name = 'x' WHERE id <= 3"], 10),
    ("deletes that nobody counted", ["DELETE FROM orders WHERE id <= 7", "SELECT pg_stat_reset()"], None),
]


@pytest.mark.parametrize(("does", "rows"), [row[1:] for row in REWRITTEN], ids=[row[0] for row in REWRITTEN])
def test_the_number_of_rows_that_others_deleted_is_reported(
    params: dict[str, Any], deploy: Deploy, does: list[str], rows: int | None
) -> None:
    deploy.migrate()
    execute(deploy.login, *does)
    assert rewritten(act(params, False)["proofs"]) == rows


def test_late_counters_of_an_idle_session_are_awaited(params: dict[str, Any], deploy: Deploy) -> None:
    params["settle_seconds"] = 15.0
    idle = connect(deploy.login, "application")
    idle.cursor().execute("SELECT count(*) FROM orders")  # it reports now, and then not for a while
    idle.cursor().execute("DELETE FROM orders WHERE id = 7")
    begun = time.monotonic()
    found = act(params, False)
    spent = time.monotonic() - begun
    idle.close()
    assert statuses(found)["untouched.public.orders"] == "inconclusive", detail(found, "public.orders")
    assert spent < 14


JOBS = {
    "empties": ["TRUNCATE orders"],
    "rebuilds": [
        "CREATE TABLE anew (LIKE orders INCLUDING ALL)",
        "INSERT INTO anew SELECT id, id, NULL FROM generate_series(1, 100) id",
        "DROP TABLE orders",
        "ALTER TABLE anew RENAME TO orders",
    ],
    "drops": ["DROP TABLE orders"],
    "drops a column of": ["ALTER TABLE orders DROP note"],
}


@pytest.mark.parametrize(
    ("does", "when"),
    [
        *((does, "before") for does in JOBS.values()),
        (JOBS["drops"], "after"),
        (JOBS["empties"], "after"),
        (JOBS["empties"], "without an upgrade"),
    ],
    ids=[*JOBS, "drops afterwards", "empties afterwards", "empties by hand"],
)
def test_what_another_job_does_to_a_table_is_reported(
    params: dict[str, Any], deploy: Deploy, does: list[str], when: str
) -> None:
    if when != "after":
        execute(deploy.login, *does)
    if when != "without an upgrade":
        deploy.migrate()
    if when == "after":
        execute(deploy.login, *does)
    result = act(params, False)
    assert statuses(result) == {"untouched.public.accounts": "pass", "untouched.public.orders": "inconclusive"}
    assert "Another transaction did it, not the migration." in detail(result, "public.orders")


@pytest.mark.parametrize("does", JOBS.values(), ids=JOBS.keys())
def test_whether_the_migration_did_it_is_said(params: dict[str, Any], deploy: Deploy, does: list[str]) -> None:
    deploy.migrate(*does)
    (found,) = (one for one in act(params, False)["proofs"] if one["name"] == "untouched.public.orders")
    # Somebody else's transactions, of other databases too, may have run beside it; what is gone leaves no other trace.
    expected = {"migration", "unknown"} if does == JOBS["drops"] else {"migration"}
    assert (found["status"], found["observed"]["by"] in expected) == ("fail", True), found


NOTE = """
CREATE TABLE audit (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
INSERT INTO audit (what) SELECT 'before' FROM generate_series(1, 20);
CREATE FUNCTION put(what text) RETURNS void LANGUAGE sql AS 'INSERT INTO public.audit (what) VALUES (what)';
"""
EVENTS = """
CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN {} END $$;
CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION note();
"""
ROWS = """
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN NEW; END $$;
CREATE TRIGGER note AFTER UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION note();
"""
FILLS = ["ALTER TABLE accounts ADD state text", "UPDATE accounts SET state = 'new'"]
INTO = "INSERT INTO audit (what) VALUES ({});"
MADE = "EXECUTE format('INSERT INTO %I (what) VALUES (1)', 'au' || 'dit');"
TRIGGERS: dict[str, tuple[str, list[str], list[str], str]] = {
    # What is there, what the migration does, the tables that it adds to, and the words.
    "of DDL": (EVENTS.format(INTO.format("tg_tag")), [], [], "event trigger note inserts into it"),
    "of DDL, by a function": (EVENTS.format("PERFORM public.put('x');"), [], [], "event trigger note inserts into it"),
    "of DDL, made as it runs": (EVENTS.format(MADE), [], [], "Whether the migration or event trigger note"),
    "of rows": (ROWS.format(INTO.format("NEW.name")), FILLS, ["accounts"], "trigger note of accounts inserts into it"),
    "a rule": (
        "CREATE RULE note AS ON UPDATE TO accounts DO ALSO INSERT INTO audit (what) VALUES (OLD.name)",
        FILLS,
        ["accounts"],
        "rule note of accounts inserts into it",
    ),
}


@pytest.mark.parametrize(("there", "does", "altered", "said"), TRIGGERS.values(), ids=TRIGGERS.keys())
def test_rows_that_a_trigger_adds_are_reported(
    params: dict[str, Any], deploy: Deploy, there: str, does: list[str], altered: list[str], said: str
) -> None:
    execute(deploy.login, NOTE, there)
    await_inserts(deploy.login, audit=20)
    deploy.baseline()
    params["altered_tables"] = altered
    deploy.migrate(*does)
    result = act(params, False)
    assert statuses(result)["untouched.public.audit"] == "inconclusive", detail(result, "public.audit")
    assert "rows to it, and changed or deleted no existing row" in detail(result, "public.audit")
    assert said in detail(result, "public.audit")
    assert "tables.audit of the release or audit_tables of the inventory" in detail(result, "public.audit")


OF_DDL = EVENTS.format(INTO.format("tg_tag"))
STILL_RED = {  # what is there, what the migration does, and whether the table is declared
    "added without a trigger": ("SELECT 1", INTO.format("'x'"), False),
    "added beside the trigger of another table": (ROWS.format(INTO.format("NEW.name")), INTO.format("'x'"), False),
    "changed": (OF_DDL, "UPDATE audit SET what = '' WHERE id = 3", True),
    "deleted": (OF_DDL, "DELETE FROM audit WHERE id < 15", True),
    "emptied": (OF_DDL, "TRUNCATE audit", True),
}


@pytest.mark.parametrize(("there", "does", "declared"), STILL_RED.values(), ids=STILL_RED.keys())
def test_a_trigger_excuses_only_rows_that_it_added(
    params: dict[str, Any], deploy: Deploy, there: str, does: str, declared: bool
) -> None:
    execute(deploy.login, NOTE, there)
    await_inserts(deploy.login, audit=20)
    deploy.baseline()
    params["audit_tables"] = ["audit"] if declared else []
    deploy.migrate(does)
    assert statuses(act(params, False))["untouched.public.audit"] == "fail"


def test_rows_that_were_added_to_a_declared_table_are_reported(params: dict[str, Any], deploy: Deploy) -> None:
    params["audit_tables"] = ["public.accounts"]
    deploy.migrate("INSERT INTO accounts VALUES (999, 'x')")
    result = act(params, False)
    assert statuses(result)["untouched.public.accounts"] == "inconclusive"
    assert "It is declared as a table that triggers add to (tables.audit)." in detail(result, "public.accounts")


NOT_COMPARABLE = [
    ("counters reset", "SELECT pg_stat_reset()", {}, "the server's write counters were reset since"),
    ("another database", "SELECT 1", {"database_oid": 1}, "the baseline was taken of another database"),
    ("another version", "SELECT 1", {"reading": 1}, "the baseline was recorded by another version of this program"),
]


@pytest.mark.parametrize(("done", "other", "said"), [r[1:] for r in NOT_COMPARABLE], ids=[r[0] for r in NOT_COMPARABLE])
def test_what_cannot_be_compared_is_said(
    params: dict[str, Any], deploy: Deploy, done: str, other: dict[str, int], said: str
) -> None:
    deploy.journal.append("baseline", "passed", {**deploy.journal.read()[-1]["facts"], **other})
    execute(deploy.login, "DELETE FROM orders WHERE id = 7", done)
    result = act(params, False)
    assert statuses(result)["untouched.public.orders"] == "inconclusive"
    assert said in detail(result, "public.orders")


def test_counters_that_were_lost_before_and_after_the_baseline_blame_nobody(
    params: dict[str, Any], deploy: Deploy
) -> None:
    facts = deploy.journal.read()[-1]["facts"]
    none = dict.fromkeys(("inserted", "updated", "deleted"), 0)
    tables = {key: {**row, **none} for key, row in facts["tables"].items()}
    deploy.journal.append("baseline", "passed", {**facts, "tables": tables})
    execute(deploy.login, "DELETE FROM orders WHERE id <= 7")  # counted when its session has ended
    execute(deploy.login, "SELECT pg_stat_reset()")
    result = act(params, False)
    assert statuses(result)["untouched.public.orders"] == "inconclusive", detail(result, "public.orders")
    assert "write counters were reset since" in detail(result, "public.orders")


def test_without_a_baseline_it_cannot_compare(params: dict[str, Any]) -> None:
    with pytest.raises(ReleaseError, match=r"has none of release sample in environment test\): run the playbook"):
        act(params, False)


def test_another_release_or_environment_has_another_baseline(params: dict[str, Any], deploy: Deploy) -> None:
    params["run"] = {**params["run"], "environment": "elsewhere"}
    with pytest.raises(ReleaseError, match="in environment elsewhere"):
        act(params, False)


def test_the_migration_before_the_baseline_is_not_this_one(params: dict[str, Any], database: Login) -> None:
    execute(
        database, SCHEMA, "BEGIN; UPDATE accounts SET name = 'seed'; UPDATE alembic_version SET version_num='a2'; END"
    )
    Deploy(database, params).baseline()
    execute(database, "INSERT INTO accounts VALUES (999, 'x')")
    assert statuses(act(params, False))["untouched.public.accounts"] == "inconclusive"


def test_tables_are_left_out_by_qualified_and_plain_names(params: dict[str, Any], deploy: Deploy) -> None:
    params["except_tables"] = ["public.accounts", "orders"]
    assert act(params, False)["tables"] == 0
    params["bookkeeping_tables"] = []
    assert list(statuses(act(params, False))) == ["untouched.public.alembic_version"]


def test_check_mode_writes_nothing(params: dict[str, Any], deploy: Deploy) -> None:
    lines = Path(deploy.journal.path).read_text()
    act(params, True)
    assert Path(deploy.journal.path).read_text() == lines
    act(params, False)
    assert deploy.journal.read()[-1]["facts"]["tables"] == 2


def evidence(**more: Any) -> Evidence:
    before = {"rows": 10, "fingerprint": "1", "oid": 5}
    now = {"rows": 10, "fingerprint": "2", "oid": 5, "absent": False, "missing": []}
    written = {"inserted": 0, "updated": 10, "deleted": 0}
    return Evidence(**{"before": before, "now": now, "trace": Trace(0, 0, 0), "written": written, **more})


WINDOWS = [
    ("each update left its row", Trace(0, 0, 10), Window(10, 0, 1), "inconclusive"),
    ("updates that others overwrote later", Trace(0, 0, 0), Window(10, 0, 1), "fail"),
    ("as many transactions as updates", Trace(0, 0, 0), Window(10, 0, 10), "inconclusive"),
    ("one delete more than transactions", Trace(0, 0, 0), Window(0, 4, 3), "fail"),
]


WRITTEN: dict[str, tuple[Trace, dict[str, int], str]] = {
    "the migration filled all": (Trace(10, 0, 0), {"inserted": 0, "updated": 10, "deleted": 0}, "fail"),
    "it made the table anew": (Trace(10, 0, 0), {"inserted": 0, "updated": 0, "deleted": 0}, "fail"),
    "others updated one before": (Trace(10, 0, 0), {"inserted": 0, "updated": 11, "deleted": 0}, "inconclusive"),
    "others updated one after": (Trace(9, 0, 0), {"inserted": 0, "updated": 11, "deleted": 0}, "inconclusive"),
    "others put one in for another": (Trace(9, 0, 0), {"inserted": 1, "updated": 10, "deleted": 1}, "inconclusive"),
    "only others wrote": (Trace(0, 9, 0), {"inserted": 0, "updated": 1, "deleted": 0}, "inconclusive"),
    "others updated one, not yet counted": (
        Trace(0, 9, 1),
        {"inserted": 0, "updated": 0, "deleted": 0},
        "inconclusive",
    ),
    "others put ten in for ten": (Trace(0, 0, 10), {"inserted": 10, "updated": 0, "deleted": 0}, "fail"),
    "rows are gone": (Trace(4, 0, 0), {"inserted": 6, "updated": 0, "deleted": 0}, "fail"),
}


@pytest.mark.parametrize(("trace", "written", "status"), WRITTEN.values(), ids=WRITTEN.keys())
def test_who_wrote_an_altered_table(trace: Trace, written: dict[str, int], status: str) -> None:
    assert judge(evidence(trace=trace, written=written, altered=True)).status == status


@pytest.mark.parametrize(("trace", "window", "status"), [r[1:] for r in WINDOWS], ids=[r[0] for r in WINDOWS])
def test_writes_in_the_upgrade_must_have_another_writer(trace: Trace, window: Window, status: str) -> None:
    assert judge(evidence(trace=trace, window=window)).status == status


@pytest.mark.parametrize("whose", ["unknown", None])
@pytest.mark.parametrize(("untrusted", "status"), [(True, "inconclusive"), (False, "fail")])
def test_a_table_whose_owner_is_not_trusted_fails_only_by_the_migration(
    whose: Any, untrusted: bool, status: str
) -> None:
    """Who dropped it was not observed: its owner may have done it at any time."""
    dropped = evidence(whose=whose, untrusted=untrusted)
    dropped.now["absent"] = True
    assert judge(dropped).status == status


def test_the_migrations_transactions_are_found_by_a_version_table_elsewhere(
    database: Login, session: psycopg2.extensions.connection
) -> None:
    execute(database, 'CREATE SCHEMA ops; CREATE TABLE ops."Kept" (version_num text)', "CREATE TABLE kept (id int)")
    execute(database, """INSERT INTO ops."Kept" VALUES ('a')""")
    with session.cursor(cursor_factory=RealDictCursor) as cursor:
        assert len(migration_transactions(cursor, 0, ["ops.Kept"])) == 1
        assert migration_transactions(cursor, 0, ["ops.kept"]) == migration_transactions(cursor, 0, ["Kept"]) == []
