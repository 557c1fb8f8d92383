"""reconcile: each trouble is made for real, seen, put right once, and never at the cost of a row or of a writer."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest
import shared_database
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.outcome import judge
from ansible.module_utils.dbrelease.core.stages import stages_of
from ansible.module_utils.dbrelease.postgres.orphan_table import diagnose, is_unchanged
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from own_sessions import connect
from reconcile import act
from waits import until

database, emptied = shared_database.database, shared_database.emptied
Session = psycopg2.extensions.connection

BEFORE = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('a1');
CREATE TABLE accounts (id int PRIMARY KEY);
INSERT INTO accounts SELECT generate_series(1, 4);
CREATE TABLE orders (id int PRIMARY KEY, account_id int REFERENCES accounts (id) ON DELETE SET NULL);
INSERT INTO orders SELECT n, 1 + n % 4 FROM generate_series(1, 20) AS n;
"""
TABLE = """
CREATE TABLE links (order_id int NOT NULL, account_id int NOT NULL, by text);
INSERT INTO links SELECT id, account_id, 'release' FROM orders;
ALTER TABLE links ADD CONSTRAINT links_pkey PRIMARY KEY (order_id, account_id);
"""
KEYS = """
ALTER TABLE links ADD CONSTRAINT links_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id) ON DELETE CASCADE,
  ADD CONSTRAINT links_account_fkey FOREIGN KEY (account_id) REFERENCES accounts (id) ON DELETE CASCADE;
"""
DEPLOYED = f"{BEFORE} {TABLE} {KEYS} UPDATE alembic_version SET version_num = 'b2';"
FILL = """
WITH added AS (
  INSERT INTO links SELECT id, account_id, 'release' FROM orders WHERE account_id IS NOT NULL ON CONFLICT DO NOTHING)
DELETE FROM links l WHERE by = 'release' AND NOT EXISTS (
  SELECT FROM orders o WHERE (o.id, o.account_id) = (l.order_id, l.account_id))
"""
PENDING = """
SELECT (SELECT count(*) FROM orders o WHERE account_id IS NOT NULL AND NOT EXISTS (
          SELECT FROM links l WHERE (o.id, o.account_id) = (l.order_id, l.account_id)))
     + (SELECT count(*) FROM links l WHERE by = 'release' AND NOT EXISTS (
          SELECT FROM orders o WHERE (o.id, o.account_id) = (l.order_id, l.account_id))) AS pending
"""
SAME = """
(SELECT order_id, account_id FROM links EXCEPT SELECT id, account_id FROM orders)
UNION ALL (SELECT id, account_id FROM orders WHERE account_id IS NOT NULL EXCEPT SELECT order_id, account_id FROM links)
"""
LOSSES = """
SELECT l.* FROM links l WHERE by IS DISTINCT FROM 'release' OR NOT EXISTS (
  SELECT FROM orders o WHERE (o.id, o.account_id) = (l.order_id, l.account_id))
"""


def key(column: str, table: str) -> dict[str, Any]:
    references = {"table": table, "columns": ["id"]}
    return {"type": "foreign_key", "columns": [column], "references": references, "on_delete": "cascade"}


RELEASE: dict[str, Any] = {
    "from_revision": "a1",
    "to_revision": "b2",
    "created": {
        "links": {
            "columns": {
                "order_id": {"type": "integer", "nullable": False},
                "account_id": {"type": "integer", "nullable": False},
                "by": {"type": "text", "nullable": True},
            },
            "constraints": {
                "links_pkey": {"type": "primary_key", "columns": ["order_id", "account_id"]},
                "links_order_fkey": key("order_id", "orders"),
                "links_account_fkey": key("account_id", "accounts"),
            },
        }
    },
    "repairs": {
        "leftover": {"links": {"writers": "SELECT by, count(*) FROM links GROUP BY 1 ORDER BY 1", "losses": LOSSES}},
        "steps": ["fill"],
    },
    "steps": [
        {"name": "fill", "title": "Fill", "sql": FILL, "pending": PENDING, "proves": ["same"]},
        {"name": "never", "title": "Never run", "sql": "DROP TABLE orders", "pending": "SELECT 1 AS pending"},
    ],
    "checks": [{"name": "same", "title": "The pairs are the same, both ways", "violations": SAME}],
    "accept_loss": None,
    "label": "b",
    "lock": {"timeout_ms": 200, "attempts": 3, "deadline_seconds": 10},
    "services": {"guards": [], "containers": {}, "api_base_url": "", "timeout_seconds": 5.0},
}


class World:
    """A database that sql was run in, and the module over it."""

    def __init__(self, session: Session, parameters: dict[str, Any]) -> None:
        self.session, self.parameters = session, parameters

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        with self.session.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def reconcile(self, *, check_mode: bool = False, **changes: Any) -> dict[str, Any]:
        accepted = changes.get("accept_loss")  # as Ansible hands it over
        given = {**changes, "accept_loss": None if accepted is None else str(accepted)}
        return act({**self.parameters, **given}, check_mode)

    def refused(self, *, check_mode: bool = False, **changes: Any) -> ReleaseError:
        with pytest.raises(ReleaseError) as caught:
            self.reconcile(check_mode=check_mode, **changes)
        return caught.value

    def state(self) -> list[tuple[Any, ...]]:
        """Catalog and rows."""
        tables = [
            name for (name,) in self.run("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        ]
        rows = [(name, *self.run(f"SELECT array_agg(t::text ORDER BY t::text) FROM {name} t")) for name in tables]
        return rows + self.run(
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2"
        )

    def files(self) -> list[Path]:
        return sorted(Path(self.parameters["run"]["state_dir"]).glob("lost_rows*"))

    def journal(self) -> list[dict[str, Any]]:
        path = Path(self.parameters["run"]["state_dir"]) / "journal.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def outcome(self, *more: str) -> str:
        lines = [*self.journal(), *({"step": step, "event": "passed", "facts": {}} for step in more)]
        return judge(stages_of(lines), None, None, check_mode=False, title="T", environment="e").outcome


@pytest.fixture
def world(session: Session, login_parameters: dict[str, Any], run_parameters: dict[str, Any]) -> World:
    return World(session, {**RELEASE, **login_parameters, "run": run_parameters})


@pytest.fixture
def before(world: World) -> World:
    world.run(BEFORE)
    return world


@pytest.fixture
def deployed(world: World) -> World:
    world.run(DEPLOYED)
    return world


def no_links(world: World) -> bool:
    return world.run("SELECT to_regclass('links') IS NULL") == [(True,)]


# Nothing to do


@pytest.mark.parametrize(("sql", "state"), [(BEFORE, "before"), (DEPLOYED, "deployed")])
def test_what_is_in_line_is_left_alone(world: World, sql: str, state: str) -> None:
    world.run(sql)
    was = world.state()
    result = world.reconcile()
    assert (result["changed"], result["state"], result["repaired"], result["message"]) == (False, state, [], "")
    assert {proof["status"] for proof in result["proofs"]} == {"pass"}
    assert world.state() == was
    assert world.outcome("verify") == {"before": "rolled_back", "deployed": "already_deployed"}[state]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("UPDATE alembic_version SET version_num = 'c3'", "is at c3, and reconcile supports only a1 and b2"),
        ("INSERT INTO alembic_version VALUES ('b2')", "is at a1, b2"),
        ("DELETE FROM alembic_version", "no revision"),
        ("DROP TABLE alembic_version", "no revision"),
        ("UPDATE alembic_version SET version_num = 'b2'", "no table links"),
    ],
)
def test_a_revision_that_it_does_not_know_is_refused(before: World, sql: str, says: str) -> None:
    before.run(sql)
    was = before.state()
    error = before.refused()
    assert says in error.message and error.refused
    assert before.state() == was and before.outcome() == "refused"


# A table that is there too early

FOREIGN = "CREATE TABLE links (whatever text); INSERT INTO links VALUES ('precious'), ('more')"
STALE = TABLE + "UPDATE orders SET account_id = 4 WHERE id = 1;"
EXTRA = TABLE + "ALTER TABLE links ADD note text; UPDATE links SET note = 'precious' WHERE order_id = 1;"
LOST = [  # what the table is, how many rows would be lost with it, and what is said of them
    ("by another", TABLE + "UPDATE links SET by = 'ann' WHERE order_id < 4", 3, "by ann, count 3"),
    ("by nobody", TABLE + "UPDATE links SET by = NULL WHERE order_id = 4", 1, "by None, count 1"),
    ("not so any more", STALE, 1, "1 row would be lost"),
    ("foreign columns", FOREIGN, 2, "whatever precious"),
    ("a column more", EXTRA, 20, "its columns are not those that the release declares"),
    (
        "values that Python has no form for",
        "CREATE TABLE links (declared interval, far date); INSERT INTO links VALUES ('26 hours', '0044-03-15 BC')",
        1,
        "declared PT26H, far 0044-03-15 BC",
    ),
    ("another type", TABLE + "ALTER TABLE links ALTER by TYPE varchar(9)", 20, "cannot be judged"),
]
LOST_IDS = [row[0] for row in LOST]


@pytest.mark.parametrize(
    "sql", ["CREATE TABLE links (whatever serial)", TABLE, TABLE + KEYS], ids=["empty", "derivable", "with keys"]
)
def test_a_table_with_which_nothing_is_lost_is_dropped(before: World, sql: str) -> None:
    was = before.state()
    before.run(sql)
    planned = before.reconcile(check_mode=True)
    assert planned["changed"] and 'DROP TABLE "links"' in planned["diff"]["after"]
    assert not no_links(before) and not before.journal()
    done = before.reconcile()
    assert done["changed"] and done["repaired"] == ["dropped links"] and done["diff"] == planned["diff"]
    assert before.state() == was and not before.files()
    assert not before.reconcile()["changed"]
    assert before.outcome() == "rolled_back"


@pytest.mark.parametrize("check_mode", [False, True])
@pytest.mark.parametrize(("sql", "losses", "says"), [row[1:] for row in LOST], ids=LOST_IDS)
def test_rows_that_would_be_lost_are_counted_and_shown(
    before: World, sql: str, losses: int, says: str, check_mode: bool
) -> None:
    before.run(sql)
    was = before.state()
    for accepted in (None, losses + 1, 0, -losses, "many", f"{losses}.0", ""):
        error = before.refused(check_mode=check_mode, accept_loss=accepted)
        assert error.refused and says in error.message and f"accept_loss={losses}" in error.message
        assert error.facts["leftovers"][0]["losses"] == losses
    assert before.state() == was and not before.files()


@pytest.mark.parametrize(("sql", "losses", "says"), [row[1:] for row in LOST], ids=LOST_IDS)
def test_the_very_number_saves_the_rows_and_drops_the_table(before: World, sql: str, losses: int, says: str) -> None:
    before.run(sql)
    rows = before.run("SELECT * FROM links")
    done = before.reconcile(accept_loss=losses)
    assert no_links(before)
    (saved,) = done["saved"]
    lines = Path(saved["path"]).read_text().splitlines()[1:]
    assert saved["rows"] == len(lines) == losses
    assert set(lines) <= {"\t".join("\\N" if value is None else str(value) for value in row) for row in rows}
    assert Path(saved["replay"]).is_file() and len(before.files()) == 2
    assert not before.reconcile(accept_loss=losses)["changed"] and len(before.files()) == 2


def losing(sql: str) -> dict[str, Any]:
    return {"leftover": {"links": {"losses": sql}}, "steps": []}


@pytest.mark.parametrize(
    "columns",
    ["l.order_id", "l.*, o.account_id", "l.*, o.id", "l.order_id, l.by"],
    ids=["one", "one twice", "more", "two"],
)
def test_of_rows_that_are_not_whole_every_one_is_saved_whole(before: World, columns: str) -> None:
    before.run(TABLE + "UPDATE links SET by = 'ann' WHERE order_id < 4")
    repairs = losing(f"SELECT {columns} FROM links l JOIN orders o ON o.id = l.order_id WHERE by = 'ann'")
    assert "the release's query does not return whole rows" in before.refused(repairs=repairs, accept_loss=3).message
    (saved,) = before.reconcile(repairs=repairs, accept_loss=20)["saved"]
    lines = Path(saved["path"]).read_text().splitlines()
    assert lines[0] == "order_id\taccount_id\tby" and len(lines) == 21


def test_whole_rows_may_have_their_columns_in_any_order(before: World) -> None:
    before.run(TABLE + "UPDATE links SET by = 'ann' WHERE order_id = 3")
    repairs = losing("SELECT by, order_id, account_id FROM links WHERE by = 'ann';")
    (saved,) = before.reconcile(repairs=repairs, accept_loss=1)["saved"]
    assert Path(saved["path"]).read_text() == "by\torder_id\taccount_id\nann\t3\t4\n"


def test_a_column_is_not_taken_for_the_row_of_its_name(before: World, session: Session) -> None:
    before.run("CREATE TABLE links (lost int, more text); INSERT INTO links VALUES (1, 'one')")
    fingerprints = set()
    for more in ("one", "other"):
        before.run(f"UPDATE links SET more = '{more}'")
        with transaction(session, read_only=True) as cursor:
            fingerprints.add(getattr(diagnose(cursor, "links", {}, {}), "fingerprint", ""))
    assert len(fingerprints) == 2


def test_in_check_mode_an_accepted_loss_is_only_planned(before: World) -> None:
    before.run(FOREIGN)
    was = before.state()
    assert before.reconcile(check_mode=True, accept_loss=2)["changed"]
    assert before.state() == was and not before.files() and not before.journal()


def test_without_a_declaration_every_row_counts(before: World) -> None:
    before.run(TABLE)
    assert "does not declare" in before.refused(repairs={}).message
    broken = {"leftover": {"links": {"losses": "SELECT * FROM nothing"}}, "steps": []}
    assert "42P01" in before.refused(repairs=broken).message


SYNC = """
CREATE FUNCTION sync() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO links VALUES (NEW.id, NEW.account_id); RETURN NEW; END';
CREATE TRIGGER sync AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION sync();
"""
DEPENDENTS = [
    ("CREATE VIEW shown AS SELECT order_id FROM links", "view shown"),
    ("CREATE MATERIALIZED VIEW kept AS SELECT 1 FROM links", "view kept"),
    (
        "CREATE TABLE other (o int, a int, FOREIGN KEY (o, a) REFERENCES links)",
        "constraint other_o_a_fkey on table other",
    ),
    ("CREATE TABLE other (l links)", "column l of table other"),
    ("CREATE FUNCTION f(links) RETURNS int LANGUAGE sql AS 'SELECT 1'", "function f(links)"),
    ("CREATE TABLE child () INHERITS (links)", "table child"),
    (SYNC, "trigger sync of orders (its function sync() mentions links) would be left without the table links"),
]


@pytest.mark.parametrize("check_mode", [False, True])
@pytest.mark.parametrize(("sql", "says"), DEPENDENTS, ids=[says for _, says in DEPENDENTS])
def test_what_depends_on_it_is_named_and_nothing_is_dropped(
    before: World, sql: str, says: str, check_mode: bool
) -> None:
    before.run(TABLE + sql)
    was = before.state()
    error = before.refused(accept_loss=0, check_mode=check_mode)
    assert says in error.message and error.refused
    assert before.state() == was


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
def test_what_is_no_table_is_not_dropped(before: World, kind: str) -> None:
    before.run(f"CREATE {kind} links AS SELECT 1 AS order_id")
    error = before.refused()
    assert kind.lower() in error.message and error.refused and not no_links(before)


def test_a_table_with_a_percent_sign_in_its_name_is_looked_at_again(before: World) -> None:
    before.run('CREATE TABLE "100%s" (id int)')
    with transaction(before.session) as cursor:
        found = diagnose(cursor, "100%s", {}, {})
        assert found is not None and is_unchanged(cursor, found)
        cursor.execute('INSERT INTO "100%s" VALUES (1)')
        assert not is_unchanged(cursor, found)


def test_a_table_that_was_renamed_is_reported_by_the_names_that_it_kept(before: World) -> None:
    before.run(TABLE + "ALTER TABLE links RENAME TO kept")
    result = before.reconcile()
    (proof,) = result["proofs"]
    assert not result["changed"] and proof["status"] == "pass"
    assert "No table has this name. The name links_pkey, which links needs, is that of an index" in proof["detail"]
    assert "the table kept. Rename" in proof["detail"]


@pytest.mark.parametrize("looks", [1, 2], ids=["since the diagnosis", "since it was judged again"])
def test_a_table_that_changes_meanwhile_is_not_dropped(
    before: World, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    before.run(TABLE)
    calls: list[int] = []

    def late(*arguments: Any) -> Any:
        found = diagnose(*arguments)
        calls.append(1)
        if len(calls) == looks:
            before.run("UPDATE links SET by = 'ann' WHERE order_id = 2")
        return found

    monkeypatch.setattr("ansible.module_utils.dbrelease.reconcile.reconcile.diagnose", late)
    assert "changed while they were checked" in before.refused().message
    assert len(calls) == looks + 1 and before.run("SELECT count(*) FROM links") == [(20,)]


@pytest.mark.parametrize(
    ("change", "dropped"),
    [
        ("UPDATE orders SET account_id = 4 WHERE id = 2", False),
        ("DELETE FROM orders WHERE id = 2", False),
        ("INSERT INTO orders VALUES (21, 1)", True),
    ],
)
def test_a_table_is_judged_again_when_its_lock_was_waited_for(
    before: World, database: Login, change: str, dropped: bool
) -> None:
    """What nobody else knows may have become more by what was written elsewhere."""
    before.run(TABLE)
    with closing(connect(database, "a reader")) as session, session.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute("BEGIN; SELECT FROM links")
        patient = {"timeout_ms": 200, "attempts": 50, "deadline_seconds": 60}
        done = pool.submit(before.refused if not dropped else before.reconcile, lock=patient)
        with closing(connect(database, "a client")) as client, client.cursor() as writer:

            def attempt() -> str | None:
                """When the attempt that waits began to."""
                writer.execute(
                    "SELECT min(waitstart)::text FROM pg_locks WHERE NOT granted AND relation = 'links'::regclass"
                )
                return next(iter(writer.fetchall()[0]), None)

            until(attempt, "the step did not wait for its lock")
            writer.execute(change)
            first = attempt()
            until(lambda: attempt() != first or first is None, "its first attempt did not end")
        cursor.execute("COMMIT")
        result = done.result()
    if dropped:
        assert isinstance(result, dict) and result["repaired"] == ["dropped links"] and no_links(before)
    else:
        assert isinstance(result, ReleaseError) and "changed while they were checked" in result.message
        assert before.run("SELECT count(*) FROM links") == [(20,)] and before.files() == []


KINDS = """
CREATE TABLE kinds (id int, best_order int, best_account int);
ALTER TABLE kinds ADD CONSTRAINT kinds_pkey PRIMARY KEY (id);
ALTER TABLE links ADD COLUMN kind int REFERENCES kinds;
"""
IN_A_CIRCLE = "ALTER TABLE kinds ADD FOREIGN KEY (best_order, best_account) REFERENCES links;"
OPTIONAL = {"type": "integer", "nullable": True}
LINKS = RELEASE["created"]["links"]
BOTH: dict[str, Any] = {
    "created": {
        "kinds": {"columns": dict.fromkeys(("id", "best_order", "best_account"), OPTIONAL)},
        "links": {**LINKS, "columns": {**LINKS["columns"], "kind": OPTIONAL}},
    },
    "repairs": {
        "leftover": {
            "kinds": {"losses": "SELECT k.* FROM kinds k WHERE NOT EXISTS (SELECT FROM links WHERE kind = k.id)"},
            "links": {"losses": "SELECT l.* FROM links l WHERE by <> 'release' AND EXISTS (SELECT FROM kinds)"},
        }
    },
}


@pytest.mark.parametrize("circle", ["", IN_A_CIRCLE], ids=["one refers to the other", "each refers to the other"])
def test_tables_that_refer_to_each_other_are_dropped_together(before: World, circle: str) -> None:
    was = before.state()
    before.run(TABLE + KEYS + KINDS + circle)
    planned = before.reconcile(check_mode=True, **BOTH)
    assert planned["diff"]["after"] == 'DROP TABLE "kinds", "links";\n'
    done = before.reconcile(**BOTH)
    assert done["repaired"] == ["dropped kinds", "dropped links"] and before.state() == was
    assert [proof["status"] for proof in done["proofs"]] == ["pass", "pass"]
    assert not before.reconcile(**BOTH)["changed"]


def test_what_would_be_lost_with_tables_that_go_together_is_judged_before_any_goes(before: World) -> None:
    before.run(TABLE + KINDS + "INSERT INTO kinds VALUES (1); UPDATE links SET by = 'ann' WHERE order_id < 4")
    was = before.state()
    assert "accept_loss=4" in before.refused(**BOTH).message and before.state() == was
    done = before.reconcile(accept_loss=4, **BOTH)
    assert [saved["rows"] for saved in done["saved"]] == [1, 3] and no_links(before)


@pytest.mark.parametrize("looks", [2, 4], ids=["since the diagnosis", "since they were judged again"])
@pytest.mark.parametrize("change", ["UPDATE links SET by = 'ann'", "INSERT INTO kinds VALUES (2)"])
def test_tables_of_which_one_changes_meanwhile_are_not_dropped(
    before: World, monkeypatch: pytest.MonkeyPatch, change: str, looks: int
) -> None:
    before.run(TABLE + KINDS + "INSERT INTO kinds VALUES (1); UPDATE links SET kind = 1")
    calls: list[int] = []

    def late(*arguments: Any) -> Any:
        found = diagnose(*arguments)
        calls.append(1)
        if len(calls) == looks:
            before.run(change)
        return found

    monkeypatch.setattr("ansible.module_utils.dbrelease.reconcile.reconcile.diagnose", late)
    assert "nothing was dropped" in before.refused(**BOTH).message
    assert before.run("SELECT to_regclass('kinds') IS NULL OR to_regclass('links') IS NULL") == [(False,)]


@pytest.mark.parametrize("check_mode", [False, True])
def test_what_depends_on_one_of_two_is_named_and_neither_is_dropped(before: World, check_mode: bool) -> None:
    before.run(TABLE + KINDS + "CREATE TABLE other (kind int REFERENCES kinds)")
    was = before.state()
    error = before.refused(check_mode=check_mode, **BOTH)
    assert (
        error.message.startswith("constraint other_kind_fkey on table other would be left without the table")
        and error.refused
    )
    assert before.state() == was


# Foreign keys

ADD = "ALTER TABLE links ADD CONSTRAINT"
DROP_ORDER = "ALTER TABLE links DROP CONSTRAINT links_order_fkey;"
TO_ORDERS = "FOREIGN KEY (order_id) REFERENCES orders (id)"
WRONG_KEYS = [  # what is broken, and what is seen of it
    ("missing", DROP_ORDER, "it is missing"),
    ("no action", f"{DROP_ORDER} {ADD} links_order_fkey {TO_ORDERS}", "on_delete no_action instead of cascade"),
    ("not valid", f"{DROP_ORDER} {ADD} links_order_fkey {TO_ORDERS} ON DELETE CASCADE NOT VALID", "validated False"),
    ("set null", f"{DROP_ORDER} {ADD} links_order_fkey {TO_ORDERS} ON DELETE SET NULL NOT VALID", "set_null instead"),
    ("deferrable", f"{DROP_ORDER} {ADD} links_order_fkey {TO_ORDERS} ON DELETE CASCADE DEFERRABLE", "deferrable True"),
    (
        "on update",
        f"{DROP_ORDER} {ADD} links_order_fkey {TO_ORDERS} ON DELETE CASCADE ON UPDATE CASCADE",
        "on_update cascade instead of no_action",
    ),
    (
        "match full",
        f"{DROP_ORDER} {ADD} links_order_fkey {TO_ORDERS} MATCH FULL ON DELETE CASCADE",
        "match full instead of simple",
    ),
    (
        "elsewhere",
        f"{DROP_ORDER} {ADD} links_order_fkey FOREIGN KEY (order_id) REFERENCES accounts (id) NOT VALID",
        "orders",
    ),
    ("other name", "ALTER TABLE links RENAME CONSTRAINT links_order_fkey TO odd", "odd exists, too"),
    ("two", f"{ADD} odd {TO_ORDERS}", "odd exists, too"),
]


@pytest.mark.parametrize(("sql", "seen"), [row[1:] for row in WRONG_KEYS], ids=[row[0] for row in WRONG_KEYS])
def test_a_foreign_key_is_put_right(deployed: World, sql: str, seen: str) -> None:
    was = deployed.state()
    deployed.run(sql)
    broken = deployed.state()
    planned = deployed.reconcile(check_mode=True)
    assert planned["changed"] and "VALIDATE CONSTRAINT" in planned["diff"]["after"]
    assert deployed.state() == broken != was and not deployed.journal()
    done = deployed.reconcile()
    (proof,) = [proof for proof in done["proofs"] if proof["name"] == "reconcile.links_order_fkey"]
    assert done["changed"] and proof["status"] == "pass" and seen in proof["detail"]
    assert deployed.state() == was
    assert not deployed.reconcile()["changed"]


def test_a_rule_of_somebody_elses_on_the_same_column_stays(deployed: World) -> None:
    deployed.run("CREATE TABLE licensed (id int PRIMARY KEY); INSERT INTO licensed SELECT generate_series(1, 30)")
    deployed.run(f"{ADD} only_licensed FOREIGN KEY (order_id) REFERENCES licensed; {DROP_ORDER}")
    assert deployed.reconcile()["repaired"] == ["rebuilt links_order_fkey", "validated links_order_fkey"]
    assert deployed.run("SELECT count(*) FROM pg_constraint WHERE conname = 'only_licensed'") == [(1,)]


PARTITIONED = BEFORE.replace(
    "accounts (id int PRIMARY KEY);",
    "accounts (id int PRIMARY KEY) PARTITION BY RANGE (id);"
    "CREATE TABLE low PARTITION OF accounts FOR VALUES FROM (0) TO (3);"
    "CREATE TABLE high PARTITION OF accounts FOR VALUES FROM (3) TO (9);",
)


def test_a_foreign_key_to_a_partitioned_table_is_put_right_once(world: World) -> None:
    world.run(DEPLOYED.replace(BEFORE, PARTITIONED))
    assert not world.reconcile()["changed"]
    world.run("ALTER TABLE links DROP CONSTRAINT links_account_fkey")
    assert world.reconcile()["repaired"] == ["rebuilt links_account_fkey", "validated links_account_fkey"]
    assert not world.reconcile()["changed"]
    world.run("DELETE FROM accounts WHERE id = 1")
    assert world.run("SELECT count(*) FROM links WHERE account_id = 1") == [(0,)]


IN_PARTS = DEPLOYED.replace(
    "by text);", "by text) PARTITION BY RANGE (order_id); CREATE TABLE every_link PARTITION OF links DEFAULT;"
)


@pytest.mark.parametrize(
    "sql",
    [DROP_ORDER, f"{DROP_ORDER} {ADD} links_order_fkey {TO_ORDERS}", f"{DROP_ORDER} {ADD} odd {TO_ORDERS}"],
    ids=["missing", "another action", "other name"],
)
def test_for_a_foreign_key_of_a_partitioned_table_the_statement_is_reported(world: World, sql: str) -> None:
    world.run(IN_PARTS)
    assert not world.reconcile()["changed"]
    world.run(sql)
    was = world.state()
    if world.session.server_version >= 180_000:
        assert world.reconcile()["repaired"] == ["rebuilt links_order_fkey", "validated links_order_fkey"]
    else:
        error = world.refused()
        assert error.refused and "blocks writers" in error.message and world.state() == was
        (statement,) = re.findall("In a quiet hour, run (ALTER TABLE [^;]*;) Then", error.message)
        world.run(statement)
    assert not world.reconcile()["changed"]


def test_a_table_that_leads_to_a_partitioned_one_is_dropped(world: World) -> None:
    world.run(PARTITIONED + TABLE + KEYS)
    assert world.reconcile()["repaired"] == ["dropped links"] and no_links(world)


DEFERRED: dict[str, Any] = {
    "created": {
        "links": {
            **RELEASE["created"]["links"],
            "constraints": {
                **RELEASE["created"]["links"]["constraints"],
                "links_order_fkey": {**key("order_id", "orders"), "deferrable": True, "initially_deferred": True},
                "links_account_fkey": {**key("account_id", "accounts"), "deferrable": True},
            },
        }
    }
}
TIMED = """
ALTER TABLE links ALTER CONSTRAINT links_order_fkey DEFERRABLE INITIALLY DEFERRED,
  ALTER CONSTRAINT links_account_fkey DEFERRABLE;
"""
WRONG_TIMES = [  # what is broken, which key, and what is seen of it
    ("missing", DROP_ORDER, "links_order_fkey", "it is missing"),
    (
        "not deferrable",
        f"{DROP_ORDER} {ADD} links_order_fkey {TO_ORDERS} ON DELETE CASCADE",
        "links_order_fkey",
        "deferrable False",
    ),
    (
        "not deferred",
        "ALTER TABLE links ALTER CONSTRAINT links_order_fkey DEFERRABLE INITIALLY IMMEDIATE",
        "links_order_fkey",
        "initially_deferred False",
    ),
    (
        "deferred",
        "ALTER TABLE links ALTER CONSTRAINT links_account_fkey DEFERRABLE INITIALLY DEFERRED",
        "links_account_fkey",
        "initially_deferred True",
    ),
]


@pytest.mark.parametrize(("sql", "name", "seen"), [r[1:] for r in WRONG_TIMES], ids=[r[0] for r in WRONG_TIMES])
def test_a_deferrable_foreign_key_is_rebuilt_deferrable(deployed: World, sql: str, name: str, seen: str) -> None:
    deployed.run(TIMED)
    was = deployed.state()
    assert not deployed.reconcile(**DEFERRED)["changed"]
    deployed.run(sql)
    assert deployed.state() != was
    done = deployed.reconcile(**DEFERRED)
    (proof,) = [proof for proof in done["proofs"] if proof["name"] == f"reconcile.{name}"]
    assert done["repaired"] == [f"rebuilt {name}", f"validated {name}"] and seen in proof["detail"]
    assert deployed.state() == was


PAIR = "ALTER TABLE orders ADD UNIQUE (id, account_id); UPDATE orders SET account_id = 2 WHERE account_id IS NULL;"
PAIRED = """
ALTER TABLE links DROP CONSTRAINT links_pkey, DROP CONSTRAINT links_order_fkey, ALTER account_id DROP NOT NULL,
  ADD CONSTRAINT links_order_fkey FOREIGN KEY (order_id, account_id) REFERENCES orders (id, account_id)
"""
DECLARED_PAIR = {
    **key("order_id", "orders"),
    "columns": ["order_id", "account_id"],
    "references": {"table": "orders", "columns": ["id", "account_id"]},
    "match": "full",
    "on_update": "restrict",
}


def test_a_match_and_an_action_on_update_are_rebuilt_as_declared(deployed: World) -> None:
    constraints = {"links_order_fkey": DECLARED_PAIR, "links_account_fkey": key("account_id", "accounts")}
    created = {"links": {**RELEASE["created"]["links"], "constraints": constraints}}
    nothing: dict[str, Any] = {"created": created, "repairs": {}, "steps": []}
    deployed.run(f"{PAIR} {PAIRED} MATCH FULL ON UPDATE RESTRICT ON DELETE CASCADE")
    was = deployed.state()
    assert not deployed.reconcile(**nothing)["changed"]
    deployed.run("ALTER TABLE links DROP CONSTRAINT links_order_fkey; INSERT INTO links VALUES (1, NULL)")
    error = deployed.refused(**nothing)
    assert "1 row refers to a missing row of orders" in error.message and "'account_id': None" in error.message
    deployed.run("DELETE FROM links WHERE account_id IS NULL")
    assert deployed.reconcile(**nothing)["repaired"] == ["validated links_order_fkey"]
    assert deployed.state() == was


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        ("CHECK (by <> 'nobody')", {"type": "check", "definition": "CHECK ((by <> 'nobody'::text))"}),
        ("EXCLUDE (by WITH =)", {"type": "exclusion", "definition": "EXCLUDE USING btree (by WITH =)"}),
    ],
    ids=["check", "exclusion"],
)
def test_a_check_and_an_exclusion_are_never_rebuilt(deployed: World, made: str, wanted: dict[str, Any]) -> None:
    links = RELEASE["created"]["links"]
    created = {"links": {**links, "constraints": {**links["constraints"], "odd": wanted}}}
    deployed.run("DELETE FROM links WHERE order_id > 1; DELETE FROM orders WHERE id > 1")
    for sql in (f"{ADD} odd {made}", "ALTER TABLE links DROP CONSTRAINT odd", f"{ADD} odd CHECK (by <> 'ann')"):
        deployed.run(sql)
        was = deployed.state()
        done = deployed.reconcile(created=created)
        assert not done["changed"] and "reconcile.odd" not in {proof["name"] for proof in done["proofs"]}
        assert deployed.state() == was


def test_what_is_no_foreign_key_is_refused(deployed: World) -> None:
    deployed.run(f"{DROP_ORDER} {ADD} links_order_fkey CHECK (order_id > 0)")
    was = deployed.state()
    error = deployed.refused()
    assert "CHECK" in error.message and error.refused and deployed.state() == was


def test_rows_of_others_that_lead_nowhere_are_counted_and_kept(deployed: World) -> None:
    deployed.run(DROP_ORDER + "INSERT INTO links VALUES (98, 1, 'ann'), (99, 1, 'ann')")
    error = deployed.refused()
    assert "2 rows refer to a missing row of orders" in error.message and "'order_id': 98" in error.message
    assert "ansible" not in error.message and deployed.outcome() == "failed"
    assert deployed.run("SELECT count(*) FROM links WHERE by = 'ann'") == [(2,)]
    with pytest.raises(psycopg2.errors.ForeignKeyViolation):  # it holds new rows already
        deployed.run("INSERT INTO links VALUES (97, 1, 'bob')")
    deployed.run("DELETE FROM links WHERE by = 'ann'")
    assert deployed.reconcile()["repaired"] == ["validated links_order_fkey"]


def test_rows_of_the_release_that_lead_nowhere_go(deployed: World) -> None:
    was = deployed.state()
    deployed.run(DROP_ORDER + "INSERT INTO links VALUES (99, 1, 'release')")
    assert deployed.reconcile()["repaired"] == ["rebuilt links_order_fkey", "ran fill", "validated links_order_fkey"]
    assert deployed.state() == was


# Rows


def test_missing_and_stale_rows_are_brought_in_line(deployed: World) -> None:
    deployed.run("UPDATE orders SET account_id = 2 WHERE id = 3; INSERT INTO orders VALUES (21, 1)")
    broken = deployed.state()
    assert deployed.reconcile(check_mode=True)["changed"] and deployed.state() == broken
    done = deployed.reconcile()
    assert done["changed"] and done["repaired"] == ["ran fill"] and list(done["proven"]) == ["same"]
    assert deployed.run(SAME) == [] and deployed.run("SELECT count(*) FROM links") == [(21,)]
    again = deployed.reconcile()
    assert not again["changed"] and list(again["proven"]) == ["same"]


def test_a_step_that_ran_before_one_that_failed_is_reported(deployed: World) -> None:
    deployed.run("INSERT INTO orders VALUES (21, 1)")
    fill = RELEASE["steps"][0]
    broken = {"name": "broken", "title": "Broken", "sql": "SELECT 1 / 0", "pending": "SELECT 1 AS pending"}
    repairs = {**RELEASE["repairs"], "steps": ["fill", "broken"]}
    error = deployed.refused(steps=[fill, broken], repairs=repairs)
    assert error.facts["repaired"] == ["ran fill"] and deployed.journal()[-1]["facts"]["repaired"] == ["ran fill"]
    assert deployed.run("SELECT count(*) FROM links WHERE order_id = 21") == [(1,)], "it was committed"
    assert deployed.outcome() == "failed"


def test_rows_that_may_be_somebody_elses_by_now_are_left_as_they_are(deployed: World) -> None:
    """The API is down, so that nobody knows whether it is still the one that the release is for."""
    guard = {"name": "old", "title": "It is the old one", "answers": {"path": "/a", "keys": ["b"]}, "road": "Wait."}
    services = {**RELEASE["services"], "guards": [guard], "api_base_url": "http://127.0.0.1:9"}
    steps = [{**RELEASE["steps"][0], "guarded_by": ["old"]}]
    assert not deployed.reconcile(steps=steps, services=services)["changed"]
    deployed.run("UPDATE orders SET account_id = 2 WHERE id = 3")
    was = deployed.state()
    for check_mode in (True, False):
        error = deployed.refused(check_mode=check_mode, steps=steps, services=services)
        assert "Step fill (Fill) was not run: its rows may no longer belong to the release alone" in error.message
        assert deployed.state() == was


def test_rows_of_others_are_shown_and_the_rest_is_brought_in_line(deployed: World) -> None:
    deployed.run("INSERT INTO links VALUES (1, 1, 'ann'); INSERT INTO orders VALUES (21, 1)")
    for _ in range(2):
        error = deployed.refused()
        assert "1 row breaks it" in error.message and "'account_id': 1" in error.message
        assert "only rows that the release itself writes" in error.message and not error.refused
        assert deployed.run("SELECT by FROM links WHERE order_id IN (1, 21) ORDER BY 1") == [
            ("ann",), ("release",), ("release",),
        ]  # fmt: skip
    assert deployed.outcome("verify") == "failed"
    deployed.run("DELETE FROM links WHERE by = 'ann'")
    assert not deployed.reconcile()["changed"]


def test_a_step_that_leaves_something_pending_is_rolled_back(deployed: World) -> None:
    deployed.run("INSERT INTO orders VALUES (21, 1), (22, 1)")
    was = deployed.state()
    half = {**RELEASE["steps"][0], "sql": "INSERT INTO links VALUES (21, 1, 'release')"}
    assert "left 1 pending, and was rolled back" in deployed.refused(steps=[half]).message
    assert deployed.state() == was


# Others at work


@contextmanager
def holding(login: Login, sql: str) -> Iterator[None]:
    session = connect(login, "an old client")
    with session.cursor() as cursor:
        cursor.execute(f"BEGIN; {sql}")
        yield
        cursor.execute("ROLLBACK")
    session.close()


@pytest.mark.parametrize(
    ("sql", "lock"),
    [
        (f"{BEFORE} {TABLE}", "SELECT FROM links"),
        (f"{BEFORE} {TABLE} {KEYS}", "SELECT FROM orders"),
        (DEPLOYED + DROP_ORDER, "UPDATE orders SET id = id WHERE id = 1"),
        (DEPLOYED + "DELETE FROM links", "LOCK TABLE links"),
    ],
)
def test_who_stands_in_the_way_is_named_and_nothing_is_changed(
    world: World, database: Login, sql: str, lock: str
) -> None:
    world.run(sql)
    was = world.state()
    with holding(database, lock):
        error = world.refused(lock={**RELEASE["lock"], "timeout_ms": 1000})
    assert "an old client" in error.message and "3 attempts" in error.message
    assert error.facts["lock_waits"] and world.state() == was
    assert world.reconcile()["changed"]


class Writer(threading.Thread):
    """Writes all the time, as the application does; keeps the longest wait, and what it wrote."""

    def __init__(self, login: Login) -> None:
        super().__init__()
        self.session, self.ended, self.longest, self.written = connect(login, "writer"), threading.Event(), 0.0, 0

    def run(self) -> None:
        with self.session.cursor() as cursor:
            while not self.ended.is_set():
                number = 1_000_000 + self.written
                for sql in self.statements(number):
                    begun = time.monotonic()
                    cursor.execute(sql)
                    self.longest = max(self.longest, time.monotonic() - begun)
                self.written += 1
                # Rows deleted while the step reads make it try again: most of the time there must be none.
                self.ended.wait(0.02)
        self.session.close()

    def write_more(self) -> None:
        enough = self.written + 3
        until(lambda: self.written >= enough or not self.is_alive(), "the application did not write")

    def statements(self, number: int) -> list[str]:
        return [
            f"INSERT INTO accounts VALUES ({number}); INSERT INTO orders VALUES ({number}, {number})",
            f"UPDATE orders SET account_id = 1 WHERE id = {1 + self.written}",
            f"DELETE FROM accounts WHERE id = {number}",
        ]


class Adder(Writer):
    """Reads and writes what is referred to, and deletes nothing, which would write to the table that refers to it."""

    def statements(self, number: int) -> list[str]:
        return [*super().statements(number)[:2], "SELECT FROM accounts JOIN orders ON account_id = accounts.id"]


@contextmanager
def writing(login: Login, kind: type[Writer] = Writer) -> Iterator[Writer]:
    writer = kind(login)
    writer.start()
    try:
        writer.write_more()
        yield writer
        writer.write_more()
    finally:
        writer.ended.set()
        writer.join()


MANY = (
    "INSERT INTO orders SELECT n, 1 + n % 4 FROM generate_series(21, 200000) AS n; CREATE INDEX ON orders (account_id);"
)
INDEX = "CREATE INDEX ON links (account_id);"
NO_CASCADE = f"{DROP_ORDER} {ADD} links_order_fkey {TO_ORDERS} NOT VALID;"


# What the writer changes meanwhile must not change the number that was accepted.
BY_NOBODY = {"leftover": {"links": {"losses": "SELECT * FROM links WHERE by IS NULL"}}, "steps": ["fill"]}
TOO_EARLY = BEFORE + MANY + TABLE + INDEX + KEYS + "UPDATE links SET by = NULL WHERE order_id % 2 = 0;"
OUT_OF_LINE = DEPLOYED + MANY + INDEX + NO_CASCADE  # 199,980 of 200,000 rows are missing


@pytest.mark.parametrize(
    ("sql", "accepted", "repairs"),
    [(TOO_EARLY, 100_000, 1), (OUT_OF_LINE, None, 3)],
    ids=["a table that is left over", "a foreign key, and the rows"],
)
def test_no_writer_waits_half_a_second(
    world: World, database: Login, sql: str, accepted: int | None, repairs: int
) -> None:
    world.run(sql)
    world.run("ANALYZE")
    # A writer waits behind an attempt as long as its limit allows; a busy machine adds to that.
    patient = {"timeout_ms": 250, "attempts": 60, "deadline_seconds": 120}
    with writing(database) as writer:
        done = world.reconcile(lock=patient, accept_loss=accepted, repairs=BY_NOBODY)
    assert len(done["repaired"]) == repairs
    assert sum(saved["rows"] for saved in done["saved"]) == (accepted or 0)
    assert writer.written > 10
    assert writer.longest < 0.5, f"{writer.longest:.2f} s"


SLOWLY = "SELECT NOT EXISTS (SELECT FROM {} WHERE age(xmin) <= age({}::xid)) AS unchanged FROM pg_sleep(1.5)"
ENGINE = "ansible.module_utils.dbrelease"


@pytest.mark.parametrize(("timeout_ms", "expected"), [(1200, True), (200, False)], ids=["expected", "not expected"])
def test_nobody_waits_for_a_slow_look_at_a_table_that_is_left_over(
    before: World, database: Login, monkeypatch: pytest.MonkeyPatch, timeout_ms: int, expected: bool
) -> None:
    before.run(TABLE + KEYS)
    monkeypatch.setattr(f"{ENGINE}.postgres.orphan_table.UNCHANGED", SLOWLY)
    if not expected:
        monkeypatch.setattr(f"{ENGINE}.reconcile.orphan_drop.is_unchanged", lambda *_: True)
    begun = time.monotonic()
    with writing(database, Adder) as writer:
        patient = {"timeout_ms": timeout_ms, "attempts": 20, "deadline_seconds": 60}
        done = before.reconcile(lock=patient, repairs=BY_NOBODY)
    assert done["repaired"] == ["dropped links"] and no_links(before)
    assert writer.written > 20 and time.monotonic() - begun > 1.5
    # Where the look is known to be slow, no attempt is made that others wait for as long as its limit allows.
    assert writer.longest < 1.0, f"{writer.longest:.2f} s, and the look takes 1.5 s"


def slow_check(*_: object) -> None:
    time.sleep(0.8)  # plays: a check of a large table


def test_a_writer_that_waits_for_the_look_is_let_through_and_never_ended(
    before: World, database: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds what the table refers to: to wait for that, too, would be a deadlock, and the server might end it."""
    before.run(TABLE + KEYS)
    session, waits = connect(database, "an old client"), "SELECT count(*) FROM pg_locks WHERE NOT granted"
    seen: list[int] = []
    with session.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute("SET deadlock_timeout = '600ms'; BEGIN; INSERT INTO orders VALUES (21, 1)")
        written: list[Future[None]] = []

        def look(looking: Any, one: Any) -> bool:
            if not written:
                written.append(pool.submit(cursor.execute, "INSERT INTO links VALUES (21, 1, 'release'); COMMIT"))
                deadline = time.monotonic() + 5
                while before.run(waits) == [(0,)] and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(0.4)  # plays: a slow check
            looking.execute("SELECT count(*) AS rows FROM public.links")
            seen.append(dict(looking.fetchone())["rows"])
            return is_unchanged(looking, one)

        monkeypatch.setattr(f"{ENGINE}.reconcile.reconcile.is_unchanged", look)
        monkeypatch.setattr(f"{ENGINE}.reconcile.orphan_drop.is_unchanged", slow_check)
        done = before.reconcile(lock={"timeout_ms": 1500, "attempts": 20, "deadline_seconds": 60})
        written[0].result()
    session.close()
    assert seen[-1] == seen[0] + 1, "what it wrote was not seen before it was let through, and then was"
    assert done["repaired"] == ["dropped links"] and before.run("SELECT count(*) FROM orders") == [(21,)]
