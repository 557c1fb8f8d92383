"""preflight_info on a real, small target: whatever is broken on it, that very rule goes red, and no other."""

from __future__ import annotations

import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import psycopg2.extensions
import pytest
import server_in_container
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.host import disk
from ansible.module_utils.dbrelease.host.inspect import Service
from ansible.module_utils.dbrelease.postgres import session as session_module
from ansible.module_utils.dbrelease.postgres.catalog import read_back
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.postgres.trusted_roles import trusted_roles
from ansible.module_utils.dbrelease.preflight import gather
from ansible.module_utils.dbrelease.preflight.catalog import read_missing_rights
from ansible.module_utils.dbrelease.release.requirements import Demands
from own_sessions import connect
from preflight_world import (
    ALEMBIC,
    HISTORY,
    MIGRATION,
    NEWER,
    OLDER,
    OWN,
    POSTGRES_IMAGE,
    REVISION_FILE,
    SCHEMA,
    START,
    World,
    red,
    release,
    serve,
    statuses,
)
from psycopg2.extras import RealDictCursor

Break = Callable[[World], object]
RUNNING = {"container": "shop_postgres", "status": "running", "health": "healthy", "since": "", "image": "postgres:14"}


@pytest.fixture
def world(
    tmp_path: Path,
    session: psycopg2.extensions.connection,
    login_parameters: dict[str, Any],
    run_parameters: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    folder = tmp_path / "backend"
    (folder / "versions").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "alembic.sh").write_text(ALEMBIC)
    with session.cursor() as cursor:
        cursor.execute(SCHEMA)
    for tool in ("pg_dump", "pg_restore"):
        write_tool(folder, tool, session.server_version // 10000)
    monkeypatch.setenv("PATH", f"{folder}/bin", prepend=":")
    parameters = {
        **login_parameters,
        "run": run_parameters,
        "services": {"db": RUNNING},
        "address_problem": "",
        "backend_container": "",
        "db_container": "",
        "workdir": str(folder),
        "require_staging_evidence": False,
        "staging_evidence_path": "",
    }
    world = World(folder, session, release(folder), parameters)
    world.alembic(heads=f"{START} (head)\n", current=f"{START} (head)\n", history=HISTORY)
    server = serve(lambda: world.answers)
    parameters["api_base_url"] = f"http://127.0.0.1:{server.server_address[1]}"
    yield world
    server.shutdown()
    server.server_close()


def write_tool(folder: Path, tool: str, major: int) -> None:
    path = folder / "bin" / tool
    path.write_text(f"#!/bin/sh\necho '{tool} (PostgreSQL) {major}.1 (Debian)'\n")
    path.chmod(0o755)


def test_healthy_target_is_ready(world: World) -> None:
    result = world.look()
    assert result["message"] == ""
    assert result["state"] == "ready"
    assert set(statuses(result).values()) == {"pass", "inconclusive", "skipped"}
    assert statuses(result)["table_room"] == "inconclusive"  # no container to see the server's disk in
    assert result["payload_missing"] == [str(world.payload)]
    assert result["revision"] == START
    assert result["target_facts"]["dump_bytes_estimate"] > 0
    assert [line["event"] for line in world.journalled()] == ["started", "passed"]


def test_deployed_target_is_seen_as_deployed(world: World) -> None:
    world.deploy()
    result = world.look()
    assert (result["state"], result["message"], result["payload_missing"]) == ("deployed", "", [])
    assert statuses(result)["created_absent"] == statuses(result)["added_absent"] == "pass"
    only_before = ("dump_tools", "prepared_transactions", "old_transactions", "vacuum", "dump_room", "table_room")
    assert {statuses(result)[name] for name in only_before} == {"skipped"}


ITS_ORDER = "CONSTRAINT its_order FOREIGN KEY (order_id) REFERENCES orders (id) ON DELETE CASCADE"
ADD = f"ALTER TABLE order_items ADD {ITS_ORDER}"


@pytest.mark.parametrize(
    ("statement", "left"),
    [
        (f"{ADD} NOT VALID", True),
        (ADD.replace("CASCADE", "SET NULL"), True),
        ("", True),
        (ADD, False),
        ("ALTER TABLE order_items ADD CONSTRAINT its_order CHECK (true)", False),
    ],
    ids=["not valid", "not as declared", "missing", "valid", "nothing that reconcile repairs"],
)
def test_what_an_interrupted_reconcile_has_left_is_seen(world: World, statement: str, left: bool) -> None:
    world.release["tables"]["created"]["order_items"]["constraints"]["its_order"] = {
        "type": "foreign_key",
        "columns": ["order_id"],
        "references": {"table": "orders", "columns": ["id"]},
        "on_delete": "cascade",
    }
    world.deploy()
    if statement:
        world.sql(statement)
    assert not world.look()["unreconciled"], "nobody began to put it right"
    killed = {**world.parameters["run"], "run_id": "20260102T030400Z-dead00", "playbook": "reconcile"}
    Journal(Run(**killed)).append("reconcile", "started")
    for check_mode in (True, False):
        result = world.look(check_mode)
        assert (result["state"], result["unreconciled"]) == ("deployed", left)
    assert world.journalled()[-1]["facts"]["unreconciled"] is left


def test_a_locked_table_is_left_to_reconcile(world: World, database: Login) -> None:
    world.deploy()
    Journal(Run(**world.parameters["run"])).append("reconcile", "started")
    with closing(connect(database, "tests")) as other, other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE order_items IN ACCESS EXCLUSIVE MODE")
        assert world.look()["state"] == "deployed", "and it waits for nobody"


def test_a_release_that_alters_a_table_goes_from_ready_to_verified_to_deployed(world: World) -> None:
    assert (world.look()["state"], world.look()["message"]) == ("ready", "")
    login = Login.of(world.parameters)
    before = read_back(login, world.release["tables"], OWN, "alembic_version")
    assert {proof.name for proof in before if proof.status == "pass"} == {
        "structure.accounts.columns", "structure.orders.columns",
    }  # fmt: skip
    world.deploy()
    after = read_back(login, world.release["tables"], OWN, "alembic_version")
    assert {proof.name: proof.detail for proof in after if proof.status != "pass"} == {}
    assert {"structure.orders.added_columns", "structure.orders.added_constraints"} < {proof.name for proof in after}
    # What only a bare name could be planned by is there under every name now.
    change("checks.2.violations", "SELECT closed_at FROM public.orders")(world)
    assert (world.look()["state"], world.look()["message"]) == ("deployed", "")


def test_alembics_table_elsewhere_is_declared_and_until_then_named(world: World) -> None:
    world.sql('CREATE SCHEMA ops; ALTER TABLE alembic_version RENAME TO "Kept"; ALTER TABLE "Kept" SET SCHEMA ops')
    result = world.look()
    assert red(result) == {"revision"}
    for said in (START, "its table alembic_version is missing", "possibly ops.Kept", "migration.version_table"):
        assert said in result["message"]
    world.release["migration"]["version_table"] = "ops.Kept"
    result = world.look()
    assert (result["state"], result["message"], result["revision"]) == ("ready", "", START)


def test_a_role_that_writes_alembics_table_elsewhere_is_trusted(world: World) -> None:
    role = f"migrator_{secrets.token_hex(4)}"
    world.sql(f'CREATE ROLE {role}; CREATE SCHEMA ops; CREATE TABLE ops."Kept" (version_num text)')
    world.sql(f'GRANT UPDATE ON ops."Kept" TO {role}')
    oid = world.value(f"SELECT oid FROM pg_roles WHERE rolname = '{role}'")
    login = Login.of(world.parameters)
    try:
        for known, trusted in ((login, False), (replace(login, version_table="ops.Kept"), True)):
            with (
                closing(session_module.connect(known, "tests")) as session,
                session.cursor(cursor_factory=RealDictCursor) as cursor,
            ):
                assert (oid in trusted_roles(cursor, known.database)) is trusted
    finally:
        world.sql(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_the_rights_of_the_role_that_migrates(world: World) -> None:
    role, demands = f"rows_{secrets.token_hex(4)}", Demands.of(world.release)
    demands = replace(demands, referenced=("accounts",))
    world.sql(f"CREATE ROLE {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON orders, accounts TO {role}")
    world.sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    try:
        with closing(session_module.connect(Login.of(world.parameters), "tests")) as session:
            lacks = read_missing_rights(session, demands, role)
            owner = world.value("SELECT current_user::text")
            assert lacks == (
                "create tables in the schema public",
                f"alter orders, which {owner} owns",
                "reference accounts",
                "write alembic_version",
            )
            world.sql(f"GRANT CREATE ON SCHEMA public TO {role}; GRANT UPDATE ON alembic_version TO {role}")
            world.sql(f"GRANT REFERENCES ON accounts TO {role}; ALTER TABLE orders OWNER TO {role}")
            assert read_missing_rights(session, demands, role) == ()
    finally:
        world.sql(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")


def moved(value: Any) -> Any:
    """The release with its table orders in another schema, under a name with a capital."""
    if isinstance(value, dict):
        return {"draw.Orders" if key == "orders" else key: moved(one) for key, one in value.items()}
    if isinstance(value, list):
        return [moved(one) for one in value]
    return re.sub(r"\borders\b", 'draw."Orders"', value) if isinstance(value, str) and " " in value else value


def test_tables_in_another_schema_and_with_capitals(world: World) -> None:
    world.sql('CREATE SCHEMA draw; ALTER TABLE orders SET SCHEMA draw; ALTER TABLE draw.orders RENAME TO "Orders"')
    world.release = moved(world.release)
    result = world.look()
    assert (result["state"], result["message"]) == ("ready", "")
    (planned,) = [proof for proof in result["proofs"] if proof["name"] == "preflight.checks_plan"]
    assert planned["status"] == "inconclusive", "what needs a new column cannot be planned behind a stand-in"
    assert "only after the migration" in planned["detail"]
    change("checks.2.violations", 'SELECT nothing FROM draw."Orders"')(world)
    change("scenarios.0.steps.0.sql", 'UPDATE draw."Orders" SET nothing = 1')(world)
    world.deploy_text(moved(MIGRATION))
    result = world.look()
    assert red(result) == {"checks_plan"}
    change("checks.2.violations", 'SELECT closed_at FROM draw."Orders"')(world)
    change("scenarios.0.steps.0.sql", 'UPDATE draw."Orders" SET code = 1')(world)
    result = world.look()
    assert (result["state"], result["message"]) == ("deployed", "")
    after = read_back(Login.of(world.parameters), world.release["tables"], OWN, "alembic_version")
    assert {proof.name: proof.detail for proof in after if proof.status != "pass"} == {}
    assert "structure.draw.Orders.added_columns" in {proof.name for proof in after}


ALSO_THERE = """
ALTER TABLE orders ADD number int GENERATED ALWAYS AS IDENTITY, ADD twice int GENERATED ALWAYS AS (id * 2) STORED,
  ADD CONSTRAINT "One title" UNIQUE (title), ADD CONSTRAINT "no 100%" EXCLUDE (number WITH =) WHERE (title <> '{%s}');
"""
# Statements that the table as it is after the release can run, and what it can not.
PLANNED: list[tuple[str, str]] = [
    ("checks.2.violations", "SELECT o.*, count(i) FROM orders o JOIN order_items i ON order_id = id GROUP BY o.id"),
    ("checks.2.violations", "SELECT i.*, count(*) FROM order_items i, orders o GROUP BY i.order_id"),
    ("checks.2.violations", "SELECT * FROM orders WHERE (closed_at, code, title) IS NULL AND number > twice"),
    ("checks.2.violations", "SELECT x.code FROM orders x JOIN public.orders y USING (id) WHERE y.title = 'x'"),
    ("migration.finalize.0.pending", "SELECT count(*) AS pending FROM orders WHERE code IS NULL"),
    ("plans.0.sql", "SELECT * FROM orders WHERE code = 'x'"),
    ("scenarios.0.leaves_nothing", "SELECT count(*) FROM orders WHERE code = %(code)s"),
    ("scenarios.0.steps.0.sql", 'INSERT INTO orders (id, code) VALUES (1, 2) ON CONFLICT ON CONSTRAINT "One title" DO'
     " UPDATE SET code = excluded.code RETURNING closed_at"),
    ("scenarios.0.steps.0.sql", "INSERT INTO orders (id) VALUES (1) ON CONFLICT ON CONSTRAINT uq_code DO NOTHING"),
    ("scenarios.0.steps.0.sql", "INSERT INTO orders (id) VALUES (1) ON CONFLICT ON CONSTRAINT orders_pkey DO NOTHING"),
    ("scenarios.0.steps.0.sql", "INSERT INTO order_items VALUES (1) ON CONFLICT ON CONSTRAINT items_pkey DO NOTHING"),
]  # fmt: skip
NOT_PLANNED: list[tuple[str, str, str]] = [
    ("INSERT INTO orders (id, number) VALUES (1, 2)", 'non-DEFAULT value into column "number"', "an identity"),
    ("UPDATE orders SET twice = 1", 'column "twice" can only be updated to DEFAULT', "a generated column"),
    ("INSERT INTO orders (id, state) VALUES (1, 2)", 'column "state" of relation "orders" does not exist', "no column"),
]


@pytest.mark.parametrize("key_alone", [False, True], ids=["columns and key", "key alone"])
@pytest.mark.parametrize(("place", "text"), PLANNED)
def test_statements_are_planned_as_the_release_leaves_the_tables(
    world: World, place: str, text: str, key_alone: bool
) -> None:
    world.sql(ALSO_THERE)
    if key_alone:
        world.sql("ALTER TABLE orders ADD closed_at timestamptz, ADD code text")
        del world.release["tables"]["altered"]["orders"]["columns"]
    change(place, text)(world)
    result = world.look()
    assert (red(result), result["message"]) == (set(), "")
    world.sql(MIGRATION.replace("ADD closed_at timestamptz, ADD code text,", "") if key_alone else MIGRATION)
    world.at(OWN)
    world.alembic(heads=f"{OWN} (head)\n")
    world.payload.write_text(REVISION_FILE)
    assert world.look()["message"] == ""


@pytest.mark.parametrize(("text", "says", "why"), NOT_PLANNED, ids=[row[2] for row in NOT_PLANNED])
def test_what_the_table_will_not_take_is_red_before_as_after(world: World, text: str, says: str, why: str) -> None:
    world.sql(ALSO_THERE)
    change("scenarios.0.steps.0.sql", text)(world)
    before = world.look()
    world.deploy()
    after = world.look()
    assert red(before) == red(after) == {"checks_plan"}
    assert says in before["message"] and says in after["message"]


@pytest.mark.parametrize("path", ["public, pg_temp", '"$user", public', "pg_temp, public"])
def test_a_stand_in_is_found_first_whatever_the_search_path(world: World, path: str) -> None:
    if path.startswith("pg_temp"):  # there a new table is temporary, which no qualified name leads to
        change("checks.1.equal", "SELECT count(*) AS a, count(*) AS b FROM order_items")(world)
    world.sql(f'ALTER DATABASE "{world.parameters["login_db"]}" SET search_path = {path}')
    assert (world.look()["state"], world.look()["message"]) == ("ready", "")


def test_a_stand_in_is_of_the_table_that_the_search_path_finds(world: World) -> None:
    world.sql(
        "CREATE SCHEMA sales; CREATE TABLE sales.orders (id int, account_id int, title text, note text, region text)"
    )
    world.sql(f'ALTER DATABASE "{world.parameters["login_db"]}" SET search_path = sales, public')
    change("checks.1.equal", "SELECT count(region) AS a, count(closed_at) AS b FROM orders")(world)
    assert (world.look()["state"], world.look()["message"]) == ("ready", "")
    change("checks.1.equal", "SELECT count(closed_at) AS a, 1 AS b FROM public.orders")(world)
    assert "schema" not in world.look()["message"]  # it is another table, which the release does not alter
    change("checks.1.equal", "SELECT count(closed_at) AS a, 1 AS b FROM sales.orders")(world)
    assert "write it without the schema sales." in world.look()["message"]


@pytest.mark.parametrize("mode", ["EXCLUSIVE", "SHARE ROW EXCLUSIVE", "ACCESS SHARE"])
def test_a_stand_in_takes_no_lock_that_a_query_does_not_take(world: World, database: Login, mode: str) -> None:
    other = connect(database, "locker")
    with other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(f"LOCK TABLE orders IN {mode} MODE")
        assert (world.look()["state"], statuses(world.look())["checks_plan"]) == ("ready", "pass")
    other.close()


def test_a_locked_table_that_is_altered_is_no_reason_to_refuse(world: World, database: Login) -> None:
    other = connect(database, "locker")
    with other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE orders")
        result = world.look()
    other.close()
    (proof,) = [proof for proof in result["proofs"] if proof["name"] == "preflight.checks_plan"]
    assert (result["state"], proof["status"]) == ("ready", "inconclusive")
    assert "another session has locked a table that the release alters" in proof["detail"]


def test_a_user_who_may_not_create_temporary_tables_is_reported(world: World) -> None:
    name = f"deployer_{secrets.token_hex(4)}"
    database = world.parameters["login_db"]
    world.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'of-the-tests'; GRANT pg_read_all_stats, pg_read_all_data TO {name}")
    world.sql(f'REVOKE TEMP ON DATABASE "{database}" FROM PUBLIC; GRANT CREATE ON SCHEMA public TO {name}')
    world.parameters.update(login_user=name, login_password="of-the-tests")
    try:
        result = world.look()
        assert red(result) == {"checks_plan"}
        assert "permission denied to create temporary tables" in result["message"]
        assert "check that db_user may create tables and temporary tables in this database" in result["message"]
        world.sql(f'GRANT TEMP ON DATABASE "{database}" TO {name}')
        assert statuses(world.look())["checks_plan"] == "pass"
    finally:
        world.sql(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_a_password_that_expires_during_the_release_is_refused(world: World) -> None:
    name = f"deployer_{secrets.token_hex(4)}"
    world.sql(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD 'of-the-tests'")
    world.parameters.update(login_user=name, login_password="of-the-tests")
    try:
        for after, state in (("2 hours", "fail"), ("3 days", "pass")):
            world.sql(
                f"DO $$ BEGIN EXECUTE format('ALTER ROLE {name} VALID UNTIL %L', now() + '{after}'::interval); END $$"
            )
            result = world.look()
            assert statuses(result)["rights"] == state
            assert ("A password expires within a day: that of " + name in result["message"]) is (state == "fail")
    finally:
        world.sql(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_what_an_owner_may_not_do_is_reported(world: World) -> None:
    owner, database = f"owner_{secrets.token_hex(4)}", world.parameters["login_db"]

    def reported(rule: str = "rights") -> dict[str, Any]:
        return next(proof for proof in world.look()["proofs"] if proof["name"] == f"preflight.{rule}")

    assert (reported()["status"], reported()["observed"]) == ("pass", "superuser")
    world.sql(f"CREATE ROLE {owner} LOGIN PASSWORD 'of-the-tests'; GRANT pg_read_all_stats TO {owner}")
    world.sql(f'GRANT ALL ON SCHEMA public TO {owner}; GRANT TEMP ON DATABASE "{database}" TO {owner}')
    world.sql(f"GRANT SELECT ON accounts, alembic_version TO {owner}")
    world.parameters.update(login_user=owner, login_password="of-the-tests")
    try:
        assert red(world.look()) >= {"rights"}
        assert f"The role {owner} may not read orders." in reported()["detail"]
        world.sql(f"GRANT SELECT ON orders TO {owner}")
        world.sql('CREATE SCHEMA inner_part; CREATE TABLE inner_part."Secret" (id serial)')
        world.sql(f"GRANT USAGE ON SCHEMA inner_part TO {owner}")
        assert reported()["status"] == "fail", "the backup would fail on it"
        assert f'The role {owner} may not read inner_part."Secret", inner_part."Secret_id_seq".' in reported()["detail"]
        world.sql("DROP SCHEMA inner_part CASCADE")
        assert reported()["status"] == "inconclusive"
        assert "which owns accounts, alembic_version, orders" in reported()["detail"]
        for table in ("accounts", "orders", "alembic_version"):
            world.sql(f"ALTER TABLE {table} OWNER TO {owner}")
        assert (world.look()["state"], reported()["status"]) == ("ready", "pass")
        assert reported("restorable")["status"] == "inconclusive"
        assert reported("restorable")["detail"] == (
            f"The role {owner} may not create databases and does not own this one: "
            "the server would refuse to restore the backup."
        )
        world.parameters.update(require_restorable=True)
        assert red(world.look()) == {"restorable"}
        world.sql(f'ALTER ROLE {owner} CREATEDB; ALTER DATABASE "{database}" OWNER TO {owner}')
        assert (reported()["status"], reported()["observed"]) == ("pass", f"owner ({owner})")
        assert reported("restorable")["status"] == "pass"
    finally:
        world.sql(f"REASSIGN OWNED BY {owner} TO CURRENT_USER; DROP OWNED BY {owner}; DROP ROLE {owner}")


def test_a_backend_that_may_not_act_as_the_owner_is_reported(world: World) -> None:
    """Its Alembic is refused by the server where it asks to be the owner, and answers as itself."""
    owner = f"owner_{secrets.token_hex(4)}"
    world.sql(f"CREATE ROLE {owner} LOGIN CREATEDB PASSWORD 'of-the-tests'; GRANT pg_read_all_stats TO {owner}")
    world.sql(
        f'ALTER DATABASE "{world.parameters["login_db"]}" OWNER TO {owner}; GRANT ALL ON SCHEMA public TO {owner}'
    )
    for table in ("accounts", "orders", "alembic_version"):
        world.sql(f"ALTER TABLE {table} OWNER TO {owner}")
    world.parameters.update(login_user=owner, login_password="of-the-tests")
    script = world.folder / "alembic.sh"
    script.write_text(f'case "$PGOPTIONS" in *"-c role={owner}"*) exit 1 ;; esac\n' + script.read_text())
    try:
        (proof,) = [proof for proof in world.look()["proofs"] if proof["name"] == "preflight.rights"]
        assert proof["status"] == "inconclusive"
        assert f"The backend's role may not act as {owner}" in proof["detail"]
        assert proof["remedy"] == f"Grant {owner} to the role of the backend."
        world.release["migration"]["finalize"] = []
        assert statuses(world.look())["rights"] == "pass"
    finally:
        world.sql(f"REASSIGN OWNED BY {owner} TO CURRENT_USER; DROP OWNED BY {owner}; DROP ROLE {owner}")


def test_a_renamed_table_that_keeps_the_names_of_its_indexes_is_named(world: World) -> None:
    world.sql(MIGRATION.split("ALTER TABLE")[0])
    (there,) = [proof for proof in world.look()["proofs"] if proof["name"] == "preflight.created_absent"]
    assert "already exists" in there["detail"] and "The name" not in there["detail"] + there["remedy"]
    world.sql("CREATE SCHEMA aside; ALTER TABLE order_items RENAME TO kept")
    (there,) = [proof for proof in world.look()["proofs"] if proof["name"] == "preflight.created_absent"]
    assert [f"The name {name}, which order_items" in there["detail"] for name in ("items_pkey", "ix_items")] == [
        True, True,
    ]  # fmt: skip
    assert "reconcile" not in there["remedy"]
    world.sql("ALTER TABLE kept SET SCHEMA aside")
    assert world.look()["state"] == "ready"


def test_a_deployed_target_without_the_old_files_in_the_backend_is_reported(world: World) -> None:
    world.deploy()
    world.payload.unlink()
    world.alembic(heads=f"{START} (head)\n")
    (world.folder / "current").unlink()
    result = world.look()
    assert red(result) == {"history"}
    assert "no longer has the file" in result["message"]


def test_nothing_is_written_and_nothing_is_left(world: World) -> None:
    counted = """
        SELECT concat_ws(' ', (SELECT count(*) FROM pg_class), (SELECT count(*) FROM accounts),
                         (SELECT count(*) FROM orders), (SELECT version_num FROM alembic_version),
                         to_regclass('order_items'), (SELECT count(*) FROM pg_namespace),
                         (SELECT count(*) FROM pg_attribute WHERE attrelid = 'orders'::regclass))"""
    before = world.value(counted)
    first, second = world.look(), world.look()
    assert first["changed"] is second["changed"] is False
    assert statuses(first) == statuses(second)
    assert world.value(counted) == before


def test_check_mode_says_the_same_and_does_not_journal(world: World) -> None:
    world.sql("DROP TABLE orders")
    dry = world.look(check_mode=True)
    assert not world.journal.exists()
    assert (dry["state"], dry["message"]) == (world.look()["state"], world.look()["message"])


def test_refusal_is_journalled_with_its_proofs(world: World) -> None:
    world.at(OLDER)
    world.look()
    closing = world.journalled()[-1]
    assert closing["event"] == "refused"
    assert [proof["name"] for proof in closing["facts"]["proofs"] if proof["status"] == "fail"] == [
        "preflight.revision"
    ]


def test_all_problems_are_reported_at_once(world: World) -> None:
    world.at(OLDER)
    world.sql("ALTER TABLE accounts DROP COLUMN email")
    world.answers["/orders"] = (500, "")
    world.payload.write_text("# another one\n")
    assert red(world.look()) == {"revision", "tables", "api", "payload"}


def test_no_secret_in_the_result(world: World) -> None:
    world.parameters["login_password"] = "canary-5f1e"
    assert "canary-5f1e" not in str(world.look())


def change(path: str, value: Any) -> Break:
    """Set one value of the release."""

    def apply(world: World) -> None:
        *parents, last = path.split(".")
        place: Any = world.release
        for key in parents:
            place = place[int(key)] if key.isdigit() else place[key]
        place[last] = value

    return apply


def option(name: str, value: Any) -> Break:
    return lambda world: world.parameters.update({name: value})


def sql(text: str) -> Break:
    return lambda world: world.sql(text)


def own_table(world: World) -> None:
    world.sql("CREATE TABLE order_items (x int); INSERT INTO order_items VALUES (1), (2)")


def lost_table(world: World) -> None:
    world.deploy()
    world.sql("DROP TABLE order_items")


def lost_column(world: World) -> None:
    world.deploy()
    world.sql("ALTER TABLE orders DROP code")


def folder_in_place(world: World) -> None:
    world.payload.mkdir()


def state_dir_in_a_file(world: World) -> None:
    (world.folder / "file").write_text("")
    world.parameters["run"]["state_dir"] = str(world.folder / "file/state")


def state_dir_of_all(world: World) -> None:
    folder = Path(world.parameters["run"]["state_dir"])
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)


def old_tool(world: World) -> None:
    write_tool(world.folder, "pg_restore", 9)


def broken_tool(world: World) -> None:
    (world.folder / "bin/pg_dump").write_text("#!/bin/sh\necho 'no library' >&2; exit 1\n")


def plant(world: World) -> None:
    """An operator of a role that is not trusted, as one may be that everybody has."""
    world.sql(
        "CREATE FUNCTION equals(oid, integer) RETURNS bool LANGUAGE sql AS 'SELECT true';"
        "CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = integer, FUNCTION = equals);"
        "ALTER OPERATOR = (oid, integer) OWNER TO pg_monitor"
    )


def read_only_database(world: World) -> None:
    world.sql(f'ALTER DATABASE "{world.parameters["login_db"]}" SET default_transaction_read_only = on')


def late_index(world: World) -> None:
    world.release["tables"]["altered"]["orders"]["indexes"] = {"ix_late": {"columns": ["title"]}}
    world.sql("CREATE INDEX ix_late ON orders (title)")


def invalid_index(world: World) -> None:
    """As a timeout leaves it that ends CREATE INDEX CONCURRENTLY."""
    world.release["tables"]["altered"]["orders"]["indexes"] = {"ix_late": {"columns": ["title"]}}
    world.sql("INSERT INTO orders (id, title) SELECT i, 'x' FROM generate_series(90001, 90002) i")
    with pytest.raises(psycopg2.Error):
        world.sql("CREATE UNIQUE INDEX CONCURRENTLY ix_late ON orders (title)")


def triggers_off(world: World) -> None:
    world.sql(f'ALTER DATABASE "{world.parameters["login_db"]}" SET session_replication_role = replica')


def staging(text: str) -> Break:
    def apply(world: World) -> None:
        (world.folder / "evidence.json").write_text(text)
        world.parameters.update(
            require_staging_evidence=True, staging_evidence_path=str(world.folder / "evidence.json")
        )

    return apply


def answer(status: int, body: str) -> Break:
    return lambda world: world.answers.update({"/orders": (status, body)})


def service(**state: str) -> Break:
    return option("services", {"db": {**RUNNING, **state}})


# What is broken, the rule that says so, what it says, and the rules that cannot be judged any more.
ON_DATABASE = ["server", "dump_tools", "revision", "tables", "rights", "restorable", "dump_locks", "created_absent",
               "added_absent", "removed_present", "checks_plan", "prepared_transactions", "old_transactions",
               "dump_room", "table_room", "strangers", "vacuum", "indexes", "settings", "resources"]  # fmt: skip
HIDDEN = ["checks_plan", "removed_present"]
ABSENT = ["created_absent", "added_absent", "removed_present"]
BROKEN: dict[str, tuple[Break, str, str, list[str]]] = {
    "a service is not named": (option("services", {}), "services", "set db_container", []),
    "a service is stopped": (service(status="exited"), "services", "docker start shop_postgres", []),
    "a service is missing": (service(status="missing"), "services", "create it", []),
    "a service is unhealthy": (service(health="unhealthy"), "services", "is unhealthy", []),
    "no address": (option("address_problem", "No host: set it."), "database", "No host: set it.", ON_DATABASE),
    "wrong password": (option("login_password", "nonsense"), "database", "check db_user and db_password", ON_DATABASE),
    "wrong database": (option("login_db", "nowhere"), "database", "check db_name", ON_DATABASE),
    "wrong port": (option("login_port", 1), "database", "db_host and db_port are its address", ON_DATABASE),
    "old server": (change("server.minimum_major", 99), "server", "upgrade it to 99", ["checks_plan"]),
    "read-only database": (read_only_database, "server", "default_transaction_read_only", ["checks_plan"]),
    "an operator of a stranger": (plant, "strangers", '"=" in "public" is "pg_monitor"', ["checks_plan"]),
    "old dump tool": (old_tool, "dump_tools", "pg_restore 9.1 cannot dump", []),
    "broken dump tool": (broken_tool, "dump_tools", "no library", []),
    "older revision": (lambda world: world.at(OLDER), "revision", f"older than {START}", ABSENT),
    "newer revision": (lambda world: world.at(NEWER), "revision", f"newer than {START}", ABSENT),
    "unknown revision": (lambda world: world.at("eeee00000009"), "revision", "not in the backend's history", ABSENT),
    "two heads in the database": (lambda world: world.at(START, OLDER), "revision", "2 heads", ABSENT),
    "no revision": (lambda world: world.at(), "revision", "missing or empty", ABSENT),
    "no bookkeeping": (sql("DROP TABLE alembic_version"), "revision", "missing or empty", ABSENT),
    "the backend has another database": (
        lambda world: world.alembic(current=OLDER), "revision", f"The backend reports {OLDER}", []),
    "the backend cannot read its database": (
        lambda world: (world.folder / "current").unlink(), "revision", "alembic.sh current",
        ["session_settings"]),
    "two heads in the files": (
        lambda world: world.alembic(heads=f"{START} (head)\n{NEWER} (head)\n"), "history", "2 heads", []),
    "another head in the files": (
        lambda world: world.alembic(heads=f"{NEWER} (head)\n"), "history", f"ends at {NEWER}", []),
    "no revision in the files": (lambda world: world.alembic(heads=""), "history", "0 heads (no revision)", []),
    "no migration command": (
        change("migration.command", ["no_such_program"]), "history", "no_such_program", ["session_settings"]),
    "an invalid index of a declared name": (
        invalid_index, "indexes", "Remove it first: DROP INDEX CONCURRENTLY public.ix_late;", []),
    "an index of a declared name": (
        late_index, "indexes", "The index ix_late, which the release adds, already exists.", []),
    "triggers are off for the database": (
        triggers_off, "settings", "session_replication_role = replica (for every role in the database", []),
    "missing table": (sql("DROP TABLE orders"), "tables", "Table orders is missing", HIDDEN),
    "missing columns": (
        sql("ALTER TABLE accounts DROP email"), "tables", "Table accounts has no column email", HIDDEN),
    "view in place of a table": (
        sql("DROP TABLE orders; CREATE VIEW orders AS SELECT 1 AS id, 2 AS account_id, 'x' AS title"),
        "tables", "orders is a view", HIDDEN),
    "table there already": (own_table, "created_absent", "already exists (a table with 2 rows)", ["checks_plan"]),
    "view there already": (
        sql("CREATE VIEW order_items AS SELECT 1"), "created_absent", "(a view)", ["checks_plan"]),
    "name of an index there already": (
        sql("CREATE TABLE kept (x text); CREATE INDEX ix_items ON kept (x)"), "created_absent",
        "The name ix_items, which order_items needs, is that of an index of the table kept.", ["checks_plan"]),
    "name of a key there already": (
        sql("CREATE TABLE kept (x int CONSTRAINT items_pkey PRIMARY KEY)"), "created_absent",
        "an index of the table kept. Rename each that has such a name (ALTER INDEX", ["checks_plan"]),
    "name of a key is a view's": (
        sql("CREATE VIEW items_pkey AS SELECT 1"), "created_absent", "is that of a view.", ["checks_plan"]),
    "table lost after the release": (lost_table, "created_absent", "order_items is missing", ["checks_plan"]),
    "column there already": (
        sql("ALTER TABLE orders ADD closed_at date"),
        "added_absent", "The column orders.closed_at already exists. Find out who added it", ["checks_plan"]),
    "columns there already": (
        sql("ALTER TABLE orders ADD closed_at date, ADD code int"),
        "added_absent", "The column orders.closed_at, orders.code already exists", ["checks_plan"]),
    "column to drop is missing": (
        sql("ALTER TABLE orders DROP note"), "removed_present", "Table orders has no column note.", ["checks_plan"]),
    "column lost after the release": (
        lost_column, "added_absent", "the column orders.code is missing. It has been dropped", ["checks_plan"]),
    "another file": (lambda world: world.payload.write_text("# another"), "payload", "differs from", []),
    "a folder in place of the file": (folder_in_place, "payload", "is not a file", []),
    "no folder for the file": (lambda world: world.payload.parent.rmdir(), "payload", "There is no folder", []),
    "another file with the same revision": (
        lambda world: world.payload.with_name("copy.py").write_text(REVISION_FILE),
        "payload", "copy.py also defines", []),
    "query on a missing column": (
        change("checks.0.violations", "SELECT nothing FROM order_items"),
        "checks_plan", "checks.yml: checks.no_stray", []),
    "query on a missing table": (change("plans.0.sql", "SELECT * FROM nowhere"), "checks_plan", "plans.by_order", []),
    "query with wrong syntax": (change("observations.0.sql", "SELEC 1"), "checks_plan", "observations.orders", []),
    "query that writes": (
        change("checks.0.violations", "WITH d AS (DELETE FROM orders RETURNING 1) SELECT * FROM d"),
        "checks_plan", "checks.no_stray", []),
    "query with a second statement": (
        change("checks.0.violations", "SELECT 1) t; DROP TABLE orders CASCADE; SELECT (1"),
        "checks_plan", "checks.no_stray", []),
    "no query at all": (change("checks.0.violations", "DROP TABLE orders"), "checks_plan", "checks.no_stray", []),
    "broken question of a finalize step": (
        change("migration.finalize.0.pending", "SELECT x"), "checks_plan", "migration.finalize.analyze.pending", []),
    "broken end of a scenario": (
        change("scenarios.0.leaves_nothing", "SELECT x WHERE 1 = %(order)s"),
        "checks_plan", "scenarios.cascade.leaves_nothing", []),
    "broken step of a scenario": (
        change("scenarios.0.steps", [{"title": "Add", "sql": "INSERT INTO order_items (nothing) VALUES (%(id)s)"}]),
        "checks_plan", "scenarios.cascade.steps[1]", []),
    "unknown type of a new column": (
        change("tables.created.order_items.columns.label.type", "strings"),
        "checks_plan", "not a type of this server", []),
    "statement in place of a type": (
        change("tables.created.order_items.columns.label.type", "int); DROP TABLE orders; --"),
        "checks_plan", "not a type of this server", []),
    "query on a column that nothing adds": (
        change("checks.2.violations", "SELECT opened_at FROM orders"),
        "checks_plan", "checks.closed cannot run: column \"opened_at\" does not exist", []),
    "query on a new column by the schema's table": (
        change("checks.2.violations", 'SELECT closed_at FROM accounts JOIN "public" . ORDERS o ON true'),
        "checks_plan", "under its bare name only: write it without the schema public.", []),
    "step on a new column by the schema's table": (
        change("scenarios.0.steps.0.sql", "UPDATE public.orders SET closed_at = now()"),
        "checks_plan", "What the release adds to orders can be planned under its bare name only", []),
    "observation of a new column": (
        change("observations.0.sql", "SELECT count(closed_at) FROM orders"),
        "checks_plan", "observations.orders cannot run: column \"closed_at\" does not exist", []),
    "observation of a new table": (
        change("observations.0.sql", "SELECT count(*) FROM order_items"),
        "checks_plan", "observations.orders cannot run: relation \"order_items\" does not exist", []),
    "step on a key that nothing makes": (
        change("scenarios.0.steps.0.sql", "INSERT INTO orders VALUES (1) ON CONFLICT ON CONSTRAINT uq_x DO NOTHING"),
        "checks_plan", 'steps[1] cannot run: constraint "uq_x" for table "orders" does not exist', []),
    "unknown type of an added column": (
        change("tables.altered.orders.columns.code.type", "strings"),
        "checks_plan", "tables.altered.orders.columns.code.type is 'strings', which is not a type of this server", []),
    "statement in place of an added column's type": (
        change("tables.altered.orders.columns.code.type", "int); DROP TABLE accounts; --"),
        "checks_plan", "not a type of this server", []),
    "others may write to the state directory": (state_dir_of_all, "state_dir", "is writable by its group and", []),
    "file in place of the state directory": (state_dir_in_a_file, "dump_room", "is not a folder", []),
    "API with an error": (answer(500, "{}"), "api", "status 500 instead of 200", []),
    "API without JSON": (answer(200, "<html>"), "api", "no JSON", []),
    "API down": (option("api_base_url", "http://127.0.0.1:1"), "api", "nothing listens", []),
    "no evidence of staging": (staging("{}"), "staging_evidence", "Deploy release sample in staging", []),
    "broken evidence of staging": (staging("{"), "staging_evidence", "Reading the evidence", []),
    "failed in staging": (
        staging('{"release": "sample", "outcome": "failed"}'), "staging_evidence", "with outcome failed", []),
}  # fmt: skip


@pytest.mark.parametrize(("break_it", "rule", "says", "dependents"), BROKEN.values(), ids=BROKEN.keys())
def test_that_very_rule_goes_red(world: World, break_it: Break, rule: str, says: str, dependents: list[str]) -> None:
    healthy = statuses(world.look())
    break_it(world)
    result = world.look()
    assert says in result["message"]
    assert red(result) == {rule}
    assert result["state"] == "refused"
    now = statuses(result)
    assert sorted(name for name in now if now[name] == "skipped" != healthy[name]) == sorted(dependents)
    assert all(proof["remedy"] or ": " in proof["detail"] for proof in result["proofs"] if proof["status"] == "fail")


def test_every_rule_has_been_seen_red() -> None:
    elsewhere = {
        "session_settings",
        "migration_role",
        "restorable",
        "dump_locks",
        "rights",
        "prepared_transactions",
        "old_transactions",
        "table_room",
        "vacuum",
    }
    assert {rule for _, rule, _, _ in BROKEN.values()} | elsewhere == set(places_of_rules())


def places_of_rules() -> list[str]:
    from ansible.module_utils.dbrelease.preflight.judge import RULES

    return list(RULES)


def test_old_transaction_on_a_table_is_named_without_its_data(world: World, database: Login) -> None:
    other = connect(database, "a forgotten console")
    with other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT count(*) FROM accounts WHERE email = 'secret@example.org'")
        assert red(world.look()) == set()
        world.release["server"]["transaction_age_limit_seconds"] = 0
        result = world.look()
        assert red(result) == {"old_transactions"}
        assert '"a forgotten console", idle in transaction' in result["message"]
        assert "on accounts, accounts_pkey" in result["message"] or "on accounts:" in result["message"]
        assert "secret@example.org" not in str(result)
        cursor.execute("ROLLBACK")
    other.close()
    assert world.look()["state"] == "ready"


def test_an_old_transaction_elsewhere_is_ignored(world: World, database: Login) -> None:
    world.sql("CREATE TABLE unrelated (x int)")
    world.release["server"]["transaction_age_limit_seconds"] = 0
    other = connect(database, "elsewhere")
    with other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM unrelated")
        assert world.look()["state"] == "ready"
        world.release["tables"] |= {"existing": {}, "altered": {}}  # the migration may lock any
        assert "on unrelated" in world.look()["message"]
    other.close()


def test_exclusively_locked_table_makes_nothing_wait(world: World, database: Login) -> None:
    world.release["server"]["transaction_age_limit_seconds"] = 0
    other = connect(database, "locker")
    with other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE accounts, orders")
        begun = time.monotonic()
        result = world.look()
        assert time.monotonic() - begun < 10
    other.close()
    assert red(result) == {"old_transactions"}
    assert statuses(result)["checks_plan"] == "inconclusive"
    assert result["target_facts"]["dump_bytes_estimate"] is not None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_no_room_for_the_dump(world: World, small_disk: Path) -> None:
    world.parameters["run"]["state_dir"] = str(small_disk / "deep/state")
    result = world.look()
    assert red(result) == {"dump_room"}
    assert f"0 MiB free at {small_disk}" in result["message"]
    assert "Free another 64 MiB" in result["message"]


def test_read_only_state_directory(world: World, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    world.parameters["run"]["state_dir"] = str(small_disk / "state")
    result = world.look()
    assert red(result) == {"dump_room"}
    assert "mounted read-only" in result["message"]


def test_folder_that_is_mounted_read_only_takes_no_payload(world: World) -> None:
    versions = world.payload.parent
    subprocess.run(["mount", "--bind", versions, versions], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", versions], check=True)
    try:
        result = world.look()
    finally:
        subprocess.run(["umount", versions], check=True)
    assert red(result) == {"payload"}
    assert "cannot be written" in result["message"]


engine = server_in_container.engine


@pytest.fixture(scope="module")
def own_server(engine: docker.DockerClient) -> Iterator[tuple[str, Login]]:
    """A database server of the tests' own, which takes prepared transactions."""
    name = f"test_preflight_{secrets.token_hex(4)}"
    container = engine.containers.run(
        POSTGRES_IMAGE, ["postgres", "-c", "max_prepared_transactions=2", "-c", "fsync=off"], name=name, detach=True,
        environment={"POSTGRES_PASSWORD": "of-the-tests"}, tmpfs={"/small": "size=1m"},
    )  # fmt: skip
    try:
        container.reload()
        (network,) = container.attrs["NetworkSettings"]["Networks"].values()
        login = Login(network["IPAddress"], 5432, "postgres", "postgres", "of-the-tests")
        server_in_container.wait_for(login)
        yield name, login
    finally:
        container.remove(force=True, v=True)


@pytest.fixture
def contained(world: World, own_server: tuple[str, Login]) -> Iterator[World]:
    """The same world, its database in a container."""
    name, login = own_server
    world.session = connect(login, "tests")
    world.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    world.sql(SCHEMA)
    world.parameters.update(
        login_host=login.host, login_user=login.user, login_password=login.password, login_db=login.database,
        login_port=login.port, db_container=name, services={"db": {**RUNNING, "container": name}},
    )  # fmt: skip
    yield world
    world.session.close()


def test_tools_and_disk_of_the_database_container_are_seen(contained: World) -> None:
    result = contained.look()
    assert (result["state"], result["message"]) == ("ready", "")
    assert statuses(result)["table_room"] == statuses(result)["dump_tools"] == "pass"
    assert result["target_facts"]["table_free_bytes"] > 0


def test_no_room_for_the_new_table(contained: World) -> None:
    contained.release["migration"]["growth_factor"] = 1e12
    result = contained.look()
    assert red(result) == {"table_room"}
    assert "on the server" in result["message"]


def test_room_is_that_of_the_folder_in_the_container(own_server: tuple[str, Login]) -> None:
    assert disk.room_at(places_in(own_server[0]), "/small") == disk.Room("/small", 1 << 20)


def places_in(container: str) -> Any:
    from ansible.module_utils.dbrelease.host.commands import commands_in

    return commands_in(container)


def test_prepared_transaction_is_named(contained: World) -> None:
    contained.sql("BEGIN; INSERT INTO orders VALUES (1); PREPARE TRANSACTION 'left behind'")
    try:
        result = contained.look()
    finally:
        contained.sql("ROLLBACK PREPARED 'left behind'")
    assert red(result) == {"prepared_transactions"}
    assert '"left behind" of "postgres" since 20' in result["message"]


def test_age_that_an_unprivileged_user_cannot_see_is_not_called_young(contained: World) -> None:
    contained.sql("DROP ROLE IF EXISTS deployer; CREATE ROLE deployer LOGIN PASSWORD 'of-the-tests'")
    contained.sql("GRANT ALL ON SCHEMA public TO deployer; GRANT ALL ON ALL TABLES IN SCHEMA public TO deployer")
    contained.parameters["login_user"] = "deployer"
    contained.sql("BEGIN; SELECT * FROM orders")
    result = contained.look()
    contained.sql("ROLLBACK; GRANT pg_monitor TO deployer")
    assert statuses(result)["old_transactions"] == "inconclusive"
    assert red(result) == set()
    assert statuses(contained.look())["old_transactions"] == "pass"
    contained.sql("DROP OWNED BY deployer; DROP ROLE deployer")


def test_stopped_containers_are_blamed_once(world: World, engine: docker.DockerClient, own_server: Any) -> None:
    gone = {"container": "test_preflight_gone", "status": "missing", "health": "none", "since": "", "image": ""}
    world.release["services"] = ["db", "backend"]
    world.parameters.update(
        services={"db": gone, "backend": gone}, db_container="test_preflight_gone",
        backend_container="test_preflight_gone", address_problem="Container test_preflight_gone is missing.",
    )  # fmt: skip
    result = world.look()
    assert red(result) == {"services"}
    assert {"database", "history", "payload", "api", "dump_tools"} <= {
        name for name, status in statuses(result).items() if status == "skipped"
    }


def test_container_that_the_engine_does_not_have_is_no_crash(world: World) -> None:
    world.parameters.update(db_container="test_preflight_gone", backend_container="test_preflight_gone")
    assert red(world.look()) == {"dump_tools", "history", "payload"}


def test_starting_service_is_waited_for(engine: docker.DockerClient) -> None:
    name = f"test_preflight_{secrets.token_hex(4)}"
    second = 10**9
    container = engine.containers.run(
        POSTGRES_IMAGE, ["sleep", "60"], entrypoint="", name=name, init=True, detach=True, network_mode="none",
        healthcheck={"test": ["CMD", "true"], "interval": second, "timeout": second},
    )  # fmt: skip
    try:
        starting = {"db": Service(name, "running", "starting")}
        assert gather.settle(starting, ["db"], wait_s=0)["db"].health == "starting"
        assert gather.settle(starting, ["db"])["db"].health == "healthy"
    finally:
        container.remove(force=True, v=True)


REVISION = "op.execute(\"CREATE TYPE mood AS ENUM ('glad', 'sad')\"); op.execute('CREATE EXTENSION shapes')"
TYPES = {
    "an enum": ("mood", "SELECT label FROM order_items WHERE mood <> 'glad' AND mood <> 'sad'::mood", "pass"),
    "an array of it": ("mood[]", "SELECT label FROM order_items WHERE mood IS NULL", "pass"),
    "one with a limit": ("mood(3)", "SELECT label FROM order_items WHERE mood IS NULL", "pass"),
    "one of a schema": ("shapes.mood", "SELECT label FROM order_items WHERE mood IS NULL", "pass"),
    "a number's domain": ("mood", "SELECT label FROM order_items WHERE mood > 0", "inconclusive"),
    "a function of it": ("mood", "SELECT label FROM order_items WHERE length_of(mood) > 0", "inconclusive"),
}


@pytest.mark.parametrize("texts", [[REVISION], []], ids=["in the release", "in the backend"])
@pytest.mark.parametrize(("kind", "statement", "status"), TYPES.values(), ids=TYPES.keys())
def test_a_type_that_the_migration_makes_is_no_reason_to_refuse(
    world: World, kind: str, statement: str, status: str, texts: list[str]
) -> None:
    world.release["migration"]["revision_files"] = [{"name": "x.py", "content": text} for text in texts]
    world.release["tables"]["created"]["order_items"]["columns"]["mood"] = {"type": kind, "nullable": True}
    world.release["tables"]["altered"]["orders"]["columns"]["mood"] = {"type": kind, "nullable": True}
    world.release["checks"].append({"name": "moody", "title": "Moody", "violations": statement})
    result = world.look()
    assert (result["state"], statuses(result)["checks_plan"]) == ("ready", status), result["message"]
    assert world.value("SELECT to_regtype('mood')") is None, "nothing of it is left"


def test_a_type_that_nothing_creates_is_refused(world: World) -> None:
    world.release["migration"]["revision_files"] = [{"name": "x.py", "content": REVISION}]
    world.release["tables"]["created"]["order_items"]["columns"]["mood"] = {"type": "integr", "nullable": True}
    result = world.look()
    assert red(result) == {"checks_plan"} and "the release's revision does not name it" in result["message"]


def test_what_is_wrong_besides_is_still_refused(world: World) -> None:
    world.release["migration"]["revision_files"] = [{"name": "x.py", "content": REVISION}]
    world.release["tables"]["created"]["order_items"]["columns"]["mood"] = {"type": "mood", "nullable": True}
    world.release["checks"].append({"name": "bad", "title": "Bad", "violations": "SELECT nothing FROM order_items"})
    assert red(world.look()) == {"checks_plan"}


def test_what_is_set_and_what_the_server_has_is_reported(world: World) -> None:
    name = world.parameters["login_db"]
    world.sql(f"ALTER DATABASE \"{name}\" SET statement_timeout = '5s'; ALTER DATABASE \"{name}\" SET work_mem = '3MB'")
    world.sql(f"ALTER DATABASE \"{name}\" SET temp_file_limit = '1GB'")
    result = world.look()
    assert result["state"] == "ready"
    proofs = {proof["name"]: proof for proof in result["proofs"]}
    assert "statement_timeout = 5s (for every role in the database" in proofs["preflight.settings"]["detail"]
    assert "In effect for the migration:" in proofs["preflight.settings"]["detail"]
    found = proofs["preflight.resources"]
    assert (found["status"], found["observed"]["work_mem_kb"]) == ("inconclusive", 3072)
    assert found["observed"]["temp_file_limit_kb"] == 1 << 20 and "Raise temp_file_limit" in found["remedy"]


@pytest.mark.parametrize(("valid_for", "refused"), [("3 hours", True), ("3 days", False)])
def test_a_password_that_expires_during_the_release_is_named(world: World, valid_for: str, refused: bool) -> None:
    role = f"owner_{secrets.token_hex(4)}"
    world.sql(f"CREATE ROLE {role}; ALTER TABLE alembic_version OWNER TO {role}")
    try:
        world.sql(f"DO $$ BEGIN EXECUTE format('ALTER ROLE {role} VALID UNTIL %L', now() + '{valid_for}'); END $$")
        result = world.look()
        (proof,) = [proof for proof in result["proofs"] if proof["name"] == "preflight.rights"]
        assert (proof["status"] == "fail", result["state"] == "refused") == (refused, refused)
        assert (f"expires within a day: that of {role} at 2" in proof["detail"]) == refused
    finally:
        world.sql(f"ALTER TABLE alembic_version OWNER TO CURRENT_USER; DROP ROLE {role}")


def test_what_db_user_may_not_do_about_blockers_is_reported(world: World) -> None:
    assert "preflight.blockers" not in {proof["name"] for proof in world.look()["proofs"]}, "nothing is declared"
    blockers = {"wait": False, "cancel_autovacuum": True, "end_idle_in_transaction": 60}
    world.release["migration"]["lock"] = {**world.release["migration"].get("lock", {}), "blockers": blockers}
    (proof,) = [proof for proof in world.look()["proofs"] if proof["name"] == "preflight.blockers"]
    assert (proof["status"], proof["detail"]) == ("pass", "")


def test_a_vacuum_against_wraparound_is_named_before_anything_is_touched(world: World) -> None:
    world.sql("INSERT INTO orders (id, title) SELECT i, repeat('x', 500) FROM generate_series(10001, 13000) i")
    world.sql(
        "ALTER TABLE orders SET (autovacuum_freeze_max_age = 100000, autovacuum_vacuum_cost_delay = 100, "
        "autovacuum_vacuum_cost_limit = 1); CREATE TABLE spent (x int)"
    )
    world.sql(
        "DO $$ BEGIN FOR i IN 1..110000 LOOP BEGIN INSERT INTO spent VALUES (i); EXCEPTION WHEN unique_violation "
        "THEN NULL; END; END LOOP; END $$"
    )
    world.sql("ALTER SYSTEM SET autovacuum_naptime = '1s'")
    world.sql("SELECT pg_reload_conf()")
    try:
        at_work = (
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'autovacuum: %public.orders%wraparound)' "
            "AND datname = current_database()"
        )
        deadline = time.monotonic() + 60
        while not world.value(at_work):
            assert time.monotonic() < deadline, "no autovacuum came"
            time.sleep(0.1)
        result = world.look()
    finally:
        world.sql("ALTER SYSTEM RESET autovacuum_naptime")
        world.sql("SELECT pg_reload_conf()")
    assert red(result) == {"vacuum"}
    assert "is running on public.orders (pid " in result["message"]
