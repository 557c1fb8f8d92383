"""Where and with what a release is rehearsed: beside a restored copy, in containers of the application's images."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from ..core.journal import Step
from ..core.proof import Proof
from ..host.inspect import Attributes, inspect
from ..postgres.session import Login
from ..release.requirements import PayloadFile
from ..restore.plan import CopyTarget
from ..runs.work import Work
from ..verify.api import Latency
from .api_on_copy import Api, prove_new, prove_old
from .application import Recipe, api_port, rehearsing
from .change import TITLES, Change, Rehearsal
from .files import NewFile
from .recipe import CannotRehearseError, Limits

HTTP_PORTS = {"http": 80, "https": 443}
BESIDE = "a copy beside the live database is not where the application's own settings lead"
ON_TARGET = "Alembic runs on the target itself, where its settings lead to the live database"
REMEDY = "Rehearse it in a container of the database's image, with Alembic in a container, or on a staging system."


@dataclass(frozen=True)
class ReleasePlan:
    """The release, its files, and the containers of the application; those are empty where the target has none."""

    change: Change
    payload: tuple[NewFile, ...]
    migrator: str
    backend: str
    environment: dict[str, str] = field(repr=False)
    api: Mapping[str, Any] | None
    base_url: str

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> ReleasePlan:
        """From the options of the module."""
        release, services = params["release"], params["services"]
        files = release["migration"].get("payload") or ()
        return cls(
            Change.of(release, params["audit_tables"]),
            tuple(NewFile(PayloadFile.of(item), base64.b64decode(item["content"], validate=True)) for item in files),
            params["backend_container"] or "",
            services["containers"].get("backend") or "",
            dict(params["environment"] or {}),
            release.get("api"),
            services["api_base_url"] or "",
        )

    @property
    def application(self) -> Attributes | None:
        """The engine's attributes of the running container in which Alembic runs."""
        return inspect({"application": self.migrator})["application"] if self.migrator else None

    def on_copy(self, work: Work, copy: CopyTarget, superuser: Login | None, limits: Limits, step: Step) -> None:
        """Rehearse it on the copy; see rehearse_release."""
        rehearse_release(self, work, copy, superuser, limits, step)


def rehearse_release(
    plan: ReleasePlan, work: Work, copy: CopyTarget, superuser: Login | None, limits: Limits, step: Step
) -> None:
    """Rehearse it on the copy, and fill the step; a claim that cannot be observed here is inconclusive, with why."""
    if superuser is None or not plan.migrator:
        detail = f"Not rehearsed: {BESIDE if superuser is None else ON_TARGET}."
        step.prove(*(Proof(*claim, "inconclusive", detail=detail, remedy=REMEDY) for claim in TITLES.items()))
        return
    recipe = Recipe.of(work.run, plan.migrator, limits)
    with rehearsing(recipe, "alembic", plan.payload, superuser, environment=plan.environment) as alembic:
        if alembic.left_out:
            step.facts["left_out"] = list(alembic.left_out)
        rehearsal = Rehearsal(
            plan.change, work.run, copy, as_user(copy, work.login), work.login, alembic.commands, own_server=True
        )
        try:
            rehearsal.probe()
            asked = _AskedApi(plan, work, superuser, limits)
            rehearsal.play(asked.upgraded, asked.downgraded)
        finally:
            step.facts.update(rehearsal.facts)
            step.prove(*rehearsal.proofs)


def as_user(copy: CopyTarget, live: Login) -> Login:
    """db_user on the copy, with its live password; the throwaway server's superuser has one of its own.

    A role without a password cannot connect there, and the superuser acts in its place.
    """
    if not live.password or live.user == copy.login.user:
        return copy.login
    return replace(copy.login, user=live.user, password=live.password)


@dataclass
class _AskedApi:
    """The API's answers on the copy, by a new container each time."""

    plan: ReleasePlan
    work: Work
    superuser: Login
    limits: Limits
    before: Any = ""

    def downgraded(self) -> list[Proof]:
        """On the schema from before the release, without its files."""
        if not self._is_declared():
            return []
        self.before = self._observed("old", ())
        return [prove_old(self.before)]

    def upgraded(self) -> list[Proof]:
        """On the schema of the release."""
        if not self.plan.api or not self._is_declared():
            return []
        seen = "" if isinstance(self.before, str) else self._observed("new", self.plan.payload)
        return [prove_new(self.before, seen, Latency.of(self.plan.api["latency"]))]

    def _is_declared(self) -> bool:
        return bool(self.plan.api and self.plan.base_url and self.plan.backend)

    def _observed(self, what: str, payload: tuple[NewFile, ...]) -> Any:
        recipe = Recipe.of(self.work.run, self.plan.backend, self.limits)
        parts = urlsplit(self.plan.base_url)
        port = api_port(recipe.live, parts.port or HTTP_PORTS.get(parts.scheme))
        if port is None:
            return "it is unknown on which port of its container the application answers"
        try:
            with rehearsing(recipe, what, payload, self.superuser, serves=True) as running:
                api = Api(self.plan.api or {}, self.plan.base_url, port, self.limits.start_s)
                return api.observed(running.name, running.addresses[0])
        except CannotRehearseError as error:
            return error.reason
