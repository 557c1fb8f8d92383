"""notification: each event reaches real receivers in the shape that they expect; a dead one delays nobody for long."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import notification
import pytest
from ansible.module_utils.dbrelease.report.notify import event_of, kind_of
from receivers import closed_port, mailbox, silent, trickling, webhook

HOSTILE = "O'Brien <!channel> <http://h|l> *b* [l](http://h)\r\nBcc: x@y.z \U0001f9fe " + "long " * 500
DEFAULTS = {name: option["default"] for name, option in notification.OPTIONS.items() if "default" in option}
ALL = DEFAULTS["events"]


@pytest.fixture
def params(run_parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        **DEFAULTS,
        "run": run_parameters,
        "moment": "end",
        "title": "Items of orders",
        "outcome": "deployed",
        "succeeded": True,
        "headline": "Items of orders on test was deployed and verified.",
        "report": "https://ci.example/report.html",
        "smtp_host": "127.0.0.1",
        "smtp_security": "none",
    }


EVENTS: list[tuple[str, list[str], str, bool, str]] = [
    ("start", ALL, "", False, "start"),
    ("end", ALL, "deployed", True, "success"),
    ("end", ALL, "already_deployed", True, "success"),
    ("end", ALL, "failed", False, "failure"),
    ("end", ALL, "refused", False, "failure"),
    ("end", ALL, "already_deployed", False, "failure"),
    ("end", ALL, "rolled_back", False, "rollback"),
    ("end", ALL, "rolled_back", True, "rollback"),
    ("end", ["readiness"], "refused", False, "readiness"),
    ("start", ["readiness"], "", False, ""),
    ("end", ["failure"], "deployed", True, ""),
    ("end", [], "failed", False, ""),
]


@pytest.mark.parametrize(("moment", "events", "outcome", "succeeded", "event"), EVENTS)
def test_which_event_it_is(moment: str, events: list[str], outcome: str, succeeded: bool, event: str) -> None:
    assert event_of(moment, events, outcome, succeeded) == event


KINDS: list[tuple[str, str, str]] = [
    ("https://hooks.slack.com/services/T/B/x", "", "slack"),
    ("https://example.webhook.office.com/x", "", "teams"),
    ("https://prod-1.westeurope.logic.azure.com:443/x", "", "teams"),
    ("https://hooks.slack.com.evil.example/x", "", "json"),
    ("https://chat.example/hook", "", "json"),
    ("https://chat.example/hook", "slack", "slack"),
]


@pytest.mark.parametrize(("url", "given", "kind"), KINDS)
def test_the_shape_is_known_by_the_host(url: str, given: str, kind: str) -> None:
    assert kind_of(url, given) == kind


def texts_in(body: dict[str, Any], kind: str) -> str:
    """What a person reads of a message."""
    if kind == "json":
        return f"{body['subject']} {body['headline']} {body['report']}"
    if kind == "slack":
        assert {block["type"] for block in body["blocks"]} == {"header", "section", "context"}
        shown = [block["text"] if "text" in block else block["elements"][0] for block in body["blocks"]]
        assert {one["type"] for one in shown} == {"plain_text"}
        assert len(shown[0]["text"]) <= 150 and len(shown[1]["text"]) <= 3000
        return " ".join(one["text"] for one in shown)
    (attachment,) = body["attachments"]
    assert (body["type"], attachment["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
    assert {block["type"] for block in attachment["content"]["body"]} == {"RichTextBlock"}
    return " ".join(run["text"] for block in attachment["content"]["body"] for run in block["inlines"])


@pytest.mark.parametrize("kind", ["slack", "teams", "json"])
def test_a_webhook_gets_one_message_with_verdict_and_link(params: dict[str, Any], kind: str) -> None:
    with webhook() as hook:
        result = notification.act({**params, "webhook_url": hook.url, "webhook_kind": kind}, False)
    (body,) = hook.bodies
    shown = texts_in(body, kind)
    assert all(text in shown for text in ("[test] tests sample: done", params["headline"], params["report"]))
    (proof,) = result["proofs"]
    assert (proof["name"], proof["status"], result["journal_event"]) == ("notify.success", "pass", "passed")
    assert result["changed"] and result["message"] == ""


@pytest.mark.parametrize("kind", ["slack", "teams", "json"])
def test_hostile_data_is_only_text(params: dict[str, Any], kind: str) -> None:
    with webhook() as hook:
        hostile = {"title": HOSTILE, "headline": HOSTILE}
        notification.act({**params, **hostile, "webhook_url": hook.url, "webhook_kind": kind}, False)
    (body,) = hook.bodies
    assert "<!channel>" in texts_in(body, kind)
    assert "<!channel>" not in body.get("text", "") and len(json.dumps(body)) < 10_000


def test_an_email_is_one_letter_to_all(params: dict[str, Any]) -> None:
    with mailbox() as box:
        to = ["a@example.org", "b@example.org"]
        result = notification.act({**params, "email": to, "smtp_port": box.port, "headline": HOSTILE}, False)
    (letter,) = box.letters
    assert result["journal_event"] == "passed", result["message"]
    assert box.recipients == to and letter["To"] == ", ".join(to) and letter["Bcc"] is None
    assert letter["Subject"] == "[test] tests sample: done (deployed)"
    assert "O'Brien <!channel>" in letter.get_content() and params["report"] in letter.get_content()


def test_the_start_has_no_report_yet(params: dict[str, Any]) -> None:
    with webhook() as hook:
        result = notification.act({**params, "moment": "start", "webhook_url": hook.url}, False)
    assert result["proofs"][0]["name"] == "notify.start"
    assert hook.bodies[0]["report"] == "" and "starts" in hook.bodies[0]["headline"]


def unwell(params: dict[str, Any], how: str, port: int) -> dict[str, Any]:
    """The options for a receiver on that port."""
    if how == "webhook":
        return {**params, "webhook_url": f"http://127.0.0.1:{port}/s3cr3t-t0ken"}
    return {**params, "email": ["a@example.org"], "smtp_port": port}


@pytest.mark.parametrize("dead", [silent, trickling], ids=["silent", "a byte now and then"])
@pytest.mark.parametrize("how", ["webhook", "email"])
def test_a_dead_receiver_delays_by_two_seconds_at_most(
    params: dict[str, Any], how: str, dead: Callable[[], AbstractContextManager[int]]
) -> None:
    with dead() as port:
        begun = time.monotonic()
        result = notification.act(unwell(params, how, port), False)
        took = time.monotonic() - begun
    assert took < 3.5, "a run sends two messages, and may lose 5 s"
    assert (result["proofs"][0]["status"], result["journal_event"]) == ("inconclusive", "skipped")
    assert "did not answer within 2 s" in result["message"] and not result["changed"]


def test_an_address_that_nothing_comes_back_from(params: dict[str, Any]) -> None:
    begun = time.monotonic()
    result = notification.act({**params, "webhook_url": "https://192.0.2.1/s3cr3t-t0ken"}, False)
    assert time.monotonic() - begun < 3.5
    assert result["proofs"][0]["status"] == "inconclusive" and "s3cr3t" not in json.dumps(result)


def test_where_tls_cannot_be_spoken(params: dict[str, Any]) -> None:
    with webhook() as hook:
        result = notification.act({**params, "webhook_url": hook.url.replace("http:", "https:")}, False)
    assert result["proofs"][0]["status"] == "inconclusive" and not hook.bodies
    assert "s3cr3t" not in json.dumps(result)


def test_the_message_is_not_sent_to_where_a_webhook_points(params: dict[str, Any]) -> None:
    with webhook() as elsewhere, webhook(307, elsewhere.url) as hook:
        result = notification.act({**params, "webhook_url": hook.url}, False)
    assert len(hook.bodies) == 1 and not elsewhere.bodies
    assert "answered with status 307" in result["message"]


def test_two_silent_receivers_are_waited_for_together(params: dict[str, Any]) -> None:
    with silent() as one, silent() as other:
        begun = time.monotonic()
        result = notification.act({**unwell(params, "webhook", one), **{"email": ["a@b.c"], "smtp_port": other}}, False)
        assert time.monotonic() - begun < 3.5
    assert result["message"].count("did not answer") == 2


@pytest.mark.parametrize("how", ["webhook", "email"])
def test_where_nothing_listens_the_run_goes_on(params: dict[str, Any], how: str) -> None:
    result = notification.act(unwell(params, how, closed_port()), False)
    assert result["proofs"][0]["status"] == "inconclusive"
    assert "nothing listens there" in result["message"]


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("no encryption there", {"smtp_security": "starttls"}, "does not support this encryption"),
    ("no TLS there", {"smtp_security": "tls"}, "failed: its certificate is not trusted|broke off"),
    ("a password in clear", {"smtp_user": "u", "smtp_password": "pw-s3cr3t"}, "never sent unencrypted"),
    ("one recipient of two", {"email": ["a@example.org", "no@example.org"]}, "refused for no@example.org"),
    ("every recipient", {"email": ["no@example.org"]}, "refused these addresses"),
    ("a name that is none", {"smtp_host": "no.such.host.invalid"}, "host name is unknown|did not answer"),
]


@pytest.mark.parametrize(("_", "options", "message"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_why_an_email_did_not_go(params: dict[str, Any], _: str, options: dict[str, Any], message: str) -> None:
    with mailbox(refused="no@example.org") as box:
        result = notification.act({**params, "email": ["a@example.org"], "smtp_port": box.port, **options}, False)
    assert re.search(message, result["message"]), result["message"]
    assert result["proofs"][0]["status"] == "inconclusive"
    assert "s3cr3t" not in json.dumps(result)


@pytest.mark.parametrize("status", [301, 403, 404, 500])
def test_a_webhook_that_refuses_is_reported_without_its_address(params: dict[str, Any], status: int) -> None:
    with webhook(status) as hook:
        result = notification.act({**params, "webhook_url": hook.url}, False)
    assert f"127.0.0.1 answered with status {status}" in result["message"]
    assert "s3cr3t" not in json.dumps(result) and result["proofs"][0]["status"] == "inconclusive"


@pytest.mark.parametrize("url", ["s3cr3t-t0ken", "ftp://h/s3cr3t", "http://", "http://[s3cr3t", "file:///s3cr3t"])
def test_a_wrong_address_is_one_sentence_without_it(params: dict[str, Any], url: str) -> None:
    result = notification.act({**params, "webhook_url": url}, False)
    assert result["proofs"][0]["status"] == "inconclusive"
    assert "failed" in result["message"] or "broke off" in result["message"]
    assert "s3cr3t" not in json.dumps(result)


def test_without_a_receiver_it_is_skipped_and_says_so(params: dict[str, Any]) -> None:
    result = notification.act(params, False)
    assert (result["proofs"][0]["status"], result["journal_event"]) == ("skipped", "skipped")
    assert result["message"] == "Neither notify_webhook_url nor notify_email is set."


def test_an_event_that_is_not_reported_leaves_nothing(params: dict[str, Any]) -> None:
    with webhook() as hook:
        result = notification.act({**params, "events": ["failure"], "webhook_url": hook.url}, False)
    assert (result["event"], result["proofs"], hook.bodies) == ("", [], [])


def test_check_mode_sends_nothing(params: dict[str, Any]) -> None:
    with webhook() as hook, mailbox() as box:
        both = {"webhook_url": hook.url, "email": ["a@example.org"], "smtp_port": box.port}
        result = notification.act({**params, **both}, True)
    assert not hook.bodies and not box.letters and not result["changed"]
    assert result["proofs"][0]["status"] == "skipped"


def test_one_receiver_of_two_is_not_enough_for_the_claim(params: dict[str, Any]) -> None:
    with webhook() as hook:
        both = {"webhook_url": hook.url, "email": ["a@example.org"], "smtp_port": closed_port()}
        result = notification.act({**params, **both}, False)
    assert len(hook.bodies) == 1 and result["changed"]
    assert result["proofs"][0]["status"] == "inconclusive"
    assert [one["delivered"] for one in result["facts"]["channels"]] == [True, False]
