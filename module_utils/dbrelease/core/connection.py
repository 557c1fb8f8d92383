"""A module ends with its connection: when nothing can read its result any more, its work on the target stops.

Without a terminal of its own, a program that was started over SSH gets no signal when its connection ends: after Ctrl-C
a dump, an upgrade or a throwaway server would go on running on the target.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STDOUT = 1


@contextmanager
def ending_with_its_connection() -> Iterator[None]:
    """While the block runs, this process gets SIGTERM when its standard output has no reader any more."""
    try:
        reading, writing = os.pipe()
    except OSError:  # no descriptor is left: the block runs without
        yield
        return
    thread = threading.Thread(target=_watch, args=(STDOUT, reading), daemon=True)
    with suppress(RuntimeError):  # no thread can be started: the same
        thread.start()
    try:
        yield
    finally:
        os.write(writing, b".")
        if thread.is_alive():
            thread.join()
        os.close(writing)
        os.close(reading)


def _watch(output: int, ended: int) -> None:
    """Wait until the output has no reader, or there is something to read from `ended`."""
    poll = select.poll()
    poll.register(output, 0)  # the end of the reader is reported always
    poll.register(ended, select.POLLIN)
    if dict(poll.poll()).get(output, 0) & (select.POLLHUP | select.POLLERR):
        os.kill(os.getpid(), signal.SIGTERM)
