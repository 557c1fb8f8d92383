"""preflight_info on a real, small target: whatever is broken on it, that very rule goes red, and no other."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import psycopg2.extensions
import pytest
from ansible.module_utils.dbrelease.database import Login, connect
from ansible.module_utils.dbrelease.errors import ReleaseError
from ansible.module_utils.dbrelease.preflight import gather, places
from ansible.module_utils.dbrelease.target import Service
from preflight_world import (
    ALEMBIC,
    HISTORY,
    NEWER,
    OLDER,
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
    assert statuses(result)["created_absent"] == "pass"
    only_before = ("dump_tools", "prepared_transactions", "old_transactions", "dump_room", "table_room")
    assert {statuses(result)[name] for name in only_before} == {"skipped"}


def test_deployed_target_with_the_old_files_gone_from_the_backend_says_so(world: World) -> None:
    world.deploy()
    world.payload.unlink()
    world.alembic(heads=f"{START} (head)\n")
    (world.folder / "current").unlink()
    result = world.look()
    assert red(result) == {"history"}
    assert "has lost the file" in result["message"]


def test_nothing_is_written_and_nothing_is_left(world: World) -> None:
    counted = """
        SELECT concat_ws(' ', (SELECT count(*) FROM pg_class), (SELECT count(*) FROM accounts),
                         (SELECT count(*) FROM orders), (SELECT version_num FROM alembic_version),
                         to_regclass('order_items'))"""
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


def folder_in_place(world: World) -> None:
    world.payload.mkdir()


def state_dir_in_a_file(world: World) -> None:
    (world.folder / "file").write_text("")
    world.parameters["run"]["state_dir"] = str(world.folder / "file/state")


def old_tool(world: World) -> None:
    write_tool(world.folder, "pg_restore", 9)


def broken_tool(world: World) -> None:
    (world.folder / "bin/pg_dump").write_text("#!/bin/sh\necho 'no library' >&2; exit 1\n")


def read_only_database(world: World) -> None:
    world.sql(f'ALTER DATABASE "{world.parameters["login_db"]}" SET default_transaction_read_only = on')


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
ON_DATABASE = ["server", "dump_tools", "revision", "tables", "created_absent", "checks_plan", "prepared_transactions",
               "old_transactions", "dump_room", "table_room"]  # fmt: skip
BROKEN: dict[str, tuple[Break, str, str, list[str]]] = {
    "a service is not named": (option("services", {}), "services", "set db_container", []),
    "a service is stopped": (service(status="exited"), "services", "docker start shop_postgres", []),
    "a service is missing": (service(status="missing"), "services", "create it", []),
    "a service is unhealthy": (service(health="unhealthy"), "services", "is unhealthy", []),
    "no address": (option("address_problem", "No host: set it."), "database", "No host: set it.", ON_DATABASE),
    "wrong password": (option("login_password", "nonsense"), "database", "check db_user and db_password", ON_DATABASE),
    "wrong database": (option("login_db", "nowhere"), "database", "check db_name", ON_DATABASE),
    "wrong port": (option("login_port", 1), "database", "db_host and db_port lead to it", ON_DATABASE),
    "old server": (change("server.minimum_major", 99), "server", "upgrade it to 99", ["checks_plan"]),
    "read-only database": (read_only_database, "server", "default_transaction_read_only", ["checks_plan"]),
    "old dump tool": (old_tool, "dump_tools", "pg_restore 9.1 cannot dump", []),
    "broken dump tool": (broken_tool, "dump_tools", "no library", []),
    "older revision": (lambda world: world.at(OLDER), "revision", f"older than {START}", ["created_absent"]),
    "newer revision": (lambda world: world.at(NEWER), "revision", f"newer than {START}", ["created_absent"]),
    "unknown revision": (lambda world: world.at("eeee00000009"), "revision", "does not know", ["created_absent"]),
    "two heads in the database": (lambda world: world.at(START, OLDER), "revision", "2 heads", ["created_absent"]),
    "no revision": (lambda world: world.at(), "revision", "missing or empty", ["created_absent"]),
    "no bookkeeping": (sql("DROP TABLE alembic_version"), "revision", "missing or empty", ["created_absent"]),
    "the backend has another database": (
        lambda world: world.alembic(current=OLDER), "revision", f"The backend says {OLDER}", []),
    "the backend cannot read its database": (
        lambda world: (world.folder / "current").unlink(), "revision", "alembic.sh current", []),
    "two heads in the files": (
        lambda world: world.alembic(heads=f"{START} (head)\n{NEWER} (head)\n"), "history", "2 heads", []),
    "another head in the files": (
        lambda world: world.alembic(heads=f"{NEWER} (head)\n"), "history", f"ends at {NEWER}", []),
    "no revision in the files": (lambda world: world.alembic(heads=""), "history", "no revision at all", []),
    "no migration command": (change("migration.command", ["no_such_program"]), "history", "no_such_program", []),
    "missing table": (sql("DROP TABLE orders"), "tables", "Table orders is missing", ["checks_plan"]),
    "missing columns": (
        sql("ALTER TABLE accounts DROP email"), "tables", "Table accounts has no column email", ["checks_plan"]),
    "view in place of a table": (
        sql("DROP TABLE orders; CREATE VIEW orders AS SELECT 1 AS id, 2 AS account_id, 'x' AS title"),
        "tables", "orders is a view", ["checks_plan"]),
    "table there already": (own_table, "created_absent", "there already (a table with 2 rows)", ["checks_plan"]),
    "view there already": (
        sql("CREATE VIEW order_items AS SELECT 1"), "created_absent", "(a view with 1 row)", ["checks_plan"]),
    "table lost after the release": (lost_table, "created_absent", "order_items is missing", ["checks_plan"]),
    "another file": (lambda world: world.payload.write_text("# another"), "payload", "is another file than", []),
    "a folder in place of the file": (folder_in_place, "payload", "is no file", []),
    "no folder for the file": (lambda world: world.payload.parent.rmdir(), "payload", "There is no folder", []),
    "another file with the same revision": (
        lambda world: world.payload.with_name("copy.py").write_text(REVISION_FILE), "payload", "copy.py defines", []),
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
        "checks_plan", "no type of this server", []),
    "statement in place of a type": (
        change("tables.created.order_items.columns.label.type", "int); DROP TABLE orders; --"),
        "checks_plan", "no type of this server", []),
    "file in place of the state directory": (state_dir_in_a_file, "dump_room", "is no folder", []),
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
    elsewhere = {"prepared_transactions", "old_transactions", "table_room"}
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
        assert "a forgotten console, idle in transaction" in result["message"]
        assert "on accounts, accounts_pkey" in result["message"] or "on accounts:" in result["message"]
        assert "secret@example.org" not in str(result)
        cursor.execute("ROLLBACK")
    other.close()
    assert world.look()["state"] == "ready"


def test_old_transaction_elsewhere_is_nobodys_business(world: World, database: Login) -> None:
    world.sql("CREATE TABLE unrelated (x int)")
    world.release["server"]["transaction_age_limit_seconds"] = 0
    other = connect(database, "elsewhere")
    with other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM unrelated")
        assert world.look()["state"] == "ready"
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
    assert "Make 64 MiB of room" in result["message"]


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


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


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
        wait_for(login)
        yield name, login
    finally:
        container.remove(force=True, v=True)


def wait_for(login: Login) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            connect(login, "tests").close()
            return
        except ReleaseError:
            assert time.monotonic() < deadline, "the tests' own server never answered"
            time.sleep(0.2)


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
    assert places.free_bytes(places_in(own_server[0]), "/small") == 1 << 20


def places_in(container: str) -> Any:
    from ansible.module_utils.dbrelease.commands import commands_in

    return commands_in(container)


def test_prepared_transaction_is_named(contained: World) -> None:
    contained.sql("BEGIN; INSERT INTO orders VALUES (1); PREPARE TRANSACTION 'left behind'")
    try:
        result = contained.look()
    finally:
        contained.sql("ROLLBACK PREPARED 'left behind'")
    assert red(result) == {"prepared_transactions"}
    assert "left behind of postgres since 20" in result["message"]


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
