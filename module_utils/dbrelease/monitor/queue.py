"""The number of tasks that wait for the worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import ReleaseError
from ..core.redaction import masked
from ..host.commands import commands_in, missing_program
from .verdicts import WORSE, Claim

TIMEOUT_S = 15


def read_queue(command: Sequence[str], container: str) -> tuple[int | None, str]:
    """The number of waiting tasks, as the command in the broker's container prints it; or None and the reason."""
    try:
        finished = commands_in(container).run(command, timeout_s=TIMEOUT_S)
    except ReleaseError as error:
        return None, error.message
    output = " ".join((finished.stdout or finished.stderr).split())
    # A broker that requires a password, or is loading, reports that with exit status 0.
    if finished.status != 0 or not output.isdigit():
        reason = (
            "it is not installed" if missing_program(finished) else masked(output)[:200] or f"status {finished.status}"
        )
        return None, f"Running {command[0]} in container {container} failed ({reason})."
    return int(output), ""


def sample_queue(declared: Mapping[str, Any], container: str, before: int) -> tuple[dict[str, Any], Claim]:
    """The depth of the declared queue, judged; `before`: how many tasks waited before the release."""
    depth, reason = read_queue(declared["command"], container)
    facts = {"depth": depth}
    if depth is None:
        return facts, Claim("queue", "fail", reason)
    allowed = max(declared["limit"], before * WORSE)
    if depth > allowed:
        was = f" ({before} waited before the release)" if before > declared["limit"] else ""
        detail = f"{depth} tasks wait for the worker, above the limit of {allowed:.0f}{was}: check that it is running."
        return facts, Claim("queue", "fail", detail)
    return facts, Claim("queue")
