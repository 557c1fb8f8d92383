#!/usr/bin/python
"""Tell people of an event of a run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: notification
short_description: Tell people of an event of a run
description:
  - Sends one message by webhook, by e-mail or by both, and says what came of it as the claim C(notify.<event>).
  - A receiver that does not answer never makes this module fail, nor wait longer than O(timeout_seconds); the claim
    then is inconclusive. Where no receiver is set it is skipped.
  - The address of a webhook contains a secret. Results contain only its host.
  - Runs where the network of the operator is, that is on the controller (C(delegate_to=localhost)); the caller
    journals RV(facts) under RV(journal_event).
extends_documentation_fragment: [run]
options:
  moment:
    description: Whether the run starts or has ended.
    type: str
    choices: [start, end]
    required: true
  events:
    description:
      - The events that are sent. At the end, V(readiness) stands for any outcome; else a run that was rolled back is
        V(rollback), and any other is V(success) or V(failure).
    type: list
    elements: str
    choices: [start, success, failure, rollback, readiness]
    default: [start, success, failure, rollback]
  title:
    description: Title of the release.
    type: str
    required: true
  outcome:
    description: Outcome of the run.
    type: str
    default: ""
  succeeded:
    description: Whether that outcome was requested.
    type: bool
    default: false
  headline:
    description: The verdict in one sentence.
    type: str
    default: ""
  report:
    description: Link or path of the report.
    type: str
    default: ""
  webhook_url:
    description: Address of the webhook; empty for none.
    type: str
    default: ""
  webhook_kind:
    description: Format of its messages; empty to detect Slack and Teams by the host, else V(json).
    type: str
    choices: ["", slack, teams, json]
    default: ""
  email:
    description: Addresses that get an e-mail.
    type: list
    elements: str
    default: []
  email_from:
    description: Address of the sender.
    type: str
    default: dbrelease@localhost
  smtp_host:
    description: Mail server.
    type: str
    default: localhost
  smtp_port:
    description: Its port.
    type: int
    default: 25
  smtp_security:
    description: How the connection is encrypted; a password is only sent if it is.
    type: str
    choices: [starttls, tls, none]
    default: starttls
  smtp_user:
    description: Login at the mail server; empty for none.
    type: str
    default: ""
  smtp_password:
    description: Its password.
    type: str
    default: ""
  timeout_seconds:
    description: How long all receivers together may take.
    type: float
    default: 2
attributes:
  check_mode:
    support: full
    description: Nothing is sent.
  diff_mode:
    support: none
    description: There is nothing to compare.
author: The authors of dbrelease
"""

EXAMPLES = r"""
- name: Notify of the result of the run
  notification:
    run: "{{ run }}"
    moment: end
    title: Items of orders
    outcome: deployed
    succeeded: true
    headline: Items of orders on staging was deployed and verified.
    report: https://ci.example.com/artifacts/report.html
    webhook_url: "{{ notify_webhook_url }}"
  delegate_to: localhost
"""

RETURN = r"""
changed:
  description: Whether a message was delivered.
  type: bool
  returned: always
event:
  description: The event; empty where it is not one of O(events).
  type: str
  returned: always
journal_event:
  description: V(passed) if every receiver got the message, else V(skipped).
  type: str
  returned: always
facts:
  description:
    - For the journal, C(event), C(channels) (each with C(channel), C(place), C(delivered), C(detail)), C(message) and
      C(proofs).
  type: dict
  returned: always
proofs:
  description: The claim C(notify.<event>); none where no message was due.
  type: list
  elements: dict
  returned: always
message:
  description: Why the message was not delivered; empty where it was.
  type: str
  returned: always
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ansible.module_utils.dbrelease.core.options import RUN_OPTIONS, Options, run_of
from ansible.module_utils.dbrelease.core.proof import Proof, Status
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.report.notify import event_of, message_of
from ansible.module_utils.dbrelease.report.notify_send import Delivery, channels_of, deliver

EVENTS = ["start", "success", "failure", "rollback", "readiness"]
OPTIONS: Options = {
    **RUN_OPTIONS,
    "moment": {"type": "str", "choices": ["start", "end"], "required": True},
    "events": {
        "type": "list",
        "elements": "str",
        "choices": EVENTS,
        "default": ["start", "success", "failure", "rollback"],
    },
    "title": {"type": "str", "required": True},
    "outcome": {"type": "str", "default": ""},
    "succeeded": {"type": "bool", "default": False},
    "headline": {"type": "str", "default": ""},
    "report": {"type": "str", "default": ""},
    "webhook_url": {"type": "str", "default": "", "no_log": True},
    "webhook_kind": {"type": "str", "choices": ["", "slack", "teams", "json"], "default": ""},
    "email": {"type": "list", "elements": "str", "default": []},
    "email_from": {"type": "str", "default": "dbrelease@localhost"},
    "smtp_host": {"type": "str", "default": "localhost"},
    "smtp_port": {"type": "int", "default": 25},
    "smtp_security": {"type": "str", "choices": ["starttls", "tls", "none"], "default": "starttls"},
    "smtp_user": {"type": "str", "default": ""},
    "smtp_password": {"type": "str", "default": "", "no_log": True},
    "timeout_seconds": {"type": "float", "default": 2},
}
UNSET = "Neither notify_webhook_url nor notify_email is set."


def act(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Send the message of the event, if the event is requested."""
    run = run_of(params)
    event = event_of(params["moment"], params["events"], params["outcome"], params["succeeded"])
    if not event:
        return result(event, [], [])
    channels = channels_of(message_of(event, run, params), params, params["timeout_seconds"])
    title = f"A notification of the event {event} was sent"
    if check_mode or not channels:
        detail = UNSET if not channels else "Check mode sends nothing."
        return result(event, [], [Proof(f"notify.{event}", title, "skipped", detail=detail)])
    begun = time.monotonic()
    deliveries = deliver(channels, params["timeout_seconds"])
    status: Status = "pass" if all(one.delivered for one in deliveries) else "inconclusive"
    detail = " ".join(f"The {one.channel} to {one.place or 'no host'} {one.detail}" for one in deliveries)
    took = round((time.monotonic() - begun) * 1000)
    return result(event, deliveries, [Proof(f"notify.{event}", title, status, detail=detail, duration_ms=took)])


def result(event: str, deliveries: Sequence[Delivery], proofs: Sequence[Proof]) -> dict[str, Any]:
    """The result of the module, and the facts for the journal."""
    sent = bool(proofs) and all(proof.status == "pass" for proof in proofs)
    raw = [proof.as_dict() for proof in proofs]
    message = "" if sent else " ".join(proof.detail for proof in proofs)
    channels = [asdict(one) for one in deliveries]
    return {
        "changed": any(one.delivered for one in deliveries),
        "event": event,
        "journal_event": "passed" if sent else "skipped",
        "facts": {"event": event, "channels": channels, "message": message, "proofs": raw},
        "proofs": raw,
        "message": message,
    }


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
