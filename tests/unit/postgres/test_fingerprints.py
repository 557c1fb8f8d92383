"""Fingerprints: every table is read, every change of content shows, and nothing else does."""

from __future__ import annotations

import secrets
from contextlib import closing
from typing import Any

import psycopg2.extensions
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.postgres.fingerprints import count_tables, read_tables, write_counters
from ansible.module_utils.dbrelease.postgres.session import Login, select, transaction
from ansible.module_utils.dbrelease.postgres.session import connect as engine_connect
from ansible.module_utils.dbrelease.postgres.table_shape import read_shapes
from own_sessions import connect
from waits import until


@pytest.fixture
def cursor(session: psycopg2.extensions.connection) -> psycopg2.extensions.cursor:
    return session.cursor()


def read(session: psycopg2.extensions.connection, only: dict[str, list[str]] | None = None) -> dict[str, Any]:
    with transaction(session, read_only=True, isolation="REPEATABLE READ") as cursor:
        return read_tables(cursor, only)


ODD = [
    ("no columns", "CREATE TABLE t (); INSERT INTO t DEFAULT VALUES", "public.t", [], 1),
    ("no rows", "CREATE TABLE t (a int)", "public.t", ["a"], 0),
    ("quoted names", 'CREATE TABLE "T %s. ""x" ("a %s "" b" int)', 'public."T %s. ""x"', ['a %s " b'], 0),
    ("another schema", 'CREATE SCHEMA "S"; CREATE TABLE "S".t (a int)', "S.t", ["a"], 0),
    ("unlogged", "CREATE UNLOGGED TABLE t (a int); INSERT INTO t VALUES (1)", "public.t", ["a"], 1),
    ("dropped column", "CREATE TABLE t (a int, b int, c int); ALTER TABLE t DROP b", "public.t", ["a", "c"], 0),
    (
        "generated column",
        "CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a * 2) STORED); INSERT INTO t VALUES (1)",
        "public.t",
        ["a", "b"],
        1,
    ),
    (
        "partition",
        "CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE t PARTITION OF p DEFAULT; INSERT INTO p VALUES (1)",
        "public.t",
        ["a"],
        1,
    ),
]


@pytest.mark.parametrize(("made", "key", "columns", "rows"), [row[1:] for row in ODD], ids=[row[0] for row in ODD])
def test_an_odd_table_is_read(session: Any, cursor: Any, made: str, key: str, columns: list[str], rows: int) -> None:
    cursor.execute(made)
    found = read(session)
    assert list(found) == [key]
    assert found[key]["columns"] == columns
    assert found[key]["rows"] == rows
    assert read(session, {key: columns})[key].items() >= found[key].items()
    with transaction(session, read_only=True) as inside:
        assert count_tables(inside) == {key: rows}


def test_rows_of_an_inheriting_table_are_its_own(session: Any, cursor: Any) -> None:
    cursor.execute("CREATE TABLE t (a int); CREATE TABLE u () INHERITS (t); INSERT INTO u VALUES (1)")
    assert {key: row["rows"] for key, row in read(session).items()} == {"public.t": 0, "public.u": 1}


def test_views_foreign_partitioned_and_temporary_tables_are_no_tables(session: Any, cursor: Any) -> None:
    cursor.execute(
        "CREATE TEMP TABLE t (a int); CREATE VIEW v AS SELECT 1 AS a; CREATE MATERIALIZED VIEW m AS SELECT 1 AS a;"
        "CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA "
        "WRAPPER w; CREATE FOREIGN TABLE f (a int) SERVER s"
    )
    assert read(session) == {}


CHANGES = [
    ("integer", "int", "1", "2"),
    ("null", "int", "1", "NULL"),
    ("text", "text", "'Ä ''%s'", "'Ä %s'"),
    ("json", "json", "'{\"a\": 1}'", "'{\"a\": 2}'"),
    ("json white space", "json", "'{\"a\": 1}'", "'{\"a\":1}'"),
    ("jsonb", "jsonb", "'{\"a\": 1}'", "'{\"a\": 2}'"),
    ("point", "point", "'(1,2)'", "'(1,3)'"),
    ("xml", "xml", "'<a/>'", "'<b/>'"),
    ("array of json", "json[]", "ARRAY['1'::json]", "ARRAY['2'::json]"),
    ("array of text", "text[]", "'{a,b}'", "'{b,a}'"),
    ("dimensions of an array", "int[]", "'{1,2,3,4}'", "'{{1,2},{3,4}}'"),
    ("bounds of an array", "int[]", "'{1,2}'", "'[0:1]={1,2}'"),
    ("composite with json", "pair", "ROW('1', 1)", "ROW('2', 1)"),
    ("enum", "mood", "'good'", "'bad'"),
    ("domain", "positive", "1", "2"),
    ("range", "int4range", "'[1,3)'", "'[1,4)'"),
    ("bytea", "bytea", "'\\x00'", "'\\x01'"),
    ("bits", "bit(3)", "B'101'", "B'100'"),
    ('"char"', '"char"', "'a'", "'b'"),
    ("case under a collation that ignores it", "text COLLATE nocase", "'a'", "'A'"),
    ("scale", "numeric", "1.5", "1.50"),
    ("scale in an array", "numeric[]", "'{1.5}'", "'{1.50}'"),
    ("scale in a range", "numrange", "'[1.5,2)'", "'[1.50,2)'"),
    ("scale in an array of ranges", "numrange[]", "ARRAY['[1.5,2)'::numrange]", "ARRAY['[1.50,2)'::numrange]"),
    ("scale in a multirange", "nummultirange", "'{[1.5,2)}'", "'{[1.50,2)}'"),
    ("scale in jsonb", "jsonb", "'{\"a\": [1.5]}'", "'{\"a\": [1.50]}'"),
    ("scale in an array of jsonb", "jsonb[]", "ARRAY['1.5'::jsonb]", "ARRAY['1.50'::jsonb]"),
    ("scale in a domain", "amount", "1.5", "1.50"),
    ("scale in a composite", "price", "ROW(1.5)", "ROW(1.50)"),
    ("a month for its days", "interval", "'30 days'", "'1 mon'"),
    ("a day for its hours, in an array", "interval[]", "'{24:00:00}'", "'{1 day}'"),
    ("sign of zero", "float8", "0", "'-0'"),
    ("sign of zero, of the shorter kind", "float4", "0", "'-0'"),
    ("sign of zero in an array", "float8[]", "'{0}'", "'{-0}'"),
    ("time", "timestamptz", "'2026-01-01Z'", "'2026-01-02Z'"),
]


@pytest.mark.parametrize(("kind", "one", "other"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_a_changed_value_changes_the_fingerprint(session: Any, cursor: Any, kind: str, one: str, other: str) -> None:
    cursor.execute(
        "CREATE TYPE pair AS (j json, i int); CREATE TYPE mood AS ENUM ('good', 'bad');"
        "CREATE DOMAIN positive AS int CHECK (value > 0);"
        "CREATE DOMAIN amount AS numeric; CREATE TYPE price AS (n numeric);"
        "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    )
    cursor.execute(f"CREATE TABLE t (id int, v {kind}); INSERT INTO t VALUES (1, {one}), (2, NULL)")
    before = read(session)["public.t"]
    assert read(session)["public.t"] == before
    cursor.execute(f"UPDATE t SET v = {other} WHERE id = 1")
    after = read(session)["public.t"]
    assert after["rows"] == before["rows"]
    assert after["fingerprint"] != before["fingerprint"]
    cursor.execute(f"UPDATE t SET v = {one} WHERE id = 1")
    assert read(session)["public.t"]["fingerprint"] == before["fingerprint"]


def test_order_and_session_settings_do_not_matter(session: Any, database: Login) -> None:
    session.cursor().execute(
        "CREATE TABLE t (a int, at timestamptz, j json, f float8, v interval);"
        "INSERT INTO t SELECT i, now(), to_json(i), i / 7.0, make_interval(0, i, 0, i) FROM generate_series(1, 100) i"
    )
    before = read(session)["public.t"]["fingerprint"]
    session.cursor().execute("CREATE TABLE u AS TABLE t; TRUNCATE t; INSERT INTO t SELECT * FROM u ORDER BY a DESC")
    for setting in ("timezone = 'Asia/Tokyo'", "intervalstyle = 'sql_standard'", "extra_float_digits = -9"):
        session.cursor().execute(f"ALTER DATABASE {database.database} SET {setting}")
    other = connect(database, "other")
    other.cursor().execute("SET timezone = 'Asia/Tokyo'")
    assert read(other, {"public.t": ["a", "at", "j", "f", "v"]})["public.t"]["fingerprint"] == before
    other.close()


def test_two_equal_rows_do_not_cancel_each_other(session: Any, cursor: Any) -> None:
    cursor.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (7)")
    one = read(session)["public.t"]["fingerprint"]
    cursor.execute("INSERT INTO t VALUES (7)")
    assert int(read(session)["public.t"]["fingerprint"]) == 2 * int(one)


@pytest.mark.parametrize("values", ["a = 3 - a", "b = CASE b WHEN 'x' THEN 'y' ELSE 'x' END", "a = 3 - a, c = 3 - c"])
def test_rows_that_exchange_their_values_are_other_rows(session: Any, cursor: Any, values: str) -> None:
    cursor.execute("CREATE TABLE t (a int, b text, c int); INSERT INTO t VALUES (1, 'x', 1), (2, 'y', 2)")
    before = read(session)["public.t"]["fingerprint"]
    cursor.execute(f"UPDATE t SET {values}")
    assert read(session)["public.t"]["fingerprint"] != before


def test_a_column_is_hashed_alike_whichever_tables_are_read(session: Any, cursor: Any) -> None:
    cursor.execute(
        "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
        "CREATE TABLE a (v text COLLATE nocase); CREATE TABLE b (v text); INSERT INTO b VALUES ('x')"
    )
    assert read(session)["public.b"]["fingerprint"] == read(session, {"public.b": ["v"]})["public.b"]["fingerprint"]


def test_only_requested_columns_are_compared_and_missing_ones_are_reported(session: Any, cursor: Any) -> None:
    cursor.execute("CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 1)")
    before = read(session, {"public.t": ["a"]})["public.t"]
    assert (before["absent"], before["missing"], before["columns"]) == (False, [], ["a"])
    cursor.execute("UPDATE t SET b = 2; ALTER TABLE t ADD c int DEFAULT 3")
    assert read(session, {"public.t": ["a"]})["public.t"]["fingerprint"] == before["fingerprint"]
    found = read(session, {"public.t": ["a", "gone"], "public.none": ["x"]})
    assert found["public.t"]["missing"] == ["gone"]
    assert (found["public.none"]["absent"], found["public.none"]["missing"]) == (True, ["x"])


def test_a_table_that_may_not_be_read_is_one_sentence(session: Any, cursor: Any) -> None:
    cursor.execute("CREATE TABLE t (a int)")
    cursor.execute("DO $$BEGIN CREATE ROLE dbrelease_test_nobody; EXCEPTION WHEN duplicate_object THEN NULL; END$$")
    try:
        cursor.execute("SET ROLE dbrelease_test_nobody")
        with pytest.raises(ReleaseError, match=r"Reading table public.t .*permission denied for table t \(42501\)"):
            read(session)
    finally:
        cursor.execute("RESET ROLE; DROP ROLE dbrelease_test_nobody")


def test_counters_count_writes_and_transactions(session: Any, cursor: Any, database: Login) -> None:
    cursor.execute("CREATE TABLE t (a int)")
    with transaction(session, read_only=True) as reader:
        before = write_counters(reader)
    other = connect(database, "writer")
    other.cursor().execute("INSERT INTO t VALUES (1), (2); UPDATE t SET a = 3; DELETE FROM t WHERE a = 3")
    other.cursor().execute("BEGIN; INSERT INTO t VALUES (1); COMMIT")
    other.close()  # which reports what it wrote
    with transaction(session, read_only=True) as reader:

        def is_counted() -> bool:
            return bool(write_counters(reader)["tables"]["public.t"]["inserted"] == 3)

        until(is_counted, "the server did not count what was written")
        after = write_counters(reader)
    assert before["tables"]["public.t"] == {"inserted": 0, "updated": 0, "deleted": 0}
    assert after["tables"]["public.t"] == {"inserted": 3, "updated": 2, "deleted": 2}
    assert after["xid"] >= before["xid"] + 2


LOCKED = """
SELECT count(*) AS locks FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE l.pid = pg_backend_pid() AND n.nspname = 'public'
"""


def locks(cursor: Any) -> int:
    (row,) = select(cursor, LOCKED)
    return int(row["locks"])


def test_no_more_than_one_table_is_locked_at_a_time(session: Any, cursor: Any) -> None:
    """As many locks as tables and indexes at once would fill the lock table of the whole server."""
    for number in range(20):
        cursor.execute(f"CREATE TABLE t{number} (a int PRIMARY KEY, b int); CREATE INDEX ON t{number} (b)")
        cursor.execute(f"CREATE TABLE c{number} (a int REFERENCES t{number})")
    with transaction(session, read_only=True, isolation="REPEATABLE READ") as held:
        everything = read_tables(held)
        assert locks(held) == 0
        assert read_tables(held, {key: row["columns"] for key, row in everything.items()}).keys() == everything.keys()
        assert count_tables(held) == {key: row["rows"] for key, row in everything.items()}
        assert locks(held) == 0
        read_shapes(held)
        assert locks(held) == 0


def test_partitions_are_not_locked_for_their_shapes(session: Any, cursor: Any) -> None:
    cursor.execute("CREATE TABLE p (a int PRIMARY KEY) PARTITION BY RANGE (a)")
    for number in range(10):
        cursor.execute(f"CREATE TABLE p{number} PARTITION OF p FOR VALUES FROM ({number}) TO ({number + 1})")
    cursor.execute("CREATE TABLE child (a int REFERENCES p)")
    with transaction(session, read_only=True, isolation="REPEATABLE READ") as held:
        shapes = read_shapes(held)
        assert locks(held) == 0
    assert shapes["public.child"].parents >= {f"public.p{number}" for number in range(10)}


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "SQL_ASCII"])
def test_names_and_text_are_read_in_whatever_encoding_the_database_has(server: Login, encoding: str) -> None:
    name = f"test_{secrets.token_hex(6)}"
    with closing(connect(server, "tests")) as keeper, keeper.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
        try:
            with closing(engine_connect(server.to(name), "tests")) as session:
                session.set_client_encoding("UTF8")
                made = 'CREATE TABLE public."größe" ("länge" text); INSERT INTO public."größe" VALUES (\'café\')'
                session.cursor().execute(made)
            with (
                closing(engine_connect(server.to(name), "tests")) as session,
                transaction(session, read_only=True) as reading,
            ):
                tables = read_tables(reading)
                rows = select(reading, 'SELECT "länge" AS text FROM public."größe"')
            assert (tables["public.größe"]["rows"], tables["public.größe"]["columns"]) == (1, ["länge"])
            assert rows == [{"text": "café"}]
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
