"""The requirements of a release for a target, read from its data once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.advice import command_for
from ..core.options import VERSION_TABLE
from ..postgres.proof_instant import written_in
from ..postgres.taken_names import names_needed

Release = Mapping[str, Any]

DEFAULT_AGE_LIMIT_S = 300
DEFAULT_API_TIMEOUT_S = 10
DEFAULT_LOCK_TIMEOUT_MS = 500
PLACEHOLDER = re.compile(r"%(?:\(\w+\)s|%)")


@dataclass(frozen=True)
class PayloadFile:
    """A file of the release, and where the backend needs it; `folder`: the folder that it may not leave."""

    source: str
    destination: str
    sha256: str
    folder: str = ""

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> PayloadFile:
        """Build from an item of the payload, as release_info returns it."""
        return cls(item["source"], item["destination"], item["sha256"], item.get("folder", ""))


@dataclass(frozen=True)
class Endpoint:
    """One path of the API and the status that it must answer with."""

    name: str
    path: str
    status: int


@dataclass(frozen=True)
class Statement:
    """A declared statement; `place` names the document and the key that contain it."""

    place: str
    title: str
    sql: str


@dataclass(frozen=True)
class Key:
    """A key that a statement may need: ON CONFLICT may name it, and GROUP BY may rely on the primary one."""

    name: str
    columns: tuple[str, ...]
    primary: bool = False


@dataclass(frozen=True)
class Demands:
    """A release as the rules see it; a section that it does not declare is empty.

    `altered`: the columns that it adds to existing tables; `keys`: those that it creates, by table; `needed`: the
    names of indexes that its new tables need; `revision_texts`: its revision files, None where they were not read;
    `added_indexes`: the names of those that it adds to existing tables. `removed`: the columns that it drops, or that
    get another name, by table; of a table that it drops those that the release names. `changed`:
    the tables that it changes or drops.
    `observations` run before the release, `queries` and `steps` after it.
    """

    release: str
    services: tuple[str, ...]
    minimum_major: int
    age_limit_s: int
    command: tuple[str, ...]
    from_revision: str
    to_revision: str
    payload: tuple[PayloadFile, ...]
    growth_factor: float
    existing: Mapping[str, tuple[str, ...]]
    created: Mapping[str, Mapping[str, Mapping[str, Any]]]
    altered: Mapping[str, Mapping[str, Mapping[str, Any]]]
    keys: Mapping[str, tuple[Key, ...]]
    needed: Mapping[str, tuple[str, ...]]
    endpoints: tuple[Endpoint, ...]
    api_timeout_s: int
    observations: tuple[Statement, ...]
    queries: tuple[Statement, ...]
    steps: tuple[Statement, ...]
    reconcile_command: str = ""
    finalizes: bool = False
    version_table: str = VERSION_TABLE
    revision_texts: tuple[str, ...] | None = None
    lock_timeout_ms: int = DEFAULT_LOCK_TIMEOUT_MS
    blockers: Mapping[str, Any] = field(default_factory=dict)
    rollback_sql: bool = False
    role: str = ""
    container: str = "backend"
    environment: tuple[str, ...] = ()
    referenced: tuple[str, ...] = ()
    added_indexes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    removed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    changed: tuple[str, ...] = ()

    @property
    def statements(self) -> tuple[Statement, ...]:
        """All declared statements, including those that are only tried and rolled back."""
        return self.observations + self.queries + self.steps

    def may_make(self, name: str) -> bool:
        """Whether the migration may create an object of this name: it contains the name, or only the backend has it."""
        texts = self.revision_texts
        word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
        return texts is not None and (not texts or any(map(word.search, texts)))

    @classmethod
    def of(cls, release: Release, environment: str = "") -> Demands:
        """Build from the release, as release_info returns it; commands name the environment."""
        server, tables, api = (release.get(key) or {} for key in ("server", "tables", "api"))
        migration = release["migration"]
        altered, changed = tables.get("altered") or {}, tables.get("changed") or {}
        added = {name: table.get("columns") or {} for name, table in altered.items()}
        for name, table in changed.items():
            renamed = {column: after for column, after in (table.get("columns") or {}).items() if _is_renamed(after)}
            if renamed:
                added[name] = {**added.get(name, {}), **renamed}
        revisions = migration.get("revision_files")
        return cls(
            release=release["release"],
            services=tuple(release.get("services") or ()),
            minimum_major=int(server.get("minimum_major", 0)),
            age_limit_s=int(server.get("transaction_age_limit_seconds", DEFAULT_AGE_LIMIT_S)),
            command=tuple(migration["command"]),
            from_revision=migration["from_revision"],
            to_revision=migration["to_revision"],
            payload=tuple(PayloadFile.of(item) for item in migration.get("payload") or ()),
            growth_factor=float(migration.get("growth_factor", 0)),
            existing={name: tuple(columns) for name, columns in (tables.get("existing") or {}).items()},
            created={name: table["columns"] for name, table in (tables.get("created") or {}).items()},
            altered=added,
            keys={
                name: tuple(_keys(table))
                for name, table in {**changed, **(tables.get("created") or {}), **altered}.items()
            },
            needed=names_needed(tables.get("created") or {}),
            added_indexes=names_needed(altered),
            endpoints=tuple(
                Endpoint(item["name"], item["path"], int(item["status"])) for item in api.get("endpoints") or ()
            ),
            api_timeout_s=int(api.get("timeout_seconds", DEFAULT_API_TIMEOUT_S)),
            observations=tuple(
                Statement(f"checks.yml: observations.{item['name']}", item["title"], item["sql"])
                for item in release.get("observations") or ()
            ),
            queries=tuple(_queries(release)),
            steps=tuple(_steps(release)),
            finalizes=bool(migration.get("finalize")),
            version_table=migration.get("version_table") or VERSION_TABLE,
            revision_texts=None if revisions is None else tuple(str(file["content"]) for file in revisions),
            lock_timeout_ms=int((migration.get("lock") or {}).get("timeout_ms", DEFAULT_LOCK_TIMEOUT_MS)),
            blockers=(migration.get("lock") or {}).get("blockers") or {},
            rollback_sql=bool((release.get("rollback") or {}).get("sql")),
            role=migration.get("role") or "",
            container=migration.get("container") or "backend",
            environment=tuple(migration.get("environment") or ()),
            referenced=tuple(_referenced({**(tables.get("created") or {}), **altered})),
            removed=_removed(tables),
            changed=(*changed, *(tables.get("dropped") or {})),
            reconcile_command=command_for((release.get("commands") or {}).get("reconcile", ""), environment),
        )


def _is_renamed(after: Mapping[str, Any] | None) -> bool:
    return bool(after and after.get("renamed_from"))


def _removed(tables: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    changed = {
        name: tuple(
            column if after is None else after["renamed_from"]
            for column, after in (declared.get("columns") or {}).items()
            if after is None or _is_renamed(after)
        )
        for name, declared in (tables.get("changed") or {}).items()
    }
    dropped = {name: tuple(columns) for name, columns in (tables.get("dropped") or {}).items()}
    return {name: columns for name, columns in {**changed, **dropped}.items() if columns}


def _keys(table: Mapping[str, Any]) -> Iterator[Key]:
    for name, declared in (table.get("constraints") or {}).items():
        if declared is None:
            continue
        # The server accepts no deferrable key for ON CONFLICT or GROUP BY.
        if declared["type"] in ("primary_key", "unique") and not declared.get("deferrable"):
            yield Key(name, tuple(declared["columns"]), declared["type"] == "primary_key")


def _referenced(tables: Mapping[str, Any]) -> Iterator[str]:
    """The other tables that foreign keys of these tables reference."""
    found = (
        key["references"]["table"]
        for table in tables.values()
        for key in (table.get("constraints") or {}).values()
        if key and key.get("references")
    )
    yield from dict.fromkeys(name for name in found if name not in tables)


def _queries(release: Release) -> Iterator[Statement]:
    for item in release.get("checks") or ():
        yield Statement(f"checks.yml: checks.{item['name']}", item["title"], item.get("violations") or item["equal"])
        if item.get("written_in"):
            place = f"checks.yml: checks.{item['name']}.written_in"
            yield Statement(place, item["title"], written_in(item["violations"], item["written_in"]))
    for item in release.get("scenarios") or ():
        if item.get("leaves_nothing"):
            place = f"checks.yml: scenarios.{item['name']}.leaves_nothing"
            yield Statement(place, item["title"], without_placeholders(item["leaves_nothing"]))
    for item in release.get("plans") or ():
        yield Statement(f"checks.yml: plans.{item['name']}", item["title"], item["sql"])
    for item in release["migration"].get("finalize") or ():
        if item.get("pending"):
            yield Statement(f"release.yml: migration.finalize.{item['name']}.pending", item["title"], item["pending"])


def _steps(release: Release) -> Iterator[Statement]:
    for item in release.get("scenarios") or ():
        for number, step in enumerate(item.get("steps") or (), start=1):
            place = f"checks.yml: scenarios.{item['name']}.steps[{number}]"
            yield Statement(place, step["title"], without_placeholders(step["sql"]))


def without_placeholders(sql: str) -> str:
    """Return the statement with NULL for every `%(name)s`, so that it can be planned without its values."""
    return PLACEHOLDER.sub(lambda found: "%" if found.group() == "%%" else "NULL", sql)
