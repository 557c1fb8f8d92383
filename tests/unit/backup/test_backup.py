"""backup: a real server in a container of its own, real files, and every way in which a backup can go wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import resource
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import backup as module
import docker
import psycopg2
import pytest
import server_in_container
from ansible.module_utils.dbrelease.backup import baseline, dump, manifest, schema_text, take
from ansible.module_utils.dbrelease.core import progress
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.host.commands import ContainerCommands, commands_in
from ansible.module_utils.dbrelease.postgres.fingerprints import read_tables
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from left_sessions import left_sessions
from own_sessions import connect
from psycopg2.extras import RealDictCursor
from run_ids import RUN_ID
from server_in_container import PASSWORD
from waits import until

OBSERVATIONS = [
    {"name": "total", "title": "Total orders", "sql": "SELECT count(*) AS total FROM orders"},
    {"name": "sample", "title": "Sample orders", "sql": "SELECT id, title FROM orders ORDER BY id LIMIT 2;"},
]
SCHEMA = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('1a2b3c4d5e6f');
CREATE TABLE accounts (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id int PRIMARY KEY, title text, account_id int REFERENCES accounts, extra json);
INSERT INTO accounts SELECT n, 'account ' || n FROM generate_series(1, 50) n;
INSERT INTO orders SELECT n, 'order ''' || n || ''' % 🙂 ' || md5(n::text), 1 + n % 50, '{"n": 1}'
FROM generate_series(1, 20000) n;
"""

engine, container = server_in_container.engine, server_in_container.container
own_server = server_in_container.own_server

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def shop(own_server: Login) -> Iterator[Login]:
    """A database with rows in it, gone afterwards."""
    name = f"shop_{secrets.token_hex(4)}"
    with closing(connect(own_server, "tests")) as session, session.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        login = replace(own_server, database=name)
        with closing(connect(login, "tests")) as inner, inner.cursor() as filling:
            filling.execute(SCHEMA)
        yield login
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def parameters(shop: Login, container: str, run_parameters: dict[str, Any]) -> Make:
    def make(**changes: Any) -> dict[str, Any]:
        return {
            "login_host": shop.host,
            "login_port": shop.port,
            "login_user": shop.user,
            "login_password": shop.password,
            "login_db": shop.database,
            "ssl_mode": shop.ssl_mode,
            "run": run_parameters,
            "label": "2.4",
            "db_container": container,
            "observations": OBSERVATIONS,
            "bookkeeping_table": "alembic_version",
            "timeout_seconds": 60,
            **changes,
        }

    return make


@pytest.fixture
def state(run_parameters: dict[str, Any]) -> Path:
    return Path(run_parameters["state_dir"])


def names(state: Path) -> list[str]:
    return sorted(path.name for path in state.iterdir()) if state.exists() else []


def journal(state: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (state / "journal.jsonl").read_text().splitlines()]


def events(state: Path) -> list[tuple[str, str]]:
    return [(line["step"], line["event"]) for line in journal(state)]


def tables_of(login: Login) -> dict[str, Any]:
    with (
        closing(connect(login, "tests")) as session,
        transaction(session, read_only=True, isolation="REPEATABLE READ") as cursor,
    ):
        read = read_tables(cursor)
    return {name: {key: table[key] for key in ("rows", "fingerprint", "columns")} for name, table in read.items()}


def assert_no_backup(state: Path, shop: Login) -> None:
    assert [name for name in names(state) if "backup_before" in name] == []
    assert left_sessions(shop) == []


def test_backup_is_whole_private_and_described(parameters: Make, state: Path, shop: Login) -> None:
    result = module.act(parameters(), False)
    assert names(state) == [
        "backup_before_2.4_20260102_030405.dump",
        "backup_before_2.4_20260102_030405.manifest.json",
        "journal.jsonl",
        "pre_migration_state_20260102_030405.json",
        "pre_migration_state_20260102_030405.txt",
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()} == {0o600}
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    written = Path(result["dump"]).read_bytes()
    assert (result["changed"], result["decoded"], result["message"]) == (True, True, "")
    assert (result["sha256"], result["bytes"]) == (hashlib.sha256(written).hexdigest(), len(written))
    assert [(proof["name"], proof["status"]) for proof in result["proofs"]] == [
        ("baseline.documented", "pass"),
        ("backup.saved", "pass"),
        ("backup.decoded", "pass"),
        ("backup.restorable", "inconclusive"),
    ]
    assert result["proofs"][-1]["detail"] == "Saved and readable, not yet restored."
    kept = json.loads(Path(result["manifest"]).read_text())
    assert kept["tables"] == tables_of(shop)
    assert (kept["file"], kept["sha256"], kept["revision"]) == (names(state)[0], result["sha256"], "1a2b3c4d5e6f")
    assert kept["decoded"]["sha256"] == result["sha256"]
    assert kept["restored"] is None
    assert kept["tool_version"].startswith("pg_dump (PostgreSQL) ")
    assert events(state) == [
        ("backup", "started"),
        ("baseline", "started"),
        ("baseline", "passed"),
        ("backup", "passed"),
    ]
    recorded = journal(state)[2]["facts"]
    assert recorded["observations"][0]["rows"] == [{"total": 20000}]
    assert recorded["tables"]["public.orders"].keys() >= {
        "rows",
        "fingerprint",
        "columns",
        "inserted",
        "updated",
        "deleted",
    }
    assert isinstance(recorded["xid"], int)
    assert recorded["files"] == result["files"]
    assert "tables" not in result["baseline"]
    assert result["baseline"]["row_count"] == 20051
    assert left_sessions(shop) == []


def test_its_progress_is_journaled_and_leaves_no_file(
    parameters: Make, state: Path, shop: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    module.act(parameters(), False)
    series = journal(state)[-1]["facts"]["progress"]
    assert {(one["step"], one["unit"]) for one in series} <= {("dump", "bytes"), ("decode", "bytes")}
    assert [one["step"] for one in series].count("decode") == 1
    assert series[-1]["total"] == journal(state)[-1]["facts"]["bytes"]
    assert [name for name in names(state) if "progress" in name] == []
    assert left_sessions(shop) == []


def test_what_stops_a_restore_is_named_at_the_backup(parameters: Make, shop: Login) -> None:
    with closing(connect(shop, "tests")) as session, session.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION fold(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT lower($1) $$;"
            "CREATE FUNCTION plain(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN fold($1); END $$;"
            "CREATE INDEX by_plain_name ON accounts (plain(name))"
        )
    result = module.act(parameters(), False)
    (proof,) = [one for one in result["proofs"] if one["name"] == "backup.restorable"]
    assert (proof["status"], result["message"]) == ("inconclusive", "")
    assert "the index by_plain_name of public.accounts" in proof["detail"]


def test_the_catalog_of_that_instant_is_recorded_as_it_is_read_later(
    parameters: Make, state: Path, shop: Login, container: str
) -> None:
    module.act(parameters(), False)
    (recorded,) = [line["facts"] for line in journal(state) if (line["step"], line["event"]) == ("backup", "passed")]
    commands = commands_in(container or None)
    live = schema_text.catalog_of(shop, commands, "tests", inside=bool(container))
    assert recorded["catalog"] == live.facts() and "TABLE public.orders" in live.objects


def test_a_catalog_that_is_too_large_to_read_makes_no_backup_fail(
    parameters: Make, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger may have made what it is too large by."""

    def too_large(*_: Any, **__: Any) -> None:
        raise ReleaseError("Running pg_restore was stopped (it printed more than 9 bytes).")

    monkeypatch.setattr(take, "schema_of_dump", too_large)
    assert module.act(parameters(), False)["message"] == ""
    facts = journal(state)[-1]["facts"]
    assert "catalog" not in facts and facts["no_catalog"].startswith("Running pg_restore was stopped")


def test_state_reads_like_the_runbook(parameters: Make) -> None:
    text = Path(module.act(parameters(), False)["files"]["txt"]).read_text()
    assert text.startswith("=== Current Database State ===\n")
    assert "\nTotal orders:\ntotal\n-----\n20000\n(1 row)\n" in text
    assert "public.orders          | 20000\n" in text


def test_restored_copy_equals_the_baseline_although_writes_go_on(
    parameters: Make, shop: Login, own_server: Login, engine: docker.DockerClient, container: str
) -> None:
    ended = threading.Event()

    def write() -> None:
        with closing(connect(shop, "writer")) as session, session.cursor() as cursor:
            number = 0
            while not ended.is_set():
                number += 1
                cursor.execute("INSERT INTO orders (id, title) VALUES (%s, 'late')", (100_000 + number,))
                cursor.execute("UPDATE accounts SET name = name || 'x' WHERE id = %s", (1 + number % 50,))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        result = module.act(parameters(), False)
    finally:
        ended.set()
        writer.join()
    kept = json.loads(Path(result["manifest"]).read_text())
    assert kept["tables"] != tables_of(shop)
    copy = f"copy_{secrets.token_hex(4)}"
    with closing(connect(own_server, "tests")) as session, session.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {copy} TEMPLATE template0")
        with Path(result["dump"]).open("rb") as file:
            restored = ContainerCommands(engine, container).run(
                ["pg_restore", "--exit-on-error", "-d", copy, "-U", "keeper"],
                timeout_s=60,
                environment={"PGPASSWORD": PASSWORD},
                stdin=file,
            )
        assert restored.status == 0, restored.stderr
        assert kept["tables"] == tables_of(replace(shop, database=copy))
        cursor.execute(f"DROP DATABASE {copy} WITH (FORCE)")


def test_second_time_changes_nothing(parameters: Make, state: Path) -> None:
    first = module.act(parameters(), False)
    before = {path.name: path.stat().st_mtime_ns for path in state.iterdir() if path.suffix != ".jsonl"}
    second = module.act(parameters(), False)
    after = {path.name: path.stat().st_mtime_ns for path in state.iterdir() if path.suffix != ".jsonl"}
    assert (second["changed"], after) == (False, before)
    assert second.keys() == first.keys()
    assert second["sha256"] == first["sha256"]
    assert second["baseline"] == first["baseline"]
    assert events(state)[-1] == ("backup", "skipped")


def test_check_mode_writes_nothing(parameters: Make, state: Path, shop: Login) -> None:
    planned = module.act(parameters(), True)
    assert not state.exists()
    assert left_sessions(shop) == []
    assert planned["changed"] is True
    assert planned["baseline"]["database_bytes"] > 1_000_000
    assert {proof["status"] for proof in planned["proofs"]} == {"skipped"}
    assert planned.keys() == module.act(parameters(), False).keys()


def test_tools_on_the_target_reach_the_server_by_its_address(
    parameters: Make, container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins on PATH hand the real tools exactly the environment and the streams that they were given."""
    variables = [
        f"-e {name}" for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGAPPNAME", "PGSSLMODE")
    ]
    for tool in ("pg_dump", "pg_restore"):
        path = tmp_path / "bin" / tool
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\nexec docker exec -i {" ".join(variables)} {container} {tool} "$@"\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    result = module.act(parameters(db_container=None), False)
    assert result["decoded"] is True


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_by_one(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def flipped_at(part: float) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int((len(data) - 1) * part)] ^= 0x10
        path.write_bytes(data)

    return flip


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 100)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(truncated, id="truncated"),
        pytest.param(cut_by_one, id="one byte short"),
        pytest.param(emptied, id="empty"),
        pytest.param(flipped_at(0.01), id="bit flipped in the table of contents"),
        pytest.param(flipped_at(0.5), id="bit flipped in the data"),
        pytest.param(flipped_at(1.0), id="bit flipped in the last byte"),
        pytest.param(lengthened, id="lengthened"),
    ],
)
def test_damage_between_write_and_decode_is_found(
    damage: Callable[[Path], None], parameters: Make, state: Path, shop: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(path: Path, *rest: Any) -> dump.Decoded:
        damage(path)
        return dump.verify_dump(path, *rest)

    monkeypatch.setattr(take, "verify_dump", damaged)
    with pytest.raises(ReleaseError, match="take a new backup"):
        module.act(parameters(), False)
    assert_no_backup(state, shop)
    assert events(state)[-1] == ("backup", "failed")


def test_backup_damaged_later_is_refused(parameters: Make) -> None:
    flipped_at(0.5)(Path(module.act(parameters(), False)["dump"]))
    with pytest.raises(ReleaseError, match="is not what its manifest says") as raised:
        module.act(parameters(), False)
    assert raised.value.refused


def test_file_of_another_run_is_never_overwritten(parameters: Make, state: Path) -> None:
    first = module.act(parameters(), False)
    before = Path(first["dump"]).read_bytes()
    other = {**parameters()["run"], "run_id": "20260102T030405Z-fedcba"}
    with pytest.raises(ReleaseError, match=f"belongs to run {RUN_ID}"):
        module.act(parameters(run=other), False)
    Path(first["manifest"]).unlink()
    with pytest.raises(ReleaseError, match="exists without a manifest, and a run never overwrites"):
        module.act(parameters(run=other), False)
    assert Path(first["dump"]).read_bytes() == before
    assert events(state)[-1] == ("backup", "refused"), "before anything was dumped"


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT missing FROM orders", "does not exist"),
        ("DELETE FROM orders RETURNING id", "42601"),
        ("SELECT 1 AS one) AS declared; COMMIT; DELETE FROM orders; SELECT 1 FROM (SELECT 1", "invalid query"),
    ],
)
def test_broken_or_writing_observation_leaves_no_backup(
    sql: str, reason: str, parameters: Make, state: Path, shop: Login
) -> None:
    observation = {"name": "broken", "title": "Broken", "sql": sql}
    before = tables_of(shop)
    with pytest.raises(ReleaseError, match=f"Reading the observation broken failed .*({reason})"):
        module.act(parameters(observations=[observation]), False)
    assert_no_backup(state, shop)
    assert events(state)[-2:] == [("baseline", "failed"), ("backup", "failed")]
    assert tables_of(shop) == before


def test_no_room_for_the_dump(parameters: Make, state: Path, shop: Login) -> None:
    """A limit on the size of files is the room that a test without its own disk can take away."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(ReleaseError, match=r"failed .*: make room there") as raised:
            module.act(parameters(), False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ".dump" in raised.value.message
    assert_no_backup(state, shop)
    assert events(state)[-1] == ("backup", "failed")


def hold_table_from_dump(monkeypatch: pytest.MonkeyPatch, shop: Login) -> psycopg2.extensions.connection:
    """An uncommitted ACCESS EXCLUSIVE lock which pg_dump meets, while the baseline is spared from reading tables."""
    session = connect(shop, "tests")
    with session.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
    for reads in ("read_tables", "read_unsaid"):
        monkeypatch.setattr(baseline, reads, lambda _cursor: {})
    return session


def test_baseline_that_waits_for_a_lock_is_given_up(
    parameters: Make, state: Path, shop: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump, "LOCK_WAIT_LIMIT_MS", 300)
    with closing(connect(shop, "tests")) as session:
        session.cursor().execute("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(ReleaseError, match=r"lock timeout"):
            module.act(parameters(observations=[]), False)
    assert_no_backup(state, shop)


def test_a_dump_does_not_outlive_a_baseline_that_failed(
    parameters: Make, shop: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a lock, for up to a minute, when an observation breaks."""
    late = {"name": "late", "title": "Late", "sql": "SELECT 1 / (random() * 0)::int AS a FROM pg_sleep(2)"}
    with closing(hold_table_from_dump(monkeypatch, shop)):
        with pytest.raises(ReleaseError, match="division by zero"):
            module.act(parameters(observations=[late]), False)
        assert left_sessions(shop) == []


def test_dump_that_waits_for_a_lock_is_given_up(
    parameters: Make, state: Path, shop: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump, "LOCK_WAIT_LIMIT_MS", 300)
    with (
        closing(hold_table_from_dump(monkeypatch, shop)),
        pytest.raises(ReleaseError, match=r"Dumping the database .* failed with status 1 \(.*LOCK TABLE public.orders"),
    ):
        module.act(parameters(observations=[]), False)
    assert_no_backup(state, shop)


def test_dump_that_takes_too_long_is_ended(
    parameters: Make, state: Path, shop: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        closing(hold_table_from_dump(monkeypatch, shop)),
        pytest.raises(ReleaseError, match="not done in 2 s"),
    ):
        module.act(parameters(observations=[], timeout_seconds=2), False)
    assert_no_backup(state, shop)


def test_lost_session_of_the_dump(
    parameters: Make, state: Path, shop: Login, own_server: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut() -> None:
        with closing(connect(own_server, "tests")) as session, session.cursor() as cursor:

            def is_cut() -> bool:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name LIKE 'dbrelease-dump-%'"
                )
                return cursor.rowcount > 0

            until(is_cut, "no session of pg_dump began")

    killer = threading.Thread(target=cut)
    with closing(hold_table_from_dump(monkeypatch, shop)):
        killer.start()
        with pytest.raises(ReleaseError, match=r"Dumping the database .* failed with status 1"):
            module.act(parameters(observations=[]), False)
        killer.join()
    assert_no_backup(state, shop)
    assert events(state)[-1] == ("backup", "failed")


def test_lost_session_of_the_snapshot(
    parameters: Make, state: Path, shop: Login, own_server: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = baseline.read_settings

    def cut(cursor: RealDictCursor) -> dict[str, Any]:
        with closing(connect(own_server, "tests")) as session, session.cursor() as other:
            other.execute("SELECT pg_terminate_backend(%s)", (cursor.connection.info.backend_pid,))
        return real(cursor)

    monkeypatch.setattr(baseline, "read_settings", cut)
    with pytest.raises(ReleaseError, match=r"Reading the baseline of the database .* failed"):
        module.act(parameters(), False)
    assert_no_backup(state, shop)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"db_container": "test_backup_nowhere"}, "No such container.*docker ps"),
        ({"login_password": "wrong"}, "check db_user and db_password"),
        ({"login_db": "nowhere"}, "does not exist.*check db_name"),
    ],
)
def test_unreachable_gives_one_sentence(
    changes: dict[str, Any], reason: str, parameters: Make, state: Path, shop: Login
) -> None:
    with pytest.raises(ReleaseError, match=reason):
        module.act(parameters(**changes), False)
    assert_no_backup(state, shop)
    assert events(state)[-1] == ("backup", "failed")


def test_missing_tool_gives_one_sentence(
    parameters: Make, state: Path, shop: Login, engine: docker.DockerClient
) -> None:
    image = engine.containers.get("drawing_redis").attrs["Config"]["Image"]
    name = f"test_backup_{secrets.token_hex(4)}"
    bare = engine.containers.run(image, ["sleep", "60"], name=name, entrypoint="", init=True, detach=True)
    try:
        with pytest.raises(ReleaseError, match=r"Running pg_dump in container .* failed \(it was not found\): install"):
            module.act(parameters(db_container=name), False)
    finally:
        bare.remove(force=True, v=True)
    assert_no_backup(state, shop)


def test_state_directory_that_cannot_be_written(parameters: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = {**parameters()["run"], "state_dir": str(tmp_path / "file" / "state")}
    with pytest.raises(ReleaseError, match="release_state_dir"):
        module.act(parameters(run=run), False)


def test_manifest_that_cannot_be_written_leaves_no_dump(
    parameters: Make, state: Path, shop: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ReleaseError("no room")

    monkeypatch.setattr(manifest, "write", refuse)
    with pytest.raises(ReleaseError, match="no room"):
        module.act(parameters(), False)
    assert_no_backup(state, shop)


def test_what_a_dump_loses_is_in_the_manifest(parameters: Make, shop: Login) -> None:
    with closing(connect(shop, "tests")) as session, session.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {shop.database} SET work_mem = '7MB'")
        cursor.execute("DROP ROLE IF EXISTS clerk; CREATE ROLE clerk")
        cursor.execute(f"ALTER ROLE clerk IN DATABASE {shop.database} SET search_path = sales, public")
        cursor.execute(f"GRANT CONNECT ON DATABASE {shop.database} TO clerk")
        cursor.execute(f"COMMENT ON DATABASE {shop.database} IS 'the shop'")
        cursor.execute("SELECT lo_create(0)")
    kept = json.loads(Path(module.act(parameters(), False)["manifest"]).read_text())["settings"]
    assert kept["database_settings"] == ["work_mem=7MB"]
    assert kept["role_settings"] == {"clerk": ["search_path=sales, public"]}
    assert kept["acl"] is not None and "clerk=c/keeper" in kept["acl"]
    assert (kept["owner"], kept["comment"], kept["encoding"], kept["large_objects"]) == (
        "keeper",
        "the shop",
        "UTF8",
        1,
    )


def test_identity_without_the_right_to_ask_for_it(parameters: Make, shop: Login) -> None:
    with closing(connect(shop, "tests")) as session:
        with session.cursor() as cursor:
            cursor.execute(
                "DROP ROLE IF EXISTS reader; CREATE ROLE reader; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"
            )
            cursor.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        with transaction(session, read_only=True) as reading:
            assert baseline.read_identity(reading)["system_identifier"] is not None
            reading.execute("SET LOCAL ROLE reader")
            assert baseline.read_identity(reading)["system_identifier"] is None


def test_password_is_nowhere(parameters: Make, state: Path, capfd: pytest.CaptureFixture[str]) -> None:
    results = [module.act(parameters(), False), module.act(parameters(), True)]
    with pytest.raises(ReleaseError) as raised:
        other = {**parameters()["run"], "run_id": "20260102T030406Z-abcdef"}
        module.act(parameters(run=other, observations=[{"name": "x", "title": "x", "sql": "SELECT nope"}]), False)
    written = b"".join(path.read_bytes() for path in state.rglob("*") if path.is_file())
    reported = (
        repr(results)
        + json.dumps(results)
        + raised.value.message
        + repr(raised.value.facts)
        + "".join(capfd.readouterr())
    )
    for form in (PASSWORD, quote(PASSWORD, safe=""), base64.b64encode(PASSWORD.encode()).decode(), "c4n4ry"):
        assert form not in reported
        assert form.encode() not in written


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "(0 rows)"),
        ([{"a": None}], "a\n-\n\n(1 row)"),
        ([{"name": "日本", "n": 1}, {"name": "é", "n": 20}], "name | n\n-----+---\n日本 | 1\né    | 20\n(2 rows)"),
        ([{"a": "two\nlines"}], "a\n---------\ntwo lines\n(1 row)"),
    ],
)
def test_rows_are_aligned(rows: list[dict[str, Any]], text: str) -> None:
    assert baseline._table(rows) == text
