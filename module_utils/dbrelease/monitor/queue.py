"""How much work waits for the worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..alembic import missing_program
from ..commands import commands_in
from ..errors import ReleaseError
from .verdicts import Claim

TIMEOUT_S = 15


def sample_queue(declared: Mapping[str, Any], container: str) -> tuple[dict[str, Any], Claim]:
    """What the declared command prints in the broker's container: the number of waiting tasks."""
    facts: dict[str, Any] = {"depth": None}
    program = declared["command"][0]
    try:
        finished = commands_in(container).run(declared["command"], timeout_s=TIMEOUT_S)
    except ReleaseError as error:
        return facts, Claim("queue", "fail", error.message)
    said = " ".join((finished.stdout or finished.stderr).split())
    # A broker that wants a password, or is loading, says so with exit status 0.
    if finished.status != 0 or not said.isdigit():
        reason = "it is not there" if missing_program(finished) else said[:200] or f"status {finished.status}"
        return facts, Claim("queue", "fail", f"Asking {program} in container {container} failed ({reason}).")
    facts["depth"] = int(said)
    if facts["depth"] > declared["limit"]:
        detail = f"{facts['depth']} tasks wait for the worker, above the limit of {declared['limit']}: is it at work?"
        return facts, Claim("queue", "fail", detail)
    return facts, Claim("queue")
