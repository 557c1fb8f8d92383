"""The input of a restore and of a swap: built once from the options of their modules, and passed as one value."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any

from ..core.errors import ReleaseError
from ..core.journal import Journal, Run
from ..core.restore_names import copy_name, kept_name
from ..host.commands import Commands, commands_in
from ..host.inspect import DATABASE_SERVICE, inspect_target
from ..host.lifecycle import Limits
from ..postgres.session import Login
from ..release.requirements import PayloadFile
from ..runs.database_lock import NameLock
from ..runs.work import Work


@dataclass(frozen=True)
class SwapOptions:
    """How the application is stopped and started, and the commands that the report names."""

    containers: tuple[str, ...]
    backend: str
    remove_payload: tuple[PayloadFile, ...]
    limits: Limits
    swap_back_command: str
    drop_command: str

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> SwapOptions:
        """From the option `swap`."""
        return cls(
            tuple(name for name in given["containers"] if name),
            given["backend_container"],
            tuple(PayloadFile.of(item) for item in given["remove_payload"]),
            Limits.of(given),
            given["swap_back_command"],
            given["drop_command"],
        )


@dataclass(frozen=True)
class CopyTarget:
    """Where and how a copy is made: `login` names the copy, `maintenance` another database of the same server."""

    login: Login
    maintenance: Login
    commands: Commands
    inside: bool
    run_id: str
    jobs: int
    timeout_s: int

    @property
    def application_name(self) -> str:
        """The name of pg_restore's sessions."""
        return f"dbrelease-restore-{self.run_id}"[:63]

    @property
    def comparing_name(self) -> str:
        """The name of the sessions that compare."""
        return f"dbrelease-compare-{self.run_id}"[:63]


@dataclass(frozen=True)
class RestorePlan:
    """The run, the database, and what the operator requested; `maintenance` is another database of the same server."""

    work: Work
    maintenance: Login
    container: str
    unknown_backup: bool
    swap: SwapOptions
    label: str = ""
    backup: str = ""
    jobs: int = 2
    timeout_s: int = 3600
    swaps: bool = False

    @classmethod
    def of(cls, params: Mapping[str, Any], check_mode: bool) -> RestorePlan:
        """From the options of restored_database, or of database_swap, which uses no backup."""
        work = Work.of(params, check_mode)
        optional = {"label": "label", "backup": "backup", "jobs": "jobs", "timeout_s": "timeout_seconds"}
        return cls(
            work,
            work.login.to(params["maintenance_db"]),
            params["db_container"],
            params["unknown_backup"],
            SwapOptions.of(params["swap"]),
            swaps=params.get("state") == "live",
            **{name: params[option] for name, option in optional.items() if option in params},
        )

    @property
    def run(self) -> Run:
        """The run that the module was called for."""
        return self.work.run

    @property
    def journal(self) -> Journal:
        """The journal of the run."""
        return self.work.journal

    @property
    def check_mode(self) -> bool:
        """Whether nothing may be changed."""
        return self.work.check_mode

    @property
    def login(self) -> Login:
        """The login of the live database."""
        return self.work.login

    @property
    def database(self) -> str:
        """The name of the live database."""
        return self.login.database

    @property
    def kept(self) -> str:
        """The name under which a swap keeps the live database."""
        return kept_name(self.database, self.run.run_id)

    @property
    def swap_back(self) -> str:
        """For the report, the command that swaps the kept database back; Ansible unquotes a value once more."""
        name = self.kept if quote(self.kept) == self.kept else quote(f'"{self.kept}"')
        return self.swap.swap_back_command.replace("{database}", name)

    @property
    def drop(self) -> str:
        """For the report, the command that drops the kept database."""
        return self.swap.drop_command.replace("{database}", quote(self.kept))

    def lock(self) -> NameLock:
        """Return the lock of the live database's name, which is not taken yet."""
        return NameLock(self.maintenance, self.database, self.run)

    def place(self) -> CopyTarget:
        """Where the copy is made, and by which programs."""
        copy = self.login.to(copy_name(self.database, self.run.run_id))
        commands = commands_in(self.container or None)
        return CopyTarget(
            copy, self.maintenance, commands, bool(self.container), self.run.run_id, self.jobs, self.timeout_s
        )

    def maintenance_again(self) -> Login:
        """The server's address now: a container may have a new one."""
        if self.container:
            with suppress(ReleaseError):
                found = inspect_target({DATABASE_SERVICE: self.container}, None, None)
                if not found["address_problem"]:
                    return replace(self.maintenance, host=found["login_host"], port=found["login_port"])
        return self.maintenance
