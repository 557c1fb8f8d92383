"""The facts that were read from a target. Rules judge these facts and read nothing themselves."""

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
    """What could not be read: why, and the rule that already reports it, if one does."""

    reason: str
    because: str = ""


@dataclass(frozen=True)
class Writes(Unseen):
    """What was not read, because reading it would have written to the database."""


@dataclass(frozen=True)
class Table:
    """A relation under a declared name; kind is the letter of pg_class."""

    kind: str
    columns: tuple[str, ...]
    oid: int

    @property
    def is_table(self) -> bool:
        """True for an ordinary or a partitioned table; false for a view."""
        return self.kind in ("r", "p")


@dataclass(frozen=True)
class Rights:
    """What db_user is and may do; the defaults are those of a superuser.

    `unreadable`: tables, declared or to be dumped, that it may not read. `strangers`: owners of tables that it may not
    act as, each with its tables. `owner`: the owner of Alembic's table, where db_user may act as that role.
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
    """The server's lock table: how many locks a dump takes at once, how many have room, and the setting."""

    needed: int = 0
    places: int = 1
    per_transaction: int = 64


@dataclass(frozen=True)
class Database:
    """What the server reports. `hidden` counts sessions on the tables whose age this user may not see.

    `taken`: what has a name that an index of a new table needs, as taken_names.py reads it. `planted`, `open_schemas`:
    what untrusted roles have created, and may create, in the role's search path, as strangers.py reads it.
    `version_tables`: where no revision was found, the tables in which Alembic may keep it.
    `vacuums`: autovacuums that run on the release's tables; `early_indexes`: existing indexes that the release would
    add to existing tables; `settings`: settings of the database, of db_user and of the owner of Alembic's table.
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
    # What db_user may do to sessions of other roles: superuser, vacuums, sessions, states.
    signals: Mapping[str, bool] = field(default_factory=dict)
    open_schemas: list[Row] = field(default_factory=list)
    obstacles: Obstacles = field(default_factory=Obstacles)
    locks: Locks = field(default_factory=Locks)
    # One sentence where the server keeps its log, so that each write needs room twice.
    kept_log: str = ""
    # Where new tables are created, if not in the data directory: the folder of a tablespace.
    tables_directory: str = ""
    # The roles of the release whose passwords expire soon, each with the time.
    expiring: list[Row] = field(default_factory=list)
    # One sentence where a commit would wait for a standby that is not connected.
    endless_commit: str = ""


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
    """For each destination its sha256, or one word for why it has none; and the files that define the new revision."""

    states: Mapping[str, str]
    definitions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Migrator:
    """The role as which Alembic creates objects, and what it may not do, in words."""

    role: str
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Everything that was read, or why it was not; `unverified`: one sentence where the server is not verified."""

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
    # How Alembic's session started with the settings of a migration, None where unknown; and why it was refused.
    session: AlembicSession | None = None
    session_refused: str = ""
    # The names of the variables that the inventory sets for Alembic.
    environment: tuple[str, ...] = ()
    # The rights that the migration's role lacks for the release; None where the role is unknown.
    migrator: Migrator | None = None
    # Of the database's container; None where it has none.
    shared_memory_bytes: int | None = None
    # Whether the backend may act as `rights.owner`; None where that is not needed, or cannot be determined.
    backend_takes_owner: bool | None = None

    @property
    def revisions(self) -> list[str]:
        """The revisions in the database; empty where it has none or was not read."""
        if isinstance(self.database, Unseen) or isinstance(self.database.revisions, Unseen):
            return []
        return self.database.revisions
