"""A signal that requests the end of the process becomes an error, so that all cleanup runs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Protocol
from weakref import WeakSet

from .errors import ReleaseError

ASKING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# Python answers a signal within this time, unless it waits in a library for something else.
HEARD_S = 0.5
OVER = b"\0"


class Wait(Protocol):
    """What Python may wait for in a library."""

    def interrupt(self) -> None:
        """End the wait, if there is one; called by another thread."""


WAITS: WeakSet[Wait] = WeakSet()


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
    heard = threading.Event()

    def end(number: int, _: FrameType | None) -> None:
        heard.set()
        for asking in ASKING:
            signal.signal(asking, signal.SIG_IGN)
        taken.append(number)
        raise Ended(number)

    handled = [number for number in ASKING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in handled}
    try:
        with _waits_interrupted(heard):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if taken:
        # Other code took it for a failure that is no reason to stop.
        raise Ended(taken[0])


@contextmanager
def _waits_interrupted(heard: threading.Event) -> Iterator[None]:
    """Within the block a wait ends with a signal: a query that runs for an hour would delay its handler as long."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread = threading.Thread(target=_interrupt, args=(reading, heard), daemon=True)
    with suppress(RuntimeError):  # no thread can be started: a wait delays the end
        thread.start()
    try:
        yield
    finally:
        heard.set()
        signal.set_wakeup_fd(before)
        with suppress(OSError):
            os.write(writing, OVER)
        os.close(writing)  # which ends the thread, too, unless a child process has the pipe
        if thread.is_alive():
            thread.join()
        os.close(reading)


def _interrupt(reading: int, heard: threading.Event) -> None:
    """Interrupt what is waited for when a signal arrives, until its handler has run."""
    while (number := os.read(reading, 1)) not in (b"", OVER):
        while number[0] in ASKING and not heard.wait(HEARD_S):
            for wait in list(WAITS):
                with suppress(Exception):  # one that has ended meanwhile, or a server that does not answer
                    wait.interrupt()
