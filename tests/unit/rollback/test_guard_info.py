"""guard_info: each kind of guard holds, goes red on the real thing, and refuses where it cannot be decided."""

from __future__ import annotations

import http.server
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import dropped_rows
import psycopg2.extensions
import pytest
import shared_database
from ansible.module_utils.dbrelease.backup.baseline import read_baseline
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.migrate.move import read_counters, read_counters_before
from ansible.module_utils.dbrelease.postgres.session import Login, select, transaction
from ansible.module_utils.dbrelease.rollback import in_database, in_services
from ansible.module_utils.dbrelease.rollback.in_services import Services, shown
from ansible.module_utils.dbrelease.rollback.verdict import UNDECIDED, GuardResult, judge
from guard_info import act
from own_sessions import connect

database, emptied = shared_database.database, shared_database.emptied

Session = psycopg2.extensions.connection
SCHEMA = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
CREATE TABLE orders (id int PRIMARY KEY, account_id int);
CREATE TABLE order_items (id int PRIMARY KEY, order_id int, made_by text DEFAULT 'migration');
INSERT INTO alembic_version VALUES ('b2');
INSERT INTO orders SELECT i, i FROM generate_series(1, 10) i;
INSERT INTO order_items SELECT i, i FROM generate_series(1, 10) i;
"""
LOSSES = {
    "name": "nothing_lost",
    "title": "No item that only the new table knows",
    "losses": {
        "table": "order_items",
        "key": ["id"],
        "rows": "SELECT id, made_by FROM order_items WHERE made_by IS DISTINCT FROM 'migration'",
    },
    "road": "Keep the release.",
}
COLUMNS = {"name": "source", "title": "The source is there", "columns": {"orders": ["account_id"]}, "road": "Restore."}
SINGLE = {
    "name": "single",
    "title": "One item an order",
    "violations": "SELECT order_id FROM order_items GROUP BY order_id HAVING count(*) > 1",
    "covered_by_losses": True,
    "road": "Keep the release.",
}
TWICE = {**LOSSES, "losses": {**LOSSES["losses"], "rows": "SELECT 1 AS id UNION ALL SELECT 1"}}  # type: ignore[dict-item]
GUARDS: list[dict[str, Any]] = [LOSSES, COLUMNS, SINGLE]
Look = Callable[..., dict[str, Any]]


@pytest.fixture
def look(
    session: Session, login_parameters: dict[str, Any], run_parameters: dict[str, Any]
) -> Callable[..., dict[str, Any]]:
    execute(session, SCHEMA)

    def look(*statements: str, guards: list[dict[str, Any]] = GUARDS, **options: Any) -> dict[str, Any]:
        execute(session, *statements)
        params = {
            **login_parameters,
            "run": run_parameters,
            "guards": guards,
            "from_revision": "a1",
            "revision": "b2",
            "bookkeeping_table": "alembic_version",
            "created": {"order_items": {"columns": {name: {} for name in ("id", "order_id", "made_by")}}},
            "altered": {},
            "method": "alembic",
            "script": "",
            "revision_files": [{"name": "b2.py", "content": "current_setting('dbrelease.counted_at')"}],
            "containers": {},
            "api_base_url": "",
            "accept_loss": None,
            "accept_log_gap": False,
            "restore_command": "",
            "request_timeout_seconds": 5.0,
            "statement_timeout_ms": 10_000,
            **options,
        }
        return act(params, False)

    return look


def execute(session: Session, *statements: str) -> None:
    with session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def statuses(result: dict[str, Any]) -> dict[str, str]:
    return {proof["name"].removeprefix("guard."): proof["status"] for proof in result["proofs"]}


def test_it_is_allowed_where_every_guard_holds_and_asking_twice_says_the_same(
    look: Look, run_parameters: dict[str, Any]
) -> None:
    first, second = look(), look()
    assert (first["state"], first["message"], first["rows_lost"], first["changed"]) == ("allowed", "", 0, False)
    assert (
        statuses(first)
        == statuses(second)
        == dict.fromkeys(["revision", "nothing_lost", "source", "single", "nothing_depends", "no_other_column"], "pass")
    )
    reported = first["session_settings"]
    assert int(reported["dbrelease.counted_at"].split(",")[0]) > 0
    assert reported["dbrelease.counted_in"] == second["session_settings"]["dbrelease.counted_in"] != ""
    last = Journal(Run(**run_parameters)).read()[-1]
    assert (last["step"], last["event"], last["facts"]["state"]) == ("guards", "passed", "allowed")
    assert last["facts"]["migration_xids"]


FOREIGN = "INSERT INTO order_items VALUES (11, 11, 'someone')"
SECOND = "INSERT INTO order_items VALUES (12, 1, 'someone')"
GONE = "ALTER TABLE orders DROP account_id"
NOTES = "CREATE TABLE notes (id int, body json); INSERT INTO notes VALUES (1, '\"only here\"'), (2, '\"only here\"')"
WITH_NOTES: dict[str, Any] = {
    "notes": {"columns": {"id": {}, "body": {}}},
    "order_items": {"columns": {name: {} for name in ("id", "order_id", "made_by")}},
}
RED: list[tuple[str, list[str], dict[str, Any], dict[str, str], str]] = [
    ("a row of another writer", [FOREIGN], {}, {"nothing_lost": "fail"}, "1 row would be lost. Among them: id 11"),
    ("an order with two", [SECOND], {}, {"single": "fail", "nothing_lost": "fail"}, "1 row breaks it"),
    ("a column gone", [GONE], {}, {"source": "fail"}, "orders.account_id is missing. Restore."),
    ("a table gone", ["DROP TABLE orders"], {}, {"source": "fail"}, "orders.account_id is missing."),
    (
        "too few accepted",
        [FOREIGN, SECOND],
        {"accept_loss": "1"},
        {"nothing_lost": "fail"},
        "2 rows would be lost; check",
    ),
    ("too many accepted", [FOREIGN], {"accept_loss": "2"}, {"nothing_lost": "fail"}, "accept_loss=2 is not the number"),
    ("less than none accepted", [], {"accept_loss": "-1"}, {}, "accept_loss=-1 is not the number counted: 0 rows"),
    *(
        (
            f"{text!r} accepted",
            [FOREIGN],
            {"accept_loss": text},
            {},
            f"accept_loss={text} is not the number counted: 1 row",
        )
        for text in ("many", "1.0", "", "01", "True")
    ),
    ("accepted, and none is lost", [], {"accept_loss": "1"}, {}, "accept_loss=1 is not the number counted: 0 rows"),
    (
        "accepted, and a column gone",
        [FOREIGN, GONE],
        {"accept_loss": "1"},
        {"source": "fail", "nothing_lost": "fail"},
        "orders.account_id is missing",
    ),
    (
        "what cannot be asked",
        ["ALTER TABLE order_items DROP made_by"],
        {},
        {"nothing_lost": "inconclusive"},
        'column "made_by" does not exist (42703)',
    ),
    (
        "what cannot be asked, accepted",
        ["ALTER TABLE order_items DROP made_by"],
        {"accept_loss": "0"},
        {"nothing_lost": "inconclusive"},
        "the number could not be counted",
    ),
    (
        "a view on it",
        ["CREATE VIEW report AS SELECT id FROM order_items"],
        {"accept_loss": "0"},
        {"nothing_depends": "fail"},
        "view report would be left without it. Drop or change it first",
    ),
    (
        "a column of somebody else's, accepted",
        ['ALTER TABLE order_items ADD "Contract" text'],
        {"accept_loss": "0"},
        {"no_other_column": "fail"},
        "order_items.Contract exists, and the release does not declare it. No query of the release reads",
    ),
    (
        "rows of a table of which no losses are declared",
        [NOTES],
        {"created": WITH_NOTES},
        {"no_row_lost.notes": "fail", "nothing_lost": "pass"},
        "“No row of notes is lost” failed: 2 rows would be lost. Among them: id 1, body only here; id 2, body only",
    ),
    (
        "rows of such a table, and of another writer, accepted as one",
        [NOTES, FOREIGN],
        {"created": WITH_NOTES, "accept_loss": "1"},
        {"no_row_lost.notes": "fail", "nothing_lost": "fail"},
        "accept_loss=1 is not the number counted: 3 rows",
    ),
    ("another revision", ["UPDATE alembic_version SET version_num = 'c3'"], {}, {}, "at c3, and only b2 can be"),
    ("left by somebody", ["UPDATE alembic_version SET version_num = 'a1'"], {}, {}, "but order_items exists"),
    ("a row named twice", [], {"guards": [TWICE]}, {"nothing_lost": "inconclusive"}, "only 1 differ in"),
    ("no script", [], {"method": "sql"}, {"nothing_lost": "skipped"}, "rollback_method=sql requires: rerun"),
    (
        "an empty script",
        [],
        {"method": "sql", "script": " \n"},
        {"source": "skipped"},
        "no SQL file that rolls it back",
    ),
    ("nothing is declared at all", [], {"guards": [], "created": {}}, {}, "declares no guard"),
    (
        "no guard of a created table",
        [],
        {"guards": []},
        {"no_row_lost.order_items": "fail"},
        "“No row of order_items is lost” failed: 10 rows would be lost.",
    ),
    (
        "no declared tables, and no baseline",
        [],
        {"guards": [COLUMNS], "created": {}, "declares_tables": False},
        {"added": "inconclusive"},
        "the journal has no baseline that would show which tables and columns the migration added: declare them",
    ),
]


@pytest.mark.parametrize(("does", "options", "red", "says"), [row[1:] for row in RED], ids=[row[0] for row in RED])
def test_it_refuses_and_says_why(
    look: Look,
    run_parameters: dict[str, Any],
    does: list[str],
    options: dict[str, Any],
    red: dict[str, str],
    says: str,
) -> None:
    result = look(*does, **options)
    assert result["state"] == "refused"
    assert says in result["message"]
    assert statuses(result).items() >= red.items()
    assert Journal(Run(**run_parameters)).read()[-1]["event"] == "refused"


NOTED: dict[str, Any] = {"altered": {"orders": {"columns": {"note": {}, "done": {}, "twice": {}}}}}
WITH_NOTE = """
ALTER TABLE orders ADD note text, ADD done boolean DEFAULT false, ADD twice int GENERATED ALWAYS AS (id * 2) STORED
"""
ANSWERING: dict[str, Any] = {
    "name": "notes_known",
    "title": "Every note is the migration's",
    "violations": "SELECT id FROM orders WHERE note <> 'order ' || id",
    "values_of": {"orders": ["note"]},
    "road": "Keep the release.",
}
VALUES: list[tuple[str, list[str], list[dict[str, Any]], str, str]] = [
    ("nothing was given", [WITH_NOTE], GUARDS, "pass", ""),
    ("the column is gone", [], GUARDS, "pass", ""),
    (
        "a value",
        [WITH_NOTE, "UPDATE orders SET note = 'by hand' WHERE id = 3"],
        GUARDS,
        "fail",
        "“No value of what the release adds to orders is lost” failed: 1 row would lose one. Among them: id 3, "
        "note by hand, done False. The columns note, done, twice are dropped",
    ),
    (
        "other than the default",
        [WITH_NOTE, "UPDATE orders SET done = true WHERE id < 3"],
        GUARDS,
        "fail",
        "2 rows would",
    ),
    (
        "a guard answers for it",
        [WITH_NOTE, "UPDATE orders SET note = 'order ' || id"],
        [*GUARDS, ANSWERING],
        "pass",
        "",
    ),
    (
        "a guard answers, and is red",
        [WITH_NOTE, "UPDATE orders SET note = 'by hand' WHERE id = 3"],
        [*GUARDS, ANSWERING],
        "pass",
        "“Every note is the migration's” failed: 1 row breaks it.",
    ),
    (
        "a guard answers for another column",
        [WITH_NOTE, "UPDATE orders SET done = true WHERE id < 3"],
        [*GUARDS, ANSWERING],
        "fail",
        "The columns done, twice are dropped",
    ),
]


@pytest.mark.parametrize(
    ("does", "guards", "status", "says"), [row[1:] for row in VALUES], ids=[row[0] for row in VALUES]
)
@pytest.mark.parametrize("created", [{"order_items": {"columns": {"id": {}, "order_id": {}, "made_by": {}}}}, {}])
def test_a_value_in_a_column_that_the_release_adds_is_lost_with_it(
    look: Look, does: list[str], guards: list[dict[str, Any]], status: str, says: str, created: dict[str, Any]
) -> None:
    result = look(*does, guards=guards, created=created, accept_loss=None, **NOTED)
    assert statuses(result)["no_value_lost.orders"] == status
    assert (result["state"] == "refused") is bool(says)
    assert says in result["message"] and result["rows_lost"] == 0


def test_what_the_release_answers_for_needs_no_other_guard(look: Look) -> None:
    answering = {**ANSWERING, "values_of": {"orders": ["note", "done", "twice"]}}
    result = look(WITH_NOTE, guards=[*GUARDS, answering], **NOTED)
    assert (result["state"], "no_value_lost.orders" in statuses(result)) == ("allowed", False)


KIND_OF_ITEM = "ALTER TABLE order_items ADD kind_id int REFERENCES kinds ON DELETE CASCADE"
KIND_OF_ORDER = "ALTER TABLE orders ADD kind_id int REFERENCES kinds"
KINDS: dict[str, Any] = {
    "created": {
        "kinds": {"columns": {"id": {}}},
        "order_items": {"columns": {name: {} for name in ("id", "order_id", "made_by", "kind_id")}},
    }
}
ADDS_COLUMN: dict[str, Any] = {**KINDS, "altered": {"orders": {"columns": {"kind_id": {}}}}}
ADDS_KEY: dict[str, Any] = {**KINDS, "altered": {"orders": {"constraints": {"orders_account_id_fkey": {}}}}}
TO_KINDS = "ALTER TABLE orders ADD FOREIGN KEY (account_id) REFERENCES kinds NOT VALID"
OWN = [
    ("a key between two that it creates", [KIND_OF_ITEM], KINDS),
    ("a column of another table", [KIND_OF_ORDER], ADDS_COLUMN),
    ("a constraint of another table", [TO_KINDS], ADDS_KEY),
    ("a rule", ["CREATE RULE told AS ON DELETE TO kinds DO ALSO SELECT count(*) FROM kinds"], KINDS),
]
OTHERS = [
    ("a key of another table", [KIND_OF_ORDER], KINDS, "constraint orders_kind_id_fkey on table orders"),
    ("beside a column", [KIND_OF_ORDER, TO_KINDS], ADDS_COLUMN, "constraint orders_account_id_fkey on table orders"),
    ("beside a constraint", [KIND_OF_ORDER, TO_KINDS], ADDS_KEY, "constraint orders_kind_id_fkey on table orders"),
    ("a view of both", [KIND_OF_ITEM, "CREATE VIEW both_ AS SELECT FROM kinds, order_items"], KINDS, "view both_"),
]


@pytest.mark.parametrize(("does", "options"), [row[1:] for row in OWN], ids=[row[0] for row in OWN])
def test_what_belongs_to_the_release_may_depend_on_its_tables(
    look: Look, does: list[str], options: dict[str, Any]
) -> None:
    result = look("CREATE TABLE kinds (id int PRIMARY KEY)", *does, **options)
    assert (result["state"], statuses(result)["nothing_depends"]) == ("allowed", "pass")


@pytest.mark.parametrize(("does", "options", "named"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_what_depends_beside_what_is_the_releases_own_is_named_alone(
    look: Look, does: list[str], options: dict[str, Any], named: str
) -> None:
    result = look("CREATE TABLE kinds (id int PRIMARY KEY)", *does, **options)
    assert (result["state"], statuses(result)["nothing_depends"]) == ("refused", "fail")
    assert f"tables that are dropped” failed: {named} would be left without it." in result["message"]


def trigger(does: str, name: str = "sync", of: str = "orders", function: str = "sync()") -> str:
    return (
        f"CREATE FUNCTION {function} RETURNS trigger LANGUAGE plpgsql AS $_$BEGIN {does} RETURN NULL; END$_$;"
        f"CREATE TRIGGER {name} AFTER INSERT ON {of} FOR EACH ROW EXECUTE FUNCTION {function}"
    )


WRITES = "INSERT INTO order_items VALUES (NEW.id, NEW.id);"
SYNC = trigger(WRITES)
SYNCED = "trigger sync of orders (its function sync() mentions order_items)"
PARTS = "CREATE TABLE parts (id serial, d int) PARTITION BY LIST (id); CREATE TABLE parts_1 PARTITION OF parts DEFAULT"
WITH_PARTS: dict[str, Any] = {"created": {"parts": {"columns": {"id": {}, "d": {}}}}}
SPLIT = "CREATE TABLE split (id int) PARTITION BY LIST (id); CREATE TABLE split_1 PARTITION OF split DEFAULT;"
ODD: dict[str, Any] = {"created": {'a"b (c': {"columns": {"id": {}}}}}
DROPS_FUNCTION = "drop function Sync() cascade; -- dbrelease.counted_at"
IN_REVISION: dict[str, Any] = {"revision_files": [{"name": "b2.py", "content": DROPS_FUNCTION}]}
BY_SCRIPT: dict[str, Any] = {"method": "sql", "script": "DELETE FROM orders"}
TRIGGERED: list[tuple[str, list[str], dict[str, Any], str]] = [
    ("writes to it", [SYNC], {}, SYNCED),
    ("in capitals", [trigger(WRITES.upper())], {}, SYNCED),
    ("with its schema", [trigger('PERFORM FROM "public" . "order_items";')], {}, SYNCED),
    ("by a schema of its own", [trigger("EXECUTE format('TABLE %I.order_items', TG_TABLE_SCHEMA);")], {}, SYNCED),
    ("its columns' type", [trigger("PERFORM NULL::order_items; ")], {}, SYNCED),
    (
        "of other names and schemas",
        ["CREATE SCHEMA b", trigger(WRITES, '"a B"', '"Old ones"', 'b."F g"()')],
        {},
        'trigger a B of "Old ones" (its function b."F g"() mentions order_items)',
    ),
    ("only for what is replicated", [SYNC, "ALTER TABLE orders ENABLE REPLICA TRIGGER sync"], {}, SYNCED),
    (
        "of a table with partitions",
        [SPLIT + trigger(WRITES, of="split")],
        {},
        "trigger sync of split (its function sync() mentions order_items)",
    ),
    (
        "of one of its partitions alone",
        [SPLIT + trigger(WRITES, of="split") + "; ALTER TABLE ONLY split DISABLE TRIGGER sync"],
        {},
        "trigger sync of split_1 (its function sync() mentions order_items)",
    ),
    (
        "a partition that goes along",
        [PARTS, trigger("PERFORM FROM parts_1;")],
        WITH_PARTS,
        "trigger sync of orders (its function sync() mentions parts_1)",
    ),
    (
        "a sequence that goes along, and the table",
        [PARTS, trigger("INSERT INTO parts SELECT nextval('parts_id_seq');")],
        WITH_PARTS,
        "trigger sync of orders (its function sync() mentions parts and parts_id_seq)",
    ),
    (
        "an odd name",
        ['CREATE TABLE "a""b (c" (id int)', trigger('PERFORM FROM "a""b (c";')],
        ODD,
        'trigger sync of orders (its function sync() mentions a"b (c)',
    ),
    ("what only the other road deals with", [SYNC], {**BY_SCRIPT, **IN_REVISION}, SYNCED),
    ("a longer name in the release", [SYNC], {**BY_SCRIPT, "script": "SELECT sync_all(), resync()"}, SYNCED),
    ("a longer name", [trigger("PERFORM FROM order_items_archive, old_order_items, order_items$1;")], {}, ""),
    ("another schema's", [trigger('PERFORM FROM archive.order_items, "Archive"."order_items";')], {}, ""),
    ("a column", [trigger("PERFORM NEW.order_items;")], {}, ""),
    ("of the table itself", [trigger(WRITES, of="order_items")], {}, ""),
    ("of its partition", [PARTS, trigger("PERFORM FROM parts;", of="parts_1")], WITH_PARTS, ""),
    ("disabled", [SYNC, "ALTER TABLE orders DISABLE TRIGGER sync"], {}, ""),
    ("no trigger's function", [SYNC, "DROP TRIGGER sync ON orders"], {}, ""),
    ("a function that the release drops", [trigger(WRITES, "other")], IN_REVISION, ""),
    (
        "a trigger that the release's script drops",
        [trigger(WRITES, function="other()")],
        {**BY_SCRIPT, "script": 'DROP TRIGGER "sync" ON orders'},
        "",
    ),
]


@pytest.mark.parametrize(
    ("does", "options", "named"), [row[1:] for row in TRIGGERED], ids=[row[0] for row in TRIGGERED]
)
def test_a_trigger_of_another_table_depends_on_what_its_function_mentions(
    look: Look, does: list[str], options: dict[str, Any], named: str
) -> None:
    result = look('CREATE TABLE "Old ones" (id int)', *does, guards=[COLUMNS], **options)
    assert statuses(result)["nothing_depends"] == ("fail" if named else "pass")
    if named:
        assert f"tables that are dropped” failed: {named} would be left without it." in result["message"]


def test_what_an_extension_brings_along_does_not_depend_on_a_releases_tables(look: Look, session: Session) -> None:
    member = "ALTER EXTENSION plpgsql {} FUNCTION sync()"
    execute(session, SYNC, member.format("ADD"))
    try:
        assert statuses(look())["nothing_depends"] == "pass"
    finally:
        execute(session, member.format("DROP"))
    assert statuses(look())["nothing_depends"] == "fail"


def test_a_table_may_have_capitals_in_its_name(
    look: Look, session: Session, database: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_database, "SETTLE_S", 0.2)
    rows = """SELECT id FROM "Items" WHERE made_by <> 'migration'"""
    declared = {"table": "Items", "key": ["id"], "rows": rows}
    guards = [{**LOSSES, "losses": declared}, {**COLUMNS, "columns": {"Items": ["id"]}}]
    created: dict[str, Any] = {"Items": {"columns": {name: {} for name in ("id", "order_id", "made_by")}}}
    execute(session, 'ALTER TABLE order_items RENAME TO "Items"')
    assert look(guards=guards, created=created)["state"] == "allowed"
    with closing(connect(database, "writer")) as writer:

        def begin_late(cursor: Any, sql: str, *given: Any) -> Any:
            """The writer begins after the open transactions were read."""
            found = select(cursor, sql, *given)
            if sql == in_database.GOING_ON:
                execute(writer, "BEGIN", """INSERT INTO "Items" VALUES (11, 11, 'someone')""")
            return found

        monkeypatch.setattr(in_database, "select", begin_late)
        result = look(guards=guards, created=created)
        monkeypatch.setattr(in_database, "select", select)
    assert statuses(result)["nothing_lost"] == "inconclusive"
    result = look("UPDATE alembic_version SET version_num = 'a1'", guards=guards, created=created)
    assert (result["state"], "but Items exists" in result["message"]) == ("refused", True)


def test_the_very_number_is_accepted_and_covers_only_the_guards_of_rows(look: Look) -> None:
    result = look(SECOND, FOREIGN, accept_loss="2")
    assert (result["state"], result["accepted"], result["rows_lost"]) == ("allowed", True, 2)
    assert statuses(result) == {
        "revision": "pass",
        "nothing_lost": "inconclusive",
        "source": "pass",
        "single": "inconclusive",
        "nothing_depends": "pass",
        "no_other_column": "pass",
    }


def test_rows_of_which_no_losses_are_declared_are_saved_like_the_others(
    look: Look, login_parameters: dict[str, Any], run_parameters: dict[str, Any]
) -> None:
    alone = look(FOREIGN)
    assert alone["losses"] == [LOSSES["losses"]]
    result = look(NOTES, created=WITH_NOTES, accept_loss="3")
    assert (result["state"], result["accepted"], result["rows_lost"]) == ("allowed", True, 3)
    assert result["losses"] == [LOSSES["losses"], {"table": "notes"}]
    # What the release's own downgrade compares names the tables of its own guards alone.
    reported = "dbrelease.counted_in"
    assert result["session_settings"][reported] == alone["session_settings"][reported]
    saved = dropped_rows.act(
        {**login_parameters, "run": run_parameters, "losses": result["losses"], "expected": 3}, False
    )
    assert saved["session_settings"][reported] == alone["session_settings"][reported]
    assert [file["rows"] for file in saved["files"]] == [1, 2]
    assert Path(saved["files"][1]["path"]).read_text() == 'id\tbody\n1\t"only here"\n2\t"only here"\n'


def test_a_row_of_such_a_table_that_is_not_committed_yet_makes_the_number_unknown(
    look: Look, database: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_database, "SETTLE_S", 0.2)
    assert look(NOTES, created=WITH_NOTES)["rows_lost"] == 2
    with closing(connect(database, "slow writer")) as other:
        execute(other, "BEGIN", "INSERT INTO notes VALUES (3, NULL)")
        result = look(created=WITH_NOTES, accept_loss="2")
    assert (result["state"], statuses(result)["no_row_lost.notes"]) == ("refused", "inconclusive")


VALUES_OF: dict[str, Any] = {"values_of": {"orders": ["note"]}}
FILES = [{"name": "a.py", "content": "def downgrade(): ..."}, {"name": "b2.py", "content": "dbrelease.counted_at"}]
COUNTED_AGAIN: list[tuple[str, dict[str, Any], bool]] = [
    ("a revision that looks", {"revision_files": FILES}, True),
    ("a revision that does not look", {"revision_files": FILES[:1]}, False),
    ("a revision that is not the release's to give", {"revision_files": []}, False),
    ("a script that looks", {"method": "sql", "script": "SELECT current_setting('dbrelease.counted_at')"}, True),
    (
        "a script that does not look",
        {"method": "sql", "script": "DROP TABLE order_items", "revision_files": FILES},
        False,
    ),
    ("nothing was counted", {"revision_files": [], "guards": [COLUMNS], "created": {}}, True),
    ("values alone", {"revision_files": [], "guards": [COLUMNS], "created": {}, **NOTED}, False),
    ("values of a guard", {"revision_files": [], "guards": [{**SINGLE, **VALUES_OF}], "created": {}}, False),
    ("values, in a revision that looks", {"guards": [{**SINGLE, **VALUES_OF}], "created": {}}, True),
]


@pytest.mark.parametrize(
    ("options", "quiet"), [row[1:] for row in COUNTED_AGAIN], ids=[row[0] for row in COUNTED_AGAIN]
)
def test_it_reports_where_nothing_looks_for_rows_that_are_written_after_the_count(
    look: Look, options: dict[str, Any], quiet: bool
) -> None:
    result = look(**options)
    assert (result["state"], statuses(result).get("counted_again")) == ("allowed", None if quiet else "inconclusive")


def test_where_it_is_not_deployed_there_is_nothing_to_take_back(look: Look) -> None:
    result = look("DROP TABLE order_items", "UPDATE alembic_version SET version_num = 'a1'")
    assert (result["state"], set(statuses(result).values())) == ("not_deployed", {"skipped"})


def test_a_row_that_is_not_committed_yet_makes_the_number_unknown(
    look: Look, database: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_database, "SETTLE_S", 0.2)
    other = connect(database, "slow writer")
    execute(other, "BEGIN")
    look()
    execute(other, FOREIGN)
    result = look()
    assert (result["state"], statuses(result)["nothing_lost"]) == ("refused", "inconclusive")
    assert 'application "slow writer"' in result["message"]
    execute(other, "COMMIT")
    other.close()
    assert look()["rows_lost"] == 1


NOTE = "UPDATE orders SET note = 'by hand' WHERE id = 1"
HEIRS = "CREATE TABLE heirs () INHERITS (order_items)"
WRITTEN: list[tuple[str, list[str], str, dict[str, Any], str, str]] = [
    ("a value", [WITH_NOTE], NOTE, {"created": {}, **NOTED}, "no_value_lost.orders", "orders"),
    (
        "a value for which a guard answers",
        [WITH_NOTE],
        NOTE,
        {"guards": [*GUARDS, ANSWERING]},
        "notes_known",
        "orders",
    ),
    ("a row of a partition", [PARTS], "INSERT INTO parts_1 VALUES (1, 1)", WITH_PARTS, "no_row_lost.parts", "parts"),
    (
        "a row of a table that inherits",
        [HEIRS],
        FOREIGN.replace("order_items", "heirs"),
        {},
        "nothing_lost",
        "order_items",
    ),
]


@pytest.mark.parametrize(
    ("does", "write", "options", "guard", "table"), [row[1:] for row in WRITTEN], ids=[row[0] for row in WRITTEN]
)
def test_what_is_not_committed_yet_leaves_the_guard_of_its_table_undecided(
    look: Look,
    database: Login,
    monkeypatch: pytest.MonkeyPatch,
    does: list[str],
    write: str,
    options: dict[str, Any],
    guard: str,
    table: str,
) -> None:
    monkeypatch.setattr(in_database, "SETTLE_S", 0.2)
    before = look(*does, **options)
    assert statuses(before)[guard] == "pass"
    with closing(connect(database, "slow writer")) as other:
        execute(other, "BEGIN", write)
        result = look(**options)
        execute(other, "COMMIT")
    assert (result["state"], statuses(result)) == ("refused", {**statuses(before), guard: "inconclusive"})
    assert 'application "slow writer"' in result["message"]
    assert f"has written to {table} and has not committed" in result["message"]
    assert statuses(look(**options))[guard] == "fail"


class Clock:
    """In place of the module's: each time that it waits, what a test does takes place."""

    def __init__(self, does: Callable[[], None]) -> None:
        self.does = does

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, _seconds: float) -> None:
        self.does()


@pytest.mark.parametrize(("table", "state"), [("orders", "allowed"), ("order_items", "refused")])
def test_a_table_that_always_has_a_writer_is_undecided_only_where_rows_are_counted(
    look: Look, database: Login, monkeypatch: pytest.MonkeyPatch, table: str, state: str
) -> None:
    look(WITH_NOTE, **NOTED)
    write = f"UPDATE {table} SET id = id WHERE id = {{}}"
    with closing(connect(database, "writer 1")) as first, closing(connect(database, "writer 2")) as second:
        writers = [first, second]
        execute(first, "BEGIN", write.format(1))

        def next_begins() -> None:
            ending, beginning = writers
            writers.reverse()
            execute(beginning, "BEGIN", write.format(1 + writers.index(first)))
            execute(ending, "COMMIT")

        monkeypatch.setattr(in_database, "SETTLE_S", 1.0)
        monkeypatch.setattr(in_database, "time", Clock(next_begins))
        assert look(**NOTED)["state"] == state


def test_who_went_on_before_and_writes_only_while_another_is_awaited_is_seen(
    look: Look, database: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(WITH_NOTE, **NOTED)
    with closing(connect(database, "short")) as short, closing(connect(database, "slow writer")) as slow:
        execute(short, "BEGIN", "UPDATE orders SET id = id WHERE id = 2")
        execute(slow, "BEGIN", "SELECT FROM orders")

        def slow_writes() -> None:
            execute(slow, NOTE)
            execute(short, "ROLLBACK")

        monkeypatch.setattr(in_database, "SETTLE_S", 0.5)
        monkeypatch.setattr(in_database, "time", Clock(slow_writes))
        result = look(**NOTED)
    assert (result["state"], statuses(result)["no_value_lost.orders"]) == ("refused", "inconclusive")
    assert 'application "slow writer"' in result["message"] and 'application "short"' not in result["message"]


def test_whoever_keeps_a_table_for_itself_is_named_and_not_awaited_for_long(
    look: Look, database: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_database, "LOCK_WAIT_S", 0.5)
    look()
    other = connect(database, "keeper")
    execute(other, "BEGIN", "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
    guards = [{**SINGLE, "violations": "SELECT id FROM orders WHERE account_id IS NULL"}, LOSSES]
    result = look(guards=guards)
    assert (result["state"], statuses(result)["single"]) == ("refused", "inconclusive")
    assert "blocked by pid" in result["message"] and 'application "keeper"' in result["message"]
    other.close()
    assert look(guards=guards)["state"] == "allowed"


@pytest.fixture
def api() -> Iterator[tuple[str, dict[str, Any]]]:
    """An API whose answers a test sets by path."""
    answers: dict[str, Any] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path)
            body = json.dumps(found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    server.server_close()


ANSWERS = {"name": "a", "title": "A", "answers": {"path": "/orders", "keys": ["items"]}, "road": "R."}
OPENAPI = {
    "name": "o",
    "title": "O",
    "openapi": {"path": "/openapi.json", "paths": ["/orders/[^/]+/items"], "properties": ["items"]},
    "road": "R.",
}


def wrapped(items: str) -> dict[str, Any]:
    return {**ANSWERS, "answers": {"path": "/orders", "keys": ["items"], "items": items}}


OLD_SCHEMA = {"components": {"schemas": {"Order": {"properties": {"id": {}}}}}, "paths": {"/orders": {}}}
NEW_SCHEMA = {"components": {"schemas": {"Order": {"properties": {"items": {}}}}}, "paths": {"/orders": {}}}
SEEN = [
    (ANSWERS, {"/orders": [{"id": 1}]}, "pass"),
    (ANSWERS, {"/orders": []}, "inconclusive"),
    (ANSWERS, {"/orders": [1]}, "inconclusive"),
    (ANSWERS, {"/orders": [{"id": 1, "parts": [{"items": 2}]}]}, "fail"),
    (ANSWERS, {"/orders": {"id": 1}}, "pass"),
    (ANSWERS, {"/orders": {"rows": [{"id": 1}], "total": 1}}, "inconclusive"),
    (ANSWERS, {"/orders": {"rows": [{"items": 1}], "total": 1}}, "fail"),
    (wrapped("rows"), {"/orders": {"rows": [{"id": 1}], "items": 1}}, "pass"),
    (wrapped("rows"), {"/orders": {"rows": [{"id": 1}, {"items": []}]}}, "fail"),
    (wrapped("rows"), {"/orders": {"rows": []}}, "inconclusive"),
    (wrapped("rows"), {"/orders": {"rows": {"id": 1}}}, "inconclusive"),
    (wrapped("rows"), {"/orders": {"data": [{"id": 1}]}}, "inconclusive"),
    (wrapped("rows"), {"/orders": [{"id": 1}]}, "inconclusive"),
    (wrapped("/data/a~1b"), {"/orders": {"data": {"a/b": [{"id": 1}]}}}, "pass"),
    (wrapped("/data/a~1b"), {"/orders": {"data": {"a/b": [{"items": 1}]}}}, "fail"),
    (wrapped("/data/0"), {"/orders": {"data": [[{"id": 1}]]}}, "pass"),
    (wrapped("/data/0"), {"/orders": {"data": []}}, "inconclusive"),
    (wrapped(""), {"/orders": {"id": 1, "lines": [{"n": 1}]}}, "pass"),
    (ANSWERS, {"/orders": [{"id": 1}, {"items": []}]}, "fail"),
    (ANSWERS, {}, "inconclusive"),
    (ANSWERS, {"/orders": "text"}, "inconclusive"),
    (OPENAPI, {"/openapi.json": OLD_SCHEMA}, "pass"),
    (OPENAPI, {"/openapi.json": NEW_SCHEMA}, "fail"),
    (OPENAPI, {"/openapi.json": {**OLD_SCHEMA, "paths": {"/orders/{id}/items": {}}}}, "fail"),
    (OPENAPI, {"/openapi.json": []}, "inconclusive"),
    (OPENAPI, {}, "inconclusive"),
]


@pytest.mark.parametrize(("guard", "answers", "status"), SEEN)
def test_guards_of_the_api(
    api: tuple[str, dict[str, Any]], guard: dict[str, Any], answers: dict[str, Any], status: str
) -> None:
    url, set_answers = api
    set_answers.update(answers)
    assert Services(url, {}, 5).look(guard).status == status


@pytest.mark.parametrize("guard", [ANSWERS, OPENAPI])
def test_an_api_that_is_down_is_undecided_and_one_that_is_not_named_is_skipped(guard: dict[str, Any]) -> None:
    assert Services("http://127.0.0.1:9", {}, 5).look(guard).status == "inconclusive"
    assert Services("", {}, 5).look(guard).status == "skipped"


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    """A container with a log: a line, a pause, and another."""
    client, name = docker.from_env(), f"test_{secrets.token_hex(6)}"
    made = client.containers.run(
        "drawing-base:bookworm",
        ["sh", "-c", "echo early GET /items; sleep 1.5; echo late GET /orders; exec sleep 120"],
        name=name,
        detach=True,
        environment={"PHASE": "B"},
        labels={"phase": "b"},
    )
    deadline = time.monotonic() + 60
    while b"late" not in made.logs():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield name
    made.remove(force=True)
    client.close()


def container_guard(**declared: Any) -> dict[str, Any]:
    return {"name": "c", "title": "C", "container": {"service": "web", **declared}, "road": "R."}


def log_guard(pattern: str) -> dict[str, Any]:
    return {"name": "l", "title": "L", "log": {"service": "web", "pattern": pattern}, "road": "R."}


@pytest.mark.parametrize(
    ("declared", "status"),
    [
        ({"environment": {"PHASE": "A"}, "labels": {"phase": "a"}, "image": "phase-b"}, "pass"),
        ({"environment": {"PHASE": "b "}}, "fail"),
        ({"labels": {"phase": "B"}}, "fail"),
        ({"image": "base:bookworm$"}, "fail"),
    ],
)
def test_guards_of_a_container(container: str, declared: dict[str, Any], status: str) -> None:
    assert Services("", {"web": container}, 5).look(container_guard(**declared)).status == status


def test_guards_of_a_log(container: str) -> None:
    client = docker.from_env()
    first = client.containers.get(container).logs(timestamps=True).decode().split()[0][:23] + "+00:00"
    client.close()

    def look(pattern: str, since: str, accept: bool = False) -> GuardResult:
        return Services("", {"web": container}, 5, since, accept).look(log_guard(pattern))

    assert look("GET /items", "").status == "fail"
    assert look("POST", "").status == "inconclusive"  # nobody knows since when
    long_ago = look("POST", "2020-01-01T00:00:00.000+00:00")
    assert (long_ago.status, "created again" in long_ago.detail) == ("inconclusive", True)
    assert look("POST", "2020-01-01T00:00:00.000+00:00", accept=True).status == "pass"
    assert look("GET /orders", "2020-01-01T00:00:00.000+00:00", accept=True).status == "fail"
    silent = look("POST", "2099-01-01T00:00:00.000+00:00")
    assert (silent.status, "the log has no line since then" in silent.detail) == ("inconclusive", True)
    unseen = look("POST", first)
    assert (unseen.status, "no api_base_url" in unseen.detail) == ("inconclusive", True)
    past = f"{first[:17]}{int(first[17:19]) + 1:02}{first[19:]}" if int(first[17:19]) < 59 else ""
    if past:
        assert look("GET /items", past, accept=True).status == "pass"
        assert look("GET /orders", past).status == "fail"


@pytest.fixture
def replicas() -> Iterator[tuple[str, str]]:
    """Two containers of one Compose service: only the second has the variable, and a line in its log."""
    client, project = docker.from_env(), f"test_{secrets.token_hex(6)}"
    labels = {"com.docker.compose.project": project, "com.docker.compose.service": "web"}
    made = [
        client.containers.run(
            "drawing-base:bookworm",
            ["sh", "-c", f"echo {said}; exec sleep 120"],
            name=f"{project}_{number}",
            detach=True,
            environment=variables,
            labels={**labels, **more},
        )
        for number, said, variables, more in (
            (1, "GET /items", {}, {}),
            (2, "GET /orders", {"PHASE": "B"}, {}),
            (3, "GET /once", {"PHASE": "C"}, {"com.docker.compose.oneoff": "True"}),
        )
    ]
    deadline = time.monotonic() + 60
    while not all(one.logs() for one in made):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield f"{project}_1", f"{project}_2"
    for one in made:
        one.remove(force=True)
    client.close()


def test_each_container_of_a_service_is_checked_by_a_guard(replicas: tuple[str, str]) -> None:
    first, second = replicas
    services = Services("", {"web": first}, 5, "2020-01-01T00:00:00.000+00:00", accept_log_gap=True)
    newer = services.look(container_guard(environment={"PHASE": "B"}))
    assert (newer.status, second in newer.detail) == ("fail", True), newer
    assert services.look(container_guard(environment={"PHASE": "C"})).status == "pass"
    asked = services.look(log_guard("GET /orders"))
    assert (asked.status, second in asked.detail, len(asked.sample)) == ("fail", True, 1), asked
    assert services.look(log_guard("GET /once")).status == "pass"
    # One that was stopped has its log, but is not the application any more.
    client = docker.from_env()
    client.containers.get(second).kill()
    client.close()
    assert services.look(container_guard(environment={"PHASE": "B"})).status == "pass"
    assert services.look(log_guard("GET /orders")).status == "fail"


def test_a_log_that_cannot_be_read_refuses_until_that_is_accepted() -> None:
    client = docker.from_env()
    name, unreadable = f"test_{secrets.token_hex(6)}", docker.types.LogConfig(type="none")
    made = client.containers.create("drawing-base:bookworm", ["sleep", "120"], name=name, log_config=unreadable)
    try:
        made.start()
        refused = Services("", {"web": name}, 5).look(log_guard("x"))
        accepted = Services("", {"web": name}, 5, accept_log_gap=True).look(log_guard("x"))
    finally:
        made.remove(force=True)
        client.close()
    words = "does not support reading" in refused.detail and "accept_log_gap" in refused.detail
    assert (refused.status, words) == ("inconclusive", True), refused
    assert (accepted.status, "It was accepted" in accepted.detail) == ("pass", True), accepted


SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[]")
    def log_request(self, *_):
        {log}
print("up", file=sys.stderr, flush=True)
http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""
EVERYTHING = "print(self.requestline, file=sys.stderr, flush=True)"
PATHS = "print(self.path.partition('?')[0], file=sys.stderr, flush=True)"
KNOWN = "self.path.startswith('/orders') and print(self.path, file=sys.stderr, flush=True)"
NOTHING = "print('tick', file=sys.stderr, flush=True)"


@pytest.fixture
def logging(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """The container of an API that logs its requests as a test says, and the API's address."""
    client, name = docker.from_env(), f"test_{secrets.token_hex(6)}"
    image = client.images.list(filters={"reference": "drawing-backend*"})[0]
    command = ["python3", "-c", SERVER.format(log=request.param)]
    made = client.containers.run(image, command, entrypoint=[], name=name, detach=True)
    deadline = time.monotonic() + 30
    while b"up" not in made.logs() and time.monotonic() < deadline:
        time.sleep(0.05)
    made.reload()
    (network,) = made.attrs["NetworkSettings"]["Networks"].values()
    yield name, f"http://{network['IPAddress']}:8000"
    made.remove(force=True)
    client.close()


@pytest.mark.parametrize(
    ("logging", "status"),
    [(EVERYTHING, "pass"), (PATHS, "pass"), (KNOWN, "pass"), (NOTHING, "inconclusive")],
    indirect=["logging"],
)
def test_a_log_without_the_requests_shows_nothing_of_them(
    logging: tuple[str, str], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_services, "PROBE_WAIT_S", 30.0 if status == "pass" else 1.0)
    name, url = logging
    client = docker.from_env()
    begun = client.containers.get(name).logs(timestamps=True).decode().split()[0][:23] + "+00:00"
    client.close()

    def services(**options: Any) -> Services:
        return Services(url, {"web": name}, 5, begun, paths=("/orders?limit=1",), **options)

    guard = log_guard("/orders/[^/]+/items")
    seen = services().look(guard)
    assert (seen.status, "requests are not logged there" in seen.detail) == (status, status != "pass"), seen
    assert services().try_out(guard).status == status
    accepted = services(accept_log_gap=True).look(guard)
    assert (accepted.status, "It was accepted" in accepted.detail) == ("pass", status != "pass")
    assert services().look(log_guard("up")).status == "fail"


# A line of a log, and what a message has of it.
SHOWN = [
    ('web "GET /orders/7/items?access_token=s3cret&x=1 HTTP/1.1" 200', 'web "GET /orders/7/items?... HTTP/1.1" 200'),
    ("web GET /orders/7/items?access_token=s3cret", "web GET /orders/7/items?..."),
    ('{"path":"/orders/7/items","query_string": "token=s3cret"}', '{"path":"/orders/7/items","query_string": "..."}'),
    ("web 'GET /orders/7/items?token=s3cret' 200", "web '?' 200"),
    ("\x1b[1mGET /orders/7/items\x1b[0m for http://ann:s3cret@web/", "GET /orders/7/items for http://ann:***@web/"),
    ("GET /orders/7/items by s3cret", "GET /orders/7/items by ***"),
    ("/orders/" + "7" * 400, "/orders/" + "7" * 192),
]


@pytest.mark.parametrize(("line", "is_shown"), SHOWN)
def test_a_line_of_a_log_is_shown_without_what_a_client_sent(line: str, is_shown: str) -> None:
    assert shown(line, "s3cret") == is_shown


def test_the_lines_of_a_refusal_are_shown_so(container: str) -> None:
    (line, *_) = Services("", {"web": container}, 5, secret="early").look(log_guard("GET /items")).sample
    assert "*** GET /items" in line["line"]


@pytest.mark.parametrize("guard", [container_guard(labels={"a": "b"}), log_guard("x")])
def test_a_container_that_is_missing_is_undecided_and_one_that_is_not_named_is_skipped(guard: dict[str, Any]) -> None:
    assert Services("", {"web": "no_such_container"}, 5).look(guard).status == "inconclusive"
    assert Services("", {"web": ""}, 5).look(guard).status == "skipped"


def test_what_cannot_be_decided_refuses_also_where_all_else_holds() -> None:
    verdict = judge([(ANSWERS, GuardResult("pass", "")), (OPENAPI, GuardResult("inconclusive", "No answer."))], None)
    assert (verdict.state, verdict.message) == (
        "refused",
        f"1) “O” could not be determined: No answer. {UNDECIDED['openapi']}",
    )


UNDECLARED: dict[str, tuple[list[str], dict[str, str], str]] = {
    "a table": (
        [NOTES],
        {"no_row_lost.public.notes": "fail"},
        "2 rows would be lost. Among them: id 1, body only here",
    ),
    "an empty table": (["CREATE TABLE notes ()"], {"no_row_lost.public.notes": "pass"}, ""),
    "a partitioned table": (
        [
            "CREATE TABLE notes (id int) PARTITION BY RANGE (id); CREATE TABLE notes_1 PARTITION OF notes DEFAULT",
            "INSERT INTO notes VALUES (1)",
        ],
        {"no_row_lost.public.notes": "fail"},
        "1 row would be lost. Among them: id 1",
    ),
    "a view on a table": (
        ["CREATE TABLE notes (id int)"],
        {"no_row_lost.public.notes": "pass", "nothing_depends": "fail"},
        "view latest would be left without it",
    ),
    "a column": (
        ["ALTER TABLE orders ADD note text; UPDATE orders SET note = 'x' WHERE id = 3"],
        {"no_value_lost.public.orders": "fail"},
        "1 row would lose one. Among them: id 3, note x",
    ),
    "an empty column": (["ALTER TABLE orders ADD note text"], {"no_value_lost.public.orders": "pass"}, ""),
    "an index": (["CREATE INDEX ON orders (account_id)"], {}, ""),
}


@pytest.mark.parametrize("by", ["migration", "others"])
@pytest.mark.parametrize(("does", "ends", "says"), UNDECLARED.values(), ids=UNDECLARED.keys())
def test_what_the_migration_added_and_no_release_declares_is_guarded_as_if_it_were(
    look: Look,
    session: Session,
    database: Login,
    run_parameters: dict[str, Any],
    does: list[str],
    ends: dict[str, str],
    says: str,
    by: str,
) -> None:
    journal = Journal(Run(**run_parameters))
    execute(session, "DROP TABLE order_items")
    with transaction(session, read_only=True, isolation="REPEATABLE READ") as cursor:
        journal.append("baseline", "passed", read_baseline(cursor, [], "alembic_version").facts)
    before = read_counters_before(database)
    mine = does if by == "migration" else []
    execute(session, "BEGIN", *mine, "UPDATE alembic_version SET version_num = 'b2'", "COMMIT")
    journal.append("upgrade", "passed", {"before": before, "after": read_counters(database)})
    execute(session, *(does if by == "others" else []))
    if "nothing_depends" in ends:
        execute(session, "CREATE VIEW latest AS SELECT id FROM notes")
    result = look(guards=[], created={}, declares_tables=False)
    ends = ends if by == "migration" else {}
    assert statuses(result) == {"revision": "pass", "added": "pass", **with_dependents(ends)}, result
    assert result["state"] == ("refused" if "fail" in ends.values() else "allowed"), result["message"]
    assert by == "others" or says in result["message"]


def with_dependents(ends: dict[str, str]) -> dict[str, str]:
    """Where a table would be dropped, what depends on it was checked."""
    return {"nothing_depends": "pass", **ends} if any("row_lost" in name for name in ends) else ends


@pytest.mark.parametrize(("since", "status"), [({}, ""), ({"database_oid": 1}, "fail")], ids=["the same", "restored"])
def test_what_was_added_is_guarded_where_the_database_was_restored_since(
    look: Look, session: Session, database: Login, run_parameters: dict[str, Any], since: dict[str, int], status: str
) -> None:
    """A restore creates all tables, so that by its transactions another session added each."""
    journal = Journal(Run(**run_parameters))
    with transaction(session, read_only=True, isolation="REPEATABLE READ") as cursor:
        journal.append("baseline", "passed", {**read_baseline(cursor, [], "alembic_version").facts, **since})
    before = read_counters_before(database)
    execute(session, "UPDATE alembic_version SET version_num = 'b2'")
    journal.append("upgrade", "passed", {"before": before, "after": read_counters(database)})
    result = look(NOTES, guards=[], created={}, declares_tables=False)
    assert statuses(result).get("no_row_lost.public.notes", "") == status


FOR_EVER = {
    "a table": (["DROP TABLE orders"], "public.orders"),
    "a column": (["ALTER TABLE orders DROP account_id"], "public.orders.account_id"),
}


@pytest.mark.parametrize("by", ["migration", "others"])
@pytest.mark.parametrize(("does", "named"), FOR_EVER.values(), ids=FOR_EVER.keys())
def test_what_a_downgrade_cannot_bring_back_holds_the_automatic_way(
    look: Look, session: Session, database: Login, run_parameters: dict[str, Any], does: list[str], named: str, by: str
) -> None:
    journal = Journal(Run(**run_parameters))
    with transaction(session, read_only=True, isolation="REPEATABLE READ") as cursor:
        journal.append("baseline", "passed", read_baseline(cursor, [], "alembic_version").facts)
    before = read_counters_before(database)
    mine = does if by == "migration" else []
    execute(session, "BEGIN", *mine, "UPDATE alembic_version SET version_num = 'b2'", "COMMIT")
    journal.append("upgrade", "passed", {"before": before, "after": read_counters(database)})
    execute(session, *(does if by == "others" else []))
    result = look(automatic=True, guards=[LOSSES])
    assert statuses(result)["nothing_gone"] == ("fail" if by == "migration" else "pass")
    assert result["state"] == ("refused" if by == "migration" else "allowed"), result["message"]
    if by == "migration":
        assert f"Missing since the baseline: {named}" in result["message"]
        assert "run playbooks/restore.yml with the inventory of this run and -e release=sample." in result["message"]
        command = "ansible-playbook restore.yml -i hosts.yml -e release=sample"
        assert f"contains it: {command}." in look(automatic=True, guards=[LOSSES], restore_command=command)["message"]
        assert look(guards=[LOSSES])["state"] == "allowed"  # whoever asks for it, knows


def test_a_release_that_is_not_reversible_is_not_rolled_back(look: Look) -> None:
    result = look(reversible="false")
    assert (result["state"], set(statuses(result).values()) - {"pass"}) == ("refused", {"skipped"})
    assert "the release declares reversible: false" in result["message"]
    assert "restore the backup from before the release (" in result["message"]


def test_of_a_lossy_one_the_automatic_way_holds_and_the_other_names_what_does_not_come_back(
    look: Look, session: Session, run_parameters: dict[str, Any]
) -> None:
    execute(session, "CREATE TABLE old (id int)", "INSERT INTO old VALUES (1), (2)", "ALTER TABLE orders ADD note text")
    execute(session, "UPDATE orders SET note = 'x' WHERE id < 3")
    journal, changed = Journal(Run(**run_parameters)), {"orders": {"columns": {"note": None}}}
    with transaction(session, read_only=True, isolation="REPEATABLE READ") as cursor:
        journal.append("baseline", "passed", read_baseline(cursor, [], "alembic_version", changed).facts)
    journal.append("backup", "passed", {"path": "/state/x.dump", "manifest": "", "sha256": "", "bytes": 1})
    execute(session, "UPDATE alembic_version SET version_num = 'b2'", "ALTER TABLE orders DROP note", "DROP TABLE old")
    given: dict[str, Any] = {"reversible": "lossy", "changed": changed, "dropped": ["old"], "guards": [LOSSES]}
    held = look(automatic=True, **given)
    assert (held["state"], "declares reversible: lossy" in held["message"]) == ("refused", True)
    result = look(**given)
    (proof,) = (one for one in result["proofs"] if one["name"] == "guard.lossy")
    assert (result["state"], proof["status"]) == ("allowed", "pass"), result["message"]
    assert proof["detail"] == (
        "Not brought back: 2 values of public.orders.note, 2 rows of public.old. They are in /state/x.dump."
    )
