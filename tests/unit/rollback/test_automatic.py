"""Whether a deploy that failed takes the release back."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.dbrelease.rollback.automatic import is_due

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
