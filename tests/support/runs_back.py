"""Rollbacks and restores that did not end as asked, and what their reports say of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ansible.module_utils.dbrelease.report.next_actions import GONE, NOTHING_BEGUN
from evidence_lines import FULL, NO_RESULT, UNVERIFIED, Event, closed, proof

SWAP_BACK = "ansible-playbook restore_x.yml -i test -e restore_swap_back=app_old_1"
LIVE, BOTH, RESTORE = ["Swap back"], ["Roll back", "Restore"], ["Restore"]


def guards(state: str, *revisions: str) -> list[Event]:
    event = "refused" if state == "refused" else "passed"
    return closed("guards", event, state=state, revisions=list(revisions), message="1) Rows would be lost.")


def gave_up(message: str = "no") -> Event:
    return ("playbook", "failed", {"task": "Act", "message": message})


ALLOWED = guards("allowed", "bbb")
DOWNGRADED = closed("downgrade", from_revision="bbb", to_revision="aaa", attempts=1, log="/srv/r.log", lock_waits=[])
REFUSED_DOWNGRADE = closed(
    "downgrade",
    "refused",
    from_revision="bbb",
    attempts=1,
    proofs=[proof("rollback.downgrade", "fail", detail="3 rows were written.", remedy="Count again.")],
)
RED = {"proofs": [proof("restored.rows", "fail", detail="Rows differ.")]}
COPIED = [*closed("restore.check"), *closed("restore.backup"), *closed("restore.copy")]
SERVICES: Event = ("restore.services", "started", {"containers": ["web"]})
SAVED_ROWS = closed("restore.rows", directory="/srv/restore_rows_1", rows=2, tables={})
SWAPPED = closed("restore.swap", live="app", incoming="app_new", kept="app_old_1", swap_back=SWAP_BACK, drop="drop")
NOTHING_KEPT = closed("restore.swap", live="app", incoming="app_new", kept="", swap_back=SWAP_BACK, drop="drop")
NOT_STARTED: Event = ("restore.services", "failed", {"containers": ["web"], "message": "web is not healthy."})


@dataclass(frozen=True)
class Case:
    """A run's playbook and journal, what it comes to, the ways back, and what its report says and must not say."""

    name: str
    playbook: str
    events: list[Event]
    outcome: str
    ways: list[str]
    says: list[str]
    never: list[str] = field(default_factory=list)
    earlier: list[Event] = field(default_factory=list)


ROLLBACKS = [
    Case(
        "failed downgrade",
        "rollback",
        [*ALLOWED, *closed("downgrade", "failed", message="Lock timeout.", log="/srv/r.log")],
        "failed",
        BOTH,
        ["The step downgrade failed: Lock timeout.", "/srv/r.log"],
        ["did not start to change"],
    ),
    Case(
        "killed downgrade",
        "rollback",
        [*ALLOWED, ("downgrade", "started", {}), gave_up(NO_RESULT)],
        "failed",
        BOTH,
        ["never ended (its module ended without a result", "ended without reporting"],
        ["did not start to change"],
    ),
    Case(
        "a downgrade that refused by itself",
        "rollback",
        [*ALLOWED, *REFUSED_DOWNGRADE, gave_up()],
        "refused",
        RESTORE,
        [
            "Refused, and the database was not changed: “Claim rollback.downgrade” failed: 3 rows were written. "
            "Count again."
        ],
        ["downgrade failed", "rollback failed"],
    ),
    Case(
        "downgraded, and not as before",
        "rollback",
        [*ALLOWED, *DOWNGRADED, *closed("as_before", "failed", **RED)],
        "failed",
        BOTH,
        ["The step as_before failed: “Claim restored.rows” failed: Rows differ."],
        ["did not start to change"],
    ),
    Case(
        "downgraded, and nobody looked",
        "rollback",
        [*ALLOWED, *DOWNGRADED, ("as_before", "started", {})],
        "failed",
        BOTH,
        ["The step as_before was interrupted"],
        ["did not start to change"],
    ),
    Case(
        "downgraded, and what follows is refused",
        "rollback",
        [*ALLOWED, *DOWNGRADED, *closed("as_before", "refused", message="No.")],
        "failed",
        BOTH,
        ["The step as_before failed: No."],
        ["the database was not changed"],
    ),
    Case(
        "refused by its guards",
        "rollback",
        [*guards("refused", "bbb"), gave_up()],
        "refused",
        RESTORE,
        ["the database was not changed: 1) Rows would be lost."],
    ),
    Case(
        "refused by its guards on top of a later release", "rollback", guards("refused", "ccc"), "refused", RESTORE, []
    ),
    Case(
        "refused by its guards before the release", "rollback", guards("refused", "aaa"), "refused", [], [NOTHING_BEGUN]
    ),
    Case(
        "automatic, refused by its guards",
        "deploy",
        [*FULL[1:11], *UNVERIFIED, *guards("refused", "bbb"), ("hold", "passed", {"message": "Ask."})],
        "failed",
        BOTH,
        ["Held: Ask."],
    ),
    Case(
        "automatic, and its downgrade failed",
        "deploy",
        [*FULL[1:11], *UNVERIFIED, gave_up(), *ALLOWED, *closed("downgrade", "failed", message="Lock timeout.")],
        "failed",
        BOTH,
        ["The step checks failed", "The rollback failed, too, in the step downgrade: Lock timeout."],
    ),
    Case(
        "automatic, and its downgrade refused by itself",
        "deploy",
        [*FULL[1:11], *UNVERIFIED, gave_up(), *ALLOWED, *REFUSED_DOWNGRADE],
        "failed",
        BOTH,
        ["Held: the release is not rolled back. “Claim rollback.downgrade” failed: 3 rows were written. Count again."],
        ["The rollback failed"],
    ),
    Case(
        "automatic, and its downgrade was killed",
        "deploy",
        [*FULL[1:11], ("checks", "started", {}), gave_up(NO_RESULT), *ALLOWED, ("downgrade", "started", {})],
        "failed",
        BOTH,
        ["The step checks was interrupted", "The rollback failed, too, in the step downgrade: it never ended."],
    ),
    Case(
        "automatic, and not as before",
        "deploy",
        [*FULL[1:11], *UNVERIFIED, gave_up(), *ALLOWED, *DOWNGRADED, *closed("as_before", "failed", **RED)],
        "failed",
        BOTH,
        ["The rollback failed, too, in the step as_before: “Claim restored.rows” failed: Rows differ."],
    ),
    Case(
        "guards that could not look",
        "rollback",
        closed("guards", "failed", message="No answer."),
        "failed",
        [],
        [NOTHING_BEGUN],
    ),
    Case(
        "guards that could not look at what the journal knows",
        "rollback",
        closed("guards", "failed", message="No answer."),
        "failed",
        BOTH,
        [],
        ["nothing of this run"],
        earlier=FULL,
    ),
    Case(
        "the same, taken back since",
        "rollback",
        closed("guards", "failed", message="No answer."),
        "failed",
        [],
        [NOTHING_BEGUN],
        earlier=[*FULL, *closed("rolled_back")],
    ),
    Case(
        "lost rows that cannot be saved",
        "rollback",
        [*ALLOWED, *closed("lost_rows", "failed", message="No room.")],
        "failed",
        BOTH,
        [],
    ),
    Case(
        "a downgrade that could not look",
        "rollback",
        [*ALLOWED, ("downgrade", "failed", {"message": "No answer."})],
        "failed",
        BOTH,
        [],
    ),
    Case(
        "refused, as another run acts",
        "rollback",
        [("claim", "refused", {"message": "Held by run x."})],
        "refused",
        [],
        [NOTHING_BEGUN],
        earlier=FULL,
    ),
    Case(
        "not deployed, and not as before",
        "rollback",
        [*guards("not_deployed", "aaa"), *closed("as_before", "failed", **RED)],
        "failed",
        BOTH,
        [],
    ),
    Case(
        "rolled back, and then a task failed",
        "rollback",
        [*ALLOWED, *DOWNGRADED, *closed("as_before"), *closed("rolled_back"), gave_up("No cron.")],
        "rolled_back",
        [],
        ["was rolled back. After that something failed: No cron."],
    ),
    Case(
        "rolled back, and then a step failed",
        "rollback",
        [*ALLOWED, *DOWNGRADED, *closed("rolled_back"), *closed("schedule", "failed", message="No cron.")],
        "failed",
        [],
        [GONE, "The step schedule failed: No cron."],
    ),
    Case("allowed, and nothing more", "rollback", ALLOWED, "failed", BOTH, ["Nothing was proved"]),
]
RESTORES = [
    Case(
        "no backup",
        "restore",
        closed("restore.backup", "refused", message="There is none."),
        "refused",
        [],
        [NOTHING_BEGUN],
    ),
    Case(
        "no room for the copy",
        "restore",
        closed("restore.backup", "failed", message="No room."),
        "failed",
        BOTH,
        [],
        earlier=FULL,
    ),
    Case(
        "killed before the swap",
        "restore",
        [*COPIED, SERVICES, *SAVED_ROWS, gave_up(NO_RESULT)],
        "failed",
        [],
        [NOTHING_BEGUN, "/srv/restore_rows_1"],
    ),
    Case(
        "killed in the swap",
        "restore",
        [*COPIED, SERVICES, ("restore.swap", "started", {}), gave_up(NO_RESULT)],
        "failed",
        BOTH,
        ["The step restore.swap was interrupted"],
        ["did not start to change"],
    ),
    Case(
        "swapped, and the application does not start",
        "restore",
        [*COPIED, SERVICES, *SAVED_ROWS, *SWAPPED, NOT_STARTED],
        "failed",
        [*LIVE, *BOTH],
        [SWAP_BACK, "web is not healthy.", "/srv/restore_rows_1"],
        ["did not start to change"],
    ),
    Case(
        "swapped, and the API is red",
        "restore",
        [*COPIED, *SWAPPED, *closed("api", "failed", **RED), *closed("restored", "failed")],
        "failed",
        [*LIVE, *BOTH],
        [SWAP_BACK],
    ),
    Case(
        "swapped in where there was none",
        "restore",
        [*COPIED, *NOTHING_KEPT, NOT_STARTED],
        "failed",
        BOTH,
        [],
        [SWAP_BACK],
    ),
    Case(
        "restored, and then a step failed",
        "restore",
        [*COPIED, *SWAPPED, *closed("restored"), *closed("schedule", "failed", message="No cron.")],
        "failed",
        LIVE,
        [SWAP_BACK],
    ),
    Case(
        "restored, and then a task failed",
        "restore",
        [*COPIED, *SWAPPED, *closed("restored"), gave_up("No cron.")],
        "restored",
        LIVE,
        ["was restored from the backup. After that something failed: No cron."],
    ),
]
