"""Whose a transaction was: every one of a migration counts as its own, by a real Alembic on a real Postgres."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import alembic_revision
import pytest
import sql_step
from ansible.module_utils.dbrelease.backup.baseline import read_baseline
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from ansible.module_utils.dbrelease.postgres.writers import Sample, between, joined, whole_id
from ansible.module_utils.dbrelease.verify import unchanged
from ansible.module_utils.dbrelease.verify.transactions import Transactions
from ansible.module_utils.dbrelease.verify.unchanged_verdict import Evidence, Trace, judge
from own_sessions import connect
from shared_database import await_inserts

ENV = """
import os
from alembic import context
from sqlalchemy import create_engine, pool
if context.is_offline_mode():
    context.configure(url="postgresql://", literal_binds=True, transaction_per_migration={each})
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(os.environ["TEST_DATABASE_URL"], poolclass=pool.NullPool).connect() as connection:
        context.configure(connection=connection, transaction_per_migration={each})
        with context.begin_transaction():
            context.run_migrations()
"""
REVISION = """
from alembic import context, op
revision, down_revision = {revision!r}, {down!r}

def upgrade():
    {up}

def downgrade():
    pass
"""
SCHEMA = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
CREATE TABLE accounts (id int PRIMARY KEY, name text);
CREATE TABLE orders (id int PRIMARY KEY, note text);
INSERT INTO alembic_version VALUES ('a1');
INSERT INTO accounts SELECT i, 'account ' || i FROM generate_series(1, 200) i;
INSERT INTO orders SELECT i, 'order ' || i FROM generate_series(1, 200) i;
"""
INSERT = "op.execute(\"INSERT INTO accounts SELECT i, 'x' FROM generate_series(1001, 1500) i\")"
CREATE = 'op.execute("CREATE TABLE order_items (id int)")'
BLOCK = """with op.get_context().autocommit_block():
        {statement}
    {then}"""
SAVEPOINT = """with op.get_bind().begin_nested():
        {statement}
    {then}"""
Deploy = Callable[..., dict[str, dict[str, Any]]]


def execute(login: Login, *statements: str) -> None:
    with closing(connect(login, "somebody")) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@pytest.fixture
def deploy(
    database: Login,
    login_parameters: dict[str, Any],
    run_parameters: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Deploy:
    """Upgrades by revisions with these bodies, and compares with the baseline: each table's proof by its name."""
    execute(database, SCHEMA)
    await_inserts(database, accounts=200, orders=200)
    folder = tmp_path / "application"
    (folder / "migrations" / "versions").mkdir(parents=True)
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = migrations\n")
    password = quote(database.password or "", safe="")
    place = f"{database.host}:{database.port}/{database.database}"
    monkeypatch.setenv("TEST_DATABASE_URL", f"postgresql+psycopg2://{database.user}:{password}@{place}")
    journal = Journal(Run(**run_parameters))
    common = {**login_parameters, "run": run_parameters}

    def deploy(*bodies: str, each: bool = False) -> dict[str, dict[str, Any]]:
        (folder / "migrations" / "env.py").write_text(ENV.format(each=each))
        revisions = [None, "a1", *(f"b{place}" for place, _ in enumerate(bodies, start=2))]
        for down, revision, up in zip(revisions, revisions[1:], ["pass", *bodies], strict=False):
            text = REVISION.format(revision=revision, down=down, up=up)
            (folder / "migrations" / "versions" / f"{revision}.py").write_text(text)
        with (
            closing(connect(database, "baseline")) as connection,
            transaction(connection, read_only=True, isolation="REPEATABLE READ") as cursor,
        ):
            journal.append("baseline", "passed", read_baseline(cursor, [], "alembic_version").facts)
        asked = {
            **common,
            "backend_container": None,
            "workdir": str(folder),
            "command": [sys.executable, "-m", "alembic"],
            "from_revision": "a1",
            "revision": revisions[-1],
            "direction": "upgrade",
            "success_pattern": None,
            "bookkeeping_table": "alembic_version",
            "lock": {"timeout_ms": 500, "attempts": 2, "deadline_seconds": 20},
            "timeout_seconds": 60,
            "preview_files": [],
            "tables": [],
            "budget": {"write_wait_ms": 1000},
            "session_settings": {},
            "log_label": "migration_log",
        }
        alembic_revision.act(asked, False)
        found = unchanged.act(
            {
                **common,
                "except_tables": ["order_items"],
                "altered_tables": [],
                "bookkeeping_tables": ["alembic_version"],
                "settle_seconds": 1.0,
            },
            False,
        )
        return {proof["name"].removeprefix("untouched.public."): proof for proof in found["proofs"]}

    return deploy


EARLIER = {
    "a transaction for each revision": ([INSERT, CREATE], True, "wrote 500 rows"),
    "an autocommit block": ([BLOCK.format(statement=INSERT, then=CREATE)], False, "wrote 500 rows"),
    "a savepoint": ([SAVEPOINT.format(statement=INSERT, then=CREATE)], False, "wrote 500 rows"),
    "a commit of its own": ([f'{INSERT}\n    op.execute("COMMIT")\n    {CREATE}'], False, "wrote 500 rows"),
}


@pytest.mark.parametrize(("bodies", "each", "said"), EARLIER.values(), ids=EARLIER.keys())
def test_every_transaction_of_a_migration_is_the_migrations(
    deploy: Deploy, database: Login, bodies: list[str], each: bool, said: str
) -> None:
    with closing(connect(database, "application")) as idle:
        idle.cursor().execute("SELECT count(*) FROM orders")
        found = deploy(*bodies, each=each)
    assert (found["accounts"]["status"], found["orders"]["status"]) == ("fail", "pass"), found["accounts"]
    assert f"The migration itself {said} of it." in found["accounts"]["detail"]


def test_what_cannot_be_attributed_is_not_called_the_applications(deploy: Deploy, database: Login) -> None:
    ended = threading.Event()

    def write() -> None:
        with closing(connect(database, "application")) as connection, connection.cursor() as cursor:
            while not ended.wait(0.002):
                cursor.execute("UPDATE orders SET note = note || '!' WHERE id = 1")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        found = deploy(BLOCK.format(statement=INSERT, then=CREATE))
    finally:
        ended.set()
        thread.join()
    # It may have been seen at it; if not, nobody knows.
    seen = f"{found['accounts']['status']}: {found['accounts']['detail']}"
    assert "by the application" not in seen
    assert "The migration itself wrote 500 rows" in seen or "was not observed" in seen
    assert found["orders"]["status"] == "inconclusive"


def test_what_a_step_of_the_release_wrote_afterwards_is_the_releases(
    deploy: Deploy, database: Login, login_parameters: dict[str, Any], run_parameters: dict[str, Any]
) -> None:
    journal = Journal(Run(**run_parameters))
    with (
        closing(connect(database, "baseline")) as connection,
        transaction(connection, read_only=True, isolation="REPEATABLE READ") as cursor,
    ):
        journal.append("baseline", "passed", read_baseline(cursor, [], "alembic_version").facts)
    step = {
        "name": "fill",
        "title": "Fill",
        "sql": "UPDATE accounts SET name = 'x' WHERE id <= 7 AND name <> 'x'",
        "pending": "SELECT count(*) AS pending FROM accounts WHERE id <= 7 AND name <> 'x'",
        "batch_rows": 0,
    }
    common = {**login_parameters, "run": run_parameters}
    services = {"containers": {}, "api_base_url": "", "guards": [], "timeout_seconds": 5.0}
    given = {"checks": [], "lock": {}, "services": services, "tables": [], "budget": {"write_wait_ms": 1000}}
    sql_step.act({**common, **given, "steps": [step], "application_name": "finalize"}, False)
    tables = {"except_tables": [], "altered_tables": [], "bookkeeping_tables": ["alembic_version"]}
    asked = {**tables, "settle_seconds": 1.0}
    found = {proof["name"]: proof for proof in unchanged.act({**common, **asked}, False)["proofs"]}
    assert found["untouched.public.accounts"]["status"] == "fail"
    assert "The migration itself wrote 7 rows of it." in found["untouched.public.accounts"]["detail"]


T0, T1, T2 = (datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC) for second in (1, 2, 3))
IDLE = {"state": "idle", "state_change": T0, "xact_start": None, "xid": None}
LONG = {"state": "active", "state_change": T0, "xact_start": T0, "xid": None}
SESSIONS = {
    "idle since before": (IDLE, IDLE, False),
    "idle again": (IDLE, {**IDLE, "state_change": T1}, True),
    "at work": (IDLE, {**LONG, "xact_start": T1}, True),
    "reading for long": (LONG, LONG, False),
    "writing for long": ({**LONG, "xid": 7}, {**LONG, "xid": 7}, True),
    "open since before": ({**IDLE, "state": "idle in transaction"}, {**IDLE, "state": "idle in transaction"}, False),
    "new": (None, {**IDLE, "state_change": T2}, True),
    "ended": (IDLE, None, True),
    "hidden": ({**IDLE, "state": None}, {**IDLE, "state": None, "state_change": None}, True),
}


@pytest.mark.parametrize(("first", "second", "busy"), SESSIONS.values(), ids=SESSIONS.keys())
@pytest.mark.parametrize("own", [True, False])
def test_who_can_have_written_between_two_looks(
    first: dict[str, Any] | None, second: dict[str, Any] | None, busy: bool, own: bool
) -> None:
    def sample(at: datetime, xmax: int, row: dict[str, Any] | None) -> Sample:
        seen = {"pid": 1 if row else None, "began": T0, "kind": "client backend", "own": own, **(row or {})}
        return Sample.of([{"at": at, "xmax": xmax, "sessions": 1, **seen}])

    found = between(sample(T1, 10, first), sample(T2, 12, second), 0)
    assert (found.own, found.others) == (busy and own, busy and not own)


def test_rows_of_an_unobserved_writer_are_not_called_the_applications() -> None:
    before = {"rows": 10, "fingerprint": "1", "oid": 5}
    now = {"rows": 13, "fingerprint": "2", "oid": 5, "absent": False, "missing": []}
    written = {"inserted": 3, "updated": 0, "deleted": 0}
    found = judge(Evidence(before, now, Trace(older=10, others=3, unattributed=3), written))
    assert found.status == "inconclusive"
    assert "3 rows were written while the migration ran or may have run" in found.detail
    assert "by the application" not in found.detail


MOVE = {"before": {"xid": 100, "since": 98}, "after": {"xid": 120}}
CASES = {
    "before the move": ([MOVE], 97, "others"),
    "the bookkeeping's": ([MOVE], 110, "own"),
    "in the move, unseen": ([MOVE], 111, "unknown"),
    "after the move": ([MOVE], 120, "others"),
    "its session's": ([{**MOVE, "writers": {"own": [[102, 105]]}}], 104, "own"),
    "the end is not in a span": ([{**MOVE, "writers": {"own": [[102, 105]]}}], 105, "unknown"),
    "another session's": ([{**MOVE, "writers": {"others": [[102, 105]]}}], 103, "others"),
    "beside the revision": ([{**MOVE, "writers": {"single": [[106, 112]]}}], 108, "own"),
    "of a session that did not write it": ([{**MOVE, "writers": {"single": [[102, 105]]}}], 103, "unknown"),
    "not recorded": ([], 103, "unknown"),
    "no span": ([{**MOVE, "writers": {"own": [[102]]}}], 102, "unknown"),
}


@pytest.mark.parametrize(("moves", "xid", "whose"), CASES.values(), ids=CASES.keys())
def test_whose_it_was(moves: list[dict[str, Any]], xid: int, whose: str) -> None:
    assert Transactions.of(90, [80, 110], moves).whose(xid) == whose


def test_without_a_migration_all_are_others() -> None:
    assert Transactions.of(90, [], []).whose(103) == "others"


def test_spans_are_joined() -> None:
    assert joined([(5, 7), (1, 3), (3, 4), (6, 9), (8, 8)]) == [[1, 4], [5, 9]]


@pytest.mark.parametrize(
    ("xid", "near", "whole"),
    [(7, 9, 7), (9, 9, 9), (11, 9, 11), (5, (1 << 32) + 3, (1 << 32) + 5), (0xFFFFFFFE, 1 << 32, 0xFFFFFFFE)],
)
def test_of_the_last_32_bits_of_an_id_the_whole_is_known(xid: int, near: int, whole: int) -> None:
    assert whole_id(xid, near) == whole
