"""Walk a change on a restored copy: upgrade, look at what it did, downgrade, compare, and upgrade again."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from psycopg2.extras import RealDictCursor

from ..core.errors import ReleaseError
from ..core.journal import Step
from ..core.proof import sentence
from ..host.inspect import Attributes, inspect
from ..observe.observation import Observation
from ..postgres.fingerprints import read_tables
from ..postgres.session import Login, connect, transaction
from ..rehearsal.application import Recipe, rehearsing
from ..rehearsal.change import Change, Rehearsal, StopError
from ..rehearsal.files import NewFile
from ..rehearsal.recipe import Limits, refused
from ..rehearsal.release import as_user
from ..release.requirements import PayloadFile
from ..restore.plan import CopyTarget
from ..runs.work import Work
from .compose import Draft, Walked, compose
from .picture import Picture, read_picture
from .proposals import STATEMENT_MS, Proposer

NAME = "dbrelease draft"
# A draft measures; what the change may cost is declared by whoever reads the figures.
ANY_WAIT = {"write_wait_ms": 604_800_000}
LOCK = {"timeout_ms": 5_000, "attempts": 1, "deadline_seconds": 60}


@dataclass(frozen=True)
class DraftPlan:
    """Which change is walked, and the container of the application in which Alembic runs."""

    command: tuple[str, ...]
    to_revision: str
    timeout_s: int
    migrator: str
    payload: tuple[NewFile, ...]
    environment: Mapping[str, str] = field(repr=False)
    from_revision: str
    found: dict[str, Any] = field(default_factory=dict)  # the draft, once the copy was walked

    @classmethod
    def of(cls, params: Mapping[str, Any], from_revision: str) -> DraftPlan:
        """From the options of the module, and the revision of the live database."""
        return cls(
            tuple(params["command"]),
            params["to_revision"],
            params["timeout_seconds"],
            params["backend_container"] or "",
            tuple(
                NewFile(PayloadFile.of(item), base64.b64decode(item["content"], validate=True))
                for item in params["payload"]
            ),
            dict(params["environment"] or {}),
            from_revision,
        )

    @property
    def application(self) -> Attributes | None:
        """The engine's attributes of the running container in which Alembic runs."""
        return inspect({"application": self.migrator})["application"] if self.migrator else None

    def on_copy(self, work: Work, copy: CopyTarget, superuser: Login | None, limits: Limits, step: Step) -> None:
        """Walk it on the copy, and put the draft into the step; raises ReleaseError where the upgrade fails there."""
        if superuser is None or not self.migrator:
            raise refused("a draft needs a throwaway server, and Alembic in a container of the application")
        recipe = Recipe.of(work.run, self.migrator, limits)
        with rehearsing(recipe, "alembic", self.payload, superuser, environment=dict(self.environment)) as alembic:
            login = as_user(copy, work.login)
            walk = Walk(self._change(copy.login), work.run, copy, login, work.login, alembic.commands, own_server=True)
            try:
                walk.probe()
                self.found.update(walk.draft().as_dict())
                walked = f"the change from {self.from_revision} to {self.to_revision} was run on it"
                step.facts.setdefault("rehearsed", []).append(walked)
            finally:
                step.facts.update(walk.facts)
                step.prove(*walk.proofs)

    def _change(self, copy: Login) -> Change:
        with closing(connect(copy, NAME)) as connection, transaction(connection, read_only=True) as cursor:
            catalogs = read_picture(cursor, copy.version_table).catalogs
        tables = {"existing": {name: list(one.columns) for name, one in catalogs.items()}, "created": {}, "altered": {}}
        return Change(
            self.command,
            self.from_revision,
            self.to_revision,
            LOCK,
            self.timeout_s,
            "",
            ANY_WAIT,
            (),
            tables,
            (),
            (),
            (),
            (),
        )


@dataclass
class Walk(Rehearsal):
    """The acts of a rehearsal, without anything that a release would declare."""

    def draft(self) -> Draft:
        """Walk, and compose the draft."""
        before, was = self._picture(), self._state()
        try:
            self._upgrade()
        except StopError:
            raise ReleaseError(f"Drafting failed: {sentence(one.as_dict() for one in self.proofs)}") from None
        notes: list[str] = []
        after, now = self._picture(), self._state()
        with self._asking() as cursor:
            rows = read_tables(cursor, only=_kept(before, after))
            walked = Walked(
                before,
                after,
                was.catalog.objects,
                now.catalog.objects,
                was.tables,
                rows,
                Observation.from_dict(self.facts["observation"]) if "observation" in self.facts else None,
                notes,
            )
            drafted = compose(walked, Proposer(cursor, before, after, notes))
        reversible, way_back = self._way_back(was)
        return replace(drafted, reversible=reversible, way_back=way_back)

    def _way_back(self, was: Any) -> tuple[str, str]:
        """Downgrade and upgrade again; what that shows of the downgrade."""
        first = self._counted()
        try:
            self._downgrade({})
        except StopError:
            return "false", self._why_not("rehearse.downgrade")
        back = self._back(was, self._state())
        self.proofs.append(replace(back, status="pass" if back.status == "pass" else "inconclusive", remedy=""))
        if back.status != "pass":
            return "lossy", f"The downgrade is no inverse. {back.detail}"
        try:
            self._again(first, [])
        except StopError:
            return "lossy", self._why_not("rehearse.upgrade_again")
        return "true", f"The downgrade is an inverse: {back.detail}"

    def _why_not(self, name: str) -> str:
        """What a claim of the way back observed; a draft is no failure for it."""
        for place, proof in enumerate(self.proofs):
            if proof.name == name and proof.status == "fail":
                self.proofs[place] = replace(proof, status="inconclusive", remedy="")
                return f"{proof.title}: {proof.detail}"
        return ""

    def _picture(self) -> Picture:
        with self._asking() as cursor:
            return read_picture(cursor, self.copy.login.version_table)

    @contextmanager
    def _asking(self) -> Iterator[RealDictCursor]:
        """A read-only transaction of one snapshot, whose statements end after a minute."""
        with self._reading() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", (str(STATEMENT_MS),))
            yield cursor


def _kept(before: Picture, after: Picture) -> dict[str, list[str]]:
    """The columns that each table had and still has."""
    return {
        name.key: [column for column in before.catalogs[table].columns if column in after.catalogs[table].columns]
        for table, name in before.names.items()
        if table in after.catalogs
    }
