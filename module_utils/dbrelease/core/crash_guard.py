"""A process that outlives this one if this one is killed, and puts right what only this one would have put right."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

DONE = b"done"


@contextmanager
def guarded(repair: Callable[[], None]) -> Iterator[None]:
    """While the block runs a second process waits; if this process is killed within the block, it calls `repair`.

    Enter it before anything is opened that two processes must not share: sessions, clients, threads.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _guard(reading, writing, repair)
    os.close(reading)
    try:
        yield
    finally:
        # An error in the block is not the guardian's business: this process lives, and has put things right itself.
        with suppress(OSError):
            os.write(writing, DONE)
        os.close(writing)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


def _guard(reading: int, writing: int, repair: Callable[[], None]) -> None:
    """The second process: in a session of its own, holding nothing of the first, ended without its clean-up."""
    try:
        os.close(writing)
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        said = b""
        while data := os.read(reading, len(DONE)):
            said += data
        if said != DONE:
            repair()
    finally:
        os._exit(0)
