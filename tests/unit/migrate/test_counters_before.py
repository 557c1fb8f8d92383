"""The counters before a move: what others report late is waited for once, beside what is done before the move."""

from __future__ import annotations

import time
from dataclasses import replace

import psycopg2
import pytest
from ansible.module_utils.dbrelease.migrate.move import LATE_S, OLDEST_S, read_counters_before, read_position
from ansible.module_utils.dbrelease.postgres.session import Login


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits, none of which takes any time."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    return waits


@pytest.mark.parametrize(
    ("age_s", "waits_s"),
    [
        pytest.param(0.0, LATE_S, id="read just now"),
        pytest.param(LATE_S / 2, LATE_S / 2, id="the preview took half of the wait"),
        pytest.param(LATE_S * 2, 0.0, id="the preview took longer than the wait"),
        pytest.param(OLDEST_S + 1, LATE_S, id="too old, and read again"),
    ],
)
def test_only_what_is_left_of_the_wait_is_waited_for(
    database: Login, session: psycopg2.extensions.connection, slept: list[float], age_s: float, waits_s: float
) -> None:
    first = replace(read_position(database), moment=time.monotonic() - age_s)
    assert first.late  # `session` may have something to report
    with session.cursor() as cursor:
        cursor.execute("CREATE TABLE t (); SELECT pg_current_xact_id()")
    before = read_counters_before(database, first)
    (waited,) = slept
    assert waits_s - 0.5 < waited <= waits_s
    assert (before["since"] == first.row["xid"]) is (age_s < OLDEST_S)
    assert before["xid"] > first.row["xid"]


def test_nobody_is_waited_for_where_nobody_is(database: Login, slept: list[float]) -> None:
    first = read_position(database)
    assert first.late is False
    assert read_counters_before(database, first)["since"] == first.row["xid"]
    assert slept == []
