"""The messages about a run: the event, the text, and the format that each receiver expects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from ..core.journal import Run
from ..core.plain_text import printable
from ..core.stages import one_line

TEXT_LENGTH = 1500  # Slack takes 3000 characters, a phone fewer
SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")
TEAMS_HOSTS = (".webhook.office.com", ".logic.azure.com", ".api.powerplatform.com")
WORDS = {
    "start": "starts",
    "success": "done",
    "failure": "FAILED",
    "rollback": "ROLLED BACK",
    "readiness": "readiness",
}


@dataclass(frozen=True)
class Message:
    """One message about one event of a run; `report` locates its report, empty where there is none yet."""

    event: str
    run_id: str
    release: str
    title: str
    environment: str
    playbook: str
    outcome: str
    succeeded: bool
    headline: str
    report: str

    @property
    def subject(self) -> str:
        """The message in one short line."""
        line = f"[{self.environment}] {self.playbook} {self.release}: {WORDS[self.event]}"
        return one_line(f"{line} ({self.outcome})" if self.outcome and self.event != "start" else line)

    @property
    def facts(self) -> dict[str, str]:
        """The values that accompany the sentence; empty ones are omitted."""
        named = {"Outcome": self.outcome, "Environment": self.environment, "Run": self.run_id, "Report": self.report}
        return {name: printable(value) for name, value in named.items() if value}


def event_of(moment: str, events: Collection[str], outcome: str, succeeded: bool) -> str:
    """The event of this moment; empty where its notification is not requested."""
    if moment == "start":
        event = "start"
    elif "readiness" in events:
        event = "readiness"
    elif outcome == "rolled_back":
        event = "rollback"
    else:
        event = "success" if succeeded else "failure"
    return event if event in events else ""


def message_of(event: str, run: Run, params: Mapping[str, Any]) -> Message:
    """The message; a text that is too long is truncated."""
    start = f"{params['title']} on {run.environment}: {run.playbook} starts."
    return Message(
        event=event,
        run_id=run.run_id,
        release=run.release,
        title=one_line(params["title"])[:TEXT_LENGTH],
        environment=printable(run.environment),
        playbook=run.playbook,
        outcome=params["outcome"],
        succeeded=params["succeeded"],
        headline=one_line(start if event == "start" else params["headline"])[:TEXT_LENGTH],
        report="" if event == "start" else params["report"],
    )


def kind_of(url: str, given: str) -> str:
    """The format that a webhook expects: the configured one, else by its host."""
    host = host_of(url)
    if given:
        return given
    if host in SLACK_HOSTS:
        return "slack"
    return "teams" if host.endswith(TEAMS_HOSTS) else "json"


def host_of(url: str) -> str:
    """The host of an address, the only part that may be shown; empty where it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def payload_of(message: Message, kind: str) -> dict[str, Any]:
    """The body for a webhook of this kind."""
    return {"slack": _slack, "teams": _teams, "json": _json}[kind](message)


def _json(message: Message) -> dict[str, Any]:
    return {"subject": message.subject, **asdict(message)}


def _slack(message: Message) -> dict[str, Any]:
    """Blocks of plain text: data never becomes a mention, a link or formatting."""
    facts = "\n".join(f"{name}: {value}" for name, value in message.facts.items())
    return {
        "text": _slack_escaped(f"{message.subject} - {message.headline}"),
        "blocks": [
            {"type": "header", "text": _plain(message.subject[:150])},
            {"type": "section", "text": _plain(message.headline)},
            {"type": "context", "elements": [_plain(facts[:2000])]},
        ],
    }


def _plain(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": False}


def _slack_escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _teams(message: Message) -> dict[str, Any]:
    """An adaptive card; among its elements only a text run shows data without interpreting Markdown."""
    good = message.event in ("start", "success") or (message.event == "readiness" and message.succeeded)
    lines = [message.headline, *(f"{name}: {value}" for name, value in message.facts.items())]
    body = [
        _run(message.subject, weight="Bolder", size="Medium", color="Good" if good else "Attention"),
        *(_run(line) for line in lines),
    ]
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    }
    if message.report.startswith(("https://", "http://")):
        card["actions"] = [{"type": "Action.OpenUrl", "title": "Report", "url": message.report}]
    kind = "application/vnd.microsoft.card.adaptive"
    return {"type": "message", "attachments": [{"contentType": kind, "contentUrl": None, "content": card}]}


def _run(text: str, **form: str) -> dict[str, Any]:
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **form}]}


def mail_text(message: Message) -> str:
    """The body of the e-mail."""
    facts = "\n".join(f"{name}: {value}" for name, value in message.facts.items())
    return f"{message.headline}\n\n{message.title}\n{facts}\n"
