"""evidence: a row of the table is a journal, and what it must come to; every model is valid against the schema."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import evidence
import jsonschema
import pytest
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Journal, Run
from ansible.module_utils.dbrelease.core.markdown import block, code, duration, text
from ansible.module_utils.dbrelease.core.proof import Proof
from ansible.module_utils.dbrelease.observe.observation import Lock, Observation, Statement
from ansible.module_utils.dbrelease.report import files as evidence_files
from ansible.module_utils.dbrelease.report.files import RENDERERS, as_json
from ansible.module_utils.dbrelease.report.junit import as_junit
from ansible.module_utils.dbrelease.report.markdown_report import as_markdown
from ansible.module_utils.dbrelease.report.model import Model, build, plain
from ansible.module_utils.dbrelease.rollback.back_to_baseline import NO_BASELINE
from ansible.module_utils.dbrelease.runs import holder
from ansible.module_utils.dbrelease.runs.claim import is_closed
from ansible.module_utils.dbrelease.runs.claim_file import path_in
from ansible.module_utils.dbrelease.runs.holder import claim
from evidence_lines import (
    CHECKED,
    DEPLOYED,
    FULL,
    NO_RESULT,
    READY,
    RED_CHECK,
    REFUSAL,
    RELEASE,
    RUN,
    SAMPLE,
    SCHEMA,
    UNVERIFIED,
    VALIDATOR,
    VERIFIED,
    WINDOW,
    Event,
    closed,
    hostile,
    lines_of,
    proof,
)
from markdown_it import MarkdownIt
from module_process import module_of

PLAYBOOK: Event = ("playbook", "failed", {"task": "migrate : Copy", "message": "no such\ncontainer"})


def parsed(document: str | bytes) -> ElementTree.Element:
    return ElementTree.fromstring(document)


@pytest.fixture
def run(run_parameters: dict[str, Any]) -> Run:
    return Run(**run_parameters)


Make = Callable[..., Model]


@pytest.fixture
def make(run: Run) -> Make:
    """Builds a model, and holds it to the schema."""

    def make(events: list[Event], release: dict[str, Any] | None = None, **options: Any) -> Model:
        asked = options.pop("asked", ["deployed", "already_deployed"])
        options = {"written": () if options.get("check_mode") else tuple(RENDERERS), **options}
        model = build(run, release or RELEASE, lines_of(events, run), asked=asked, **options)
        VALIDATOR.validate(json.loads(as_json(model)))
        for render in RENDERERS.values():
            assert render(model)
        return model

    return make


OUTCOMES: list[tuple[str, list[Event], str, str]] = [
    ("deployed", FULL, "deployed", "was deployed and verified"),
    ("already deployed", [*RUN, *DEPLOYED, *VERIFIED], "already_deployed", "deployed already"),
    (
        "what an interrupted run had begun",
        [*RUN, *closed("preflight", state="unfinished"), *closed("upgrade", "skipped"), *VERIFIED],
        "deployed",
        "was deployed and verified",
    ),
    (
        "what an interrupted run had begun, and is red",
        [*RUN, *closed("preflight", state="unfinished"), *closed("finalize", "refused", message="No."), PLAYBOOK],
        "failed",
        "The step finalize failed: No.",
    ),
    (
        "what an interrupted reconcile had begun",
        [*RUN, *DEPLOYED, *closed("reconcile", state="deployed", repaired=["validated a"]), *VERIFIED],
        "already_deployed",
        "is deployed: validated a, and it was verified",
    ),
    (
        "another run holds the target",
        [*RUN, ("claim", "refused", {"message": "Held by run x."}), PLAYBOOK],
        "refused",
        "the database was not changed: Held by run x.",
    ),
    ("verify alone", [*RUN, *VERIFIED], "already_deployed", "not changed."),
    (
        "what the application wrote since",
        [*RUN, *closed("checks", proofs=[proof("checks.a", "inconclusive"), proof("checks.b")]), *closed("verify")],
        "already_deployed",
        "not changed; 1 of its checks shows drift, which reconcile repairs.",
    ),
    (
        "an upgrade that had nothing to do",
        [*RUN, *DEPLOYED, *closed("upgrade", attempts=0), *VERIFIED],
        "already_deployed",
        "deployed already",
    ),
    (
        "preflight red",
        [*RUN, *REFUSAL],
        "refused",
        "“Claim preflight.services” failed: db is stopped. Start it. (1 more claim",
    ),
    ("preflight refused", [*RUN, *closed("preflight", "refused", message="Two heads.")], "refused", "Two heads."),
    ("preflight red, as Ansible saw it", [*RUN, *REFUSAL, PLAYBOOK], "refused", "db is stopped"),
    (
        "preflight could not look",
        [*RUN, *closed("preflight", "failed", message="Wrong password.")],
        "failed",
        "Wrong pass",
    ),
    ("upgrade refused", [*RUN, *READY, *closed("upgrade", "refused", message="At ccc.")], "refused", "At ccc."),
    (
        "finalize refused after upgrade",
        [*FULL[:9], *closed("finalize", "refused", message="No.")],
        "failed",
        "finalize",
    ),
    (
        "backup failed",
        [*RUN, *READY, *closed("backup", "failed", message="No room.")],
        "failed",
        "step backup failed: No",
    ),
    (
        "verification red",
        [*FULL[:11], *UNVERIFIED, PLAYBOOK],
        "failed",
        "The step checks failed: “Claim checks.counts” failed: 2",
    ),
    ("red claim in a passed step", [*RUN, *closed("checks", proofs=[proof("checks.x", "fail")])], "failed", "checks"),
    (
        "interrupted",
        [*RUN, *READY, ("upgrade", "started", {})],
        "failed",
        "The step upgrade was interrupted: it began at",
    ),
    ("interrupted, as Ansible saw it", [*RUN, ("backup", "started", {}), PLAYBOOK], "failed", "no such container"),
    (
        "its module was killed",
        [*RUN, ("backup", "started", {}), ("playbook", "failed", {"task": "Dump", "message": NO_RESULT})],
        "failed",
        "never ended (its module ended without a result, as a killed process does): rerun the playbook, which settles",
    ),
    (
        "its module was killed, and it may not be taken back",
        [
            *RUN,
            ("checks", "started", {}),
            ("playbook", "failed", {"task": "Verify", "message": NO_RESULT}),
            ("guards", "started", {}),
            ("guards", "refused", {"message": "1 row would be lost."}),
            ("hold", "passed", {"message": "the release stays as it is."}),
        ],
        "failed",
        "rerun the playbook, which settles what it left. Held: the release stays as it is.",
    ),
    ("failed, then interrupted", [*RUN, *RED_CHECK, ("api", "started", {})], "failed", "The step checks failed"),
    ("interrupted in the inner step", [*RUN, ("a", "started", {}), ("b", "started", {})], "failed", "The step b was"),
    (
        "outside of every step",
        [*RUN, *READY, PLAYBOOK],
        "failed",
        "The task “migrate : Copy” failed: no such container",
    ),
    ("upgraded, and not verified", FULL[:11], "failed", "the upgrade passed, and was not verified"),
    ("nothing but preflight", [*RUN, *READY], "failed", "Nothing was proved"),
    ("nothing at all", RUN, "failed", "Nothing was proved"),
    ("no journal", [], "failed", "Nothing was proved"),
    ("a skipped step", [*FULL, ("api", "skipped", {"message": "no API declared"})], "deployed", "was deployed"),
    (
        "rolled back",
        [*FULL[:11], *UNVERIFIED, *closed("rolled_back")],
        "rolled_back",
        "was rolled back: “Claim checks.counts” failed",
    ),
    (
        "rolled back on demand",
        [*RUN, *closed("downgrade"), *closed("rolled_back")],
        "rolled_back",
        "was rolled back.",
    ),
    (
        "nothing to roll back",
        [*RUN, *closed("guards"), *closed("as_before", proofs=[proof("restored.catalog")]), *closed("rolled_back")],
        "rolled_back",
        "nothing to roll back; the database was compared with its baseline",
    ),
    (
        "nothing to roll back, nor to compare with",
        [*RUN, *closed("guards"), *closed("as_before", proofs=[NO_BASELINE.as_dict()]), *closed("rolled_back")],
        "rolled_back",
        "nothing to roll back; the database was not changed. There is no baseline here to compare it with.",
    ),
    (
        "guards refused",
        [
            *RUN,
            *closed("guards", "refused", message="1) A. 2) B.", proofs=[proof("guard.a", "fail")]),
            ("playbook", "failed", {"task": "Refuse", "message": "1) A. 2) B."}),
        ],
        "refused",
        "the database was not changed: 1) A. 2) B.",
    ),
    (
        "held",
        [*FULL[:11], *UNVERIFIED, PLAYBOOK, ("hold", "passed", {"message": "ask first."})],
        "failed",
        "2 rows are missing. Copy them. Held: ask first.",
    ),
    ("restored", [*RUN, *closed("restore.swap"), *closed("restored")], "restored", "restored from the backup."),
    ("nothing to restore", [*RUN, *closed("restored")], "restored", "nothing to restore, and it was not changed."),
    (
        "reconciled",
        [*RUN, *closed("reconcile", state="deployed", repaired=["rebuilt a"]), *VERIFIED],
        "already_deployed",
        "is deployed: rebuilt a, and it was verified.",
    ),
    ("reconciled, not verified", [*RUN, *closed("reconcile", state="deployed", repaired=[])], "failed", "Nothing was"),
    (
        "watched alone",
        [*RUN, ("monitor", "started", {}), ("sample", "failed", SAMPLE), *closed("monitor", window=WINDOW)[1:]],
        "already_deployed",
        "was watched, and kept its limits",
    ),
    (
        "deployed, and the watch failed",
        [*FULL, *closed("monitor", "failed", proofs=[proof("monitor.latency", "fail", detail="Too slow.")])],
        "failed",
        "The step monitor failed: “Claim monitor.latency” failed: Too slow.",
    ),
    ("ready", [*RUN, *closed("readiness")], "already_deployed", "Ready: "),
    (
        "not ready",
        [*RUN, *closed("readiness", "refused", message="1) No backup.", proofs=[proof("readiness.backup", "fail")])],
        "refused",
        "Not ready to go on from Items of orders on test: 1) No backup.",
    ),
    ("roll-back, then failed", [*RUN, *closed("rolled_back"), *RED_CHECK], "failed", "The step checks failed"),
]


@pytest.mark.parametrize(("_", "events", "outcome", "words"), OUTCOMES, ids=[row[0] for row in OUTCOMES])
def test_outcome(make: Make, _: str, events: list[Event], outcome: str, words: str) -> None:
    model = make(events)
    assert (model["outcome"], words in model["headline"]) == (outcome, True), model["headline"]
    assert model["succeeded"] == (outcome in ("deployed", "already_deployed"))
    assert "\n" not in model["headline"]


@pytest.mark.parametrize(("_", "events", "outcome", "words"), OUTCOMES, ids=[row[0] for row in OUTCOMES])
def test_every_report_says_it(make: Make, _: str, events: list[Event], outcome: str, words: str) -> None:
    model = make(events)
    report = as_markdown(model)
    assert report.startswith("# ") and outcome in report
    assert [line for line in report.splitlines() if line.startswith("**")] == [f"**{text(model['headline'])}**"]
    suites = parsed(as_junit(model))
    red = int(suites.get("failures", "")) + int(suites.get("errors", ""))
    assert (red == 0) == model["succeeded"]
    assert int(suites.get("tests", "")) == len(suites.findall("./testsuite/testcase")) > 0


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ([], "planned"),
        ([*READY], "planned"),
        ([*DEPLOYED, *VERIFIED], "planned"),
        ([*REFUSAL], "refused"),
        ([*DEPLOYED, *UNVERIFIED], "failed"),
        ([PLAYBOOK], "failed"),
    ],
)
def test_check_mode_plans_unless_something_is_red(make: Make, events: list[Event], outcome: str) -> None:
    model = make(events, check_mode=True)
    assert (model["outcome"], model["succeeded"]) == (outcome, outcome == "planned")


@pytest.mark.parametrize("given", [{}, None, {"task": "", "message": ""}, {"task": None, "message": None}])
def test_an_empty_failure_is_none(make: Make, given: Any) -> None:
    assert make(FULL, failure=given)["outcome"] == "deployed"


def test_an_outcome_that_was_not_requested_is_no_success(make: Make) -> None:
    model = make(FULL, asked=["already_deployed"])
    assert (model["outcome"], model["succeeded"]) == ("deployed", False)


def checklist(model: Model) -> dict[str, str]:
    return {item["item"]: item["status"] for item in model["checklist"]}


def test_checklist_of_a_deployed_release(make: Make) -> None:
    assert checklist(make(FULL)) == {
        "Services running": "proved",
        "Backup saved": "proved",
        "Counts match": "proved",
        "API works": "proved",
        "Logs quiet": "not_seen",
        "Notes recorded": "proved",
    }


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ({}, "not_seen"),
        ({"api.a": "pass"}, "proved"),
        ({"api.a": "pass", "api.b": "inconclusive"}, "proved"),
        ({"api.a": "pass", "api.b": "fail"}, "failed"),
        ({"api.a": "skipped"}, "inconclusive"),
        ({"api.a": "inconclusive"}, "inconclusive"),
        ({"apixa": "pass", "preflight.api.a": "pass"}, "not_seen"),
    ],
)
def test_checklist_item(make: Make, statuses: dict[str, str], verdict: str) -> None:
    model = make([*RUN, *closed("api", proofs=[proof(name, status) for name, status in statuses.items()])])
    assert checklist(model)["API works"] == verdict


def test_an_item_needs_every_pattern(make: Make) -> None:
    model = make([*RUN, *closed("backup", proofs=[proof("backup.saved")])])
    assert checklist(model)["Backup saved"] == "inconclusive"


def test_many_claims_and_samples_take_work_in_proportion(run: Run) -> None:
    claims = [proof(f"checks.{number}") for number in range(4_000)]
    samples: list[Event] = [("sample", "passed", {**SAMPLE, "number": number}) for number in range(3_000)]
    events = [*RUN, *closed("checks", proofs=claims), ("monitor", "started", {}), *samples]
    begun = time.process_time()
    model = build(run, RELEASE, lines_of(events, run), asked=["deployed"])
    assert len(model["proofs"]) == len(claims)
    assert time.process_time() - begun < 5  # in proportion to their square it takes more than ten times as long


def test_claims_that_a_gate_repeats_are_there_once(make: Make) -> None:
    model = make([*RUN, *CHECKED, *closed("verify", proofs=CHECKED[1][2]["proofs"])])
    assert [one["step"] for one in model["proofs"]] == ["checks", "report"]


def test_the_same_keys_always(make: Make) -> None:
    assert list(make([])) == list(make(FULL)) == list(SCHEMA["properties"])


def test_what_the_run_left(make: Make) -> None:
    model = make(FULL)
    assert model["baseline"] and model["backup"] and model["migration"]
    assert model["baseline"]["tables"] == [{"table": "public.orders", "rows": 3, "fingerprint": "f00"}]
    assert model["backup"]["decoded"] is True
    assert (model["migration"]["attempts"], model["migration"]["lock_waits"][0]["pid"]) == (2, 4)
    assert model["api"]["after"]["orders"]["count"] == 3
    assert {"/srv/a.dump", "/srv/m.log", "/srv/p.json"} < {file["path"] for file in model["files"]}
    assert (model["started_at"], model["duration_ms"]) == ("2026-01-02T03:00:00.000+00:00", 15000)


@pytest.mark.parametrize("event", ["passed", "failed"])
def test_the_advice_of_a_rehearsal_is_shown_and_decides_nothing(make: Make, event: str) -> None:
    said = "squawk 2.70.0 (advice only): ban-drop-column (“ALTER TABLE a DROP b;”): Dropping a column breaks clients."
    assert make(FULL)["rehearsal"] is None
    model = make([*RUN, *closed("rehearse", event, advice=[said], proofs=[])])
    assert model["rehearsal"] == {"advice": [said]}
    assert model["counts"] == make([*RUN, *closed("rehearse", event, proofs=[])])["counts"]
    assert "ban-drop-column" in as_markdown(model)


def test_samples_are_series_and_no_stages(make: Make) -> None:
    quiet = {"taken_at": "2026-01-02T03:04:35.000000000Z", "verdict": "pass"}
    events = [*RUN, ("monitor", "started", {}), ("sample", "failed", SAMPLE), ("sample", "passed", quiet)]
    model = make([*events, *closed("monitor", window=WINDOW)[1:]])
    assert [stage["step"] for stage in model["stages"] if stage["step"] != "report"] == ["monitor"]
    monitoring = model["monitoring"]
    assert monitoring is not None and monitoring["window"] == WINDOW
    first, second = monitoring["samples"]
    assert (first["errors"], first["queue_depth"], first["dead_rows"]) == ({"app_log": 1}, 4, {"items": 1})
    assert first["bloat_bytes"] == {"items": 96}
    assert first["findings"] == ["1 error."] and first["replication"] is None
    assert second["verdict"] == "pass" and second["latency_ms"] == {}
    assert make([*RUN, *closed("verify")])["monitoring"] is None


@pytest.mark.parametrize(
    ("events", "earlier"),
    [
        (closed("readiness", "refused", message="1) No backup."), ["pass", "fail"]),
        ([("monitor", "started", {}), ("sample", "failed", SAMPLE)], ["pass", "fail"]),
        ([("sample", "failed", SAMPLE)], []),
    ],
    ids=["it asks how it was", "it watches", "it does neither"],
)
def test_what_other_runs_observed_since_the_deployment_is_shown(
    run: Run, events: list[Event], earlier: list[str]
) -> None:
    other = replace(run, run_id="20260101T000000Z-000001")
    seen = [
        {"taken_at": f"2026-01-01T0{hour}:00:00Z", "verdict": verdict}
        for hour, verdict in enumerate(("fail", "pass", "fail"))
    ]
    before: list[Event] = [("sample", "passed", seen[0]), *closed("upgrade", attempts=1)]
    lines = [
        *lines_of([*before, *(("sample", "passed", one) for one in seen[1:])], other),
        *lines_of([*RUN, *events], run),
    ]
    model = build(run, RELEASE, lines, asked=["already_deployed"])
    assert model["monitoring"] is not None
    assert [sample["verdict"] for sample in model["monitoring"]["earlier"]] == earlier
    assert bool(model["ways_back"]) == bool(earlier)


def test_stages_are_timed(make: Make) -> None:
    stages = {stage["step"]: stage for stage in make([*FULL, ("x", "started", {})])["stages"]}
    assert (stages["upgrade"]["status"], stages["upgrade"]["duration_ms"]) == ("passed", 1000)
    assert (stages["x"]["status"], stages["x"]["duration_ms"]) == ("interrupted", None)


WAYS = [
    ("deployed", FULL, 2),
    ("already deployed", [*RUN, *DEPLOYED, *VERIFIED], 2),
    ("rolled back", [*FULL[:11], *UNVERIFIED, *closed("rolled_back")], 0),
    ("refused", [*RUN, *REFUSAL], 0),
    ("failed before the upgrade", [*RUN, *READY, *closed("backup", "failed", message="No room.")], 0),
    ("failed verification", [*FULL[:11], *UNVERIFIED], 2),
    ("release found amiss", [*RUN, *UNVERIFIED], 2),
    ("upgrade interrupted", [*RUN, *READY, ("upgrade", "started", {})], 2),
]


@pytest.mark.parametrize(("_", "events", "number"), WAYS, ids=[row[0] for row in WAYS])
def test_ways_back_only_where_there_is_something_to_take_back(
    make: Make, _: str, events: list[Event], number: int
) -> None:
    model = make(events)
    report = as_markdown(model)
    assert len(model["ways_back"]) == number
    assert ("## The way back" in report) == (not model["succeeded"] or number > 0)
    if number:
        assert "ansible-playbook rollback.yml -i test -e '{\"a\": {}}'" in report.splitlines()
    elif model["outcome"] != "rolled_back":
        assert "did not start to change the database" in report


def test_an_earlier_deployment_is_named(run: Run) -> None:
    other = Run("20260101T000000Z-000000", run.release, run.environment, "deploy", run.state_dir)
    lines = [
        *lines_of([("run", "passed", {"outcome": "deployed"})], other),
        *lines_of([*RUN, *DEPLOYED, *VERIFIED], run),
    ]
    model = build(run, RELEASE, lines, asked=["already_deployed"])
    assert model["deployed_earlier"] == {"run_id": other.run_id, "at": "2026-01-02T03:00:00.000+00:00"}
    assert other.run_id in as_markdown(model)


def test_lines_of_other_runs_prove_nothing(run: Run) -> None:
    other = Run("20260101T000000Z-000000", run.release, run.environment, "deploy", run.state_dir)
    model = build(run, RELEASE, lines_of(FULL, other), asked=["deployed"])
    assert (model["outcome"], model["proofs"], model["stages"]) == ("failed", [], [])


def test_a_release_with_little_in_it(make: Make) -> None:
    model = make(FULL, release={"title": "Small"})
    assert model["release"]["to_revision"] is None
    assert "The release declares no checklist." in as_markdown(model)


def test_hostile_data_becomes_no_html_and_breaks_no_table(make: Make) -> None:
    events, release = hostile()
    report = as_markdown(make(events, release))
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(report)
    inline = [child for token in tokens for child in token.children or []]
    kinds = {token.type for token in [*tokens, *inline]}
    assert not kinds & {"html_block", "html_inline", "link_open", "image"}
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", report)
    for opened in (place for place, token in enumerate(tokens) if token.type == "tr_open"):
        end = next(place for place in range(opened, len(tokens)) if tokens[place].type == "tr_close")
        cells = sum(token.type in ("th_open", "td_open") for token in tokens[opened:end])
        table = max(place for place in range(opened) if tokens[place].type == "table_open")
        head = next(place for place in range(table, len(tokens)) if tokens[place].type == "tr_close")
        assert cells == sum(token.type == "th_open" for token in tokens[table:head])
    assert "<script" in "".join(token.content for token in tokens if token.type == "fence"), "SQL is shown as it is"
    sections = [
        tokens[place + 1].content for place, token in enumerate(tokens) if token.tag == "h2" and token.nesting == 1
    ]
    assert sections == [
        "The way back",
        "Checklist",
        "Timeline",
        "Advice on the migration",
        "Migration",
        "Before the release",
        "Claims",
        "Files on the target",
    ]


def test_hostile_data_keeps_junit_and_json_whole(make: Make, tmp_path: Path) -> None:
    events, release = hostile()
    model = make(events, release)
    document = as_junit(model).encode("utf-8", "strict")
    suites = parsed(document)
    assert [suite.get("name") for suite in suites][1] == "upgrade"
    assert suites.find(".//error") is not None and suites.find(".//failure") is not None
    message = str(suites.find(".//failure").get("message"))  # type: ignore[union-attr]
    assert "<script>alert(1)</script>" in message and "🧾" in message and "\x1b" not in message
    assert json.loads(as_json(model).encode("utf-8", "replace"))["outcome"] == "failed"


def test_junit_has_a_suite_a_stage_and_a_case_a_claim(make: Make) -> None:
    model = make([*FULL[:11], *UNVERIFIED])
    suites = {suite.get("name"): suite for suite in parsed(as_junit(model))}
    assert list(suites) == [
        "preflight",
        "baseline",
        "backup",
        "upgrade",
        "finalize",
        "checks",
        "api",
        "verify",
        "report",
    ]
    failure = suites["checks"].find("testcase/failure")
    assert failure is not None and failure.get("message") == "2 rows are missing. Copy them."
    assert '{"id": 1}' in (failure.text or "")
    skipped = suites["api"].find("testcase/skipped")
    assert skipped is not None and str(skipped.get("message")).startswith("skipped")
    assert suites["verify"].find("testcase/error") is not None


def test_markdown_pieces() -> None:
    assert text("a|b\n`c` <i> &lt; 5 & 6") == "a|b \\`c\\` &lt;i> &amp;lt; 5 & 6"
    assert text(None) == ""
    assert (code("x"), code("a`b"), code({"a": 1}), code("")) == ("`x`", "`` a`b ``", '`{"a": 1}`', "` `")
    assert len(code("y" * 1000)) < 450
    assert block("a\n```\nb")[1:] == ["````", "a\n```\nb", "````"]
    assert [duration(n) for n in (None, 5, 1500, 125_000)] == ["", "5 ms", "1.5 s", "2 min 5 s"]


def test_plain_leaves_json_only() -> None:
    assert plain({1: (float("inf"), Path("/a"), True, None)}) == {"1": ["inf", "/a", True, None]}


def objects(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [found for item in schema for found in objects(item)]
    if not isinstance(schema, dict):
        return []
    return [*([schema] if "properties" in schema else []), *objects(list(schema.values()))]


def test_schema_is_valid_closed_and_documented() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    found = objects(SCHEMA)
    assert len(found) > 15
    for schema in found:
        assert schema["additionalProperties"] is False
        assert set(schema["required"]) == set(schema["properties"])
        assert all(value.get("description") for value in schema["properties"].values())


# The module: files and closing lines on a real file system.

Call = Callable[..., dict[str, Any]]
BROUGHT: dict[str, Any] = {
    "left_out": {},
    "artifacts": "/nowhere",
    "templates": "/nowhere",
}  # the action plugin's, on the controller


@pytest.fixture
def call(run_parameters: dict[str, Any]) -> Call:
    def call(check_mode: bool = False, **given: Any) -> dict[str, Any]:
        options = {**BROUGHT, "asked": ["deployed"], "events": [], "failure": {}, "release": RELEASE, **given}
        return evidence.act({"run": run_parameters, **options}, check_mode)

    return call


@pytest.fixture
def journal(run: Run) -> Journal:
    journal = Journal(run)
    for step, event, facts in FULL:
        journal.append(step, event, facts)  # type: ignore[arg-type]
    return journal


def test_files_are_whole_private_and_valid(call: Call, journal: Journal, run: Run) -> None:
    result = call()
    assert (result["changed"], result["outcome"], result["succeeded"]) == (True, "deployed", True)
    assert result["files"] == ["evidence.json", "report.md", "junit.xml"]
    assert sorted(path.name for path in run.directory.iterdir()) == sorted(result["files"]), "no temporary file is left"
    assert {path.stat().st_mode & 0o777 for path in run.directory.iterdir()} == {0o600}
    assert result["texts"] == {path.name: path.read_text(encoding="utf-8") for path in run.directory.iterdir()}
    assert run.directory.stat().st_mode & 0o777 == run.directory.parent.stat().st_mode & 0o777 == 0o700
    VALIDATOR.validate(json.loads((run.directory / "evidence.json").read_text()))


def test_the_run_is_closed_in_the_journal(call: Call, journal: Journal) -> None:
    result = call()
    lines = journal.read()[-3:]
    assert [(line["step"], line["event"]) for line in lines] == [
        ("report", "started"),
        ("report", "passed"),
        ("run", "passed"),
    ]
    assert lines[-1]["facts"]["outcome"] == "deployed" and lines[-1]["facts"]["headline"] == result["headline"]


def test_what_is_left_out_is_said_once(call: Call, journal: Journal) -> None:
    for _ in range(2):
        call(left_out={"notify": "Nobody is named."})
    (line,) = [line for line in journal.read() if line["step"] == "notify"]
    assert (line["event"], line["facts"]) == ("skipped", {"message": "Nobody is named."})


def test_again_nothing_is_written(call: Call, journal: Journal) -> None:
    first = call()
    before = journal.path.read_bytes()
    second = call()
    assert second == {**first, "changed": False}
    assert journal.path.read_bytes() == before


def test_a_run_that_went_on_gets_new_evidence(call: Call, journal: Journal) -> None:
    call()
    journal.append("api", "failed", {"message": "down"})
    again = call()
    assert (again["changed"], again["outcome"]) == (True, "failed")
    assert journal.read()[-1]["event"] == "failed"


@pytest.mark.parametrize(("events", "event"), [(REFUSAL, "refused"), (RED_CHECK, "failed"), ([], "failed")])
def test_a_bad_end_is_journaled_as_such(call: Call, run: Run, events: list[Event], event: str) -> None:
    journal = Journal(run)
    for step, what, facts in events:
        journal.append(step, what, facts)  # type: ignore[arg-type]
    assert call()["succeeded"] is False
    assert (journal.read()[-1]["step"], journal.read()[-1]["event"]) == ("run", event)


def test_a_torn_journal_is_read(call: Call, journal: Journal) -> None:
    with journal.path.open("a") as file:
        file.write('{"step": "api", "event": "pas')
    assert call()["outcome"] == "deployed"


def test_check_mode_writes_nothing(call: Call, run: Run) -> None:
    result = call(check_mode=True, events=[{"step": "preflight", "event": "passed", "facts": {}}])
    assert (result["outcome"], result["succeeded"], result["changed"]) == ("planned", True, False)
    assert not Path(run.state_dir).exists()


def test_check_mode_refuses_by_the_events_it_is_given(call: Call) -> None:
    step, event, facts = REFUSAL[1]
    result = call(check_mode=True, events=[{"step": step, "event": event, "facts": facts}])
    assert (result["outcome"], result["succeeded"]) == ("refused", False)
    assert "db is stopped" in result["headline"]


def test_a_step_that_the_journal_has_is_not_taken_twice(call: Call, run: Run) -> None:
    step, event, facts = REFUSAL[1]
    given = [{"step": step, "event": event, "facts": facts}]
    first = call(events=given)
    assert (first["outcome"], len(first["problems"])) == ("refused", 2)
    Journal(run).append(step, event, {**facts, "proofs": [{**facts["proofs"][0], "detail": "It is in the journal."}]})  # type: ignore[arg-type]
    (problem,) = call(events=given)["problems"]
    assert "It is in the journal." in problem["sentence"]


def test_same_keys_in_every_outcome(call: Call, journal: Journal) -> None:
    assert list(call(check_mode=True)) == list(call())


@pytest.mark.parametrize("writable", [True, False])
def test_the_target_is_given_back_in_every_outcome(call: Call, run: Run, writable: bool) -> None:
    assert not claim(run, {}).refused
    if not writable:
        (Path(run.state_dir) / "runs").write_text("a file where the folder should be")
    with nullcontext() if writable else pytest.raises(ReleaseError):
        call()
    assert not path_in(run.state_dir).exists()


def test_a_module_that_outlived_its_connection_is_ended_first(call: Call, run: Run) -> None:
    claim(run, {})
    with module_of(run) as module:
        result = call(failure={"task": "Upgrade", "message": "The connection was lost."})
        assert module.wait(5) == -signal.SIGTERM
    assert (result["outcome"], path_in(run.state_dir).exists()) == ("failed", False)
    assert result["headline"].startswith("The step upgrade was interrupted: it began at")


def test_where_such_a_module_does_not_end_the_run_stays_open(
    call: Call, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holder, "end", lambda *_: False)
    monkeypatch.setattr(holder, "IN_ORDER_S", 0.2)
    claim(run, {})
    with (
        module_of(run) as module,
        pytest.raises(ReleaseError, match=f"still running on the target, process {module.pid}"),
    ):
        call()
    assert not is_closed(Journal(run).read(), run.run_id)
    assert path_in(run.state_dir).exists()


def test_check_mode_gives_nothing_back(call: Call, run: Run) -> None:
    claim(run, {})
    call(check_mode=True)
    assert path_in(run.state_dir).exists()


def test_where_nothing_can_be_written_the_first_cause_is_reported(call: Call, run: Run) -> None:
    Path(run.state_dir).parent.mkdir(exist_ok=True)
    Path(run.state_dir).write_text("a file where the folder should be")
    with pytest.raises(ReleaseError) as raised:
        call(failure={"task": "Look", "message": "The state directory is a file."})
    assert "Result of the run: The task “Look” failed: The state directory is a file." in raised.value.message
    assert raised.value.facts["problems"] == [{"sentence": "The state directory is a file.", "remedy": ""}]


def test_where_the_folder_cannot_be_made_the_run_is_closed_as_failed(call: Call, journal: Journal, run: Run) -> None:
    run.directory.parent.write_text("in the way")
    with pytest.raises(ReleaseError, match=r"Writing .* failed .* Result of the run: .* was deployed"):
        call()
    assert [(line["step"], line["event"]) for line in journal.read()[-2:]] == [("report", "failed"), ("run", "failed")]


def test_a_failed_write_leaves_no_half_of_the_evidence(
    call: Call, journal: Journal, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evidence_files, "read_own", full)
    with pytest.raises(ReleaseError, match="make room"):
        call()
    assert list(run.directory.iterdir()) == []


def test_a_lone_surrogate_of_an_answer_is_reported(call: Call, journal: Journal, run: Run) -> None:
    proof = Proof(
        "api.orders.status", "Orders \ud800", "fail", observed={"k\udfff": ["a\ud83d"]}, detail="It is \udc80."
    )
    journal.append("api", "failed", {"message": "It is \udc80.", "proofs": [proof.as_dict()]})
    call()
    for name in ("evidence.json", "report.md", "junit.xml"):
        assert r"It is \udc80." in (run.directory / name).read_text(encoding="utf-8").replace(r"\\u", r"\u")


OBSERVED = Observation(
    2000.0,
    20.0,
    90,
    statements=(Statement(1, 1, "ALTER", "ALTER TABLE", 0, 5, locks=(Lock("public.items", "SHARE", 400.0),)),),
    statements_total=1,
    wal_bytes=2048,
    size_bytes=4096,
    probed=False,
)


@pytest.mark.parametrize("steps", [("rehearse",), ("upgrade", "finalize"), ("rehearse", "upgrade", "finalize")])
def test_the_forecast_and_the_actual_stand_side_by_side(make: Make, steps: Sequence[str]) -> None:
    observed = OBSERVED.as_dict()
    lines = [
        line for step in steps for line in closed(step, observation=observed, forecast=["Two seconds."], proofs=[])
    ]
    model = make([*RUN, *lines])
    cost = model["cost"]
    assert cost is not None
    assert (cost["forecast"] is not None, cost["actual"] is not None) == ("rehearse" in steps, "upgrade" in steps)
    shown = as_markdown(model)
    assert "## Forecast and actual" in shown
    if "upgrade" in steps:
        assert (cost["actual"]["duration_ms"], cost["actual"]["blocked_ms"]) == (4000, 400)
    both = {("rehearse",): ("2000 ms", "not observed"), ("upgrade", "finalize"): ("not rehearsed", "4000 ms")}
    forecast, actual = both.get(tuple(steps), ("2000 ms", "4000 ms"))
    assert f"| Duration | {forecast} | {actual} |" in shown
    assert ("- Two seconds." in shown) == ("rehearse" in steps)


def test_an_observation_that_cannot_be_read_is_none(make: Make) -> None:
    wrong = {**OBSERVED.as_dict(), "wal_bytes": "many"}
    assert make([*RUN, *closed("upgrade", observation=wrong, proofs=[])])["cost"] is None
