"""Bad input ends in one clear sentence and a non-zero status, and leaves the database untouched."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
from outside import BACKEND, POSTGRES, REDIS, STATE, Psql, Releases, docker, play
from testinfra.host import Host

VERSIONS = "/app/migrations/versions"
PAYLOAD = f"{VERSIONS}/f4c8a2b5e1d9_create_drawing_project_associations_junction_table.py"
RELEASES = Releases.copied()


@contextmanager
def stopped(container: str) -> Iterator[None]:
    docker("stop", container)
    try:
        yield
    finally:
        docker("start", container)
        health = f"docker inspect -f '{{{{.State.Health.Status}}}}' {container}"
        wait = f'until [ "$({health})" = healthy ]; do sleep 0.2; done'
        subprocess.run(["timeout", "60", "bash", "-c", wait], check=True)


@contextmanager
def sql(do: str, undo: str) -> Iterator[None]:
    run_sql(do)
    try:
        yield
    finally:
        run_sql(undo)


def run_sql(text: str) -> None:
    docker(
        "exec",
        POSTGRES,
        "psql",
        "-X",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-U",
        "user",
        "-d",
        "drawing_index",
        "-c",
        text,
    )


@contextmanager
def file_in_backend(path: str, content: str) -> Iterator[None]:
    docker("exec", "-u", "root", BACKEND, "sh", "-c", f"printf '%s' '{content}' > {path}")
    try:
        yield
    finally:
        docker("exec", "-u", "root", BACKEND, "rm", path)


@contextmanager
def small_disk() -> Iterator[None]:
    made = not STATE.exists()
    STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(STATE)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(STATE)], check=True)
        if made:
            STATE.rmdir()


Break = Callable[[], AbstractContextManager[None]]
SECOND_HEAD = "revision='beefbeefbeef'\ndown_revision='7e42b9d06c13'\ndef upgrade(): pass\ndef downgrade(): pass\n"

CASES: list[tuple[str, Break, list[str], str]] = [
    (
        "no way to go on after a failed verification",
        nullcontext,
        ["-e", "on_failed_verification=rolback"],
        "after_failed_verification must be one of: rollback, hold, got: rolback",
    ),
    (
        "no such way to take it back",
        nullcontext,
        ["-e", "rollback_method=squel"],
        "rollback_method must be one of: auto, alembic, sql, got: squel",
    ),
    ("wrong password", nullcontext, ["-e", "db_password=wrong"], "check db_user and db_password"),
    ("database container missing", nullcontext, ["-e", "db_container=no_such_database"], "no_such_database"),
    ("worker container missing", nullcontext, ["-e", "worker_container=no_such_worker"], "no_such_worker"),
    ("redis stopped", lambda: stopped(REDIS), [], REDIS),
    ("API down", nullcontext, ["-e", "api_base_url=http://localhost:9"], "http://localhost:9"),
    ("unknown host", nullcontext, ["--limit", "no_such_host"], "no hosts to target"),
    (
        "unreachable host",
        nullcontext,
        ["-e", "ansible_connection=ssh", "-e", "ansible_host=127.0.0.1", "-e", "ansible_port=9"],
        "127.0.0.1 port 9",
    ),
    (
        "older revision",
        lambda: sql(
            "UPDATE alembic_version SET version_num = '7e42b9d06c13'",
            "UPDATE alembic_version SET version_num = '0ab370a9afb6'",
        ),
        [],
        "7e42b9d06c13",
    ),
    (
        "newer revision",
        lambda: sql(
            "UPDATE alembic_version SET version_num = 'ffffffffffff'",
            "UPDATE alembic_version SET version_num = '0ab370a9afb6'",
        ),
        [],
        "ffffffffffff",
    ),
    (
        "two revisions in the database",
        lambda: sql(
            "INSERT INTO alembic_version VALUES ('ffffffffffff')",
            "DELETE FROM alembic_version WHERE version_num = 'ffffffffffff'",
        ),
        [],
        "ffffffffffff",
    ),
    (
        "two heads in the history",
        lambda: file_in_backend(f"{VERSIONS}/second_head.py", SECOND_HEAD.replace("'", '"')),
        [],
        "beefbeefbeef",
    ),
    (
        "a table missing",
        lambda: sql("ALTER TABLE projects RENAME TO projects_away", "ALTER TABLE projects_away RENAME TO projects"),
        [],
        "projects",
    ),
    (
        "a column missing",
        lambda: sql(
            "ALTER TABLE drawings RENAME COLUMN file_path TO path_away",
            "ALTER TABLE drawings RENAME COLUMN path_away TO file_path",
        ),
        [],
        "file_path",
    ),
    ("a different migration file", lambda: file_in_backend(PAYLOAD, "# not ours"), [], "f4c8a2b5e1d9_create"),
    (
        "the new table already there",
        lambda: sql("CREATE TABLE drawing_project_associations (id int)", "DROP TABLE drawing_project_associations"),
        [],
        "drawing_project_associations",
    ),
    ("no room for the dump", small_disk, [], "room"),
    ("state directory not writable", nullcontext, ["-e", "release_state_dir=/proc/no/such"], "/proc/no"),
    ("unknown release", nullcontext, ["-e", "release=no_such_release"], "no_such_release"),
    ("unknown key", lambda: RELEASES.edited("label:", "labell:"), [], "labell"),
    ("wrong type", lambda: RELEASES.edited("timeout_ms: 500", "timeout_ms: soon"), [], "migration.lock.timeout_ms"),
    (
        "broken query",
        lambda: RELEASES.edited(
            "SELECT d.id, d.title, d.project_id, d.xmin", "SELECT d.id, d.titel, d.xmin", "checks.yml"
        ),
        [],
        "titel",
    ),
    (
        "a check that would write",
        lambda: RELEASES.edited("SELECT dpa.id, dpa.drawing_id\n", "DELETE FROM drawings --\n", "checks.yml"),
        [],
        "no_association_without_drawing",
    ),
]


@pytest.mark.parametrize(
    ("break_it", "arguments", "says"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_it_says_what_to_do_and_changes_nothing(
    psql: Psql, backend: Host, break_it: Break, arguments: list[str], says: str
) -> None:
    with break_it():
        before = psql.fingerprint()
        run = play("deploy_8_1a.yml", *RELEASES.arguments, *arguments)
        after = psql.fingerprint()
    assert run.status != 0, run.output
    assert says in run.output
    assert "Traceback" not in run.output
    assert after == before
    assert not list(STATE.glob("backup_before_*"))
    assert run.evidence.get("outcome", "refused") in {"refused", "failed"}


def test_a_missing_inventory_is_an_error() -> None:
    run = play("deploy_8_1a.yml", inventory="no_such_inventory")
    assert run.status != 0
    assert "no_such_inventory" in run.output


def test_several_problems_are_reported_at_once(psql: Psql) -> None:
    with sql("CREATE TABLE drawing_project_associations (id int)", "DROP TABLE drawing_project_associations"):
        run = play("deploy_8_1a.yml", "-e", "api_base_url=http://localhost:9", "-e", "worker_container=no_such_worker")
    assert run.status != 0
    for each in ("drawing_project_associations", "http://localhost:9", "no_such_worker"):
        assert each in run.output
