"""The fixtures of every scenario; outside.py has what they look with."""

from __future__ import annotations

import pytest
import testinfra
from outside import BACKEND, POSTGRES, Psql
from testinfra.host import Host


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
