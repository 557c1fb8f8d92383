"""Bring a message to its receivers, all at once and within a deadline; what goes wrong is reported, never raised.

community.general.mail and ansible.builtin.uri do not keep what roles/notify promises. The first verifies no
certificate, and sends a password in clear with a warning. The second has the webhook's address, which is a secret, in
its result, or under no_log not even the reason of a failure. The timeouts of both are for one read: a receiver that
answers a byte now and then holds the run.
"""

from __future__ import annotations

import smtplib
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any

import requests

from ..host.http import explain, login_in
from .notify import Message, host_of, kind_of, mail_text, payload_of


@dataclass(frozen=True)
class Delivery:
    """What came of one channel; `place` is the receiver without anything secret, `detail` a sentence."""

    channel: str
    place: str
    delivered: bool
    detail: str


Send = Callable[[], str]
Channel = tuple[str, str, Send]


class UndeliveredError(Exception):
    """Why a message did not arrive, in a sentence that holds no secret."""


def channels_of(message: Message, params: Mapping[str, Any], timeout_s: float) -> list[Channel]:
    """The configured channels, each with its way to send."""
    found: list[Channel] = []
    if url := params["webhook_url"]:
        kind = kind_of(url, params["webhook_kind"] or "")
        place = host_of(url)
        found.append((f"webhook ({kind})", place, lambda: post(url, payload_of(message, kind), timeout_s)))
    if params["email"]:
        place = f"{', '.join(params['email'])} by {params['smtp_host']}:{params['smtp_port']}"
        found.append(("e-mail", place, lambda: mail(message, params, timeout_s)))
    return found


def deliver(channels: Sequence[Channel], timeout_s: float) -> list[Delivery]:
    """Send by every channel at once; one that has not ended by the deadline is left behind."""
    ended: dict[str, Delivery] = {}
    workers = []
    for channel in channels:
        worker = threading.Thread(target=_send, args=(channel, ended, timeout_s), daemon=True)
        worker.start()
        workers.append(worker)
    deadline = time.monotonic() + timeout_s
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    late = f"did not answer within {timeout_s:g} s; whether it arrived is unknown."
    return [ended.get(name, Delivery(name, place, False, late)) for name, place, _ in channels]


def _send(channel: Channel, ended: dict[str, Delivery], timeout_s: float) -> None:
    name, place, send = channel
    try:
        ended[name] = Delivery(name, place, True, send())
    except UndeliveredError as error:
        ended[name] = Delivery(name, place, False, str(error))
    except Exception as error:
        # Whatever it is: a message that cannot be sent stops no run. The error's own words may hold the address.
        problem, _ = explain(error, timeout_s)
        ended[name] = Delivery(name, place, False, problem)


def post(url: str, payload: Mapping[str, Any], timeout_s: float) -> str:
    """POST to a webhook; the address holds a secret, and is in nothing that is said."""
    if not url.startswith(("http://", "https://")) or not host_of(url):
        raise UndeliveredError("failed: notify_webhook_url is not of the form https://host/path; correct it.")
    answer = requests.post(url, json=payload, timeout=timeout_s, allow_redirects=False, stream=True, auth=login_in(url))
    with answer:
        if not 200 <= answer.status_code < 300:
            raise UndeliveredError(f"answered with status {answer.status_code}: correct notify_webhook_url.")
        return f"answered with status {answer.status_code}."


def mail(message: Message, params: Mapping[str, Any], timeout_s: float) -> str:
    """Send the e-mail; a password is only ever sent encrypted."""
    security, user, password = params["smtp_security"], params["smtp_user"], params["smtp_password"]
    if user and security == "none":
        raise UndeliveredError("was not tried: a password is never sent in clear; set notify_smtp_security.")
    trust = ssl.create_default_context()
    server: smtplib.SMTP
    try:
        if security == "tls":
            server = smtplib.SMTP_SSL(params["smtp_host"], params["smtp_port"], timeout=timeout_s, context=trust)
        else:
            server = smtplib.SMTP(params["smtp_host"], params["smtp_port"], timeout=timeout_s)
        with server:
            if security == "starttls":
                server.starttls(context=trust)
            if user:
                server.login(user, password or "")
            refused = server.send_message(letter(message, params["email_from"], params["email"]))
    except smtplib.SMTPException as error:
        raise UndeliveredError(f"failed: {_mail_problem(error)}") from error
    if refused:
        raise UndeliveredError(f"was refused for {', '.join(refused)}: correct notify_email.")
    return "was accepted."


def _mail_problem(error: smtplib.SMTPException) -> str:
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return "the login was refused; check notify_smtp_user and notify_smtp_password."
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return "the server offers no such encryption or login; set notify_smtp_security to what it offers."
    if isinstance(error, (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused)):
        return "the server refuses these addresses; correct notify_email and notify_email_from."
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the server answered with {error.smtp_code}."
    return f"the server broke off ({type(error).__name__})."


def letter(message: Message, sender: str, recipients: Sequence[str]) -> EmailMessage:
    """The e-mail; what comes from the data is one line in the subject and text in the body."""
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = message.subject, sender, ", ".join(recipients)
    mail["Date"], mail["Message-ID"] = formatdate(), make_msgid(domain="dbrelease.invalid")
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(mail_text(message))
    return mail
