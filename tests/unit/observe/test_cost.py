"""The forecast beside the actual, and two observations of one migration as one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible.module_utils.dbrelease.observe.budget import judge
from ansible.module_utils.dbrelease.observe.cost import Cost, compare
from ansible.module_utils.dbrelease.observe.observation import (
    Fault,
    Lock,
    Observation,
    Statement,
    TableWait,
    joined,
    observation_of,
)

UPGRADE = Observation(
    duration_ms=36_200,
    largest_gap_ms=20,
    samples=900,
    statements=(
        Statement(1, 1, "CREATE TABLE links", "CREATE TABLE", 0, 10, locks=(Lock("public.orders", "SHARE", 36_000),)),
        Statement(2, 1, "INSERT INTO links", "INSERT", 10, 36_000, locks=(Lock("public.links", "ROW EXCLUSIVE", 9e9),)),
    ),
    statements_total=2,
    transactions=1,
    wal_bytes=700 << 20,
    size_bytes=240 << 20,
    probed=False,
)
FINALIZE = replace(
    UPGRADE,
    duration_ms=1000,
    largest_gap_ms=50,
    statements=(Statement(1, 1, "ALTER", "ALTER TABLE", 0, 900, locks=(Lock("public.users", "SHARE", 40_000),)),),
    statements_total=1,
    rewritten=("public.users",),
    not_observed=("Nothing of x.",),
)


@pytest.mark.parametrize(
    ("actual", "status", "apart"),
    [
        (UPGRADE, "pass", ""),
        (replace(UPGRADE, duration_ms=46_000), "pass", ""),
        (replace(UPGRADE, duration_ms=60_000), "inconclusive", "duration"),
        (replace(UPGRADE, wal_bytes=1), "inconclusive", "WAL"),
        (replace(UPGRADE, size_bytes=1 << 30), "inconclusive", "growth"),
        (replace(UPGRADE, statements=UPGRADE.statements[1:]), "inconclusive", "longest lock that blocks writers"),
    ],
)
def test_the_forecast_stands_beside_the_actual(actual: Observation, status: str, apart: str) -> None:
    proof = compare(Cost.of(UPGRADE), Cost.of(actual))
    assert (proof.name, proof.status) == ("migrate.forecast", status)
    assert "(forecast 36.2 s)" in proof.detail
    assert ("apart: " + apart in proof.detail) if apart else ("apart" not in proof.detail)
    assert proof.expected["duration"] == UPGRADE.duration_ms
    assert proof.observed["duration"] == actual.duration_ms


def test_a_cost_is_read_from_the_journal_and_nothing_else_is_one() -> None:
    content = UPGRADE.as_dict()
    assert observation_of({"observation": content}) == UPGRADE
    assert (Cost.of(UPGRADE).blocked_ms, Cost.of(UPGRADE).table) == (36_000, "public.orders")
    for wrong in (None, {}, [1], {**content, "wal_bytes": "1"}, {**content, "statements": [{}]}):
        assert observation_of({"observation": wrong}) is None
    assert observation_of({}) is None


def test_what_an_upgrade_and_its_finalize_steps_cost_is_added_up() -> None:
    both = joined(UPGRADE, FINALIZE)
    assert (both.duration_ms, both.largest_gap_ms, both.statements_total) == (37_200, 50, 3)
    assert [(one.number, one.start_ms) for one in both.statements] == [(1, 0), (2, 10), (3, 36_200)]
    assert (both.wal_bytes, both.size_bytes) == (1400 << 20, 480 << 20)
    assert (both.rewritten, both.not_observed, both.probed) == (("public.users",), ("Nothing of x.",), False)
    assert (Cost.of(both).blocked_ms, Cost.of(both).table) == (40_000, "public.users")
    assert Observation.from_dict(both.as_dict()) == both


def test_of_two_waits_for_a_table_the_longer_one_counts_and_keeps_its_statement() -> None:
    short = TableWait("t", 5, 1, Fault("SHARE", statement=1), None, rows=1, gap_ms=3)
    long = TableWait("t", 50, 0, Fault("SHARE", statement=1, through=1), None, rows=2, gap_ms=2, finished=False)
    first, second = replace(UPGRADE, waits=(short,)), replace(FINALIZE, waits=(long,))
    (wait,) = joined(first, second).waits
    assert wait == TableWait("t", 50, 1, Fault("SHARE", statement=3, through=3), None, 3, 3, finished=False)
    unknown = joined(first, replace(FINALIZE, waits=(replace(long, writer_ms=None),))).waits[0]
    assert unknown.writer_ms is None


@pytest.mark.parametrize(
    ("observation", "limit", "status", "said"),
    [
        (UPGRADE, 1000, "fail", "A writer of public.orders would have waited 36.0 s"),
        (UPGRADE, 37_000, "pass", "would have waited 36.0 s"),
        (replace(UPGRADE, statements=UPGRADE.statements[1:]), 1000, "pass", "by samples at most 20 ms apart"),
        (replace(UPGRADE, statements=UPGRADE.statements[1:]), 10, "inconclusive", "by samples at most 20 ms apart"),
        (replace(UPGRADE, statements=(), statements_total=0), 1000, "inconclusive", "No writer was observed"),
    ],
)
def test_without_probes_a_lock_that_is_held_counts(
    observation: Observation, limit: int, status: str, said: str
) -> None:
    proof = judge(observation, {"write_wait_ms": limit}, "migrate")[0]
    assert (proof.name, proof.status) == ("migrate.budget.write_wait", status)
    assert said in proof.detail
