"""The meters, on a real server: pg_dump, an index build and a growing database, each in the middle of its work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
from ansible.module_utils.dbrelease.backup.dump import DumpFile, run_pg_dump, tool_environment
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.progress import Reading
from ansible.module_utils.dbrelease.host.commands import HostCommands
from ansible.module_utils.dbrelease.postgres import progress_meters
from ansible.module_utils.dbrelease.postgres.progress_meters import ChangeMeter, DumpMeter, SizeMeter
from ansible.module_utils.dbrelease.postgres.session import Login
from left_sessions import left_sessions
from own_sessions import connect
from waits import until

NAME = "dbrelease-dump-test"
# Of different sizes, in an order that is not that of their making; rows that do not compress.
FILL = """
CREATE SCHEMA "B"; CREATE SCHEMA a;
CREATE TABLE a.second (id int PRIMARY KEY, noise text);
CREATE TABLE "B".first (id int PRIMARY KEY, noise text);
CREATE TABLE a."Earlier" (id int PRIMARY KEY, noise text);
CREATE TABLE a.empty (id int);
CREATE TABLE a.parts (id int, noise text) PARTITION BY RANGE (id);
CREATE TABLE a.part1 PARTITION OF a.parts FOR VALUES FROM (0) TO (30000);
CREATE TABLE a.part2 PARTITION OF a.parts FOR VALUES FROM (30000) TO (90000);
INSERT INTO a.second SELECT n, NOISE FROM generate_series(1, 60000) n;
INSERT INTO "B".first SELECT n, NOISE FROM generate_series(1, 30000) n;
INSERT INTO a."Earlier" SELECT n, NOISE FROM generate_series(1, 100000) n;
INSERT INTO a.parts SELECT n, NOISE FROM generate_series(1, 80000) n;
"""
NOISE = "md5(n::text) || md5(random()::text)"
# The server is ahead of pg_dump by what the sockets between them keep.
BUFFERED, TEXT = 8_000_000, 270_000 * 262


def fill(login: Login, noise: str) -> Login:
    with closing(connect(login, "tests")) as session, session.cursor() as cursor:
        cursor.execute(FILL.replace("NOISE", noise))
        cursor.execute("ANALYZE")
    return login


@pytest.fixture
def filled(database: Login) -> Login:
    return fill(database, NOISE)


def test_a_dump_is_measured_by_the_rows_that_pg_dump_has_read(database: Login, tmp_path: Path) -> None:
    filled = fill(database, " || ".join([NOISE] * 4))
    environment = tool_environment(filled, NAME, inside=False)
    with closing(connect(filled, "tests")) as holder, holder.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SELECT pg_export_snapshot()")
        ((snapshot,),) = cursor.fetchall()
        file, readings = DumpFile(tmp_path / "test.dump"), list[tuple[int, Reading]]()
        with closing(DumpMeter(filled, NAME, lambda: file.bytes)) as meter:
            write, look_at = file.write, 0

            def paused(data: bytes) -> None:
                """Pg_dump waits meanwhile: its output is not read."""
                nonlocal look_at
                write(data)
                if file.bytes > look_at and (reading := meter.read()):
                    readings.append((file.bytes, reading))
                    look_at = file.bytes + 1_000_000

            file.write = paused  # type: ignore[method-assign]
            finished = run_pg_dump(HostCommands(), file, snapshot, environment, 120)
        file.close()
    assert finished.status == 0, finished.stderr
    assert len(readings) > 10
    fractions = [(written / file.bytes, one.done / (one.total or 1)) for written, one in readings]
    assert [b for _, b in fractions] == sorted(b for _, b in fractions)
    ahead = [read - written for written, read in fractions]
    # On a busy machine the answer of the server is an earlier one by as much as pg_dump has ahead.
    assert max(map(abs, ahead)) < 0.05 + BUFFERED / TEXT, fractions
    assert fractions[0][1] < 0.3 and fractions[-1][1] > 0.9, fractions
    assert {one.unit for _, one in readings} == {"bytes"} and not any(one.at_most for _, one in readings)
    assert left_sessions(filled) == []


@pytest.fixture
def copying(filled: Login) -> Iterator[threading.Event]:
    """A COPY of the largest table, as pg_dump runs it, in the middle of which its client reads no more."""
    stopped, released = threading.Event(), threading.Event()

    class Slow:
        def write(self, data: bytes) -> None:
            stopped.set()
            released.wait(60)

    def copy() -> None:
        with closing(connect(filled, NAME)) as session, session.cursor() as cursor:
            cursor.copy_expert('COPY a."Earlier" TO STDOUT', Slow())

    thread = threading.Thread(target=copy)
    thread.start()
    assert stopped.wait(60)
    yield stopped
    released.set()
    thread.join()


@pytest.mark.usefixtures("copying")
def test_a_table_of_unknown_size_says_nothing_of_the_time_left(filled: Login) -> None:
    with closing(connect(filled, "tests")) as session, session.cursor() as cursor:
        cursor.execute("""UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE relname = 'Earlier'""")
    with closing(DumpMeter(filled, NAME, int)) as meter:
        reading = meter.read()
    assert reading is not None and not reading.goes_on and reading.done < (reading.total or 0)


@pytest.mark.usefixtures("copying")
def test_another_sessions_copy_is_not_the_dump(filled: Login) -> None:
    with closing(DumpMeter(filled, "dbrelease-dump-other", int)) as meter:
        assert meter.read() is None


def test_a_server_without_the_view_leaves_the_bytes_written(database: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_meters, "COPY_SINCE", 999_999)
    with closing(DumpMeter(database, NAME, lambda: 17)) as meter:
        assert meter.read() == Reading(17)


@pytest.mark.usefixtures("copying")
def test_a_locked_table_delays_no_reading(filled: Login) -> None:
    with closing(connect(filled, "tests")) as holder, holder.cursor() as cursor:
        cursor.execute('BEGIN; LOCK TABLE "B".first')
        with closing(DumpMeter(filled, NAME, int)) as meter:
            reading = meter.read()
    assert reading is not None and reading.total


@pytest.mark.usefixtures("copying")
def test_the_tables_are_read_without_a_lock_that_stays(filled: Login) -> None:
    with closing(DumpMeter(filled, NAME, int)) as meter, closing(connect(filled, "tests")) as session:
        assert meter.read()
        with session.cursor() as cursor:
            cursor.execute("SET lock_timeout = '5s'; ALTER TABLE a.second ADD COLUMN more int")


def test_a_database_that_is_filled_is_measured_from_another_one(server: Login, filled: Login) -> None:
    with closing(SizeMeter(server, filled.database, 10**9)) as meter:
        before = meter.read()
        with closing(connect(filled, "tests")) as session, session.cursor() as cursor:
            cursor.execute("CREATE TABLE more AS SELECT * FROM a.second")
        after = meter.read()
        assert left_sessions(filled) == [], "it may be dropped"
    assert before is not None and after is not None
    assert after.done > before.done + 4_000_000 and (after.total, after.at_most) == (10**9, True)


@pytest.fixture
def changing(filled: Login) -> Iterator[psycopg2.extensions.connection]:
    with closing(connect(filled, "dbrelease-upgrade-test")) as session:
        yield session


def test_an_index_that_is_built_is_measured_by_its_own_counter(
    filled: Login, changing: psycopg2.extensions.connection
) -> None:
    readings: list[Reading | None] = []
    thread = threading.Thread(target=_slow_index, args=(changing,))
    with closing(ChangeMeter(filled, "dbrelease-upgrade-test")) as meter:
        meter.read()
        thread.start()

        def found() -> bool:
            readings.append(meter.read())
            return bool(readings[-1] and readings[-1].what == "index" and readings[-1].done)

        try:
            until(found, "the index is not measured")
        finally:
            changing.cancel()
            thread.join()
    last = readings[-1]
    assert last is not None and last.total and last.done <= last.total


def _slow_index(session: psycopg2.extensions.connection) -> None:
    """An index whose expression takes long for each row."""
    with session.cursor() as cursor, suppress(psycopg2.errors.QueryCanceled):
        cursor.execute(
            "CREATE FUNCTION a.slow(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_catalog.pg_sleep(0.0005); RETURN $1; END $$"
        )
        cursor.execute("CREATE INDEX ON a.second (a.slow(noise))")


def test_a_change_that_has_no_counter_is_measured_by_the_growth(
    filled: Login, changing: psycopg2.extensions.connection
) -> None:
    with closing(ChangeMeter(filled, "dbrelease-upgrade-test")) as meter:
        assert meter.read() == Reading(0, what="growth")
        with changing.cursor() as cursor:
            cursor.execute("BEGIN; CREATE TABLE a.made AS SELECT * FROM a.second")  # not committed
        reading = meter.read()
    assert reading is not None and reading.done > 4_000_000
    assert (reading.total, reading.what) == (None, "growth")


def test_its_session_only_reads_and_waits_for_nothing(filled: Login) -> None:
    with closing(ChangeMeter(filled, "dbrelease-upgrade-test")) as meter:
        meter.read()
        with meter._connected().cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchone() == ("1s",)
            with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
                cursor.execute("CREATE TABLE a.other (id int)")
    assert left_sessions(filled) == []


def test_a_server_that_cannot_be_reached_is_an_error_of_the_reading_alone(database: Login) -> None:
    with closing(SizeMeter(replace(database, port=1), "x", None)) as meter, pytest.raises(ReleaseError):
        meter.read()
