"""A release on a copy: a real Alembic project, and each act that may show the release to be wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Run
from ansible.module_utils.dbrelease.core.proof import Proof
from ansible.module_utils.dbrelease.host.commands import HostCommands
from ansible.module_utils.dbrelease.postgres.fingerprints import read_tables
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.rehearsal import change as change_module
from ansible.module_utils.dbrelease.rehearsal.change import TITLES, Change, Rehearsal
from ansible.module_utils.dbrelease.rehearsal.recipe import CannotRehearseError
from ansible.module_utils.dbrelease.restore.plan import CopyTarget
from ansible.module_utils.dbrelease.rollback.in_services import Services
from own_sessions import connect
from shared_database import database, emptied

__all__ = ["database", "emptied"]

FIRST, SECOND = "aaaa00000001", "bbbb00000002"
COMMAND = [sys.executable, "program.py"]
ALEMBIC = [sys.executable, "-m", "alembic"]
ENV = """
import os
from alembic import context
from sqlalchemy import create_engine, pool
with create_engine(os.environ["TEST_DATABASE_URL"], poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
# With Alembic's verbs, and a quarter of its time to start.
PROGRAM = """
import os, sys
from pathlib import Path
import psycopg2
verb = sys.argv[1]
try:
    url = os.environ["TEST_DATABASE_URL"].replace("+psycopg2", "")
    with psycopg2.connect(url) as session, session.cursor() as cursor:
        cursor.execute("SELECT version_num FROM alembic_version")
        print(cursor.fetchone()[0])
        if verb != "current":
            cursor.execute(Path(verb).read_text())
            cursor.execute("UPDATE alembic_version SET version_num = %s", sys.argv[2:])
except psycopg2.Error as error:
    sys.exit(f"psycopg2.Error: {error}")
"""
REVISION = """
from alembic import op
revision, down_revision = "{revision}", {down}

def upgrade():
    op.execute({up!r})

def downgrade():
    op.execute({back!r})
"""
SCHEMA = f"""
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('{FIRST}');
CREATE SEQUENCE tickets;
CREATE TABLE orders (id int PRIMARY KEY, title text NOT NULL);
INSERT INTO orders SELECT n, 'order ' || n FROM generate_series(1, 20) n;
"""
CREATE = "CREATE TABLE order_items (order_id int NOT NULL); INSERT INTO order_items SELECT id FROM orders"
DROP = "DROP TABLE order_items"
ANALYZE = {
    "name": "analyze",
    "title": "Gather the planner's statistics",
    "sql": "ANALYZE order_items",
    "pending": "SELECT count(*) FROM pg_class WHERE oid = to_regclass('order_items') AND reltuples < 0",
}
CHECK = {
    "name": "each_has_an_item",
    "title": "Each order has an item",
    "violations": "SELECT id FROM orders o WHERE NOT EXISTS (SELECT FROM order_items i WHERE i.order_id = o.id)",
}
NO_STRANGER = {
    "name": "no_item_lost",
    "title": "No item that only the new table knows",
    "losses": {
        "table": "order_items",
        "key": ["order_id"],
        "rows": "SELECT order_id FROM order_items i WHERE NOT EXISTS (SELECT FROM orders o WHERE o.id = i.order_id)",
    },
    "road": "Keep the release.",
}
ANSWERS = {"name": "old_api", "title": "The API is the old one", "answers": {"path": "/", "keys": ["b"]}, "road": ""}


COLUMNS = {"order_id": {"type": "integer", "nullable": False}}
DECLARED: dict[str, Any] = {
    "existing": {"orders": ["id", "title"]},
    "created": {"order_items": {"columns": COLUMNS, "indexes": {}, "constraints": {}}},
    "altered": {},
}


@dataclass
class Case:
    """A release, and how each act on the copy ends; what is not named passes."""

    up: str = CREATE
    back: str = DROP
    finalize: list[dict[str, Any]] = field(default_factory=lambda: [ANALYZE])
    checks: list[dict[str, Any]] = field(default_factory=lambda: [CHECK])
    guards: list[dict[str, Any]] = field(default_factory=lambda: [NO_STRANGER])
    audit: tuple[str, ...] = ()
    tables: dict[str, Any] = field(default_factory=lambda: DECLARED)
    budget: dict[str, float] = field(default_factory=lambda: {"write_wait_ms": 5000})
    before: str = ""  # further tables
    meanwhile: str = ""  # what the application does while it runs on the downgraded copy
    ends: dict[str, str] = field(default_factory=dict)
    says: str = ""
    goes_back: bool = True
    lossy: bool = False
    default_wait: bool = False
    command: list[str] = field(default_factory=lambda: COMMAND)


RENAME = "ALTER TABLE orders RENAME title TO name; ALTER TABLE orders ALTER id TYPE bigint"
RENAMED = {
    "columns": {
        "name": {"type": "text", "nullable": False, "renamed_from": "title"},
        "id": {"type": "bigint", "nullable": False},
    }
}
ACTS = list(TITLES)


def stops_at(name: str, status: str = "fail") -> dict[str, str]:
    """The act that ends so, and the later ones, which are not reached."""
    later = ACTS[ACTS.index(f"rehearse.{name}") + 1 :]
    return {f"rehearse.{name}": status, **dict.fromkeys(later, "skipped")}


def changing(up: str, changed: dict[str, Any], ends: dict[str, str] | None = None, says: str = "") -> Case:
    """A release that changes the table `orders`."""
    back = f"{DROP}; ALTER TABLE orders RENAME name TO title; ALTER TABLE orders ALTER id TYPE int"
    return Case(
        up,
        back if "ALTER id" in up else DROP,
        checks=[],
        guards=[],
        tables={**DECLARED, "existing": {"orders": ["id"]}, "changed": {"orders": changed}},
        ends=ends or {},
        says=says,
    )


CASES = {
    "a good release": Case(),
    "by Alembic": Case(command=ALEMBIC),
    "without steps, checks and guards": Case(finalize=[], checks=[], guards=[]),
    "no rollback is declared": Case(
        back="DROP TABLE no_such_table",
        goes_back=False,
        ends=dict.fromkeys(("rehearse.guards", *ACTS[ACTS.index("rehearse.downgrade") :]), "skipped"),
    ),
    "the upgrade fails": Case(
        "CREATE TABLE orders ()", ends=stops_at("upgrade"), says='relation "orders" already exists'
    ),
    "a step after the upgrade fails": Case(
        finalize=[{**ANALYZE, "sql": "SELECT 1 / (SELECT count(*) FROM orders WHERE id < 0)"}],
        ends=stops_at("finalize"),
        says="division by zero",
    ),
    "a writer waits for longer than the budget allows": Case(
        f"{CREATE}; LOCK TABLE orders IN SHARE MODE; SELECT pg_sleep(0.5)",
        budget={"write_wait_ms": 100},
        ends={"rehearse.budget.write_wait": "fail", **stops_at("verified", "skipped")},
        says="for the SHARE lock that “CREATE TABLE order_items",
    ),
    "a writer waits for longer than the default allows": Case(
        f"{CREATE}; LOCK TABLE orders IN SHARE MODE; SELECT pg_sleep(0.5)",
        budget={"write_wait_ms": 100},
        default_wait=True,
        ends={"rehearse.budget.write_wait": "fail", **stops_at("verified", "skipped")},
        says="This budget is the default of 1000 ms, because the release declares no migration.budget.write_wait_ms.",
    ),
    "a step is guarded by what asks the application": Case(
        finalize=[{**ANALYZE, "guarded_by": ["old_api"]}],
        guards=[NO_STRANGER, ANSWERS],
        says="1 step ran. Not asked in a rehearsal, because these ask the live application: old_api.",
    ),
    "a declared check is red": Case(
        "CREATE TABLE order_items (order_id int NOT NULL)", ends=stops_at("verified"), says="Each order has an item"
    ),
    "the structure is another": Case(
        f"{CREATE}; ALTER TABLE order_items RENAME order_id TO id",
        checks=[],
        ends=stops_at("verified"),
        says="order_id",
    ),
    "another table's row is changed": Case(
        f"{CREATE}; UPDATE orders SET title = 'x' WHERE id = 3",
        back=f"{DROP}; UPDATE orders SET title = 'order 3' WHERE id = 3",
        ends=stops_at("untouched"),
        says="orders",
    ),
    "a check that nothing makes fail": Case(
        checks=[{**CHECK, "violations": "SELECT id FROM orders WHERE false"}],
        ends={"rehearse.can_fail.checks.each_has_an_item": "inconclusive"},
        says="it is vacuous, as far as one row shows",
    ),
    "a guard refuses right after the upgrade": Case(
        f"{CREATE}; INSERT INTO order_items VALUES (99)",
        ends={"rehearse.guards": "inconclusive"},
        says="A rollback would be refused: “No item that only the new table knows”",
    ),
    "a table that the release does not declare": Case(
        f"{CREATE}; CREATE TABLE notes AS SELECT 1 AS id",
        back=f"{DROP}; DROP TABLE notes",
        ends={"rehearse.guards": "inconclusive"},
        says="A rollback would be refused: “No row of public.notes is lost”: 1 row would be lost.",
    ),
    "no table is declared": Case(
        finalize=[],
        checks=[],
        guards=[],
        tables={"existing": {}, "created": {}, "altered": {}},
        ends={"rehearse.guards": "inconclusive"},
        says="A rollback would be refused: “No row of public.order_items is lost”: 20 rows would be lost.",
    ),
    "no table is declared, and a writer waits": Case(
        f"{CREATE}; LOCK TABLE orders IN SHARE MODE; SELECT pg_sleep(0.5)",
        tables={"existing": {}, "created": {}, "altered": {}},
        budget={"write_wait_ms": 100},
        ends={"rehearse.budget.write_wait": "fail", **stops_at("verified", "skipped")},
        says="for the SHARE lock that “CREATE TABLE order_items",
    ),
    "the downgrade fails": Case(back="DROP TABLE no_such_table", ends=stops_at("downgrade"), says="no_such_table"),
    "the downgrade leaves a table": Case(
        back="ALTER TABLE order_items RENAME TO old_items", ends=stops_at("back"), says="TABLE public.old_items: new"
    ),
    "the downgrade leaves a comment": Case(
        f"{CREATE}; COMMENT ON TABLE orders IS 'with items'", ends=stops_at("back"), says="orders: new"
    ),
    "the downgrade deletes a row": Case(
        back=f"{DROP}; DELETE FROM orders WHERE id = 7", ends=stops_at("back"), says="the rows differ in public.orders"
    ),
    "a second upgrade gives other rows": Case(
        "CREATE TABLE order_items (order_id int NOT NULL);"
        "INSERT INTO order_items SELECT id FROM orders, generate_series(1, nextval('tickets')::int)",
        ends={"rehearse.upgrade_again": "fail"},
        says="the number of rows differs in public.order_items",
    ),
    "a second upgrade fails": Case(
        f"{CREATE}; SELECT 1 / (2 - nextval('tickets'))",
        ends={"rehearse.upgrade_again": "fail"},
        says="division by zero",
    ),
    "the application writes while it answers": Case(
        meanwhile="INSERT INTO orders VALUES (21, 'order 21')",
        ends={"rehearse.upgrade_again": "inconclusive"},
        says="The application wrote to public.orders while it ran on the copy",
    ),
    "the application writes elsewhere while it answers": Case(
        "CREATE TABLE order_items (order_id int NOT NULL); INSERT INTO order_items SELECT id FROM orders WHERE id < 21",
        meanwhile="UPDATE orders SET title = 'x'",
    ),
    "the application changes the schema when it starts": Case(
        meanwhile="ALTER TABLE orders ADD note text",
        ends={"rehearse.upgrade_again": "inconclusive"},
        says="The application changes the database when it starts",
    ),
    "a column is renamed and another gets another type, as declared": changing(f"{CREATE}; {RENAME}", RENAMED),
    "a value of a renamed column changes": changing(
        f"{CREATE}; {RENAME}; UPDATE orders SET name = 'x' WHERE id = 3", RENAMED, stops_at("untouched"), "orders"
    ),
    "what is declared as dropped is still there": changing(
        CREATE, {"columns": {"title": None}}, stops_at("verified"), "Still there: title."
    ),
    "a column has another type than is declared": changing(
        f"{CREATE}; ALTER TABLE orders RENAME title TO name", RENAMED, stops_at("verified"), "id has type integer"
    ),
    "as many rows are deleted as is declared": changing(
        f"{CREATE}; DELETE FROM order_items WHERE order_id > 18; DELETE FROM orders WHERE id > 18",
        {"rows": {"deleted": {"exactly": 2}}},
        stops_at("back"),
        "the rows differ in public.orders",
    ),
    "more rows are deleted than is declared": changing(
        f"{CREATE}; DELETE FROM order_items WHERE order_id > 17; DELETE FROM orders WHERE id > 17",
        {"rows": {"deleted": {"at_most": 2}}},
        stops_at("untouched"),
        "deleted 3 rows. Declared: deleted at most 2.",
    ),
    "rows are updated in another column than is declared": changing(
        f"{CREATE}; UPDATE orders SET title = 'x' WHERE id = 3",
        {"rows": {"updated": {"exactly": 1, "columns": ["id"]}}},
        stops_at("untouched"),
        "orders",
    ),
    "what a lossy downgrade does not bring back is not compared": Case(
        f"{CREATE}; ALTER TABLE orders DROP title; DROP TABLE old",
        f"{DROP}; ALTER TABLE orders ADD title text NOT NULL DEFAULT ''; ALTER TABLE orders ALTER title DROP DEFAULT;"
        "CREATE TABLE old (id int)",
        before="CREATE TABLE old (id int); INSERT INTO old VALUES (1);",
        tables={
            **DECLARED,
            "existing": {"orders": ["id"]},
            "changed": {"orders": {"columns": {"title": None}}},
            "dropped": {"old": ["id"]},
        },
        lossy=True,
        says="Not compared, because the release is lossy: public.old, public.orders.",
    ),
    "a table is dropped, as declared": Case(
        f"{CREATE}; DROP TABLE old",
        f"{DROP}; CREATE TABLE old (id int)",
        before="CREATE TABLE old (id int);",
        tables={**DECLARED, "dropped": {"old": ["id"]}},
    ),
    "a table that is declared as dropped is still there": Case(
        before="CREATE TABLE old (id int);",
        tables={**DECLARED, "dropped": {"old": ["id"]}},
        ends=stops_at("verified"),
        says="There is still a table old",
    ),
    "rows of an audit table stay after the downgrade": Case(
        f"{CREATE}; INSERT INTO audit VALUES ('up')",
        back=f"{DROP}; INSERT INTO audit VALUES ('down')",
        audit=("audit",),
    ),
}

Make = Callable[[Case], Rehearsal]


@pytest.fixture
def make(
    tmp_path: Path, database: Login, server: Login, run_parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Make:
    """Makes the rehearsal of a release whose copy is at the first revision."""
    password = quote(database.password or "", safe="")
    monkeypatch.setenv(
        "TEST_DATABASE_URL",
        f"postgresql+psycopg2://{database.user}:{password}@{database.host}:{database.port}/{database.database}",
    )

    def made(case: Case) -> Rehearsal:
        folder = tmp_path / "application"
        (folder / "migrations/versions").mkdir(parents=True)
        (folder / "alembic.ini").write_text("[alembic]\nscript_location = migrations\n")
        (folder / "migrations/env.py").write_text(ENV)
        revisions = {"first": (FIRST, None, "SELECT 1", "SELECT 1"), "second": (SECOND, FIRST, case.up, case.back)}
        for name, (revision, down, up, back) in revisions.items():
            text = REVISION.format(revision=revision, down=repr(down), up=up, back=back)
            (folder / f"migrations/versions/{name}.py").write_text(text)
        (folder / "program.py").write_text(PROGRAM)
        (folder / "upgrade").write_text(case.up)
        (folder / "downgrade").write_text(case.back)
        play(database, SCHEMA + case.before + "".join(f"CREATE TABLE {name} (what text);" for name in case.audit))
        run = Run(**run_parameters)
        Path(run.state_dir).mkdir(mode=0o700)
        change = Change(
            case.command,
            FIRST,
            SECOND,
            {"timeout_ms": 500, "attempts": 2, "deadline_seconds": 30},
            60,
            "",
            case.budget,
            case.finalize,
            {**case.tables, "audit": list(case.audit)},
            case.checks,
            [],
            [],
            case.guards,
            case.goes_back,
            case.default_wait,
            lossy=case.lossy,
        )
        commands = HostCommands(str(folder))
        copy = CopyTarget(database, database.to("postgres"), HostCommands(), False, run.run_id, 1, 60)
        return Rehearsal(change, run, copy, replace(database, version_table="alembic_version"), server, commands)

    return made


def is_told(proof: Proof) -> bool:
    return proof.name in TITLES or proof.status == "fail" or ("can_fail" in proof.name and proof.status != "pass")


def play(login: Login, sql: str) -> None:
    with closing(connect(login, "tests")) as session, session.cursor() as cursor:
        cursor.execute(sql)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_act_that_shows_the_release_to_be_wrong_ends_the_rehearsal(
    case: Case, make: Make, database: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    def downgraded() -> list[Proof]:
        if case.meanwhile:
            play(database, case.meanwhile)
        return [Proof("rehearse.api_downgraded", "", "pass")] if case.meanwhile else []

    monkeypatch.setattr(Services, "look", lambda *_: pytest.fail("The live application was asked."))
    rehearsal = make(case)
    rehearsal.probe()
    rehearsal.play(lambda: [], downgraded)

    seen = {proof.name: proof.status for proof in rehearsal.proofs if is_told(proof)}
    assert seen == {**dict.fromkeys(TITLES, "pass"), **case.ends}
    assert "observation" in rehearsal.facts
    assert all(sentence.startswith("squawk") for sentence in rehearsal.facts["advice"])
    if case.says:
        assert case.says in " ".join(proof.detail for proof in rehearsal.proofs if proof.status != "skipped")


def test_a_release_without_a_budget_has_the_default_and_is_given_the_line_that_declares_another() -> None:
    release: dict[str, Any] = {
        "migration": {"command": [], "from_revision": FIRST, "to_revision": SECOND, "timeout_seconds": 9},
        "tables": {"existing": {}, "created": {}, "altered": {}},
    }
    assert (Change.of(release).budget, Change.of(release).default_wait) == ({"write_wait_ms": 1000}, True)
    release["migration"]["budget"] = {"duration_seconds": 5}
    assert Change.of(release).default_wait
    release["migration"]["budget"] = {"write_wait_ms": 1000}
    assert not Change.of(release).default_wait
    over = Proof("rehearse.budget.write_wait", "", "fail", detail="A writer waited.", remedy="Do it safely.")
    assert change_module._by_default(over).remedy == (
        "Do it safely. If writers may wait longer, declare for how long in release.yml: "
        "migration: {budget: {write_wait_ms: MILLISECONDS}}."
    )
    for other in (replace(over, status="pass"), replace(over, name="rehearse.budget.duration")):
        assert change_module._by_default(other) is other


def test_rows_are_read_again_only_where_something_may_have_written(
    make: Make, database: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[None] = []

    def counting(*given: Any) -> Any:
        read.append(None)
        return read_tables(*given)

    monkeypatch.setattr(change_module, "read_tables", counting)
    rehearsal = make(Case())
    rehearsal.probe()
    rehearsal.play(list, list)
    assert len(read) == 2, "before the upgrade, and after the downgrade; the comparison between them reads its own"
    # The server gives numbers to transactions of all its databases, and other tests use it, too.
    assert any(rehearsal._is_as(rehearsal._state()) for _ in range(20))
    state = rehearsal._state()
    play(database, "UPDATE orders SET title = title WHERE id = 1")
    assert not rehearsal._is_as(state)
    assert not rehearsal._is_as(replace(rehearsal._state(), running=1))


def test_an_application_that_reads_another_revision_is_refused(make: Make, database: Login) -> None:
    rehearsal = make(Case())
    play(database, "UPDATE alembic_version SET version_num = 'bbbb00000002'")

    with pytest.raises(ReleaseError, match=f"it reads {SECOND}, and the backup is at {FIRST}") as caught:
        rehearsal.probe()

    assert caught.value.refused


def test_an_application_that_does_not_find_the_copy_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal = make(Case())
    monkeypatch.setenv("TEST_DATABASE_URL", "postgresql+psycopg2://nobody:x@127.0.0.1:1/nowhere")

    with pytest.raises(ReleaseError, match=r"did not reach the copy by its own settings.*Connection refused") as caught:
        rehearsal.probe()

    assert caught.value.refused
    assert "-e rehearsal=off" in caught.value.message


def test_a_copy_that_the_release_makes_unreadable_refuses_it_also_where_no_rehearsal_is_required(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal = make(Case())
    rehearsal.probe()

    def ended(*_: Any) -> None:
        raise psycopg2.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(change_module, "read_tables", ended)
    with pytest.raises(ReleaseError, match="the copy could not be read: server closed the connection") as caught:
        rehearsal.play(list, list)

    assert caught.value.refused
    assert not isinstance(caught.value, CannotRehearseError)
