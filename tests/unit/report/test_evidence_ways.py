"""What the reports say of runs that take back, repair or look, and did not end as asked: a row is a journal."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from ansible.module_utils.dbrelease.core.journal import Run
from ansible.module_utils.dbrelease.report.files import RENDERERS, as_json
from ansible.module_utils.dbrelease.report.html import as_html
from ansible.module_utils.dbrelease.report.markdown_report import as_markdown
from ansible.module_utils.dbrelease.report.model import Model, build
from ansible.module_utils.dbrelease.report.next_actions import GONE, NONE_NAMED, NOTHING_BEGUN, is_of
from evidence_lines import RELEASE, RUN, VALIDATOR, Event, closed, lines_of
from reports import TEMPLATES
from runs_back import ALLOWED, BOTH, DOWNGRADED, LIVE, RESTORES, ROLLBACKS, SWAP_BACK, Case
from runs_beside import DEPLOYS, LOOKS, RECONCILES

CASES = [*ROLLBACKS, *RESTORES, *RECONCILES, *LOOKS, *DEPLOYS]
IDS = [f"{case.playbook}: {case.name}" for case in CASES]
ASKED = {
    "rollback": ["rolled_back"],
    "restore": ["restored"],
    "reconcile": ["already_deployed", "rolled_back"],
    "deploy": ["deployed", "already_deployed"],
}


@pytest.fixture
def run(run_parameters: dict[str, Any]) -> Run:
    return Run(**run_parameters)


def model_of(case: Case, run: Run, release: dict[str, Any] | None = None, **more: Any) -> Model:
    """The evidence of the case's run, after a deployment by another one where the journal has it."""
    run = replace(run, playbook=case.playbook)
    before = replace(run, run_id="20260101T000000Z-000001", playbook="deploy")
    lines = [*lines_of(case.earlier, before), *lines_of([*RUN, *case.events], run, start=100)]
    asked = ASKED.get(case.playbook, ["already_deployed"])
    model = build(run, release or RELEASE, lines, asked=asked, written=tuple(RENDERERS), **more)
    VALIDATOR.validate(json.loads(as_json(model)))
    return model


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_report_is_true(run: Run, case: Case) -> None:
    model = model_of(case, run)
    assert model["outcome"] == case.outcome, model["headline"]
    assert [way["title"] for way in model["ways_back"] if way["title"] in BOTH] == [
        way for way in case.ways if way in BOTH
    ]
    assert [way["command"] for way in model["ways_back"] if way["title"].startswith(LIVE[0])] == [SWAP_BACK][
        : LIVE[0] in case.ways
    ]
    page = as_html(model, TEMPLATES)
    for text in (as_markdown(model), " ".join(page.split())):
        plain = re.sub(r"\d+(</b>)? failed\b", "", text.replace("\\", ""))  # without the count of claims
        assert [one for one in case.says if one not in plain] == []
        assert [one for one in case.never if one in plain] == []
    assert (
        model["change_begun"]
        or "This run took no backup and changed nothing" in page
        or model["migration"]
        or model["backup"]
    )
    assert not (model["change_begun"] and "changed nothing" in page)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_there_is_a_way_back_or_a_true_reason_why_not(run: Run, case: Case) -> None:
    model, small = model_of(case, run), model_of(case, run, {"title": "Small"})
    begun = model["change_begun"]
    reason = (
        GONE
        if "rolled_back" in (case.outcome, *(step for step, _, _ in case.events))
        else NONE_NAMED
        if begun
        else NOTHING_BEGUN
    )
    if not small["succeeded"] and not small["ways_back"]:
        assert reason in as_markdown(small) and reason in as_html(small, TEMPLATES)


NOTHING = {"name": "a", "changed": False}
BEGUN: list[tuple[str, list[Event], bool]] = [
    ("upgraded", closed("upgrade", attempts=1), True),
    ("upgraded already", closed("upgrade", attempts=0), False),
    ("upgrade failed", closed("upgrade", "failed"), True),
    ("upgrade refused", closed("upgrade", "refused"), False),
    ("upgrade killed", [("upgrade", "started", {})], True),
    ("upgrade not needed", [("upgrade", "skipped", {})], False),
    ("upgrade without a look", [("upgrade", "failed", {})], False),
    ("finalized", closed("finalize", steps=[NOTHING, {"name": "b", "changed": True}]), True),
    ("nothing to finalize", closed("finalize", steps=[NOTHING]), False),
    ("finalize failed", closed("finalize", "failed", steps=[NOTHING]), True),
    ("downgraded", closed("downgrade", attempts=1), True),
    ("downgrade failed", closed("downgrade", "failed"), True),
    ("downgrade refused", closed("downgrade", "refused"), False),
    ("swapped", closed("restore.swap"), True),
    ("swap failed", closed("restore.swap", "failed"), True),
    ("copied, and no more", [*closed("restore.copy"), *closed("restore.services", "failed")], False),
    ("repaired", closed("reconcile", repaired=["a"]), True),
    ("repaired, and failed", closed("reconcile", "failed", repaired=["a"]), True),
    ("nothing to repair", closed("reconcile", repaired=[]), False),
    ("repair killed", [("reconcile", "started", {})], True),
    ("looked at", [*closed("guards"), *closed("checks", "failed"), *closed("monitor", "failed")], False),
]


@pytest.mark.parametrize(("_", "events", "begun"), BEGUN, ids=[row[0] for row in BEGUN])
def test_whether_a_run_began_to_change_the_database(run: Run, _: str, events: list[Event], begun: bool) -> None:
    assert model_of(Case("", "tests", events, "", [], []), run)["change_begun"] == begun


def test_check_mode_changes_nothing(run: Run) -> None:
    planned = Case("", "deploy", closed("finalize", steps=[{"name": "a", "changed": True}]), "planned", [], [])
    model = model_of(planned, run, check_mode=True)
    assert (model["outcome"], model["change_begun"], model["ways_back"]) == ("planned", False, [])


def test_a_rollback_reports_its_downgrade_as_a_deploy_does_of_its_upgrade(run: Run) -> None:
    model = model_of(Case("", "rollback", [*ALLOWED, *DOWNGRADED, *closed("rolled_back")], "rolled_back", [], []), run)
    assert model["migration"] is not None
    assert (model["migration"]["from_revision"], model["migration"]["attempts"]) == ("bbb", 1)
    assert "None: no other session blocked it." in as_html(model, TEMPLATES)


@pytest.mark.parametrize(
    ("command", "own"),
    [
        ("ansible-playbook rollback_8_1a.yml -i test", True),
        ("ansible-playbook playbooks/rollback.yml -e release=x", True),
        ("ansible-playbook rollbacks.yml -i test", False),
        ("ansible-playbook restore_8_1a.yml -i rollback -e 'reason=rollback'", False),
        ("make rollback", False),
    ],
)
def test_the_playbook_decides_whose_a_command_is(command: str, own: bool) -> None:
    assert is_of("rollback", command) == own
