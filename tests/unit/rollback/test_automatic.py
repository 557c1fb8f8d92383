"""Whether a deploy that failed takes the release back."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.dbrelease.rollback.automatic import is_due, is_unknown

DONE: dict[str, Any] = {"unproven": []}
LOST = {"unreachable": True}
FAILED, UNPROVEN = {"failed": True, "unproven": []}, {"failed": True, "unproven": ["all_there"]}


@pytest.mark.parametrize(
    ("own", "where_failed", "due"),
    [
        (DONE, [DONE], True),
        (DONE, [], False),
        (DONE, [None], False),
        (DONE, [FAILED], False),
        (DONE, [UNPROVEN], True),
        (DONE, [FAILED, None, DONE], True),
        (UNPROVEN, [UNPROVEN], True),
        (FAILED, [FAILED], False),
        (FAILED, [DONE], False),
        (LOST, [DONE], False),
        (None, [DONE], False),
        (None, [], False),
    ],
)
def test_it_is_due(own: dict[str, Any] | None, where_failed: list[dict[str, Any] | None], due: bool) -> None:
    assert is_due(own, where_failed) is due


UNKNOWN, RED = {"failed": True, "could_not_run": True}, {"failed": True, "could_not_run": False}


@pytest.mark.parametrize(
    ("failed", "unknown"),
    [
        ([], False),
        ([(DONE, UNKNOWN)], True),
        ([(DONE, RED)], False),
        ([(DONE, {"failed": True})], False),
        ([(DONE, None)], False),
        ([(DONE, UNKNOWN), (DONE, UNKNOWN)], True),
        ([(DONE, UNKNOWN), (DONE, RED)], False),
        ([(DONE, UNKNOWN), (None, RED)], True),
        ([(FAILED, UNKNOWN)], False),
    ],
)
def test_what_could_not_be_looked_at_takes_nothing_back(failed: list[Any], unknown: bool) -> None:
    assert is_unknown(failed) is unknown
