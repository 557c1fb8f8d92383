"""A run is announced once when it begins and once when it ends; a receiver that is down changes nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from outside import ARTIFACTS, ROOT, STATE, Playbook, journal, play

sys.path.insert(0, str(ROOT / "tests" / "unit"))
from receivers import mailbox, silent, webhook

SECRET = "s3cr3t-t0ken"


def reported(run: Playbook) -> list[tuple[str, str]]:
    """The claims about notifications in the evidence."""
    return [(one["name"], one["status"]) for one in run.evidence["proofs"] if one["name"].startswith("notify.")]


def last_notify(run: Playbook) -> dict[str, Any]:
    """The last line about a notification in the journal."""
    lines = [line for line in journal() if line["run_id"] == run.evidence["run"]["run_id"]]
    return next(line for line in reversed(lines) if line["step"] == "notify")


def test_a_failure_is_reported_by_webhook_and_mail_and_the_secret_nowhere() -> None:
    # A password that is wrong is refused before anything is changed: the quickest run that fails.
    with webhook() as hook, mailbox() as box:
        mail = {"notify_email": ["team@example.org"], "notify_smtp_host": "127.0.0.1", "notify_smtp_port": box.port}
        more = {**mail, "notify_smtp_security": "none", "notify_webhook_url": hook.url, "db_password": "wrong"}
        run = play("deploy_8_1a.yml", "-vvv", "-e", json.dumps(more))
    assert run.status != 0
    assert [body["event"] for body in hook.bodies] == ["start", "failure"]
    assert [str(letter["Subject"]).split(": ")[1].split()[0] for letter in box.letters] == ["starts", "FAILED"]
    assert hook.bodies[1]["headline"] == run.evidence["headline"]
    assert (ARTIFACTS / hook.bodies[1]["report"].split("/staging/")[1]).is_file()
    assert reported(run) == [("notify.start", "pass"), ("notify.failure", "pass")]
    assert SECRET not in run.output
    kept = [path for folder in (STATE, ARTIFACTS) for path in folder.rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if SECRET.encode() in path.read_bytes()]


# As a second inventory: extra variables would move the controller, which sends the notifications, as well.
UNOPENED = {
    "unreachable": (
        {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9},
        "127.0.0.1 port 9",
    ),
    "no place for the journal": ({"release_state_dir": "/proc/no/such"}, "/proc/no"),
}


@pytest.mark.parametrize("playbook", ["deploy_8_1a.yml", "monitor_8_1a.yml", "readiness_8_1b.yml"])
@pytest.mark.parametrize(("variables", "says"), UNOPENED.values(), ids=UNOPENED)
def test_a_run_that_cannot_be_opened_is_reported_too(
    tmp_path: Path, playbook: str, variables: dict[str, Any], says: str
) -> None:
    inventory = tmp_path / "broken.json"
    inventory.write_text(json.dumps({"drawing_index": {"hosts": {"staging": variables}}}))
    with webhook() as hook:
        run = play(playbook, "-i", str(inventory), "-e", f"notify_webhook_url={hook.url}")
    assert run.status != 0 and says in run.output
    (body,) = hook.bodies
    event = "readiness" if "readiness" in playbook else "failure"
    assert (body["event"], body["outcome"], body["report"]) == (event, "failed", "")
    assert says in body["headline"] and body["headline"] in " ".join(run.output.split())
    assert SECRET not in run.output


def test_a_dead_webhook_costs_less_than_five_seconds_and_is_journaled() -> None:
    with silent() as port:
        url = f"http://127.0.0.1:{port}/{SECRET}"
        run = play("deploy_8_1a.yml", "-e", f"notify_webhook_url={url}", "-e", "db_password=wrong")
    assert run.evidence["outcome"] == "refused" and "password" in run.evidence["headline"]
    proofs = [one for one in run.evidence["proofs"] if one["name"].startswith("notify.")]
    assert reported(run) == [("notify.start", "inconclusive"), ("notify.failure", "inconclusive")]
    assert sum(one["duration_ms"] for one in proofs) < 5000
    line = last_notify(run)
    assert line["event"] == "skipped" and "did not answer within 2 s" in line["facts"]["message"]
    assert SECRET not in run.output


def test_without_a_receiver_it_is_skipped_and_says_so() -> None:
    run = play("deploy_8_1a.yml", "-e", "db_password=wrong")
    assert reported(run) == []
    (stage,) = [stage for stage in run.evidence["stages"] if stage["step"] == "notify"]
    assert (stage["status"], stage["message"]) == ("skipped", "Neither notify_webhook_url nor notify_email is set.")


def test_a_kind_of_webhook_that_is_none_is_refused_in_one_sentence() -> None:
    run = play("deploy_8_1a.yml", "-e", "notify_webhook_kind=pigeon")
    assert run.status != 0 and "notify_webhook_kind" in run.output
    lines = journal()
    own = {line["step"] for line in lines if line["run_id"] == lines[-1]["run_id"]}
    assert own <= {"run", "claim", "recovery", "playbook", "notify", "report"}, "nothing was begun"


# Pipelining needs nothing of ssh but that it runs a command.
SSH = """#!/bin/sh
[ ! -e {gone} ] || {{ echo 'Connection refused' >&2; exit 255; }}
for command; do :; done
sh -c "$command"
status=$?
if tail -n 1 {journal} | grep -q '"preflight"'; then touch {gone}; fi
exit $status
"""


def test_a_connection_that_is_lost_on_the_way_is_reported_and_the_next_run_goes_on(tmp_path: Path) -> None:
    ssh, gone, inventory = tmp_path / "ssh", tmp_path / "gone", tmp_path / "far.json"
    ssh.write_text(SSH.format(gone=gone, journal=STATE / "journal.jsonl"))
    ssh.chmod(0o700)
    variables = {"ansible_connection": "ssh", "ansible_ssh_executable": str(ssh), "ansible_pipelining": True}
    inventory.write_text(json.dumps({"drawing_index": {"hosts": {"staging": variables}}}))
    with webhook() as hook:
        run = play("deploy_8_1a.yml", "-i", str(inventory), "-e", f"notify_webhook_url={hook.url}")
    assert run.status != 0 and gone.exists()
    assert run.output.count("UNREACHABLE!") == 3, "the task, its cause, the evidence: nothing else is tried"
    assert [body["event"] for body in hook.bodies] == ["start", "failure"]
    assert hook.bodies[1]["headline"].startswith("The connection to staging was lost in run ")
    assert hook.bodies[1]["headline"] in " ".join(run.output.split())
    after = play("deploy_8_1a.yml")
    assert (after.status, after.evidence["succeeded"]) == (0, True)
