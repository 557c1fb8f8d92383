"""Send a message to its receivers, in parallel and within a deadline; errors are reported, never raised.

community.general.mail and ansible.builtin.uri cannot keep the promises of roles/notify. The first verifies no
certificate, and sends a password unencrypted with only a warning. The second returns the webhook's address, which is a
secret, or with no_log not even the reason of a failure. Their timeouts apply to a single read: a receiver that sends a
byte now and then would block the run.
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
    """The result of one channel; `place` is the receiver without secrets, `detail` a sentence."""

    channel: str
    place: str
    delivered: bool
    detail: str


Send = Callable[[], str]
Channel = tuple[str, str, Send]


class UndeliveredError(Exception):
    """Why a message did not arrive, in a sentence without secrets."""


def channels_of(message: Message, params: Mapping[str, Any], timeout_s: float) -> list[Channel]:
    """The configured channels, each with the function that sends."""
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
    """Send over all channels in parallel; one that has not ended by the deadline is abandoned."""
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
        # A message that cannot be sent must never stop a run. The text of the error may contain the address.
        problem, _ = explain(error, timeout_s)
        ended[name] = Delivery(name, place, False, problem)


def post(url: str, payload: Mapping[str, Any], timeout_s: float) -> str:
    """POST to a webhook; its address contains a secret, and no message shows it."""
    if not url.startswith(("http://", "https://")) or not host_of(url):
        raise UndeliveredError("failed: notify_webhook_url does not have the form https://host/path; correct it.")
    answer = requests.post(url, json=payload, timeout=timeout_s, allow_redirects=False, stream=True, auth=login_in(url))
    with answer:
        if not 200 <= answer.status_code < 300:
            raise UndeliveredError(f"answered with status {answer.status_code}: correct notify_webhook_url.")
        return f"answered with status {answer.status_code}."


def mail(message: Message, params: Mapping[str, Any], timeout_s: float) -> str:
    """Send the e-mail; a password is sent only encrypted."""
    security, user, password = params["smtp_security"], params["smtp_user"], params["smtp_password"]
    if user and security == "none":
        raise UndeliveredError("was not attempted: a password is never sent unencrypted; set notify_smtp_security.")
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
        return "the server does not support this encryption or login; set notify_smtp_security to one that it supports."
    if isinstance(error, (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused)):
        return "the server refused these addresses; correct notify_email and notify_email_from."
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the server answered with {error.smtp_code}."
    return f"the server ended the session ({type(error).__name__})."


def letter(message: Message, sender: str, recipients: Sequence[str]) -> EmailMessage:
    """The e-mail; data is a single line in the subject and plain text in the body."""
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = message.subject, sender, ", ".join(recipients)
    mail["Date"], mail["Message-ID"] = formatdate(), make_msgid(domain="dbrelease.invalid")
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(mail_text(message))
    return mail
