"""The end of a run in a few lines: what it came to without its cause, and every problem with what to do."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.journal import Run
from ansible.module_utils.dbrelease.core.plain_text import is_printable
from ansible.module_utils.dbrelease.core.proof import named
from ansible.module_utils.dbrelease.report.markdown_report import as_markdown
from ansible.module_utils.dbrelease.report.model import Model, build
from ansible.module_utils.dbrelease.report.problems import bounded, open_points_of, problems_of, summary_of, warnings_of
from evidence_lines import HOSTILE, RELEASE, Event, closed, proof

RUN = Run("20260102T030405Z-abcdef", "orders", "test", "deploy", "/srv/state")
REDIS = proof("preflight.services", "fail", detail="cache is stopped.", remedy="Start it.")
LOGIN = proof("preflight.database", "fail", detail="The password is wrong.", remedy="Set db_password.")
CHECK = proof("checks.counts", "fail", detail="3 rows are missing.", remedy="Reconcile.")
REFUSED = closed("preflight", "failed", proofs=[REDIS, proof("preflight.server"), LOGIN], state="refused")
HELD = "the release stays as it is, because on_failed_verification is hold."


def modelled(events: list[Event], failure: dict[str, str] | None = None) -> Model:
    names = {"run_id": RUN.run_id, "release": RUN.release, "environment": RUN.environment, "ts": None}
    lines = [{**names, "step": step, "event": event, "facts": facts} for step, event, facts in events]
    return build(RUN, RELEASE, lines, asked=["deployed"], failure=failure)


def sentences(model: Model) -> list[str]:
    return [f"{problem['sentence']} {problem['remedy']}".strip() for problem in problems_of(model)]


def test_a_refused_preflight_names_every_problem() -> None:
    model = modelled(REFUSED)
    assert (model["outcome"], summary_of(model)) == ("refused", "Refused, and the database was not changed.")
    assert sentences(model) == [
        "“Claim preflight.services” failed: cache is stopped. Start it.",
        "“Claim preflight.database” failed: The password is wrong. Set db_password.",
    ]


def test_a_success_names_what_is_left_to_do() -> None:
    left = proof(
        "settled.payload", "inconclusive", detail="The next start applies it again.", remedy="Remove its files."
    )
    unwatched = proof("monitor.queue", "inconclusive", detail="Only 5 s were watched.", remedy="")
    events = [
        *closed("settled", "passed", proofs=[left, unwatched]),
        *closed("verify", "passed"),
        *closed("run", "passed"),
    ]
    model = modelled(events)
    deployed: Any = {**model, "succeeded": True}
    assert open_points_of(deployed) == [
        {
            "sentence": "“Claim settled.payload” is inconclusive: The next start applies it again.",
            "remedy": "Remove its files.",
        }
    ]
    assert "is inconclusive: The next start applies it again. Remove its files." in as_markdown(deployed)
    taken_back: Any = {**deployed, "succeeded": False, "outcome": "rolled_back"}
    other = proof("backup.restorable", "inconclusive", detail="Not restored.", remedy="Restore it.")
    taken_back["proofs"] = [*taken_back["proofs"], {**other, "step": "backup"}]
    assert open_points_of(taken_back) == open_points_of(deployed)
    failed: Any = {**model, "succeeded": False, "outcome": "failed"}
    assert open_points_of(failed) == []
    assert "## Open" not in as_markdown(failed)


def test_what_was_taken_back_is_not_to_be_repaired() -> None:
    check = proof(
        "checks.counts", "fail", detail="3 rows are missing.", remedy="`reconcile.yml` reports and repairs it."
    )
    red = [*closed("checks", "passed", proofs=[check]), *closed("verify", "failed", message="1) It is red.")]
    (held,) = [one["remedy"] for one in problems_of(modelled(red)) if "counts" in one["sentence"]]
    assert held == "`reconcile.yml` reports and repairs it."
    model = modelled([*red, *closed("rolled_back", "passed")])
    assert model["outcome"] == "rolled_back"
    (after,) = [one["remedy"] for one in problems_of(model) if "counts" in one["sentence"]]
    assert after == "It was taken back: remove the cause before you deploy it again."


def test_the_first_cause_comes_first_and_others_follow() -> None:
    check = closed("checks", "failed", proofs=[CHECK])
    model = modelled([*closed("api", "failed", proofs=[{**REDIS, "name": "api.up"}]), *check])
    assert [problem["sentence"].partition(":")[0] for problem in problems_of(model)] == [
        "“Claim preflight.services” failed",
        "“Claim checks.counts” failed",
    ]


def test_a_cause_without_a_claim_is_a_problem_in_its_own_words() -> None:
    model = modelled([], {"task": "Upgrade", "message": "The lock was not granted: run again."})
    assert summary_of(model) == "The task “Upgrade” failed."
    assert problems_of(model) == [{"sentence": "The lock was not granted: run again.", "remedy": ""}]


def test_numbered_sentences_of_a_message_are_problems_each() -> None:
    model = modelled([], {"task": "Verify", "message": "1) A: it is red (x). Do y. 2) B: z. 3) C: 7) stays."})
    assert sentences(model) == ["A: it is red (x). Do y.", "B: z.", "C: 7) stays."]
    model = modelled([], {"task": "Verify", "message": "Of 2) nothing was seen."})
    assert sentences(model) == ["Of 2) nothing was seen."]


def test_what_was_held_stays_in_the_summary() -> None:
    gave_up: Event = ("playbook", "failed", {"task": "x", "message": "y"})
    model = modelled([*closed("checks", "failed", proofs=[CHECK]), gave_up, ("hold", "passed", {"message": HELD})])
    assert summary_of(model) == f"The step checks failed. Held: {HELD}"
    assert sentences(model) == ["“Claim checks.counts” failed: 3 rows are missing. Reconcile."]


@pytest.mark.parametrize(
    ("events", "summary"),
    [
        (
            closed("readiness", "refused", message="2 of 9 do not hold."),
            "Not ready to go on from Items of orders on test.",
        ),
        (closed("upgrade") + closed("verify"), "Items of orders on test was deployed and verified."),
        ([], "Nothing was proved of Items of orders on test."),
    ],
)
def test_summary(events: list[Event], summary: str) -> None:
    assert summary_of(modelled(events)) == summary


def test_a_success_has_no_problem() -> None:
    assert problems_of(modelled(closed("upgrade") + closed("verify"))) == []


def test_problems_are_bounded_and_can_be_shown() -> None:
    many = bounded([{"sentence": f"{number} is red.", "remedy": HOSTILE * 100} for number in range(50)])
    assert len(many) == 20 and many[-1]["sentence"] == "31 more problems are not listed here."
    assert all(is_printable(text) and len(text) <= 2_000 for problem in many for text in problem.values())


@pytest.mark.parametrize("given", [None, "x", {"sentence": "x"}, [1, None, "x"], [{}], [{"remedy": "x"}]])
def test_what_is_no_problem_is_none(given: Any) -> None:
    assert bounded(given) == []


def test_a_problem_is_said_once() -> None:
    assert bounded([{"sentence": "x"}, {"sentence": "x", "remedy": ""}]) == [{"sentence": "x", "remedy": ""}]


def test_rules_are_named() -> None:
    assert named(["preflight.services", "preflight.database"]) == "2 problems: services, database."
    assert (named(["preflight.services"]), named([])) == ("1 problem: services.", "")


UPGRADED = [*closed("upgrade", "passed"), *closed("verify", "passed"), *closed("run", "passed")]
NOT_REHEARSED = proof("rehearse.upgrade", "inconclusive", detail="Not rehearsed: Alembic runs on the target itself.")


@pytest.mark.parametrize(
    ("events", "warnings"),
    [
        ([*closed("rehearse", "skipped", message="Not rehearsed (off)."), *UPGRADED], ["Not rehearsed (off)."]),
        (
            [*closed("rehearse", "passed", proofs=[NOT_REHEARSED]), *UPGRADED],
            ["The release was not rehearsed. Not rehearsed: Alembic runs on the target itself."],
        ),
        ([*closed("rehearse", "passed", proofs=[proof("rehearse.upgrade")]), *UPGRADED], []),
        (closed("rehearse", "skipped", message="Not rehearsed (off)."), []),
    ],
    ids=["left out", "not possible for the release", "rehearsed", "nothing was changed"],
)
def test_a_run_that_changed_the_database_without_a_rehearsal_warns_of_it(
    events: list[Event], warnings: list[str]
) -> None:
    model = modelled(events)

    assert warnings_of(model) == warnings
    assert ("**Warning:**" in as_markdown(model)) == bool(warnings)


def test_a_claim_that_a_later_step_proved_is_not_open() -> None:
    undecided = proof("backup.restorable", "inconclusive", detail="Not restored.", remedy="Restore it.")
    proved: Any = modelled(
        [
            *closed("backup", "passed", proofs=[undecided]),
            *closed("rehearse", "passed", proofs=[proof("backup.restorable")]),
            *UPGRADED,
        ]
    )
    assert open_points_of({**proved, "succeeded": True}) == []
