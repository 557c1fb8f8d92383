"""Draft a release on the target: find where the live database is, and walk from there on a restored copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import ReleaseError
from ..core.options import environment_of
from ..core.redaction import masked_sql
from ..host.commands import commands_in
from ..migrate.preview import preview
from ..postgres.revision import read_revisions
from ..rehearsal.recipe import Limits
from ..rehearsal.rehearse import RehearsalPlan, rehearse
from ..runs.work import Work
from .walk import DraftPlan


def draft(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """The module's act; raises ReleaseError where the change does not run on the copy, or a refusal before."""
    if not params["backend_container"]:
        raise ReleaseError(
            "Drafting was refused (the inventory names no container in which Alembic runs, and on the target itself it "
            "would find the live database): set the variable of that container.",
            refused=True,
        )
    work = Work.of(params, check_mode)
    walked = DraftPlan.of(params, _revision(work, params))
    limits = Limits(params["cpus"], params["memory_mib"] << 20, params["start_seconds"], params["lifetime_seconds"])
    plan = RehearsalPlan(
        work,
        params["db_container"],
        params["label"],
        "container",
        limits,
        "postgres",
        params["jobs"],
        params["timeout_seconds"],
        walked,
    )
    result = rehearse(plan)
    return {
        "changed": result["changed"],
        "proofs": result["proofs"],
        "message": result["message"],
        "from_revision": walked.from_revision,
        "preview": "" if check_mode else _preview(walked, params, work.login.password or ""),
        "draft": walked.found,
        "directory": "",
        "files": [],
    }


def _revision(work: Work, params: Mapping[str, Any]) -> str:
    found, wanted = read_revisions(work.login, params["bookkeeping_table"]), params["to_revision"]
    if len(found) != 1:
        held = ", ".join(found) or "no revision"
        raise ReleaseError(
            f"Drafting was refused ({params['bookkeeping_table']} has {held}, and a draft begins at one revision): "
            "let draft_version_table name Alembic's table of this application.",
            refused=True,
        )
    if found == [wanted]:
        raise ReleaseError(
            f"Drafting was refused (the database is at {wanted} already): draft from a database that does not have "
            "the change yet.",
            refused=True,
        )
    return found[0]


def _preview(plan: DraftPlan, params: Mapping[str, Any], password: str) -> str:
    """The SQL as Alembic prints it; a draft is none the worse without."""
    commands = commands_in(params["backend_container"], environment=environment_of(params))
    files = {
        new.item.source.rpartition("/")[2]: new.content.decode("utf-8", "replace")
        for new in plan.payload
        if new.item.source.endswith(".py")
    }
    shown = preview(commands, plan.command, "upgrade", plan.from_revision, plan.to_revision, files)
    return masked_sql(shown.sql, password)
