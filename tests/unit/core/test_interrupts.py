"""A signal that asks a module to end becomes an error, which nothing swallows for good."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType

import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.signals import ASKING, Ended, ending_in_order


class UnheardError(Exception):
    """Nobody heard the signal in order."""


def unheard(number: int, _: FrameType | None) -> None:
    raise UnheardError(number)


@pytest.fixture(autouse=True)
def before() -> Iterator[None]:
    """No signal ends the tests."""
    handlers = {number: signal.signal(number, unheard) for number in ASKING}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def ask(number: int) -> None:
    signal.raise_signal(number)


@pytest.mark.parametrize("number", ASKING)
def test_the_first_is_an_error_and_no_other_is_heard(number: signal.Signals) -> None:
    with pytest.raises(Ended, match=f"ended by {number.name} "), ending_in_order():
        try:
            ask(number)
        finally:
            for another in ASKING:
                ask(another)
    with pytest.raises(UnheardError):
        ask(number)


def test_a_signal_that_was_handled_as_a_failure_is_reported_at_the_end() -> None:
    with pytest.raises(Ended), ending_in_order(), suppress(ReleaseError):
        ask(signal.SIGTERM)


def test_a_run_that_was_begun_with_nohup_outlives_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ending_in_order():
        ask(signal.SIGHUP)
