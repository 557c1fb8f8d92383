"""What was seen of a target. Rules judge these; they look at nothing themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.proof import Proof
from ..host.http import Answer
from ..host.inspect import Service
from ..migrate.alembic_probe import AlembicSession
from ..postgres.restorable import Obstacles
from ..postgres.session import Row


@dataclass(frozen=True)
class Unseen:
    """What could not be looked at: why, and the rule that already says so, if one does."""

    reason: str
    because: str = ""


@dataclass(frozen=True)
class Writes(Unseen):
    """What could not be looked at, as it would have written to the database."""


@dataclass(frozen=True)
class Table:
    """A relation under a declared name; kind is the letter of pg_class."""

    kind: str
    columns: tuple[str, ...]
    oid: int

    @property
    def is_table(self) -> bool:
        """True for a table, ordinary or partitioned; a view in its place is none."""
        return self.kind in ("r", "p")


@dataclass(frozen=True)
class Rights:
    """What db_user is and may; the defaults are a superuser's, who may everything.

    `unreadable` are tables that it may not read, declared or to be dumped; `strangers` the owners of tables that it may
    not act as, each with its tables; `owner` who owns Alembic's table, where it may act as that one.
    """

    user: str = ""
    superuser: bool = True
    creates_databases: bool = True
    owns_database: bool = True
    unreadable: tuple[str, ...] = ()
    strangers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    owner: str = ""


@dataclass(frozen=True)
class Locks:
    """Of the server's lock table: the places that a dump takes at once, all there are, and by which setting."""

    needed: int = 0
    places: int = 1
    per_transaction: int = 64


@dataclass(frozen=True)
class Database:
    """What the server told. `hidden` counts sessions on the tables whose age this user may not see.

    `taken`: who has a name that an index of a new table needs, as taken_names.py reads it. `planted`, `open_schemas`:
    what roles that are not trusted have made, and may make, on the role's path, as strangers.py reads it.
    `version_tables`: where no revision was found, the tables that Alembic may keep it in.
    `vacuums`: autovacuums at work on the release's tables; `early_indexes`: names of indexes that it adds to existing
    tables and that are there; `settings`: what is set for the database, db_user and the owner of Alembic's table.
    """

    version: str
    major: int
    standby: bool
    read_only: bool
    data_directory: str
    revisions: list[str] | Unseen
    tables: Mapping[str, Table | None]
    created_rows: Mapping[str, int | None]
    existing_bytes: int
    dump_bytes: int
    taken: list[Row] = field(default_factory=list)
    prepared: list[Row] = field(default_factory=list)
    old_transactions: list[Row] = field(default_factory=list)
    hidden: int = 0
    rights: Rights = field(default_factory=Rights)
    version_tables: tuple[str, ...] = ()
    superuser: bool = False
    planted: list[Row] = field(default_factory=list)
    vacuums: list[Row] = field(default_factory=list)
    invalid_indexes: list[Row] = field(default_factory=list)
    early_indexes: list[str] = field(default_factory=list)
    settings: list[Row] = field(default_factory=list)
    resources: Mapping[str, int] = field(default_factory=dict)
    open_schemas: list[Row] = field(default_factory=list)
    obstacles: Obstacles = field(default_factory=Obstacles)
    locks: Locks = field(default_factory=Locks)


@dataclass(frozen=True)
class StateDir:
    """The nearest folder above release_state_dir that exists; `problem` is one sentence if it cannot be written.

    foreign: one sentence if others could exchange what is kept there. near: what else may write or remove it.
    """

    folder: str
    free_bytes: int
    problem: str = ""
    foreign: str = ""
    near: tuple[str, ...] = ()


@dataclass(frozen=True)
class Payload:
    """For each destination its sha256, or one word on why there is none; and the files that define the new revision."""

    states: Mapping[str, str]
    definitions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Migrator:
    """The role that Alembic makes things as, and what it may not do, in words."""

    role: str
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Everything that was seen, each part possibly not; `unverified` is one sentence where the server is not."""

    services: Mapping[str, Service]
    database: Database | Unseen
    heads: list[str] | Unseen
    current: list[str] | Unseen
    history: Mapping[str, tuple[str, ...]]
    tools: Mapping[str, str] | Unseen
    payload: Payload | Unseen
    planned: list[Proof] | Unseen
    state_dir: StateDir
    table_free_bytes: int | Unseen
    answers: Mapping[str, Answer] | Unseen
    staging: Mapping[str, Any] | Unseen | None
    unverified: str = ""
    # How Alembic's session began with the settings of a migration, None where that is not known; why it was refused.
    session: AlembicSession | None = None
    session_refused: str = ""
    # The variables that the inventory gives to Alembic, without their values.
    environment: tuple[str, ...] = ()
    # What the role that migrates lacks for what the release declares; None where its role is not known.
    migrator: Migrator | None = None
    # Of the container of the database; None where there is none.
    shared_memory_bytes: int | None = None
    # Whether the backend may act as `rights.owner`; None where that need not be known, or cannot be.
    backend_takes_owner: bool | None = None

    @property
    def revisions(self) -> list[str]:
        """The revisions that the database says, empty where it says none or was not seen."""
        if isinstance(self.database, Unseen) or isinstance(self.database.revisions, Unseen):
            return []
        return self.database.revisions
