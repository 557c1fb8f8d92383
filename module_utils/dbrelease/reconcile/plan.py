"""What a release requires of its database, and what was found and done to repair it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.proof import Proof
from ..migrate.finalize import Finalized
from ..migrate.step_guards import StepGuards
from ..postgres.foreign_keys import ForeignKey
from ..postgres.orphan_table import Leftover
from ..postgres.session import Row
from ..rollback.lost_rows import Saved


@dataclass(frozen=True)
class Wanted:
    """The part of a release's declaration that can be repaired."""

    from_revision: str
    to_revision: str
    created: Mapping[str, Mapping[str, Any]]
    guards: StepGuards
    leftover: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    steps: Sequence[Mapping[str, Any]] = ()
    checks: Sequence[Mapping[str, Any]] = ()
    label: str = ""


@dataclass
class Reconciled:
    """The findings and repairs. `state` is `before` or `deployed`; `statements` ran, or would run in check mode."""

    state: str = ""
    leftovers: list[Leftover] = field(default_factory=list)
    foreign_keys: list[ForeignKey] = field(default_factory=list)
    rows: Finalized = field(default_factory=Finalized)
    repaired: list[str] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    lock_waits: list[Row] = field(default_factory=list)
    ended_sessions: list[Row] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """For the journal and the module's result."""
        return {
            "state": self.state,
            "leftovers": [one.facts() for one in self.leftovers],
            "repaired": self.repaired,
            "saved": [dict(saved) for saved in self.saved],
            "proven": self.rows.facts()["proven"],
            "lock_waits": [*self.lock_waits, *self.rows.lock_waits],
            "ended_sessions": [*self.ended_sessions, *self.rows.ended_sessions],
        }

    @property
    def all_proofs(self) -> list[Proof]:
        """The proofs of the repairs, and those of the rows."""
        return [*self.proofs, *self.rows.proofs]
