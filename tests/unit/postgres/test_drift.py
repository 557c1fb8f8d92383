"""What the application wrote after a claim was proved is drift; whatever else breaks the claim is damage, and red."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg2.extensions
import pytest
import shared_database
import sql_check_info
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.postgres.declared_checks import run_checks
from ansible.module_utils.dbrelease.postgres.proof_instant import NOW, Instant, proved
from ansible.module_utils.dbrelease.postgres.session import Login, transaction
from own_sessions import connect

database, emptied = shared_database.database, shared_database.emptied
Session = psycopg2.extensions.connection

CHECKS: list[dict[str, Any]] = [
    {
        "name": "same_count",
        "title": "As many links as orders with an account",
        "equal": "SELECT (SELECT count(*) FROM orders WHERE account IS NOT NULL) AS orders, "
        "(SELECT count(*) FROM links) AS links",
        "follows": ["missing", "stale"],
    },
    {
        "name": "missing",
        "title": "Every order has its link",
        "violations": "SELECT o.id, o.xmin AS written FROM orders o WHERE account IS NOT NULL AND NOT EXISTS "
        "(SELECT FROM links l WHERE (l.order_id, l.account) = (o.id, o.account))",
        "written_in": "written",
    },
    {
        "name": "stale",
        "title": "Every link is of an order",
        "violations": "SELECT l.order_id, o.xmin AS written FROM links l LEFT JOIN orders o ON o.id = l.order_id "
        "WHERE o.account IS DISTINCT FROM l.account",
        "written_in": "written",
    },
    {
        "name": "known",
        "title": "Every account is known",
        "violations": "SELECT order_id FROM links WHERE account > 9",
    },
]
DRIFT, RED = "inconclusive", "fail"
GREEN = dict.fromkeys(("same_count", "missing", "stale", "known"), "pass")
BEFORE = """
CREATE TABLE orders (id int PRIMARY KEY, account int);
CREATE TABLE links (order_id int, account int);
INSERT INTO orders SELECT n, n % 3 FROM generate_series(1, 20) n;
INSERT INTO links SELECT id, account FROM orders;
"""
NEW_ORDER = "INSERT INTO orders VALUES (100, 1)"
LOST_LINK = "DELETE FROM links WHERE order_id = 7"


@pytest.fixture
def shop(session: Session) -> Session:
    """Its rows are older than whatever goes on at the server, as those of an application are."""
    run(session, BEFORE)
    with session.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()::text")
        seeded = cursor.fetchone()
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot()) > %s::xid8", seeded)
            if cursor.fetchone() == (True,):
                break
            time.sleep(0.1)
    return session


def run(session: Session, sql: str) -> None:
    with session.cursor() as cursor:
        cursor.execute(sql)


def prove(session: Session, sql: str = "") -> Instant:
    """The instant of a step that does this and finds every claim to hold."""
    with transaction(session, isolation="REPEATABLE READ") as cursor:
        if sql:
            cursor.execute(sql)
        assert {proof.status for proof in run_checks(cursor, CHECKS)} == {"pass"}
        return Instant.now(cursor)


@pytest.fixture
def look(login_parameters: dict[str, Any], run_parameters: dict[str, Any]) -> Callable[[Instant], dict[str, Any]]:
    """The module's answer where the journal says that all was proved at an instant."""

    def ask(instant: Instant, drift: str = DRIFT) -> dict[str, Any]:
        proven = {check["name"]: instant.facts() for check in CHECKS}
        Journal(Run(**run_parameters)).append("finalize", "passed", {"proven": proven})
        options = {
            "checks": CHECKS,
            "drift": drift,
            "statement_timeout_ms": 60_000,
            "sample_size": 3,
            "reconcile_command": "",
        }
        answer = sql_check_info.act({**login_parameters, "run": run_parameters, **options}, False)
        return {proof["name"].removeprefix("checks."): proof for proof in answer["proofs"]}

    return ask


@pytest.mark.parametrize(
    ("written", "verdicts"),
    [
        ("", {}),
        (NEW_ORDER, {"missing": DRIFT, "same_count": DRIFT}),
        ("UPDATE orders SET account = account + 1 WHERE id < 4", {"missing": DRIFT, "stale": DRIFT}),
        ("UPDATE orders SET account = NULL WHERE id = 4", {"stale": DRIFT, "same_count": DRIFT}),
        (LOST_LINK, {"missing": RED, "same_count": RED}),
        ("UPDATE links SET account = 5 WHERE order_id = 7", {"missing": RED, "stale": RED}),
        ("INSERT INTO links VALUES (50, 1)", {"stale": RED, "same_count": RED}),
        ("DELETE FROM orders WHERE id = 7", {"stale": RED, "same_count": RED}),
        (f"{LOST_LINK}; {NEW_ORDER}", {"missing": RED, "same_count": RED}),
        (
            "UPDATE orders SET account = 11 WHERE id = 7; UPDATE links SET account = 11 WHERE order_id = 7",
            {"known": RED},
        ),
    ],
)
def test_who_wrote_it_decides(shop: Session, look: Any, written: str, verdicts: dict[str, str]) -> None:
    instant = prove(shop)
    if written:
        run(shop, written)
    assert {name: proof["status"] for name, proof in look(instant).items()} == {**GREEN, **verdicts}


def test_drift_is_reported_in_red_where_it_is_requested(shop: Session, look: Any) -> None:
    instant = prove(shop)
    run(shop, NEW_ORDER)
    proofs = look(instant, "fail")
    statuses = {name: proof["status"] for name, proof in proofs.items()}
    assert statuses == {**GREEN, "missing": RED, "same_count": RED}
    assert "1 row breaks it, written by the application since: drift." in proofs["missing"]["detail"]


def test_damage_is_shown_before_drift(shop: Session, look: Any) -> None:
    instant = prove(shop)
    run(shop, "INSERT INTO orders SELECT n, 1 FROM generate_series(30, 60) n; DELETE FROM links WHERE order_id = 20")
    missing = look(instant)["missing"]
    assert "32 rows break it, of which 31 were written by the application since" in missing["detail"]
    assert missing["sample"][0]["id"] == 20 and len(missing["sample"]) == 3


def test_what_the_proving_step_wrote_itself_is_the_applications_no_longer(shop: Session, look: Any) -> None:
    instant = prove(shop, "UPDATE orders SET account = account")
    run(shop, LOST_LINK)
    assert look(instant)["missing"]["status"] == RED


@pytest.mark.parametrize("write", [NEW_ORDER, f"SAVEPOINT inner_part; {NEW_ORDER}; RELEASE inner_part"])
def test_a_write_that_was_under_way_and_not_seen_is_drift(
    shop: Session, database: Login, look: Any, write: str
) -> None:
    writer = connect(database, "writer")
    run(writer, f"BEGIN; CREATE TEMP TABLE first (a int); {write}")
    run(shop, "INSERT INTO orders VALUES (101, 2); INSERT INTO links VALUES (101, 2)")  # a later number, and seen
    instant = prove(shop)
    run(writer, "COMMIT")
    writer.close()
    assert look(instant)["missing"]["status"] == DRIFT
    run(shop, LOST_LINK)
    assert look(instant)["missing"]["status"] == RED


@pytest.mark.parametrize(
    "wrong",
    [
        lambda instant: replace(instant, database=instant.database + 1),
        lambda instant: replace(instant, snapshot="99999999:99999999:"),
        lambda instant: replace(instant, snapshot="1:1:'); DROP TABLE orders; --"),
    ],
    ids=["another database", "the future", "no snapshot"],
)
def test_an_instant_that_is_not_this_databases_excuses_nothing(
    shop: Session, look: Any, wrong: Callable[[Instant], Instant]
) -> None:
    instant = prove(shop)
    run(shop, NEW_ORDER)
    assert look(wrong(instant))["missing"]["status"] == RED
    assert look(instant)["missing"]["status"] == DRIFT


def line(step: str, event: str = "passed", release: str = "sample", **facts: Any) -> dict[str, Any]:
    return {"release": release, "environment": "test", "step": step, "event": event, "facts": facts}


FIRST, SECOND = Instant(1, "5:5:", 4), Instant(1, "9:9:", 8)
FINALIZED = line("finalize", proven={"a": FIRST.facts(), "b": FIRST.facts()})


@pytest.mark.parametrize(
    ("lines", "known"),
    [
        ([], {}),
        ([FINALIZED], {"a": FIRST, "b": FIRST}),
        ([FINALIZED, line("reconcile", proven={"a": SECOND.facts()})], {"a": SECOND, "b": FIRST}),
        ([FINALIZED, line("rolled_back")], {}),
        ([FINALIZED, line("restored")], {}),
        ([FINALIZED, line("rolled_back", "failed")], {"a": FIRST, "b": FIRST}),
        ([FINALIZED, line("upgrade")], {}),
        ([line("finalize", "failed", proven={"a": FIRST.facts()})], {}),
        ([line("finalize", release="other", proven={"a": FIRST.facts()})], {}),
        ([line("finalize", proven={"a": {"snapshot": "5:5:"}})], {}),
    ],
)
def test_what_the_journal_knows(lines: list[dict[str, Any]], known: dict[str, Instant]) -> None:
    assert proved(lines, release="sample", environment="test") == known


def test_the_numbers_wrap_around(shop: Session) -> None:
    """A row holds 32 bits; of the counter's whole, which is far greater, they are the lower ones."""
    with shop.cursor() as cursor:
        since = Instant(1, f"{2**33 + 50}:{2**33 + 50}:", 7).since("written", cursor)
        since = since.replace(NOW, f"{2**33 + 90}::bigint")
        cursor.execute(
            f"SELECT array_agg({since} ORDER BY place) FROM (VALUES (1, {2**32 - 5}), (2, 49), (3, 50), (4, 89)) "
            "AS declared (place, written)"
        )
        row = cursor.fetchone()
    assert row and row[0] == [False, False, True, True]
