"""An observation against a budget: over it fails, with the figure, the table, the statements and the safe form."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.proof import Proof
from ansible.module_utils.dbrelease.observe import budget
from ansible.module_utils.dbrelease.observe.budget import forecast, judge
from ansible.module_utils.dbrelease.observe.observation import Change, Fault, Lock, Observation, Statement, TableWait

CREATE = "CREATE TABLE items (order_id int REFERENCES orders)"
FILL = "INSERT INTO items SELECT id FROM orders"
STATEMENTS = (
    Statement(1, 1, CREATE, "CREATE TABLE", 1, 8, locks=(Lock("public.orders", "SHARE ROW EXCLUSIVE", 36_000),)),
    Statement(2, 1, FILL, "INSERT", 10, 35_900),
)
NAIVE = Observation(
    duration_ms=36_200,
    largest_gap_ms=12,
    samples=9_000,
    statements=STATEMENTS,
    statements_total=2,
    waits=(
        TableWait(
            "public.orders", 35_950, 2, Fault("SHARE ROW EXCLUSIVE", statement=1, through=2, certain=False), rows=3
        ),
        TableWait("public.customers", 4, 2, rows=900),
    ),
    changes=(Change("public.orders", "foreign_key", "items_order_id_fkey", "public.items"),),
    wal_bytes=700 << 20,
    size_bytes=240 << 20,
)
QUIET = replace(NAIVE, duration_ms=900, waits=(TableWait("public.orders", 20, 2, rows=90),), statements=())
FEW_ROWS = Statement(1, 1, "UPDATE orders", "UPDATE", 1, 1, locks=(Lock("public.orders", "ROW EXCLUSIVE", 900),))
REFRESHED = Statement(1, 1, "REFRESH", "REFRESH", 1, 1, locks=(Lock("public.totals", "EXCLUSIVE", 900),))
VIEW = {"public.totals": "materialized view"}
BUDGET = {"write_wait_ms": 100, "duration_seconds": 60, "size_bytes": 1 << 30}


def proofs(observation: Observation, declared: dict[str, Any]) -> dict[str, Proof]:
    return {proof.name.rpartition(".")[2]: proof for proof in judge(observation, declared)}


def test_the_naive_migration_is_refused_with_its_figure_both_statements_and_the_safe_form() -> None:
    proof = proofs(NAIVE, BUDGET)["write_wait"]
    assert (proof.name, proof.status) == ("rehearse.budget.write_wait", "fail")
    for part in ("public.orders", "36.0 s", "SHARE ROW EXCLUSIVE", CREATE, FILL, "or one right beside it", "100 ms"):
        assert part in proof.detail
    assert "NOT VALID" in proof.remedy
    assert "VALIDATE" in proof.remedy
    assert proof.sql == f"{CREATE};\n{FILL}"
    assert proof.sample == [
        {
            "table": "public.orders",
            "waited_ms": 35_950,
            "lock": "SHARE ROW EXCLUSIVE",
            "statement": CREATE,
            "while": FILL,
        }
    ]
    assert proof.observed == {"public.orders": 35_950, "public.customers": 4}


@pytest.mark.parametrize(
    ("observation", "declared", "expected"),
    [
        (NAIVE, {}, ("skipped", "skipped", "skipped")),
        (NAIVE, BUDGET, ("fail", "pass", "pass")),
        (NAIVE, {**BUDGET, "write_wait_ms": 36_000}, ("pass", "pass", "pass")),
        (NAIVE, {"duration_seconds": 36}, ("skipped", "fail", "skipped")),
        (NAIVE, {"size_bytes": 1 << 20}, ("skipped", "skipped", "fail")),
        (QUIET, BUDGET, ("pass", "pass", "pass")),
        (QUIET, {"write_wait_ms": 20}, ("pass", "skipped", "skipped")),
        (
            replace(QUIET, waits=(TableWait("public.orders", 20, 2, Fault("SHARE", statement=7)),)),
            {"write_wait_ms": 19},
            ("fail", "skipped", "skipped"),
        ),
        # What was not observed is not within a budget.
        (replace(QUIET, waits=()), BUDGET, ("inconclusive", "pass", "pass")),
        (replace(QUIET, waits=(TableWait("public.orders"),)), BUDGET, ("inconclusive", "pass", "pass")),
        (
            replace(QUIET, waits=(TableWait("public.orders", 20, 2, gap_ms=150),)),
            BUDGET,
            ("inconclusive", "pass", "pass"),
        ),
        # Another session's lock is not the migration's.
        (
            replace(QUIET, waits=(TableWait("public.orders", 500, 2, Fault(by_migration=False, other="job")),)),
            BUDGET,
            ("inconclusive", "pass", "pass"),
        ),
        # A busy machine explains it as well.
        (replace(QUIET, waits=(TableWait("public.orders", 500, 2),)), BUDGET, ("inconclusive", "pass", "pass")),
        # A table without a probe, by its lock.
        (replace(NAIVE, waits=NAIVE.waits[1:]), BUDGET, ("fail", "pass", "pass")),
        (
            replace(QUIET, statements=(Statement(1, 1, "x", "x", 1, 1, locks=(Lock("a", "ROW EXCLUSIVE", 900),)),)),
            BUDGET,
            ("pass", "pass", "pass"),
        ),
        # No probe met a row that was locked for longer.
        (replace(QUIET, statements=(FEW_ROWS,)), BUDGET, ("inconclusive", "pass", "pass")),
        (replace(QUIET, statements=(FEW_ROWS,)), {"write_wait_ms": 900}, ("pass", "skipped", "skipped")),
        # What is no table: only a refresh writes to a materialized view.
        (replace(QUIET, statements=(REFRESHED,), kinds=VIEW), BUDGET, ("pass", "pass", "pass")),
        (replace(QUIET, statements=(REFRESHED,)), BUDGET, ("fail", "pass", "pass")),
    ],
)
def test_each_key_of_a_budget_is_judged(
    observation: Observation, declared: dict[str, Any], expected: tuple[str, ...]
) -> None:
    found = proofs(observation, declared)
    assert tuple(found[name].status for name in ("write_wait", "duration", "size")) == expected
    for proof in found.values():
        assert proof.detail.endswith(".")
        assert proof.detail[0].isupper()
        assert bool(proof.remedy) == (proof.status == "fail")


def at_fault(mode: str, kind: str = "", tag: str = "ALTER TABLE", **more: Any) -> tuple[str, str]:
    """The remedy and the detail for a lock of that mode, with that change of the catalog."""
    valid, rewritten = more.pop("valid", True), more.pop("rewritten", ())
    observation = replace(
        NAIVE,
        statements=(Statement(1, 1, "one", tag, 1, 900), Statement(2, 1, "two", "INSERT", 900, 100)),
        waits=(TableWait("public.orders", 900, 1, Fault(mode, statement=1, **{"through": 1, **more}), rows=1),),
        changes=(Change("public.orders", kind, "name", valid=valid),) if kind else (),
        rewritten=rewritten,
    )
    proof = proofs(observation, BUDGET)["write_wait"]
    return proof.remedy, proof.detail


ORDERS = ("public.orders",)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mode": "SHARE ROW EXCLUSIVE", "kind": "foreign_key"}, ["NOT VALID", "VALIDATE"]),
        ({"mode": "SHARE ROW EXCLUSIVE", "kind": "trigger", "tag": "CREATE TRIGGER"}, ["lock_timeout"]),
        ({"mode": "SHARE", "kind": "index", "tag": "CREATE INDEX"}, ["CONCURRENTLY"]),
        ({"mode": "ACCESS EXCLUSIVE", "kind": "unique"}, ["CONCURRENTLY", "UNIQUE USING INDEX"]),
        ({"mode": "ACCESS EXCLUSIVE", "kind": "primary_key"}, ["PRIMARY KEY USING INDEX"]),
        ({"mode": "ACCESS EXCLUSIVE", "kind": "not_null"}, ["IS NOT NULL) NOT VALID", "VALIDATE"]),
        ({"mode": "ACCESS EXCLUSIVE", "kind": "check"}, ["NOT VALID", "VALIDATE"]),
        ({"mode": "ACCESS EXCLUSIVE", "kind": "exclusion"}, ["maintenance window"]),
        ({"mode": "ACCESS EXCLUSIVE", "kind": "attached"}, ["CHECK constraint", "NOT VALID", "ATTACH PARTITION"]),
        ({"mode": "ACCESS EXCLUSIVE", "kind": "type", "rewritten": ORDERS}, ["new column", "batches"]),
        ({"mode": "ACCESS EXCLUSIVE", "kind": "column", "rewritten": ORDERS}, ["without a default", "batches"]),
        ({"mode": "ACCESS EXCLUSIVE", "tag": "CLUSTER", "rewritten": ORDERS}, ["pg_repack"]),
        ({"mode": "ACCESS EXCLUSIVE", "kind": "column_dropped"}, ["lock_timeout"]),
        ({"mode": "row lock", "tag": "UPDATE"}, ["batches"]),
        ({"mode": "EXCLUSIVE", "tag": "REFRESH MATERIALIZED VIEW"}, ["CONCURRENTLY"]),
        ({"mode": "SHARE", "tag": "REINDEX"}, ["REINDEX CONCURRENTLY"]),
        ({"mode": "EXCLUSIVE", "tag": "LOCK TABLE"}, ["Lock the table last"]),
        ({"mode": "ACCESS EXCLUSIVE", "awaited": True}, ["lock_timeout", "tried again"]),
        # A foreign key that is NOT VALID already, but first.
        ({"mode": "SHARE ROW EXCLUSIVE", "kind": "foreign_key", "valid": False, "through": 2}, ["Take the lock last"]),
        ({"mode": "ACCESS EXCLUSIVE", "kind": "column"}, ["nothing else"]),
    ],
    ids=lambda given: " ".join(map(str, given.values())) if isinstance(given, dict) else "",
)
def test_the_advice_follows_from_lock_catalog_and_command(given: dict[str, Any], words: list[str]) -> None:
    remedy, detail = at_fault(**given)
    for word in words:
        assert word in remedy
    assert "“one”" in detail
    # Of one cause there is one advice.
    assert remedy.count("NOT VALID") == sum(word.count("NOT VALID") for word in words)


def test_a_type_that_changed_is_no_advice_for_a_lock_that_did_not_rewrite() -> None:
    remedy, _ = at_fault("SHARE", "type", tag="CREATE INDEX")
    assert "new column" not in remedy


def test_the_forecast_is_in_words() -> None:
    text = " ".join(forecast(replace(NAIVE, rewritten=ORDERS, not_observed=("Nothing of x.",))))
    for part in (
        "36.2 s in 2 statements",
        "a writer waited was 36.0 s, for public.orders",
        CREATE,
        "a reader waited was 2 ms",
        "grew by 240 MiB",
        "700 MiB of WAL",
        "Rewritten or emptied: public.orders.",
        "Nothing of x.",
    ):
        assert part in text
    assert "at least 36.0 s" in " ".join(forecast(replace(NAIVE, waits=(replace(NAIVE.waits[0], finished=False),))))
    assert forecast(Observation(1, 1, 0))


def test_each_advice_can_be_reached() -> None:
    modes = {"SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE"}
    for allowed, text in budget.ADVICE.values():
        assert allowed <= modes
        assert text.endswith(".")
