"""The fixtures of every scenario, and by name what its tests look with."""

from __future__ import annotations

import pytest
import testinfra
from outside import (
    API,
    ARTIFACTS,
    BACKEND,
    POSTGRES,
    REDIS,
    ROOT,
    STATE,
    WORKER,
    Playbook,
    Psql,
    descendants,
    docker,
    journal,
    newest_evidence,
    patient,
    play,
)
from testinfra.host import Host

__all__ = [
    "API",
    "ARTIFACTS",
    "BACKEND",
    "POSTGRES",
    "REDIS",
    "ROOT",
    "STATE",
    "WORKER",
    "Playbook",
    "Psql",
    "descendants",
    "docker",
    "journal",
    "newest_evidence",
    "patient",
    "play",
]


@pytest.fixture(scope="session")
def postgres() -> Host:
    """The database's container."""
    return testinfra.get_host(f"docker://{POSTGRES}")


@pytest.fixture(scope="session")
def backend() -> Host:
    """The backend's container."""
    return testinfra.get_host(f"docker://{BACKEND}")


@pytest.fixture(scope="session")
def psql(postgres: Host) -> Psql:
    """See Psql."""
    return Psql(postgres)
