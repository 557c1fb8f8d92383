"""Whether the programs that check mode started have changed the database: its state is compared before and after."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.proof import Proof
from ..postgres.catalog_state import State

TITLE = "The programs that were started to read the target changed nothing in the database"
SHOWN_LINES = 3


def prove(name: str, before: State | str, after: State | str, command: Sequence[str]) -> Proof:
    """Compare the catalogs; only where no transaction wrote in between is it known that the command wrote nothing."""
    started = f"`{' '.join(command)}` was started, in read-only sessions where its driver supports them"
    if isinstance(before, str) or isinstance(after, str):
        reason = before if isinstance(before, str) else after
        return Proof(name, TITLE, "inconclusive", detail=f"{started}; what it changed is unknown. {reason}")
    gone, new = sorted(before.catalog - after.catalog), sorted(after.catalog - before.catalog)
    observed = {"transactions": after.xid - before.xid, "gone": len(gone), "new": len(new)}
    if gone or new:
        shown = "; ".join(
            [f"removed: {line}" for line in gone[:SHOWN_LINES]] + [f"new: {line}" for line in new[:SHOWN_LINES]]
        )
        return Proof(
            name,
            TITLE,
            "inconclusive",
            expected={"gone": 0, "new": 0},
            observed=observed,
            detail=f"{started}, and meanwhile the catalog of the database changed ({shown}).",
            remedy="Find out whether env.py or another session did it; let env.py write only when it migrates.",
        )
    between = observed["transactions"]
    detail = f"{started}; the catalog is unchanged, but {between} transactions of any session may have written."
    if not between:
        detail = f"{started}; no transaction wrote anything."
    return Proof(name, TITLE, "pass", observed=observed, detail=detail)
