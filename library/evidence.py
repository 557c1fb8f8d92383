#!/usr/bin/python
"""Write what a run proved, whatever came of it, and close the run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence
short_description: Write what a run proved, whatever its outcome, and close the run
description:
  - Makes one model of the journal's lines of a run and of the release, and renders it as C(evidence.json) (described by
    C(schemas/evidence.schema.json)), C(report.md) and C(junit.xml) in C(runs/<run_id>) of the state directory.
  - Then journals the step C(report), and closes the step C(run) with the outcome and the headline.
  - A run that failed, that was refused or that was killed is no failure of this module; it fails only if the evidence
    cannot be written, and then reports the result of the run nevertheless. The caller judges RV(succeeded).
  - If the same evidence already exists, it writes nothing.
  - An action plugin then writes the files to O(artifacts) on the controller, renders C(report.html) there (only the
    controller needs pygal and Jinja2), and copies it to the target. Where the page cannot be rendered, it warns.
  - Of these files only C(evidence.json), of at most 32 MiB, is the target's; the others are rendered from it. They are
    never written through a link. C(<environment>/.targets) there records the target of each run; an attempt
    to replace the evidence of another target fails.
  - A module of the run that is still running, for example after its connection was lost, is ended first in an orderly
    way; where it does not end, no evidence is written, and the run stays open.
  - In every outcome the run releases its claim on the target, if it has one.
extends_documentation_fragment: [run]
options:
  release:
    description:
      - The release. Its C(title), C(migration.from_revision), C(migration.to_revision), C(checklist) and C(ways_back)
        are used; all but the title may be missing.
    type: dict
    required: true
  asked:
    description: The outcomes with which the run succeeds; in check mode V(planned) is always one.
    type: list
    elements: str
    choices: [deployed, already_deployed, rolled_back, restored, planned, refused, failed]
    required: true
  events:
    description:
      - Lines of this run that may be missing from the journal, since nothing is written in check mode or where
        preflight refuses the journal. Each has C(step) and C(event), and may have C(facts) (C(proofs), C(message)) and
        C(ts).
      - Those of a step that the journal has are ignored.
    type: list
    elements: dict
    default: []
  failure:
    description:
      - The failure that Ansible reported, if any. It is the cause where the journal has none; empty values mean none.
    type: dict
    default: {}
    suboptions:
      task:
        description: Name of the task that failed.
        type: str
      message:
        description: Its message.
        type: str
  left_out:
    description: By journal step, why it was skipped; journalled once, so that the evidence reports it.
    type: dict
    default: {}
  swap_back_command:
    description:
      - The command that swaps a database back, with C({database}) for its name, as M(restored_database) has it. By
        default it is that of the role restore.
      - Of the ways back that a target names, the action keeps this one and those of O(release); it drops others with a
        warning.
    type: str
    default: ""
  artifacts:
    description: Folder on the controller; the files go to C(<environment>/<run_id>) in it.
    type: path
    required: true
  templates:
    description: Folder on the controller with C(report.html.j2), its parts and C(report.css).
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Nothing is written; the outcome is V(planned) unless something is red.
  diff_mode:
    support: none
    description: There is nothing to compare.
author: The authors of dbrelease
"""

EXAMPLES = r"""
- name: Gather the evidence
  evidence:
    run: "{{ run }}"
    release: "{{ release }}"
    asked: [deployed, already_deployed]
    artifacts: artifacts
    templates: roles/report/templates
  register: evidence

- name: Fail unless the outcome is good
  ansible.builtin.assert:
    that: evidence.succeeded
    fail_msg: "{{ evidence.headline }}"
"""

RETURN = r"""
changed:
  description: Whether a file was written.
  type: bool
  returned: always
outcome:
  description: V(deployed), V(already_deployed), V(rolled_back), V(restored), V(failed), V(refused) or V(planned).
  type: str
  returned: always
succeeded:
  description: Whether the outcome is a requested one.
  type: bool
  returned: always
headline:
  description: What happened in one sentence, the first cause first.
  type: str
  returned: always
summary:
  description: RV(headline) without its cause, which is the first of RV(problems).
  type: str
  returned: always
problems:
  description:
    - The problems that kept the run from success, those of the first cause first. Each has C(sentence), what was tried,
      on what and what happened, and C(remedy), what to do, which is empty where the sentence includes it.
    - At most 20, of at most 2,000 visible characters each; empty where nothing failed.
  type: list
  elements: dict
  returned: always
  sample: [{sentence: "The services run: cache is stopped.", remedy: "Start it, and rerun the playbook."}]
open_points:
  description:
    - What a successful run could not decide and somebody has to do, in the form of RV(problems), from each
      inconclusive claim that has a remedy. Of a release that failed and was taken back, those on what the way back
      left; empty after any other failure.
  type: list
  elements: dict
  returned: always
warnings:
  description: What the operator has left out of a run that changed the database, such as its rehearsal; else empty.
  type: list
  elements: str
  returned: always
report:
  description:
    - The report on the controller, C(report.html); where that could not be rendered, another file of the evidence. The
      action plugin sets it, and it is empty in check mode.
  type: str
  returned: always
run_id:
  description: The run of this evidence; the evidence of an interrupted run is written by the next one.
  type: str
  returned: always
directory:
  description: The folder of the files (in check mode, where they would be).
  type: str
  returned: always
files:
  description: Their names.
  type: list
  elements: str
  returned: always
  sample: [evidence.json, report.md, junit.xml]
texts:
  description: Their content, for the action plugin; not in the task's result.
  type: dict
  returned: never
counts:
  description: Number of claims by verdict, C(pass), C(fail), C(inconclusive) and C(skipped).
  type: dict
  returned: always
ways_back:
  description:
    - Commands of the ways back, each with C(title) and C(command), without the one that was just refused.
    - Empty where there is nothing to roll back.
  type: list
  elements: dict
  returned: always
proofs:
  description: The claim that the evidence was written, C(report.evidence); empty in check mode.
  type: list
  elements: dict
  returned: always
message:
  description: Empty, since RV(headline) reports a failed claim of the run.
  type: str
  returned: always
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.core.journal import Event, Journal, Run
from ansible.module_utils.dbrelease.core.options import RUN_OPTIONS, Options, run_of
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.report.files import RENDERERS, is_written, write_evidence
from ansible.module_utils.dbrelease.report.model import Model, build, evidence_proof
from ansible.module_utils.dbrelease.report.problems import open_points_of, problems_of, summary_of, warnings_of
from ansible.module_utils.dbrelease.runs.holder import alone, release

OUTCOMES = ["deployed", "already_deployed", "rolled_back", "restored", "planned", "refused", "failed"]
OPTIONS: Options = {
    **RUN_OPTIONS,
    "release": {"type": "dict", "required": True},
    "asked": {"type": "list", "elements": "str", "choices": OUTCOMES, "required": True},
    "events": {"type": "list", "elements": "dict", "default": []},
    "failure": {"type": "dict", "default": {}, "options": {"task": {"type": "str"}, "message": {"type": "str"}}},
    "left_out": {"type": "dict", "default": {}},
    "swap_back_command": {"type": "str", "default": ""},
    "artifacts": {"type": "path", "required": True},
    "templates": {"type": "path", "required": True},
}


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Build the model; write it and close the run, unless this is check mode."""
    # What another module of the run still did would not be in it.
    with nullcontext() if check_mode else alone(run_of(params)):
        return tell(params, check_mode)


def tell(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """The same, when nothing of the run works any more."""
    run = run_of(params)
    journal = Journal(run, dry=check_mode)
    model = model_of(params, check_mode, [])
    try:
        lines = say_what_is_left_out(journal, params["left_out"])
        model = model_of(params, check_mode, lines)
        changed = not check_mode and write_and_close(journal, model, lines)
    except ReleaseError as error:
        # The first cause must not be lost together with the place where it would have been written.
        message = f"{error.message} Result of the run: {model['headline']}"
        shown: dict[str, Any] = {
            "outcome": model["outcome"],
            "headline": model["headline"],
            "problems": problems_of(model),
        }
        raise ReleaseError(message, **shown) from error
    finally:
        if not check_mode:
            give_back(run)
    return {
        "changed": changed,
        "outcome": model["outcome"],
        "succeeded": model["succeeded"],
        "headline": model["headline"],
        "summary": summary_of(model),
        "problems": problems_of(model),
        "open_points": open_points_of(model),
        "warnings": warnings_of(model),
        "report": "",
        "run_id": run.run_id,
        "directory": str(run.directory),
        "files": list(RENDERERS),
        "texts": {} if check_mode else {name: render(model) for name, render in RENDERERS.items()},
        "counts": model["counts"],
        "ways_back": model["ways_back"],
        "proofs": [] if check_mode else [evidence_proof(run, list(RENDERERS)).as_dict()],
        "message": "",
    }


def say_what_is_left_out(journal: Journal, reasons: Mapping[str, str]) -> list[dict[str, Any]]:
    """The journal's lines, with one for each step that this run does not take."""
    lines = journal.read()
    shown = {line["step"] for line in lines if line["run_id"] == journal.run.run_id}
    return lines + [
        journal.append(step, "skipped", {"message": reason}) for step, reason in reasons.items() if step not in shown
    ]


def give_back(run: Run) -> None:
    """The target is free for the next run, whatever came of this one."""
    with suppress(ReleaseError):  # then the claim dies with the controller
        release(run)


def model_of(params: Mapping[str, Any], check_mode: bool, lines: Sequence[Mapping[str, Any]]) -> Model:
    """The model of the journal's lines and those that were handed over."""
    run = run_of(params)
    whose = {"run_id": run.run_id, "release": run.release, "environment": run.environment}
    known = {line["step"] for line in lines if line["run_id"] == run.run_id}
    given = [{"ts": None, "facts": {}, **event, **whose} for event in params["events"] if event["step"] not in known]
    return build(
        run,
        params["release"],
        [*lines, *given],
        asked=params["asked"],
        check_mode=check_mode,
        failure=params["failure"],
        written=[] if check_mode else list(RENDERERS),
    )


def write_and_close(journal: Journal, model: Model, lines: Sequence[Mapping[str, Any]]) -> bool:
    """Write the files and the closing lines, unless both are there already; say whether anything was written."""
    directory, run = journal.run.directory, journal.run
    closing = {"outcome": model["outcome"], "headline": model["headline"], "evidence": str(directory)}
    own = [line for line in lines if line["run_id"] == run.run_id]
    if is_written(model, directory) and own[-1:] and (own[-1]["step"], own[-1]["facts"]) == ("run", closing):
        return False
    try:
        with journal.step("report") as step:
            write_evidence(model, directory)
            step.facts["files"] = [str(directory / name) for name in RENDERERS]
            step.prove(evidence_proof(run, list(RENDERERS)))
    except ReleaseError as error:
        with suppress(ReleaseError):  # where the journal cannot be written either, the first error says why
            journal.append("run", "failed", {**closing, "message": error.message})
        raise
    event: Event = "refused" if model["outcome"] == "refused" else "failed"
    journal.append("run", "passed" if model["succeeded"] else event, closing)
    return True


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
