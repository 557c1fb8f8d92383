"""A signal that requests the end of the process becomes an error, so that all cleanup runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import ReleaseError

ASKING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Ended(ReleaseError):
    """The process was asked to end."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"The module was ended by {signal.Signals(number).name} (so ends one whose playbook was interrupted, whose "
            "connection broke, or whose task ran out of time): find out what ended it, and rerun the playbook."
        )


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Within the block the first of these signals raises Ended, at the latest at its end; a second one is ignored.

    So is one that was ignored before, as with nohup.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        for asking in ASKING:
            signal.signal(asking, signal.SIG_IGN)
        taken.append(number)
        raise Ended(number)

    heard = [number for number in ASKING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if taken:
        # Other code took it for a failure that is no reason to stop.
        raise Ended(taken[0])
