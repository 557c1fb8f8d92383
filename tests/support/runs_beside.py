"""Runs that repair, look or deploy, and did not end as asked, and what their reports say of them."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.dbrelease.report.next_actions import NOTHING_BEGUN
from evidence_lines import DEPLOYED, FULL, NO_RESULT, READY, RED_CHECK, closed
from runs_back import ALLOWED, BOTH, RED, Case, gave_up, guards

REPAIRED: dict[str, Any] = {"state": "deployed", "repaired": ["rebuilt a", "ran fill"]}
LEFT_OVER: dict[str, Any] = {
    "state": "before",
    "repaired": ["dropped items"],
    "saved": [{"rows": 3, "path": "/l", "replay": "/l.sql"}],
}
RECONCILES = [
    Case(
        "failed after repairs",
        "reconcile",
        closed("reconcile", "failed", message="1 row leads nowhere.", **REPAIRED),
        "failed",
        BOTH,
        ["1 row leads nowhere. Done before that, and kept: rebuilt a, ran fill."],
        ["did not start to change"],
    ),
    Case(
        "refused after repairs",
        "reconcile",
        closed("reconcile", "refused", message="No.", **REPAIRED),
        "failed",
        BOTH,
        ["kept: rebuilt a, ran fill."],
        ["the database was not changed"],
    ),
    Case(
        "failed without repairs",
        "reconcile",
        closed("reconcile", "failed", message="Orphans.", state="deployed", repaired=[]),
        "failed",
        BOTH,
        [],
        ["kept:"],
    ),
    Case(
        "repaired, and not verified",
        "reconcile",
        [*closed("reconcile", **REPAIRED), *RED_CHECK],
        "failed",
        BOTH,
        ["The step checks failed", "kept: rebuilt a, ran fill."],
    ),
    Case(
        "failed after it dropped what was left over",
        "reconcile",
        closed("reconcile", "failed", message="Locked.", **LEFT_OVER),
        "failed",
        BOTH,
        ["kept: dropped items.", "/l.sql"],
        ["did not start to change"],
    ),
    Case(
        "refused for rows that would be lost",
        "reconcile",
        closed("reconcile", "refused", message="3 rows.", state="before", repaired=[]),
        "refused",
        [],
        [NOTHING_BEGUN],
    ),
    Case(
        "could not connect",
        "reconcile",
        closed("reconcile", "failed", message="No answer."),
        "failed",
        [],
        [NOTHING_BEGUN],
    ),
    Case(
        "killed",
        "reconcile",
        [("reconcile", "started", {}), gave_up(NO_RESULT)],
        "failed",
        BOTH,
        ["never ended"],
        ["did not start to change"],
    ),
    Case(
        "killed, and settled by the next run",
        "reconcile",
        closed("reconcile", "failed", message="Interrupted.", interrupted=True),
        "failed",
        BOTH,
        [],
    ),
    Case("before the release", "reconcile", closed("reconcile", **LEFT_OVER), "rolled_back", [], ["dropped items"]),
]
LOOKS = [
    Case(
        "not ready",
        "readiness",
        closed("readiness", "refused", message="1) Too young."),
        "refused",
        BOTH,
        ["Not ready"],
        earlier=FULL,
    ),
    Case(
        "not ready, as not deployed",
        "readiness",
        closed("readiness", "refused", message="1) Deploy it first."),
        "refused",
        [],
        [NOTHING_BEGUN],
    ),
    Case(
        "killed",
        "readiness",
        [("readiness", "started", {})],
        "failed",
        BOTH,
        ["The step readiness was interrupted"],
        earlier=FULL,
    ),
    Case(
        "taken back before",
        "monitor",
        closed("monitor", "refused", message="It was taken back."),
        "refused",
        [],
        [NOTHING_BEGUN],
    ),
    Case("killed", "monitor", [("monitor", "started", {})], "failed", BOTH, ["The step monitor was interrupted"]),
    Case("limits broken", "monitor", closed("monitor", "failed", **RED), "failed", BOTH, []),
    Case(
        "nothing to watch",
        "monitor",
        [("monitor", "skipped", {"message": "None declared."})],
        "failed",
        [],
        [NOTHING_BEGUN],
    ),
    Case("schedule removed", "monitor", closed("schedule"), "already_deployed", [], []),
]
DEPLOYS = [
    Case(
        "the revision cannot be read",
        "deploy",
        [*READY, ("upgrade", "failed", {"message": "No answer."})],
        "failed",
        [],
        [NOTHING_BEGUN],
    ),
    Case("deployed already, and then a task failed", "deploy", [*DEPLOYED, gave_up()], "failed", BOTH, []),
    Case("another run's finalize failed", "deploy", [*closed("finalize", "failed", steps=[])], "failed", BOTH, []),
    Case(
        "finalize had nothing to do",
        "deploy",
        [*closed("finalize", steps=[{"name": "a", "changed": False}]), gave_up()],
        "failed",
        [],
        [NOTHING_BEGUN],
    ),
    Case(
        "finalize was refused after a step",
        "deploy",
        closed("finalize", "refused", message="No.", steps=[{"name": "a", "changed": True}]),
        "failed",
        BOTH,
        [],
    ),
    Case(
        "failed, and the downgrade was refused",
        "deploy",
        [*FULL[1:11], *RED_CHECK, gave_up(), *ALLOWED, *closed("downgrade", "refused", message="It is at ccc.")],
        "failed",
        BOTH,
        ["The rollback failed, too, in the step downgrade: It is at ccc."],
    ),
    Case(
        "failed, and held by its guards",
        "deploy",
        [*FULL[1:11], *RED_CHECK, gave_up(), *guards("refused", "bbb"), ("hold", "passed", {"message": "Ask."})],
        "failed",
        BOTH,
        ["Held: Ask."],
        ["The rollback failed"],
    ),
]
