"""What Alembic itself makes whenever it is started, before it runs any revision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from ..core.errors import ReleaseError
from ..host.commands import Commands
from ..postgres.catalog_state import made_between, state_of
from ..postgres.session import Login
from .alembic import READ_TIMEOUT_S, READER_ENVIRONMENT, WritesError, alembic_current


def writes_when_started(commands: Commands, command: Sequence[str]) -> bool:
    """Whether env.py writes whenever it connects: a read-only session refused it."""
    try:
        alembic_current(commands, command)
    except WritesError:
        return True
    except ReleaseError:
        return False
    return False


def let_it_write(login: Login, commands: Commands, command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Start Alembic without a migration, in the environment of one, and name the objects that appeared meanwhile.

    So what env.py creates is not attributed to the migration that follows, which starts env.py as well.
    """
    before = state_of(login)
    with suppress(ReleaseError):  # the migration meets the same failure, and reports it
        commands.run([*command, "current"], timeout_s=READ_TIMEOUT_S, environment={**READER_ENVIRONMENT, **environment})
    return made_between(before, state_of(login))
