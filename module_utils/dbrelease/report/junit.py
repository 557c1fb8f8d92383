"""The evidence as JUnit: a suite for each stage, a case for each claim; an inconclusive claim is a skipped case."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from ..core.plain_text import printable
from .model import Model, StageRecord

# Characters that XML 1.0 forbids, even escaped.
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
RESULTS = ("failure", "error", "skipped")
BAD = ("failed", "refused", "interrupted")


def as_junit(model: Model) -> str:
    """The whole document."""
    run = model["run"]
    root = ElementTree.Element("testsuites", name=xml(f"{run['release']} {run['environment']} {run['run_id']}"))
    seen: set[str] = set()
    for stage in model["stages"]:
        if stage["step"] not in seen:  # a step that ran twice is one suite
            seen.add(stage["step"])
            root.append(_suite(model, stage["step"]))
    if not model["succeeded"] and not root.findall(".//failure") and not root.findall(".//error"):
        root.append(_outcome(model))
    _count(root, [case for suite in root for case in suite])
    root.set("time", _seconds(model["duration_ms"]))
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def xml(value: object) -> str:
    """Data as visible characters that XML allows."""
    return NOT_XML.sub("", printable(str(value), lines=True))


def _suite(model: Model, step: str) -> ElementTree.Element:
    stages = [stage for stage in model["stages"] if stage["step"] == step]
    suite = ElementTree.Element("testsuite", name=xml(step))
    if stages[0]["started_at"]:
        suite.set("timestamp", xml(stages[0]["started_at"]))
    proofs = [proof for proof in model["proofs"] if proof["step"] == step]
    for proof in proofs:
        suite.append(_case(proof))
    if not any(proof["status"] == "fail" for proof in proofs):
        for stage in stages:
            if stage["status"] in BAD:
                suite.append(_stage_error(stage))
    _count(suite, list(suite))
    suite.set("time", _seconds(sum(stage["duration_ms"] or 0 for stage in stages)))
    return suite


def _case(proof: Mapping[str, Any]) -> ElementTree.Element:
    step, name = xml(proof["step"]), xml(f"{proof['name']}: {proof['title']}")
    case = ElementTree.Element("testcase", classname=step, name=name, time=_seconds(proof["duration_ms"]))
    message = xml(f"{proof['detail']} {proof['remedy']}".strip())
    if proof["status"] == "fail":
        ElementTree.SubElement(case, "failure", message=message).text = xml(_account(proof))
    elif proof["status"] != "pass":
        ElementTree.SubElement(case, "skipped", message=f"{proof['status']}: {message}")
    return case


def _account(proof: Mapping[str, Any]) -> str:
    """The details of a failure: expected, observed, some rows, the SQL."""
    lines = [f"{key}: {json.dumps(proof[key], ensure_ascii=False)}" for key in ("expected", "observed")]
    lines += [json.dumps(row, ensure_ascii=False) for row in proof["sample"]]
    return "\n".join([*lines, proof["sql"]])


def _stage_error(stage: StageRecord) -> ElementTree.Element:
    """A stage that failed without a failed claim."""
    case = ElementTree.Element("testcase", classname=xml(stage["step"]), name="the step ends", time="0.000")
    message = stage["message"] or f"The step {stage['step']} {stage['status']} without a message."
    if stage["status"] == "interrupted":
        message = f"The step {stage['step']} started at {stage['started_at']} and did not end."
    ElementTree.SubElement(case, "error", message=xml(message))
    return case


def _outcome(model: Model) -> ElementTree.Element:
    """A run that failed outside its stages is an error, too."""
    suite = ElementTree.Element("testsuite", name="outcome")
    case = ElementTree.SubElement(
        suite, "testcase", classname="outcome", name="the run ends as requested", time="0.000"
    )
    ElementTree.SubElement(case, "error", message=xml(model["headline"]))
    _count(suite, [case])
    suite.set("time", "0.000")
    return suite


def _count(element: ElementTree.Element, cases: list[ElementTree.Element]) -> None:
    element.set("tests", str(len(cases)))
    for attribute, tag in zip(("failures", "errors", "skipped"), RESULTS, strict=True):
        element.set(attribute, str(sum(case.find(tag) is not None for case in cases)))


def _seconds(milliseconds: int | None) -> str:
    return f"{(milliseconds or 0) / 1000:.3f}"
