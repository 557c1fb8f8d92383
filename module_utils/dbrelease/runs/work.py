"""What a module of a run works with: built once from its options, at the module's edge, and passed as one value."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ..core.journal import Journal, Run
from ..core.options import run_of
from ..postgres.session import Login
from .exclusive import acting


@dataclass(frozen=True)
class Work:
    """The login, and the journal of the run; in check mode the journal is dry."""

    login: Login
    journal: Journal

    @classmethod
    def of(cls, params: Mapping[str, Any], check_mode: bool) -> Work:
        """From the options `run` and `login_*` of a module."""
        return cls(Login.of(params), Journal(run_of(params), dry=check_mode))

    @property
    def run(self) -> Run:
        """The run that the module was called for."""
        return self.journal.run

    @property
    def check_mode(self) -> bool:
        """Whether nothing may be changed."""
        return self.journal.dry

    def alone_on_target(self) -> AbstractContextManager[None]:
        """Act on the target alone; see `acting`."""
        return acting(self.run, dry=self.check_mode)

    def alone_on_database(self) -> AbstractContextManager[None]:
        """Act on the target and on its database alone; see `acting`."""
        return acting(self.run, self.login, dry=self.check_mode)
