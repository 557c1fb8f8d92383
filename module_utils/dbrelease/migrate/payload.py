"""Verify that the files of a release are where the application needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..core.proof import Proof
from ..release.requirements import PayloadFile

OUTSIDE = "outside"


def in_place(files: Sequence[PayloadFile], states: Mapping[str, str], *, planned: bool) -> Proof:
    """Prove that each destination has its file, by sha256.

    states: destination to sha256, or to one word for what exists there instead.
    planned: nothing was copied (check mode), so a missing file is no failure.
    """
    expected = {item.destination: item.sha256 for item in files}
    wrong = {path: states[path] for path, sha256 in expected.items() if states[path] != sha256}
    title = "The release's files are where the application needs them"
    if not wrong:
        detail = f"{len(files)} files have the release's sha256." if files else "The release brings no files."
        return Proof("migrate.payload", title, "pass" if files else "skipped", expected, dict(states), detail)
    if planned and set(wrong.values()) == {"missing"}:
        return Proof("migrate.payload", title, "skipped", expected, dict(states), f"To be copied: {', '.join(wrong)}.")
    outside = [path for path, state in wrong.items() if state == OUTSIDE]
    if outside:
        detail = f"{', '.join(outside)} leads out of the folder that the inventory names for it, by a link."
        remedy = "Find out who made that link, remove it, and rerun the playbook."
        return Proof("migrate.payload", title, "fail", expected, dict(states), detail, remedy)
    detail = "; ".join(f"{path} is not the release's file ({state})" for path, state in wrong.items()) + "."
    remedy = "Find out who put it there, move it to another folder, and rerun the playbook."
    return Proof("migrate.payload", title, "fail", expected, dict(states), detail, remedy)
