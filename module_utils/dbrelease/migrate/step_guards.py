"""Whether the rows that a step writes still belong only to the release: rollback guards that ask the application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import ReleaseError
from ..release.guard_kinds import Guard
from ..rollback.in_services import Services
from ..rollback.verdict import in_words, remedy_of
from .steps import Step


@dataclass(frozen=True)
class StepGuards:
    """The guards by name, and the services that they ask."""

    guards: Mapping[str, Guard]
    services: Services

    @classmethod
    def of(cls, services: Mapping[str, Any]) -> StepGuards:
        """Build from the option `services` of a module."""
        asked = Services(
            services["api_base_url"],
            services["containers"],
            services["timeout_seconds"],
            ca_file=services.get("api_ca_file") or "",
        )
        return cls({guard["name"]: guard for guard in services["guards"]}, asked)

    def demand(self, step: Step) -> None:
        """Raise ReleaseError where a guard fails, or where all guards are inconclusive.

        One decided guard is enough: where the API is down, its container may still show the answer.
        """
        guards = [self.guards[name] for name in step.guarded_by]
        observed = [(guard, self.services.look(guard)) for guard in guards]
        red = [(guard, seen) for guard, seen in observed if seen.status == "fail"]
        if not red and any(seen.status == "pass" for _, seen in observed):
            return
        for guard, seen in [*red, *(found for found in observed if found[1].status == "inconclusive")]:
            raise ReleaseError(
                f"Step {step.name} ({step.title}) was not run: its rows may no longer belong to the release alone. "
                f"{in_words(guard, seen)} {remedy_of(guard, seen)}"
            )
