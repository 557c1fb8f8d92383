"""What a migration does to others is observed: each figure against an independent session and its own clock."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import pytest
from ansible.module_utils.dbrelease.core.redaction import Secret, forget, learn
from ansible.module_utils.dbrelease.observe import observing as observing_module
from ansible.module_utils.dbrelease.observe import sampler
from ansible.module_utils.dbrelease.observe.attribution import merged, tag_of
from ansible.module_utils.dbrelease.observe.observation import Observation, TableWait
from ansible.module_utils.dbrelease.observe.observing import observing
from ansible.module_utils.dbrelease.observe.probe import Probe
from ansible.module_utils.dbrelease.observe.statement_log import Logged, TemporaryFile, parsed
from ansible.module_utils.dbrelease.postgres.session import Login, Session
from own_sessions import connect
from shared_database import database, emptied
from waits import until

__all__ = ["database", "emptied"]

HELD_MS = 400.0
SCHEMA = """
CREATE TABLE orders (id serial PRIMARY KEY, title text, amount int);
INSERT INTO orders (title, amount) SELECT 'order ' || n, n FROM generate_series(1, 3000) n;
CREATE TABLE empty (id int);
CREATE TABLE logged (n int);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO logged VALUES (1); RETURN NULL; END';
CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION note();
"""
# The sessions, by their names, that have waited for so long, in ms.
WAITING = """
SELECT a.application_name FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid AND NOT l.granted
WHERE a.datname = current_database() AND extract(epoch FROM clock_timestamp() - l.waitstart) * 1000 > %s
"""


SAMPLED = """
SELECT bool_or(o.query_start > m.state_change) FROM pg_stat_activity o, pg_stat_activity m
WHERE o.application_name = 'dbrelease observe' AND m.application_name = 'migration'
  AND o.datname = current_database() AND m.datname = current_database()
"""
CONNECTED = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'migration' AND datname = current_database()"
)


class Migration:
    """A session that migrates, one that acts as a client of the application, and a clock that is the test's own."""

    def __init__(self, login: Login) -> None:
        self.login = login
        self.session, self.watch = connect(login, "migration"), connect(login, "tests")
        self.began = self.ended = 0.0
        self.client_ms = 0.0

    def execute(self, *statements: str) -> None:
        with self.session.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        with self.watch.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def waiting(self, ms: float) -> list[str]:
        with self.watch.cursor() as cursor:
            cursor.execute(WAITING, (ms,))
            return [name for (name,) in cursor.fetchall()]

    def sampled(self) -> bool:
        """Whether a sample was taken since the migration's last statement has ended, or whether none is taken."""
        return self.rows(SAMPLED) != [(False,)]

    @contextmanager
    def client(self, statement: str, name: str = "client") -> Iterator[None]:
        """Within the block another session executes the statement, and measures how long it takes."""
        session = connect(self.login, name)

        def act() -> None:
            begun = time.monotonic()
            with closing(session), session.cursor() as cursor:
                cursor.execute(statement)
            self.client_ms = (time.monotonic() - begun) * 1000

        thread = threading.Thread(target=act)
        thread.start()
        try:
            yield
        finally:
            thread.join()

    def hold(self, statements: list[str], client: str, until_waiting: Callable[[], bool]) -> None:
        """Execute in one transaction, keep it open until they wait for it, commit."""
        self.began = time.monotonic()
        self.execute("BEGIN", *statements)
        with self.client(client):
            until(until_waiting, "nobody waited")
            until(self.sampled, "nobody samples")  # on a busy machine a sample may come late
            self.execute("COMMIT")
        self.ended = time.monotonic()

    @property
    def held_ms(self) -> float:
        """No lock can have been held for longer."""
        return (self.ended - self.began) * 1000


@pytest.fixture
def migration(database: Login) -> Iterator[Migration]:
    made = Migration(database)
    made.execute(SCHEMA, "ANALYZE")
    with closing(made.session), closing(made.watch):
        yield made


def of(observation: Observation, table: str) -> TableWait:
    (found,) = (wait for wait in observation.waits if wait.table == f"public.{table}")
    return found


@dataclass(frozen=True)
class Case:
    """A statement, the lock by which others wait for it, and who waits."""

    statement: str
    mode: str
    tag: str
    table: str = "orders"
    readers_wait: bool = False
    client: str = "UPDATE orders SET title = title WHERE id = 7"


CASES = {
    "a declared lock": Case("LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE", "SHARE ROW EXCLUSIVE", "LOCK TABLE"),
    "an exclusive lock": Case(
        "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE", "ACCESS EXCLUSIVE", "LOCK TABLE", readers_wait=True
    ),
    "an index": Case("CREATE INDEX ON orders (amount)", "SHARE", "CREATE INDEX"),
    "a column": Case("ALTER TABLE orders ADD COLUMN note text", "ACCESS EXCLUSIVE", "ALTER TABLE", readers_wait=True),
    "a table that references it": Case(
        "CREATE TABLE items (order_id int REFERENCES orders)", "SHARE ROW EXCLUSIVE", "CREATE TABLE"
    ),
    "every row": Case("UPDATE orders SET amount = amount + 1", "row lock", "UPDATE"),
    "an empty table": Case(
        "LOCK TABLE empty IN EXCLUSIVE MODE",
        "EXCLUSIVE",
        "LOCK TABLE",
        table="empty",
        client="INSERT INTO empty VALUES (1)",
    ),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_the_longest_wait_is_that_of_a_client_and_the_statement_at_fault_is_named(
    migration: Migration, case: Case
) -> None:
    probes = 0 if case.mode == "row lock" else 2 if case.readers_wait else 1

    def wait_long() -> bool:
        waiting = migration.waiting(HELD_MS)
        return "client" in waiting and waiting.count("dbrelease probe") == probes

    with observing(migration.login, [case.table, "logged"], application_name="migration") as seen:
        migration.hold([case.statement], case.client, wait_long)
    observation = seen.observation
    wait, slack = of(observation, case.table), observation.largest_gap_ms + 5
    assert wait.writer_ms is not None
    assert wait.reader_ms is not None
    assert HELD_MS * 0.75 < wait.writer_ms < migration.held_ms + slack
    assert (wait.reader_ms > HELD_MS) == case.readers_wait
    assert wait.writer is not None
    statement = observation.statement(wait.writer.statement)
    assert statement is not None
    assert (wait.writer.mode, statement.text, statement.tag) == (case.mode, case.statement, case.tag)
    assert wait.writer.by_migration
    assert (of(observation, "logged").writer_ms or 0) < HELD_MS or case.mode == "row lock"
    if case.mode != "row lock":
        (lock,) = (lock for lock in statement.locks if lock.mode == case.mode and lock.table == f"public.{case.table}")
        assert HELD_MS - slack < lock.held_ms < migration.held_ms + slack


def test_a_migration_that_waits_makes_others_wait_and_is_named(migration: Migration) -> None:
    with closing(connect(migration.login, "long reader")) as reader, reader.cursor() as cursor:
        cursor.execute("BEGIN; SELECT FROM orders LIMIT 1")
        with observing(migration.login, ["orders"], application_name="migration") as seen:
            altering = threading.Thread(target=migration.execute, args=("ALTER TABLE orders ADD COLUMN note text",))
            altering.start()
            until(lambda: migration.waiting(HELD_MS).count("dbrelease probe") == 2, "the probes do not wait")
            cursor.execute("COMMIT")
            altering.join()
    observation = seen.observation
    fault = of(observation, "orders").writer
    assert fault is not None
    assert (fault.mode, fault.by_migration) == ("ACCESS EXCLUSIVE", True)
    (statement,) = (one for one in observation.statements if one.tag == "ALTER TABLE")
    assert statement.number == fault.statement
    assert statement.lock_wait_ms > HELD_MS / 2
    (lock,) = (lock for lock in statement.locks if lock.mode == "ACCESS EXCLUSIVE")
    assert lock.awaited_ms > HELD_MS / 2


def test_another_session_is_not_the_migrations_fault(migration: Migration) -> None:
    with (
        closing(connect(migration.login, "nightly job")) as job,
        job.cursor() as cursor,
        observing(migration.login, ["orders"], application_name="migration") as seen,
    ):
        cursor.execute("BEGIN; LOCK TABLE orders IN SHARE MODE")
        until(lambda: migration.waiting(HELD_MS).count("dbrelease probe") == 1, "the probe does not wait")
        cursor.execute("COMMIT")
        migration.execute("SELECT 1")
    fault = of(seen.observation, "orders").writer
    assert fault is not None
    assert (fault.by_migration, fault.other, fault.statement) == (False, "nightly job", None)


def test_two_statements_are_named_the_one_that_locks_and_the_one_that_lasts(migration: Migration) -> None:
    locks = "DO $$BEGIN CREATE TABLE items (order_id int REFERENCES orders); PERFORM pg_sleep(0.3); END$$"
    with observing(migration.login, ["orders"]) as seen:
        migration.execute("BEGIN", locks, "SELECT pg_sleep(0.6)", "COMMIT")
    fault = of(seen.observation, "orders").writer
    assert fault is not None
    named = [seen.observation.statement(number) for number in (fault.statement, fault.through)]
    assert [one and one.text for one in named] == [locks, "SELECT pg_sleep(0.6)"]
    assert [(one.kind, one.on, one.valid) for one in seen.observation.changes] == [
        ("foreign_key", "public.items", True)
    ]


def test_a_statement_that_may_have_been_missed_makes_the_one_at_fault_uncertain(
    migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observing_module, "PAUSE_S", 0.2)
    monkeypatch.setattr(observing_module, "LONGEST_PAUSE_S", 0.2)
    with observing(migration.login, ["orders"]) as seen:
        migration.execute("BEGIN", "LOCK TABLE orders IN SHARE MODE", "SELECT 1", "SELECT pg_sleep(0.5)", "COMMIT")
    fault = of(seen.observation, "orders").writer
    assert fault is not None
    assert (fault.mode, fault.certain) == ("SHARE", False)


def test_a_migration_that_locks_rows_and_then_the_table_meets_no_deadlock(migration: Migration) -> None:
    tried = """
        SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'dbrelease probe' AND query_start > %s::timestamptz AND datname = current_database()
    """
    with observing(migration.login, ["orders"]) as seen:
        migration.execute("BEGIN", "UPDATE orders SET amount = 0")
        for _ in range(3):
            ((now,),) = migration.rows("SELECT clock_timestamp()::text")
            with migration.watch.cursor() as cursor:

                def both_tried(cursor: object = cursor, now: object = now) -> bool:
                    cursor.execute(tried, (now,))  # type: ignore[attr-defined]
                    return bool(cursor.fetchall()[0][0] == 2)  # type: ignore[attr-defined]

                until(both_tried, "the probes do not try")
        migration.execute("SET LOCAL lock_timeout = '900ms'", "ALTER TABLE orders ADD COLUMN note text", "COMMIT")
    wait = of(seen.observation, "orders")
    assert wait.writer_ms
    assert wait.rows > 0


def test_a_probe_is_never_idle_in_a_transaction_and_changes_nothing(migration: Migration) -> None:
    state = "SELECT count(*), sum(amount), sum(hashtext(orders::text)::bigint) FROM orders"
    sequence = "SELECT last_value, is_called FROM orders_id_seq"
    before = migration.rows(state), migration.rows(sequence)
    own = "SELECT state FROM pg_stat_activity WHERE application_name LIKE 'dbrelease%' AND datname = current_database()"
    states: set[object] = set()
    with observing(migration.login, ["orders", "empty"]) as seen:
        for _ in range(200):
            states |= {row[0] for row in migration.rows(own)}
    assert states <= {"idle", "active", None}
    assert (migration.rows(state), migration.rows(sequence)) == before
    assert migration.rows("SELECT count(*) FROM logged") == [(0,)]
    assert of(seen.observation, "orders").rows > 0
    assert "No row of public.empty was tried" in " ".join(seen.observation.not_observed)


def test_an_index_that_is_locked_alone_is_waited_for_by_both(migration: Migration) -> None:
    with observing(migration.login, ["orders"]) as seen:
        migration.execute("BEGIN", "ALTER INDEX orders_pkey SET TABLESPACE pg_default", "SELECT pg_sleep(0.4)")
        # The probes, which wait for the index, are not in the way of the table for long.
        migration.execute("SET LOCAL lock_timeout = '900ms'", "ALTER TABLE orders ADD COLUMN note text", "COMMIT")
    wait = of(seen.observation, "orders")
    assert wait.writer_ms is not None
    assert wait.writer_ms > HELD_MS * 0.75
    assert (wait.reader_ms or 0) > HELD_MS * 0.75


REWRITES = {
    "type": ("ALTER TABLE orders ALTER COLUMN amount TYPE bigint", ["type"], ["public.orders"]),
    "volatile default": (
        "ALTER TABLE orders ADD COLUMN key uuid DEFAULT gen_random_uuid()",
        ["column"],
        ["public.orders"],
    ),
    "constant default": ("ALTER TABLE orders ADD COLUMN key int DEFAULT 1", ["column"], []),
    "not null": ("ALTER TABLE orders ALTER COLUMN title SET NOT NULL", ["not_null"], []),
    "unique": ("ALTER TABLE orders ADD UNIQUE (amount)", ["unique"], []),
    "check": ("ALTER TABLE orders ADD CHECK (amount > 0) NOT VALID", ["check"], []),
    "full vacuum": ("VACUUM FULL orders", [], ["public.orders"]),
    "trigger": ("CREATE TRIGGER t AFTER INSERT ON orders EXECUTE FUNCTION note()", ["trigger"], []),
    "column renamed": ("ALTER TABLE orders RENAME amount TO total", ["column_renamed"], []),
    "column dropped": ("ALTER TABLE orders DROP COLUMN amount", ["column_dropped"], []),
    "table renamed": ("ALTER TABLE orders RENAME TO purchases", ["renamed"], []),
    "table dropped": ("DROP TABLE orders", ["dropped"], []),
}


@pytest.mark.parametrize(("statement", "kinds", "files"), REWRITES.values(), ids=REWRITES.keys())
def test_the_catalog_says_what_was_rewritten_and_what_changed(
    migration: Migration, statement: str, kinds: list[str], files: list[str]
) -> None:
    with observing(migration.login, ["orders"]) as seen:
        migration.execute(statement)
    assert list(seen.observation.rewritten) == files
    assert [change.kind for change in seen.observation.changes] == kinds
    assert {change.valid for change in seen.observation.changes} <= {"NOT VALID" not in statement}


def test_what_the_migration_wrote_is_counted(migration: Migration) -> None:
    with observing(migration.login, ["orders"], application_name="migration") as seen:
        migration.execute(
            "SET work_mem = '64kB'",
            "CREATE TABLE copy AS SELECT n, repeat('x', 100) AS t FROM generate_series(1, 50000) n ORDER BY n DESC",
        )
        migration.session.close()
        until(lambda: migration.rows(CONNECTED) == [(0,)], "the migration's session is still connected")
    observation = seen.observation
    assert observation.wal_bytes > 5_000_000
    assert observation.size_bytes > 5_000_000
    assert observation.transactions >= 1
    # A server before version 15 counts them later.
    late = "may not have counted all temporary files" in " ".join(observation.not_observed)
    assert late or (observation.temp_bytes > 1_000_000 and observation.temp_files >= 1)
    assert late == (migration.watch.server_version < 150000)


def test_temporary_files_of_a_session_that_goes_on_may_be_missing(migration: Migration) -> None:
    with observing(migration.login, ["orders"]) as seen:
        migration.execute("SELECT pg_sleep(0.1)")
    assert "may not have counted all temporary files" in " ".join(seen.observation.not_observed)


def test_it_can_be_written_to_the_journal_and_read_back(migration: Migration) -> None:
    with observing(migration.login, ["orders"]) as seen:
        migration.execute("CREATE INDEX ON orders (amount)")
    written = json.loads(json.dumps(seen.observation.as_dict()))
    assert Observation.from_dict(written) == seen.observation
    for broken in ({}, {**written, "waits": [{}]}, {**written, "statements": "none"}, {**written, "more": 1}):
        with pytest.raises(ValueError, match="no observation"):
            Observation.from_dict(broken)


def test_partitions_are_observed_each(migration: Migration) -> None:
    migration.execute(
        "CREATE TABLE events (n int) PARTITION BY RANGE (n)",
        "CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10)",
        "INSERT INTO events VALUES (1)",
    )
    with observing(migration.login, ["events"]) as seen:
        migration.execute("BEGIN", "LOCK TABLE events_1 IN SHARE MODE")
        until(lambda: migration.waiting(HELD_MS).count("dbrelease probe") == 1, "the probe does not wait")
        migration.execute("COMMIT")
    assert (of(seen.observation, "events_1").writer_ms or 0) > HELD_MS
    assert (of(seen.observation, "events").writer_ms or 0) < HELD_MS


def test_what_could_not_be_observed_is_said(migration: Migration, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing_module, "PROBED_AT_MOST", 1)
    migration.execute(
        "DROP ROLE IF EXISTS short_sighted",
        "CREATE ROLE short_sighted LOGIN PASSWORD 'secret' IN ROLE pg_read_all_data",
    )
    login = replace(migration.login, user="short_sighted", password="secret")
    try:
        with observing(login, ["orders", "empty", "absent"], own_server=True) as seen:
            migration.execute("SELECT 1", "BEGIN", "SELECT 2")
            until(lambda: bool(migration.rows("SELECT 1")), "never")
            migration.execute("COMMIT")
    finally:
        migration.execute("DROP ROLE short_sighted")
    said = " ".join(seen.observation.not_observed)
    for part in (
        "There is no table absent",
        "on 1 of 2 tables",
        "Writing to public.orders was not observed to the end",
        "may not see what other roles execute",
        "may be missing",
    ):
        assert part in said


def test_a_migration_whose_sessions_have_another_name_is_not_taken_for_one_that_did_nothing(
    migration: Migration,
) -> None:
    with observing(migration.login, ["orders"], application_name="another") as seen:
        migration.execute("CREATE INDEX ON orders (amount)")
    assert "No statement of a session named another was observed" in " ".join(seen.observation.not_observed)
    assert seen.observation.statements == ()


def test_no_secret_and_no_long_text_is_kept(migration: Migration) -> None:
    learn([Secret("s3cret-of-the-test", "app")])
    try:
        with observing(migration.login, ["orders"]) as seen:
            migration.execute(f"SELECT pg_sleep(0.1), 's3cret-of-the-test', '{'x' * 5000}'")
    finally:
        forget()
    (statement,) = seen.observation.statements
    assert "s3cret" not in json.dumps(seen.observation.as_dict())
    assert len(statement.text) <= 500


def test_a_migration_that_fails_is_observed_too(migration: Migration) -> None:
    with pytest.raises(Exception, match="no_such"), observing(migration.login, ["orders"]) as seen:
        migration.execute("DROP TABLE no_such")
    assert seen.observation.duration_ms > 0
    assert left(migration.watch) == []


def left(session: Session) -> list[str]:
    """The sessions of an observation that are still connected, once the server has noticed their end."""
    names: list[str] = []

    def ended() -> bool:
        with session.cursor() as cursor:
            cursor.execute(
                "SELECT application_name FROM pg_stat_activity "
                "WHERE application_name LIKE 'dbrelease %' AND datname = current_database()"
            )
            names[:] = [name for (name,) in cursor.fetchall()]
        return not names

    until(ended, "sessions of the observation are connected")
    return names


LOG = """\
2026-12-01 10:00:00.090 UTC,"app","shop",7,"[local]",6.1,1,"SELECT",2026-12-01 09:00:00 UTC,5/1,801,LOG,00000,\
"temporary file: path ""base/pgsql_tmp/pgsql_tmp7.0"", size 4096",,,,,,,,,"migration","client backend",,0
2026-12-01 10:00:00.100 UTC,"app","shop",7,"[local]",6.1,1,"CREATE TABLE",2026-12-01 09:00:00 UTC,5/1,801,LOG,00000,\
"duration: 12.500 ms  statement: CREATE TABLE ""a b"" (
  id int)",,,,,,,,,"migration","client backend",,0
2026-12-01 10:00:00.200 UTC,"app","shop",7,"[local]",6.1,2,"PARSE",2026-12-01 09:00:00 UTC,5/1,801,LOG,00000,\
"duration: 20.000 ms  parse <unnamed>: INSERT INTO a",,,,,,,,,"migration","client backend",,0
2026-12-01 10:00:00.300 UTC,"app","shop",7,"[local]",6.1,3,"INSERT",2026-12-01 09:00:00 UTC,5/1,0,LOG,00000,\
"duration: 50.000 ms  execute <unnamed>: INSERT INTO a",,,,,,,,,"migration","client backend",,0
2026-12-01 10:00:00.300 UTC,"app","other",8,"[local]",6.1,3,"INSERT",2026-12-01 09:00:00 UTC,5/1,0,LOG,00000,\
"duration: 50.000 ms  statement: INSERT INTO a",,,,,,,,,"migration","client backend",,0
2026-12-01 10:00:00.300 UTC,"app","shop",9,"[local]",6.1,3,"SELECT",2026-12-01 09:00:00 UTC,5/1,0,LOG,00000,\
"duration: 50.000 ms  statement: SELECT 1",,,,,,,,,"psql","client backend",,0
2026-12-01 10:00:00.400 UTC,"app","shop",7,"[local]",6.1,4,"ALTER TABLE",2026-12-01 09:00:00 UTC,5/1,0,ERROR,42P01,\
"relation does not exist",,,,,,,,,"migration","client backend",,0
"""


def statements(log: str, application: str = "migration", own: Collection[int] = ()) -> list[Logged]:
    return [one for one in parsed(log, "shop", application, set(own)) if isinstance(one, Logged)]


def test_the_servers_log_names_each_statement_its_command_and_its_time() -> None:
    entries = list(parsed(LOG, "shop", "migration", set()))
    assert entries[0] == TemporaryFile(4096)
    found = statements(LOG)
    begin = found[0].begin_ms
    assert [(one.tag, round(one.begin_ms - begin, 1), round(one.end_ms - begin, 1)) for one in found] == [
        ("CREATE TABLE", 0, 12.5),
        ("INSERT", 92.5, 212.5),
    ]
    assert found[0].text == 'CREATE TABLE "a b" (\n  id int)'
    assert (found[0].xid, found[1].xid) == ("801", "")
    assert [one.pid for one in statements(LOG, "", {7})] == [9]


def test_a_long_statement_of_the_log_is_read() -> None:
    _, second = statements(LOG.replace("INSERT INTO a", f"INSERT INTO a /*{'x' * 300_000}*/"))
    assert second.text.startswith("INSERT INTO a")
    assert len(second.text) < 5_000


def test_a_statement_that_was_sampled_and_logged_is_one_and_one_that_failed_is_kept() -> None:
    sampled = [
        sampler.Ran(7, 1000.0, 1050.0, "INSERT INTO a", lock_wait_ms=9),
        sampler.Ran(7, 1060.0, 1070.0, "ALTER TABLE b ADD c int"),
    ]
    found = merged(sampled, [Logged(7, 998.0, 1051.0, "INSERT", "INSERT INTO a")])
    assert [(one.tag, one.begin_ms, one.lock_wait_ms) for one in found] == [
        ("INSERT", 998.0, 9),
        ("ALTER TABLE", 1060.0, 0),
    ]


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("-- why\n /* what */ create unique index concurrently i on t (a)", "CREATE INDEX"),
        ("create or replace function f()", "CREATE FUNCTION"),
        ("\n INSERT INTO t VALUES (1)", "INSERT"),
        ("alter table only t", "ALTER TABLE"),
        ("LOCK t", "LOCK T"),
        ("", ""),
    ],
)
def test_without_a_log_the_command_is_the_first_words(text: str, tag: str) -> None:
    assert tag_of(text) == tag


@pytest.mark.parametrize(
    ("tries", "waited"),
    [
        ([(0, False), (10, False), (20, True)], 20),
        ([(0, False), (10, False), (800, True)], 10),  # it may have been free since
        ([(0, False), (500, False), (510, True)], 510),
        ([(0, False), (700, True)], 0),
    ],
)
def test_a_row_was_waited_for_as_long_as_it_was_seen_locked(tries: list[tuple[float, bool]], waited: float) -> None:
    probe = object.__new__(Probe)
    probe.rows, probe.longest, probe.waits, probe._row, probe._row_place = 0, None, [], None, ""
    probe._holders = lambda *_: []  # type: ignore[method-assign]
    for now_ms, free in tries:
        probe._note_row(None, "(0,1)", "7", free, now_ms)
    assert probe.longest is not None
    assert probe.longest.duration_ms == waited
