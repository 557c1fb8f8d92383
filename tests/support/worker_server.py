"""A server for one worker of the tests: in memory, in a container of its own that goes with the worker."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import docker
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect

STARTS_WITHIN_S = 120
# Nothing outlives the machine here, so nothing is to reach a disk.
SETTINGS = [f"-c {name}=off" for name in ("fsync", "full_page_writes", "synchronous_commit")]
# The server goes when its standard input ends, which is when the worker has ended, in whatever way.
SERVE = f"docker-entrypoint.sh postgres {' '.join(SETTINGS)} & cat >/dev/null; kill -INT $!; wait"


@contextmanager
def started(image: str) -> Iterator[Login]:
    """A server of that image, which keeps to the contract of the official one (see stack/README.md)."""
    name, password = f"test_worker_{secrets.token_hex(4)}", secrets.token_hex(8)
    argv = ["docker", "run", "--rm", "--interactive", f"--name={name}", "--tmpfs=/var/lib/postgresql/data"]
    settings = {"POSTGRES_USER": "user", "POSTGRES_DB": "postgres", "POSTGRES_PASSWORD": password}
    process = subprocess.Popen(
        [*argv, *(f"--env={key}" for key in settings), "--entrypoint=bash", image, "-c", SERVE],
        env={**os.environ, **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C is for the tests, which end it
    )
    try:
        login = Login(address(name, process), 5432, "user", "postgres", password)
        until_it_answers(login, process)
        yield login
    finally:
        process.communicate()


def address(name: str, process: subprocess.Popen[bytes]) -> str:
    """Where the container is, once it is there."""
    client, deadline = docker.from_env(), time.monotonic() + STARTS_WITHIN_S
    try:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                network = client.containers.get(name).attrs["NetworkSettings"]["Networks"]["bridge"]
            except (docker.errors.NotFound, KeyError):
                network = {}
            if found := str(network.get("IPAddress") or ""):
                return found
            time.sleep(0.1)
    finally:
        client.close()
    raise AssertionError(f"The container {name} for the tests' own server did not start in {STARTS_WITHIN_S} s.")


def until_it_answers(login: Login, process: subprocess.Popen[bytes]) -> None:
    """Wait for it; the server that makes the cluster listens on its socket only."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while True:
        try:
            connect(login, "tests").close()
            return
        except ReleaseError as error:
            problem = error.message
        assert process.poll() is None, f"The tests' own server ended (status {process.returncode}): {problem}"
        assert time.monotonic() < deadline, f"The tests' own server did not answer: {problem}"
        time.sleep(0.1)
