"""A signal that asks the process to end becomes an error, so that everything that must be put right is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import ReleaseError

ASKING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Within the block the first of these signals raises ReleaseError; a second one is not heard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _raise) for number in ASKING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, _: FrameType | None) -> None:
    for asking in ASKING:
        signal.signal(asking, signal.SIG_IGN)
    raise ReleaseError(
        f"The module was ended by {signal.Signals(number).name} (as the report of its run does with one that outlived "
        "its connection, or its task's time): look at what ended it, and run again."
    )
