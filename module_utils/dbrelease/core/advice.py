"""The command that a failed claim names for the operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from .proof import Proof


def command_for(command: str, environment: str) -> str:
    """The command with the environment in its place; empty where the release declares none."""
    return command.replace("{environment}", environment)


def advise(proofs: Iterable[Proof], command: str, concerns: Callable[[Proof], bool]) -> list[Proof]:
    """The proofs; each failed one that the command repairs names it."""
    return [
        replace(proof, remedy=f"`{command}` reports and repairs it.")
        if command and proof.status == "fail" and concerns(proof)
        else proof
        for proof in proofs
    ]
