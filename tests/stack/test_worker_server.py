"""The server of a worker of the tests: there with the worker, and gone with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import docker
from docker.models.containers import Container

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import sys
sys.path[:0] = {paths!r}
import conftest, worker_server
with worker_server.started({image!r}) as login:
    print(login.host, flush=True)
    sys.stdin.read()
"""


def servers(client: docker.DockerClient) -> list[Container]:
    return [one for one in client.containers.list(ignore_removed=True) if str(one.name).startswith("test_worker_")]


def test_it_goes_with_a_worker_that_is_killed(containers: dict[str, Container]) -> None:
    paths = [str(ROOT), str(ROOT / "tests/support"), str(ROOT / "library")]
    code = WORKER.format(paths=paths, image=containers["drawing_postgres"].attrs["Config"]["Image"])
    worker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert worker.stdout
    address = worker.stdout.readline().decode().strip()
    client = docker.from_env()

    def there() -> list[Container]:
        networks = [(one, one.attrs["NetworkSettings"]["Networks"].values()) for one in servers(client)]
        return [one for one, found in networks if address in [network["IPAddress"] for network in found]]

    assert address and len(there()) == 1
    os.kill(worker.pid, 9)
    worker.wait()
    deadline = time.monotonic() + 60
    while there():
        assert time.monotonic() < deadline, "the server is still there"
        time.sleep(0.1)
    client.close()
