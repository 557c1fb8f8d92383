"""Bad input ends in one clear sentence and a non-zero status, and leaves the database untouched."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import pytest
from outside import BACKEND, POSTGRES, REDIS, STATE, WORKER, Psql, Releases, docker, play

START = "0ab370a9afb6"
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
        for name in (container, WORKER):  # which cannot do without
            health = f"docker inspect -f '{{{{.State.Health.Status}}}}' {name}"
            wait = f'until [ "$({health})" = healthy ]; do sleep 0.2; done'
            subprocess.run(["timeout", "120", "bash", "-c", wait], check=True)


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
NOT_OURS = SECOND_HEAD.replace("beefbeefbeef", "f4c8a2b5e1d9").replace("7e42b9d06c13", START)


@contextmanager
def all_of(*breaks: Break) -> Iterator[None]:
    """Several things broken at once."""
    with ExitStack() as stack:
        for break_it in breaks:
            stack.enter_context(break_it())
        yield


def revision(found: str) -> AbstractContextManager[None]:
    change = "UPDATE alembic_version SET version_num = '{}'"
    return sql(change.format(found), change.format(START))


def unwell() -> AbstractContextManager[None]:
    """What one look of preflight finds, and reports at once."""
    return all_of(
        lambda: stopped(REDIS),
        lambda: file_in_backend(PAYLOAD, NOT_OURS.replace("'", '"')),
        lambda: file_in_backend(f"{VERSIONS}/second_head.py", SECOND_HEAD.replace("'", '"')),
        lambda: sql(
            "ALTER TABLE projects RENAME TO projects_away; ALTER TABLE drawings RENAME COLUMN file_path TO path_away;"
            " CREATE TABLE drawing_project_associations (id int)",
            "ALTER TABLE projects_away RENAME TO projects; ALTER TABLE drawings RENAME COLUMN path_away TO file_path;"
            " DROP TABLE drawing_project_associations",
        ),
        small_disk,
    )


def edited() -> AbstractContextManager[None]:
    return all_of(
        lambda: RELEASES.edited("label:", "labell:"),
        lambda: RELEASES.edited("timeout_ms: 500", "timeout_ms: soon"),
    )


# What is broken, the arguments, and a pattern for each problem that the run must report. Problems that one run can
# report are in one; each by itself is asked of its module, in tests/unit/preflight and tests/unit/release.
CASES: dict[str, tuple[Break, list[str], list[str]]] = {
    "values that no variable takes": (
        nullcontext,
        ["-e", "on_failed_verification=rolback", "-e", "rollback_method=squel"],
        [
            "on_failed_verification: expected one of rollback, hold .*, found `rolback`",
            "rollback_method: expected one of auto, alembic, sql .*, found `squel`",
        ],
    ),
    "wrong password": (nullcontext, ["-e", "db_password=wrong"], ["check db_user and db_password"]),
    "database container missing": (nullcontext, ["-e", "db_container=no_such_database"], ["no_such_database"]),
    "unwell": (
        unwell,
        ["-e", "worker_container=no_such_worker", "-e", "api_base_url=http://localhost:9"],
        [
            REDIS,
            "no_such_worker",
            "http://localhost:9",
            r"f4c8a2b5e1d9_create\S+ differs from",
            "beefbeefbeef",
            "Table projects is missing",
            "Table drawings has no column file_path",
            "drawing_project_associations already exists",
            "0 MiB free",
        ],
    ),
    "older revision": (lambda: revision("7e42b9d06c13"), [], ["7e42b9d06c13"]),
    "newer revision": (lambda: revision("ffffffffffff"), [], ["ffffffffffff"]),
    "two revisions in the database": (
        lambda: sql(
            "INSERT INTO alembic_version VALUES ('ffffffffffff')",
            "DELETE FROM alembic_version WHERE version_num = 'ffffffffffff'",
        ),
        [],
        ["ffffffffffff"],
    ),
    "unknown host": (nullcontext, ["--limit", "no_such_host"], ["no hosts to target"]),
    "unreachable host": (
        nullcontext,
        ["-e", "ansible_connection=ssh", "-e", "ansible_host=127.0.0.1", "-e", "ansible_port=9"],
        ["127.0.0.1 port 9"],
    ),
    "state directory not writable": (nullcontext, ["-e", "release_state_dir=/proc/no/such"], ["/proc/no"]),
    "unknown release": (nullcontext, ["-e", "release=no_such_release"], ["no_such_release"]),
    "a release with an unknown key and a wrong type": (edited, [], ["labell", r"migration\.lock\.timeout_ms"]),
    "broken query": (
        lambda: RELEASES.edited(
            "SELECT d.id, d.title, d.project_id, d.xmin", "SELECT d.id, d.titel, d.xmin", "checks.yml"
        ),
        [],
        ["titel"],
    ),
    "a check that would write": (
        lambda: RELEASES.edited("SELECT dpa.id, dpa.drawing_id\n", "DELETE FROM drawings --\n", "checks.yml"),
        [],
        ["no_association_without_drawing"],
    ),
}


@pytest.mark.parametrize(("break_it", "arguments", "says"), CASES.values(), ids=CASES)
def test_it_says_what_to_do_and_changes_nothing(
    psql: Psql, break_it: Break, arguments: list[str], says: list[str]
) -> None:
    with break_it():
        before = psql.fingerprint()
        run = play("deploy_8_1a.yml", *RELEASES.arguments, *arguments)
        after = psql.fingerprint()
    assert run.status != 0, run.output
    reported = " ".join(run.output.split())
    assert [each for each in says if not re.search(each, reported)] == [], run.output
    assert "Traceback" not in run.output
    assert after == before
    assert not list(STATE.glob("backup_before_*"))
    assert run.evidence.get("outcome", "refused") in {"refused", "failed"}


def test_a_missing_inventory_is_an_error() -> None:
    run = play("deploy_8_1a.yml", inventory="no_such_inventory")
    assert run.status != 0
    assert "no_such_inventory" in run.output
