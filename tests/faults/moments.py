"""When a fault comes: moments of a run that can be seen, so that none is hit by luck."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import psycopg2
from ansible.module_utils.dbrelease.postgres.session import Login
from outside import docker
from own_sessions import connect

from faults.running import Running, programs, until

RUN_ID_LENGTH = len("20261201t060243z-bd32dd")


class Moment(Protocol):
    """A moment of a run; within `reached` it lasts."""

    def reached(self, run: Running, login: Login) -> AbstractContextManager[None]:
        """Wait until it has come."""


@dataclass(frozen=True)
class AtOnce:
    """Before the run has done anything."""

    @contextmanager
    def reached(self, run: Running, login: Login) -> Iterator[None]:
        """See Moment."""
        yield


@dataclass(frozen=True)
class Step:
    """A step has begun, or has come to that end."""

    name: str
    event: str = "started"

    @contextmanager
    def reached(self, run: Running, login: Login) -> Iterator[None]:
        """See Moment."""
        until(lambda: run.has(self.name, self.event), run, f"step {self.name} {self.event}")
        yield


@dataclass(frozen=True)
class StandingStill:
    """A step has begun, and its module stands still until the fault is there: what it does next meets the fault."""

    step: str

    @contextmanager
    def reached(self, run: Running, login: Login) -> Iterator[None]:
        """See Moment."""
        until(lambda: run.has(self.step, "started"), run, f"step {self.step}")
        pid = until(run.module, run, "a module that works")
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@dataclass(frozen=True)
class Paused:
    """A program of the run in a container stands still from when it is there with this option until the fault is."""

    container: str
    program: str
    option: str

    @contextmanager
    def reached(self, run: Running, login: Login) -> Iterator[None]:
        """See Moment."""
        stopped = until(
            lambda: stop(self.container, self.program, self.option), run, f"{self.program} in {self.container}"
        )
        try:
            yield
        finally:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


@dataclass(frozen=True)
class Rehearsing:
    """A throwaway container of a rehearsal is running: the server, or what has this end of its name."""

    what: str

    @contextmanager
    def reached(self, run: Running, login: Login) -> Iterator[None]:
        """See Moment."""
        until(lambda: throwaway_containers(self.what), run, f"a container of a rehearsal, {self.what or 'its server'}")
        yield


@dataclass(frozen=True)
class Held:
    """A session of the run waits for a lock, which somebody takes after a step has begun, and keeps until the fault
    is there: the stage stands still in its middle."""

    after: str
    session: str
    lock: str

    @contextmanager
    def reached(self, run: Running, login: Login) -> Iterator[None]:
        """See Moment."""
        until(lambda: run.has(self.after, "started"), run, f"step {self.after}")
        with closing(connect(login, "faults hold")) as holder:
            holder.autocommit = False
            with holder.cursor() as cursor:
                cursor.execute(f"LOCK TABLE {self.lock} MODE")
            until(lambda: sessions(login, self.session, waiting=True), run, f"session {self.session} waits")
            yield
            with suppress(psycopg2.Error):
                holder.rollback()


def throwaway_containers(end: str) -> list[str]:
    """The running containers of rehearsals whose name is that of their run with this end."""
    names = docker("ps", "--filter", "label=dbrelease.rehearsal.run", "--format", "{{.Names}}").split()
    return [name for name in names if name.removeprefix("dbrelease_rehearsal_")[RUN_ID_LENGTH:] == end]


def stop(container: str, program: str, option: str) -> list[int]:
    """Stop the container's processes of a program with an option; those that it stopped."""
    stopped = []
    for pid in programs(container, program, option):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
    return stopped


def sessions(login: Login, name: str, *, waiting: bool = False) -> list[int]:
    """The server's sessions of this name, with the server's own numbers of their processes."""
    with closing(connect(login, "faults look")) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s"
            " AND pid <> pg_backend_pid() AND (wait_event_type = 'Lock' OR NOT %s)",
            (name, waiting),
        )
        return [row[0] for row in cursor.fetchall()]
