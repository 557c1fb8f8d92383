"""The command that a failed claim names for the operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from .proof import Proof

REPAIRS = "reports and repairs it."
TAKEN_BACK = "It was taken back: remove the cause before you deploy it again."


def command_for(command: str, environment: str) -> str:
    """The command with the environment in its place; empty where the release declares none."""
    return command.replace("{environment}", environment)


def advise(proofs: Iterable[Proof], command: str, concerns: Callable[[Proof], bool]) -> list[Proof]:
    """The proofs; each failed one that the command repairs names it."""
    return [
        replace(proof, remedy=f"`{command}` {REPAIRS}")
        if command and proof.status == "fail" and concerns(proof)
        else proof
        for proof in proofs
    ]


def after_way_back(proof: Mapping[str, Any]) -> dict[str, Any]:
    """A claim of a release that was taken back, which no command repairs any more."""
    return {**proof, "remedy": TAKEN_BACK} if str(proof["remedy"]).endswith(REPAIRS) else dict(proof)
