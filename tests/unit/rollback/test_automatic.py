"""Whether a deploy that failed takes the release back."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.dbrelease.rollback.automatic import broken_by_others, is_due, is_unknown

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


def proof(name: str, status: str = "fail") -> dict[str, str]:
    return {"name": name, "title": f"The claim {name}", "status": status}


OTHERS: list[tuple[str, list[dict[str, Any]], bool]] = [
    ("all that is red had held", [{"proofs": [proof("a"), proof("b", "pass")], "held": ["a"]}], True),
    ("one had not", [{"proofs": [proof("a"), proof("b")], "held": ["a"]}], False),
    ("on another target one had not", [{"proofs": [proof("a")], "held": ["a"]}, {"proofs": [proof("b")]}], False),
    ("nobody knows what is red", [{"msg": "No answer."}], False),
    ("nothing is red", [{"proofs": [proof("a", "pass")], "held": []}], False),
    ("nothing failed", [], False),
]


@pytest.mark.parametrize(("failed", "held"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_it_is_held_where_only_others_broke_what_is_red(failed: list[dict[str, Any]], held: bool) -> None:
    assert bool(broken_by_others(failed)) is held
    assert not held or "other sessions broke them since (The claim a)" in broken_by_others(failed)


UNKNOWN = {"failed": True, "refused": False, "could_not_run": True}
RED = {"failed": True, "refused": False}


@pytest.mark.parametrize(
    ("failed", "unknown"),
    [
        ([], False),
        ([(DONE, UNKNOWN)], True),
        ([(DONE, RED)], False),
        ([(DONE, {"failed": True, "msg": "MODULE FAILURE"})], True),
        ([(DONE, None)], True),
        ([(DONE, UNKNOWN), (DONE, UNKNOWN)], True),
        ([(DONE, UNKNOWN), (DONE, RED)], False),
        ([(DONE, UNKNOWN), (None, RED)], True),
        ([(FAILED, UNKNOWN)], False),
    ],
)
def test_what_could_not_be_looked_at_takes_nothing_back(failed: list[Any], unknown: bool) -> None:
    assert is_unknown(failed) is unknown
