"""Checks and guards shown able to fail: each kind of breakage is needed by one of them, and a vacuous one is found."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import shared_database
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.proof import Proof
from ansible.module_utils.dbrelease.postgres.fingerprints import state_of
from ansible.module_utils.dbrelease.postgres.session import Login, Session
from ansible.module_utils.dbrelease.rehearsal import can_fail
from ansible.module_utils.dbrelease.rehearsal.can_fail import UNDONE_PROOF, Declared, Limits, prove_can_fail
from ansible.module_utils.dbrelease.rehearsal.recipe import CannotRehearseError
from ansible.module_utils.dbrelease.restore.compare import read_state
from ansible.module_utils.dbrelease.rollback import in_database
from ansible.module_utils.dbrelease.rollback.verdict import GuardResult
from own_sessions import connect

database, emptied = shared_database.database, shared_database.emptied

SCHEMA = """
DROP TYPE IF EXISTS stage;
CREATE TYPE stage AS ENUM ('open', 'paid', 'lost');
CREATE DOMAIN percent AS numeric NOT NULL CHECK (VALUE BETWEEN 0 AND 100);
CREATE TABLE accounts (id serial PRIMARY KEY, name varchar(12) NOT NULL UNIQUE, "Credit" numeric CHECK ("Credit" >= 0));
CREATE TABLE orders (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), account_id int NOT NULL REFERENCES accounts ON DELETE CASCADE,
  number bigint GENERATED ALWAYS AS IDENTITY UNIQUE, at timestamptz NOT NULL DEFAULT now(), state stage NOT NULL,
  discount percent, place point, data json, paid boolean NOT NULL,
  twice bigint GENERATED ALWAYS AS (discount * 2) STORED);
CREATE TABLE lines (order_id uuid REFERENCES orders ON DELETE CASCADE, line int, title text,
  PRIMARY KEY (order_id, line)) PARTITION BY HASH (order_id);
CREATE TABLE lines_0 PARTITION OF lines FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE lines_1 PARTITION OF lines FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE notes (text text);
CREATE TABLE elsewhere (id int);
CREATE VIEW open_orders AS SELECT * FROM orders WHERE state = 'open';
CREATE FUNCTION orphans() RETURNS bigint LANGUAGE plpgsql STABLE AS $$ BEGIN
  RETURN (SELECT count(*) FROM orders o WHERE NOT EXISTS (SELECT FROM accounts a WHERE a.id = o.account_id)); END $$;
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF TG_OP = 'DELETE' THEN RETURN NULL; END IF; RAISE 'no change is allowed'; END $$;
CREATE TRIGGER mends BEFORE UPDATE OR DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION keep();
ALTER TABLE accounts ENABLE ALWAYS TRIGGER mends;
CREATE RULE no_more AS ON INSERT TO accounts DO INSTEAD NOTHING;
ALTER TABLE accounts ENABLE ALWAYS RULE no_more;
"""
ROWS = """
ALTER TABLE accounts DISABLE RULE no_more;
INSERT INTO accounts (name, "Credit") SELECT 'account ' || n, n FROM generate_series(1, 20) n;
ALTER TABLE accounts ENABLE ALWAYS RULE no_more;
INSERT INTO orders (account_id, state, discount, paid)
  SELECT n % 20 + 1, 'open', n, false FROM generate_series(1, 90) n;
INSERT INTO lines SELECT id, n, 'line' FROM orders, generate_series(1, 2) n;
INSERT INTO elsewhere VALUES (1);
ANALYZE;
"""
TABLES = ("accounts", "orders", "lines", "notes")

# What breaks them, as the words of the proof contain it; there is no other way to make them fail.
ABLE: dict[str, tuple[dict[str, str], str]] = {
    "a row less": ({"equal": "SELECT 180 AS wanted, greatest(180 - count(*), 0) + count(*) AS seen FROM lines"}, ""),
    "only a deleted row": ({"violations": "SELECT 1 AS x FROM lines HAVING count(*) < 180"}, "deleting one row"),
    "only an added row": ({"violations": "SELECT 1 AS x FROM lines HAVING count(*) > 180"}, "adding a copy"),
    "a row of a partition": ({"violations": "SELECT line FROM lines_1 WHERE title <> 'line'"}, "lines_1"),
    "a duplicate": (
        {
            "violations": "SELECT order_id FROM lines GROUP BY order_id, line "
            "HAVING count(*) > 1 AND (SELECT count(*) FROM lines) > 180"
        },
        "adding a copy of a row of lines with the same key",
    ),
    "NULL, though forbidden": ({"violations": "SELECT id FROM orders WHERE state IS NULL"}, "setting state"),
    "NULL in a key": ({"violations": "SELECT line FROM lines WHERE order_id IS NULL"}, "order_id"),
    "NULL in a domain": ({"violations": "SELECT id FROM orders WHERE discount IS NULL"}, "setting discount"),
    "a value of another row": (
        {"violations": "SELECT name FROM accounts WHERE name LIKE 'account%' GROUP BY name HAVING count(*) > 1"},
        "",
    ),
    "another label of an enum": ({"violations": "SELECT id FROM orders WHERE state = 'lost'"}, "setting state"),
    "another truth": ({"violations": "SELECT id FROM orders WHERE paid"}, "setting paid"),
    "a new number, against a CHECK": ({"violations": 'SELECT id FROM accounts WHERE "Credit" < 0'}, "setting Credit"),
    "a large number": ({"violations": 'SELECT id FROM accounts WHERE "Credit" > 1000000'}, "setting Credit"),
    "a number, against a domain": ({"violations": "SELECT id FROM orders WHERE discount > 100"}, "setting discount"),
    "a new text": ({"violations": "SELECT id FROM accounts WHERE name !~ '^account'"}, "setting name"),
    "an empty text": ({"violations": "SELECT id FROM accounts WHERE name = ''"}, "setting name"),
    "an old date": ({"violations": "SELECT id FROM orders WHERE at < '2000-01-01'"}, "setting at"),
    "a date to come": ({"violations": "SELECT id FROM orders WHERE at > now() + '1 year'"}, "setting at"),
    "json": ({"violations": "SELECT id FROM orders WHERE data::text = '{}'"}, "setting data"),
    "an identity": ({"violations": "SELECT id FROM orders WHERE number < 0"}, "number"),
    "a generated column": ({"violations": "SELECT id FROM orders WHERE twice > 200"}, "setting discount"),
    "no parent, against a foreign key": (
        {"violations": "SELECT o.id FROM orders o LEFT JOIN accounts a ON a.id = o.account_id WHERE a.id IS NULL"},
        "",
    ),
    "in a view": ({"violations": "SELECT id FROM open_orders WHERE discount < 0"}, "setting discount"),
    "in a function": ({"violations": "SELECT n FROM orphans() n WHERE n > 0"}, ""),
    "where a plan leaves it out": (
        {"violations": "SELECT 1 AS x WHERE (SELECT count(*) FROM notes) > 0"},
        "adding a row to notes, which is empty",
    ),
    "by a GROUP BY that needs the primary key": (
        {"violations": "SELECT a.id, a.name FROM accounts a JOIN orders o ON o.account_id = a.id "
                       "GROUP BY a.id HAVING count(*) NOT IN (4, 5)"},
        "",
    ),
}  # fmt: skip

# It answers, and no row makes it fail; with a part of what is reported.
VACUOUS: dict[str, tuple[dict[str, str], str]] = {
    "a query that is never true": ({"violations": "SELECT id FROM orders WHERE false"}, "of orders made it fail"),
    "a count compared with itself": ({"equal": "SELECT count(*) AS a, count(*) AS b FROM lines"}, "lines made it"),
    "no table": ({"violations": "SELECT 1 AS x WHERE false"}, "It reads no table of the release, so"),
    "another table": ({"violations": "SELECT id FROM elsewhere WHERE id > 1"}, "no table of the release (it reads "),
    "a NULL that is never met": ({"violations": "SELECT id FROM orders WHERE discount = NULL"}, "made it fail"),
    "no rows": (
        {"violations": "SELECT 1 AS x FROM notes HAVING count(*) > 1"},
        "notes is empty, and none of",
    ),
}  # fmt: skip


def check(name: str, query: dict[str, str]) -> dict[str, str]:
    return {"name": name.replace(" ", "_"), "title": name, **query}


@pytest.fixture
def shop(session: Session) -> Session:
    """A database with every kind of hindrance."""
    with session.cursor() as cursor:
        cursor.execute(SCHEMA)
        cursor.execute(ROWS)
    return session


@pytest.fixture(scope="module")
def live(server: Login) -> Login:
    """Another database; it is only asked which one it is."""
    return server


def proved(database: Login, live: Login, *checks: dict[str, Any], **more: Any) -> dict[str, Proof]:
    limits = more.pop("limits", Limits(tries=150, seconds=60))
    declared = Declared(**{"checks": checks, "tables": TABLES, **more})
    return {proof.name: proof for proof in prove_can_fail(database, live, declared, limits)}


def content(database: Login) -> Any:
    """Every row of every table, every sequence, and the schema."""
    rows, *_ = read_state(database, "tests")
    with closing(connect(database, "tests")) as session, session.cursor() as cursor:
        cursor.execute("SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2")
        sequences = cursor.fetchall()
        cursor.execute("SELECT conname, conrelid, contype FROM pg_constraint WHERE oid >= 16384 ORDER BY oid")
        return {name: state_of(row) for name, row in rows.items()}, sequences, cursor.fetchall()


@pytest.mark.usefixtures("shop")
def test_each_is_made_to_fail_in_its_own_way_and_nothing_of_it_is_left(database: Login, live: Login) -> None:
    before = content(database)
    found = proved(database, live, *(check(name, query) for name, (query, _) in ABLE.items()))
    undone = found.pop(UNDONE_PROOF)
    for (name, (_, words)), proof in zip(ABLE.items(), found.values(), strict=True):
        assert proof.name == f"rehearse.can_fail.checks.{name.replace(' ', '_')}"
        assert proof.status == "pass", proof
        assert words in proof.observed["made_to_fail_by"], proof
    assert (undone.status, undone.observed) == ("pass", {"aborted": len(ABLE)})
    assert content(database) == before


@pytest.mark.usefixtures("shop")
def test_a_vacuous_check_is_found(database: Login, live: Login) -> None:
    found = proved(database, live, *(check(name, query) for name, (query, _) in VACUOUS.items()))
    for (name, (_, words)), proof in zip(VACUOUS.items(), found.values(), strict=False):
        assert (proof.status, proof.could_not_run) == ("inconclusive", False), (name, proof)
        assert words in proof.detail, (name, proof)
        assert proof.remedy
        assert proof.observed["made_to_fail_by"] is None


@pytest.mark.usefixtures("shop")
def test_an_error_is_no_failure(database: Login, live: Login) -> None:
    one_row = "SELECT 1 / (SELECT CASE WHEN count(*) = 90 THEN 1 ELSE 0 END FROM orders) AS one, 1 AS other"
    found = proved(
        database,
        live,
        check("now", {"violations": "SELECT 1 / (count(*) - count(*)) AS x FROM orders"}),
        check("unknown", {"violations": "SELECT missing FROM orders"}),
        check("broken", {"equal": one_row}),
    )
    now, unknown, broken, _ = found.values()
    assert (now.status, now.could_not_run) == (unknown.status, unknown.could_not_run) == ("inconclusive", True)
    assert "division by zero (22012)" in now.detail
    assert "does not exist (42703)" in unknown.detail
    assert (broken.status, broken.could_not_run) == ("inconclusive", False)
    assert "ended with an error, which shows nothing" in broken.detail
    assert "division by zero" in broken.detail


@pytest.mark.usefixtures("shop")
def test_a_check_that_fails_already_needs_no_breakage(database: Login, live: Login) -> None:
    proof, _ = proved(database, live, check("red", {"violations": "SELECT id FROM orders"})).values()
    assert (proof.status, proof.observed) == ("pass", {"made_to_fail_by": "", "tries": 0})
    assert "as it is" in proof.detail


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("limits", [Limits(tries=3), Limits(seconds=0.000001)], ids=["tries", "seconds"])
def test_what_was_not_tried_is_not_called_vacuous(database: Login, live: Login, limits: Limits) -> None:
    never = check("never", {"violations": "SELECT id FROM orders WHERE false"})
    proof, _ = proved(database, live, never, limits=limits).values()
    assert proof.status == "inconclusive"
    assert "vacuous" not in proof.detail


GUARDS: list[dict[str, Any]] = [
    {"name": "lost", "title": "No row is lost", "road": "", "losses": {"table": "lines", "key": ["order_id", "line"],
     "rows": "SELECT order_id, line FROM lines WHERE title <> 'line'"}},
    {"name": "every", "title": "No row at all", "road": "", "losses": {"table": "notes"}},
    {"name": "broken", "title": "Nothing is broken", "road": "", "violations": "SELECT id FROM orders WHERE paid"},
    {"name": "vacuous", "title": "It never fails", "road": "", "losses": {"table": "lines", "key": ["line"],
     "rows": "SELECT line FROM lines WHERE title = NULL"}},
    {"name": "present", "title": "The column is there", "road": "", "columns": {"orders": ["paid"]}},
    {"name": "answers", "title": "The API answers", "road": "", "answers": {"path": "/", "keys": ["a"]}},
]  # fmt: skip


@pytest.mark.usefixtures("shop")
def test_guards_that_count_rows_are_made_to_fail(database: Login, live: Login) -> None:
    found = proved(database, live, guards=GUARDS)
    assert {name.removeprefix("rehearse.can_fail."): proof.status for name, proof in found.items()} == {
        "guard.lost": "pass",
        "guard.every": "pass",
        "guard.broken": "pass",
        "guard.vacuous": "inconclusive",
        "guard.present": "pass",
        "undone": "pass",
    }


def every(*more: dict[str, Any]) -> list[dict[str, Any]]:
    """The guards of a release that creates orders and lines, and adds "Credit" to accounts."""
    columns = {"orders": ["id"], "lines": ["order_id", "line", "title"]}
    return [
        {"name": "nothing_depends", "title": "", "dependents": list(columns), "altered": {}, "downgrade": ""},
        {"name": "no_other_column", "title": "", "only_columns": {"lines": columns["lines"], "notes": ["text"]}},
        {"name": "no_value_lost", "title": "", "values": {"table": "accounts", "columns": ["Credit"]}},
        *more,
    ]


def test_guards_of_every_release_are_made_to_fail(shop: Session, database: Login, live: Login) -> None:
    with shop.cursor() as cursor:
        cursor.execute("DROP VIEW open_orders; DROP FUNCTION orphans")
        cursor.execute('ALTER TABLE accounts DISABLE TRIGGER mends; UPDATE accounts SET "Credit" = NULL')
    before = content(database)
    found = proved(database, live, guards=every(GUARDS[4]))
    undone = found.pop(UNDONE_PROOF)
    assert {name.removeprefix("rehearse.can_fail.guard."): proof.detail for name, proof in found.items()} == {
        "nothing_depends": "It failed after each of: making a view of orders; making a view of lines.",
        "no_other_column": "It failed after each of: adding a column to lines; adding a column to notes.",
        "no_value_lost": "It failed after setting Credit of one row of accounts to a new value.",
        "present": "It failed after renaming orders.paid.",
    }
    assert {proof.status for proof in found.values()} == {"pass"}
    assert undone.observed == {"aborted": 4}
    assert content(database) == before


@pytest.mark.usefixtures("shop")
def test_a_guard_that_does_not_notice_is_not_said_to_be_able(
    database: Login, live: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(in_database.KINDS, "columns", lambda *_: GuardResult("pass", ""))
    proof, _ = proved(database, live, guards=[GUARDS[4]]).values()
    assert proof.status == "inconclusive"
    assert proof.detail == "It was not made to fail: after renaming orders.paid it passed."


@pytest.mark.usefixtures("shop")
def test_an_object_that_cannot_be_changed_shows_nothing(owner: Login, live: Login, shop: Session) -> None:
    with shop.cursor() as cursor:
        cursor.execute("ALTER TABLE orders OWNER TO CURRENT_USER; GRANT SELECT ON orders TO PUBLIC")
    proof, _ = proved(owner, live, guards=[GUARDS[4]]).values()
    assert proof.status == "inconclusive"
    assert "renaming orders.paid failed: must be owner of table orders (42501)" in proof.detail


@pytest.mark.usefixtures("shop")
def test_the_live_database_is_refused_before_anything_is_broken(database: Login) -> None:
    before = content(database)
    with pytest.raises(ReleaseError, match="is the live database") as refusal:
        prove_can_fail(
            database,
            replace(database, user=database.user),
            Declared([check("x", ABLE["an old date"][0])], tables=TABLES),
        )
    assert refusal.value.facts.get("refused") or refusal.value.refused
    assert not isinstance(refusal.value, CannotRehearseError), "It is refused also where no rehearsal is required."
    assert content(database) == before


@pytest.mark.usefixtures("shop")
def test_where_the_live_server_does_not_say_which_it_is_no_claim_is_made_and_nothing_is_broken(
    database: Login, server: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(can_fail, "make", lambda *_: pytest.fail("A row was broken."))
    name = f"test_asked_{secrets.token_hex(4)}"
    with closing(connect(server, "tests")) as session, session.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
        with closing(connect(server.to(name), "tests")) as own, own.cursor() as inside:
            inside.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        try:
            asked = replace(server, user=name, password="x", database=name)
            proofs = [
                *proved(database, asked, check("paid", ABLE["another truth"][0]), guards=GUARDS[:2]).values(),
                *proved(database, replace(asked, password="y"), check("paid", ABLE["another truth"][0])).values(),
            ]
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
            cursor.execute(f"DROP ROLE {name}")
    assert [(proof.status, proof.could_not_run) for proof in proofs] == [("inconclusive", True)] * 4
    assert f"grant {name} EXECUTE on pg_control_system()" in proofs[0].detail
    assert "password authentication failed" in proofs[3].detail


@pytest.fixture
def owner(server: Login, database: Login, shop: Session) -> Iterator[Login]:
    """The owner of the tables, who is no superuser."""
    name = f"test_owner_{secrets.token_hex(4)}"
    with shop.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'; GRANT ALL ON SCHEMA public TO {name}")
        cursor.execute(f'GRANT TEMPORARY ON DATABASE "{database.database}" TO {name}')
        cursor.execute(
            "SELECT format('ALTER %%s %%s OWNER TO %%I', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, "
            "oid::regclass, %s) FROM pg_class "
            "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')",
            (name,),
        )
        for (statement,) in cursor.fetchall():
            cursor.execute(statement)
        cursor.execute(f"ALTER DOMAIN percent OWNER TO {name}; ALTER TYPE stage OWNER TO {name}")
    yield replace(database, user=name, password="x")
    with shop.cursor() as cursor:
        cursor.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}; DROP ROLE {name}")


def test_the_owner_need_not_be_a_superuser(owner: Login, database: Login, live: Login) -> None:
    before = content(database)
    names = [name for name in ABLE if name != "in a function"]
    found = proved(owner, live, *(check(name, ABLE[name][0]) for name in names))
    assert {name: proof.detail for name, proof in found.items() if proof.status != "pass"} == {}
    assert content(database) == before


def test_a_role_that_may_change_nothing_is_said_to_have_shown_nothing(
    shop: Session, server: Login, database: Login, live: Login
) -> None:
    name = f"test_reader_{secrets.token_hex(4)}"
    with shop.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
    reader = replace(database, user=name, password="x")
    try:
        proof, _ = proved(reader, live, check("paid", ABLE["another truth"][0])).values()
    finally:
        with shop.cursor() as cursor:
            cursor.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
    assert (proof.status, proof.could_not_run) == ("inconclusive", True)
    assert "No row of orders could be changed: permission denied for table orders (42501)" in proof.detail
